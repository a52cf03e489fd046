"""The lines of a text file, with their numbers and as far as they are text."""

import codecs
import functools
import logging
from collections.abc import Iterator
from pathlib import Path

from ..rows import MalformedRow

logger = logging.getLogger(__name__)

HEAD_BYTES = 1 << 20


def numbered_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str | MalformedRow]]:
    """Numbered lines without their ends, LF or CRLF; no others end a line, since text may hold U+2028 or U+0085.

    A carriage return elsewhere makes a line malformed: where it ends lines, the whole file is one.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            try:
                line = raw.decode(encoding).rstrip("\r\n")
            except UnicodeDecodeError as error:
                detail = f"byte 0x{raw[error.start]:02x} came at column {error.start + 1}; expected UTF-8"
                yield number, MalformedRow(path, number, "not UTF-8", detail)
                continue
            if "\r" in line:
                column = line.index("\r") + 1
                detail = f"a carriage return came at column {column}; expected lines that end in LF or CRLF"
                yield number, MalformedRow(path, number, "carriage return", detail)
            else:
                yield number, line


def head(path: Path) -> list[str]:
    """The first lines, for finding the format: at most ``HEAD_BYTES``, bytes that are not UTF-8 replaced."""
    with path.open("rb") as file:
        start = file.read(HEAD_BYTES)
        cut = bool(file.read(1))
    lines = start.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace").split("\n")
    # The last line may have been cut through; a single one is all there is to look at.
    return [line.rstrip("\r") for line in (lines[:-1] if cut and len(lines) > 1 else lines)]


@functools.lru_cache(maxsize=64)
def column_encoding(path: Path, time_ns: int) -> str:
    """UTF-8, or ISO-8859-1 where most lines beyond ASCII are not UTF-8; ``time_ns`` of the file's last change.

    CoNLL-2002 and CoNLL-2003 were published in ISO-8859-1. In it, accented letters hardly ever make valid UTF-8; a
    file of UTF-8 with a few broken lines is left as UTF-8, so that these are reported.
    """
    valid = invalid = 0
    with path.open("rb") as file:
        for raw in file:
            if not raw.isascii():
                is_valid = raw.decode("utf-8", "replace").encode() == raw
                valid, invalid = valid + is_valid, invalid + (not is_valid)
    if invalid <= valid:
        return "utf-8"
    logger.warning("%s is read as ISO-8859-1: %d of its lines are not UTF-8, %d are.", path, invalid, valid)
    return "iso-8859-1"
