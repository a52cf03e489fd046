"""Readers of the formats that MMNER data comes in: JSONL, and the ``IMGID:`` CoNLL of Twitter-2015 and Twitter-2017.

A reader takes a file and yields its rows in order, or the problem in place of a row, so that the caller may go on.
To add a format: write such a function and name it in ``READERS``.
"""

import codecs
import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .images import IMAGE_SUFFIXES

LANGUAGES = ("en", "de", "fr", "es")
SPLIT_FILES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""Split -> the file names, without suffix, that it may have."""
IMAGE_RELATIONS = ("depicts", "unrelated", "none")

REQUIRED_KEYS = ("id", "tokens", "ner_tags")
OPTIONAL_KEYS = ("lang", "image", "caption", "image_relation")

_IMGID = "IMGID:"
_CAPTION = re.compile(r"(?P<file>\S.*?) :(?P<caption>.*)", re.DOTALL)


class MalformedRow(ValueError):
    """A row that breaks its format.

    Attributes:
        path: the file.
        line: counted from 1.
        reason: the kind of the problem in a few words; rows left out are counted by it.
        detail: what came and what was expected.
    """

    def __init__(self, path: Path, line: int, reason: str, detail: str, remedy: str = ""):
        self.path, self.line, self.reason, self.detail = path, line, reason, detail
        remedy = remedy or "Correct it, or load with errors='skip' to leave such rows out and count them."
        super().__init__(f"{path}:{line}: {detail}. {remedy}")


@dataclass
class Row:
    """A sentence as its file has it: nothing decoded, the text unchanged."""

    path: Path
    line: int
    id: str
    lang: str | None
    tokens: list[str]
    tags: list[str]
    image: str | None = None
    caption: str | None = None
    image_relation: str | None = None
    ignored_keys: tuple[str, ...] = ()
    line_per_token: bool = False

    def problem(self, reason: str, detail: str, token: int | None = None, remedy: str = "") -> MalformedRow:
        """The error for this row; ``token`` counts from 0 and gives the line where each token has its own."""
        line = self.line if token is None or not self.line_per_token else self.line + 1 + token
        return MalformedRow(self.path, line, reason, detail, remedy)


@dataclass(frozen=True)
class Reader:
    """A format: the suffix of its files, the function that reads one, and the language of rows that do not say it."""

    name: str
    suffix: str
    read: Callable[[Path], Iterator[Row | MalformedRow]]
    default_lang: str | None = None


@dataclass(frozen=True)
class Source:
    """One file of rows. ``lang`` is the language of its folder, ``None`` where the file lies in no such folder."""

    path: Path
    split: str
    lang: str | None
    reader: Reader


def read_jsonl(path: Path) -> Iterator[Row | MalformedRow]:
    """A JSON object a line: ``id``, ``tokens``, ``ner_tags``, and optionally ``lang``, ``image``, ``caption``,
    ``image_relation``. Blank lines are passed over."""
    for number, line in _lines(path):
        if isinstance(line, MalformedRow):
            yield line
        elif line.strip():
            try:
                yield _json_row(path, number, line)
            except MalformedRow as problem:
                yield problem


def read_imgid(path: Path) -> Iterator[Row | MalformedRow]:
    """Sentences of an ``IMGID:`` line and then ``token<TAB>tag`` lines, ended by a blank line or the next ``IMGID:``.

    The image of ``IMGID:17_06_12483`` is ``17_06_12483`` with one of ``IMAGE_SUFFIXES``. A token is what stands before
    the tab, white space included; a blank stands for the tab in files that have none.
    """
    block: _Block | None = None
    for number, line in _lines(path):
        if isinstance(line, str) and line.startswith(_IMGID):
            if block:
                yield _imgid_row(path, block)
            block = _Block(number, line.removeprefix(_IMGID).strip(), [])
        elif isinstance(line, str) and not line.strip(" \t"):
            if block:
                yield _imgid_row(path, block)
            block = None
        else:
            block = block or _Block(number, None, [])
            block.lines.append((number, line))
    if block:
        yield _imgid_row(path, block)


READERS = (Reader("jsonl", ".jsonl", read_jsonl), Reader("imgid", ".txt", read_imgid, "en"))


def read_captions(path: Path) -> Iterator[tuple[int, str, str] | MalformedRow]:
    """``file.jpg :caption`` lines as (line, file, caption); blank lines are passed over."""
    for number, line in _lines(path):
        if isinstance(line, MalformedRow):
            yield line
        elif line.strip():
            match = _CAPTION.fullmatch(line)
            if match:
                yield number, match["file"], match["caption"]
            else:
                yield MalformedRow(path, number, "bad caption", f"{line!r} came; expected 'file.jpg :caption'")


def check(row: Row) -> None:
    """Raise the first ``MalformedRow`` of a row: language, lengths, IOB2, text that is not Unicode, image path."""
    if row.lang not in LANGUAGES:
        raise row.problem("unknown language", f"language {row.lang!r} came; expected one of {', '.join(LANGUAGES)}")
    if len(row.tokens) != len(row.tags):
        lengths = f"{len(row.tokens)} tokens and {len(row.tags)} ner_tags came; expected as many tags as tokens"
        raise row.problem("length mismatch", lengths)
    for position, tag, expected in iob2_problems(row.tags):
        token = f"{tag!r} came as tag {position + 1} (token {row.tokens[position]!r})"
        if expected is None:
            raise row.problem("not IOB2", f"{token}; expected O, B-TYPE or I-TYPE", position)
        before = f"after {row.tags[position - 1]!r}" if position else "at the start of the sentence"
        remedy = (
            f"Correct it, or load with iob2='repair' to read it as {expected!r}, "
            "or with errors='skip' to leave such rows out; either counts them."
        )
        raise row.problem("not IOB2", f"{token} {before}; in IOB2 an entity begins with B-", position, remedy)
    try:
        "".join((row.id, row.image or "", row.caption or "", *row.tokens)).encode()
    except UnicodeEncodeError as error:
        character = error.object[error.start : error.end]
        raise row.problem("bad text", f"{character!r} came; half a surrogate pair is no character") from None
    if row.image is not None:
        image = PurePosixPath(row.image)
        if image.is_absolute() or ".." in image.parts:
            raise row.problem("bad image", f"image {row.image!r} came; expected a file name inside the image folder")


def iob2_problems(tags: Sequence[str]) -> Iterator[tuple[int, str, str | None]]:
    """Where the tags break IOB2: the position, the tag, and the tag that would mend it or ``None``."""
    previous = "O"
    for position, tag in enumerate(tags):
        if tag != "O":
            kind = _entity_type(tag)
            if kind is None:
                yield position, tag, None
            elif tag[0] == "I" and previous[2:] != kind:
                yield position, tag, f"B-{kind}"
        previous = tag


def discover(folder: Path) -> list[Source]:
    """The files of rows in ``folder``, by language and split: ``train.jsonl`` or ``{lang}/train.jsonl``, or ``.txt``.

    Raises:
        FileNotFoundError: there are none.
        ValueError: two files claim one split, files of two formats or of both layouts lie there, or a sub-folder with
            such files is not named by a language.
    """
    sources = _split_files(folder, None)
    children = sorted(path for path in folder.iterdir() if path.is_dir())
    by_language = {path.name: files for path in children if (files := _split_files(path, path.name))}
    unknown = [name for name in by_language if name not in LANGUAGES]
    if sources and by_language:
        raise ValueError(
            f"{folder} holds {sources[0].path.name} and {next(iter(by_language))}/ as well; expected one file a split "
            "or one folder a language, not both."
        )
    if unknown:
        raise ValueError(
            f"{folder} holds splits in {', '.join(unknown)}, expected folders named {', '.join(LANGUAGES)}. If such a "
            "folder is a dataset of its own, load that folder."
        )
    for lang in LANGUAGES:
        sources += by_language.get(lang, [])
    if not sources:
        raise FileNotFoundError(
            f"{folder} holds no dataset: expected train, validation or test as .jsonl or .txt (IMGID: lines), in it "
            f"or in folders named {', '.join(LANGUAGES)}; or a Parquet folder with its README.md."
        )
    formats = sorted({source.reader.name for source in sources})
    if len(formats) > 1:
        raise ValueError(f"{folder} holds splits in several formats ({', '.join(formats)}): keep one.")
    return sources


def _split_files(folder: Path, lang: str | None) -> list[Source]:
    sources = []
    for split, names in SPLIT_FILES.items():
        found = [
            Source(path, split, lang, reader)
            for reader in READERS
            for name in names
            if (path := folder / f"{name}{reader.suffix}").is_file()
        ]
        if len(found) > 1:
            files = ", ".join(source.path.name for source in found)
            raise ValueError(f"{folder} holds {files}: expected one file for the split {split!r}, remove the others.")
        sources += found
    return sources


def _lines(path: Path) -> Iterator[tuple[int, str | MalformedRow]]:
    """Numbered lines without their ends, LF or CRLF; no others end a line, since text may hold U+2028 or U+0085."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            try:
                yield number, raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                detail = f"byte 0x{raw[error.start]:02x} came at column {error.start + 1}; expected UTF-8"
                yield number, MalformedRow(path, number, "not UTF-8", detail)


def _json_row(path: Path, number: int, line: str) -> Row:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MalformedRow(path, number, "bad JSON", f"{error}; expected one JSON object a line") from None
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise MalformedRow(path, number, "bad JSON", f"a {kind} came; expected one JSON object a line")
    missing = [key for key in REQUIRED_KEYS if key not in record]
    if missing:
        came = ", ".join(record) or "none"
        expected = ", ".join(REQUIRED_KEYS)
        raise MalformedRow(path, number, "missing key", f"no {', '.join(missing)} (keys: {came}); expected {expected}")

    def text(key: str) -> str | None:
        value = record.get(key)
        if value is not None and not isinstance(value, str):
            raise _wrong_type(path, number, key, value, "a string or null")
        return value

    def texts(key: str) -> list[str]:
        value = record[key]
        if not isinstance(value, list):
            raise _wrong_type(path, number, key, value, "a list of strings")
        for item in value:
            if not isinstance(item, str):
                raise _wrong_type(path, number, f"an item of {key}", item, "a string")
        return value

    row_id = record["id"]
    if isinstance(row_id, int) and not isinstance(row_id, bool):
        row_id = str(row_id)
    if not isinstance(row_id, str) or not row_id:
        raise _wrong_type(path, number, "id", row_id, "a string that is not empty")
    image, relation = text("image"), text("image_relation")
    if image == "":
        raise _wrong_type(path, number, "image", image, "a file name or null")
    if relation is not None and relation not in IMAGE_RELATIONS:
        raise _wrong_type(path, number, "image_relation", relation, f"{', '.join(IMAGE_RELATIONS)} or null")
    return Row(
        path,
        number,
        row_id,
        text("lang"),
        texts("tokens"),
        texts("ner_tags"),
        image,
        text("caption"),
        relation,
        tuple(key for key in record if key not in REQUIRED_KEYS + OPTIONAL_KEYS),
    )


def _wrong_type(path: Path, number: int, key: str, value: Any, expected: str) -> MalformedRow:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
    return MalformedRow(path, number, "wrong value", f"{key} is {shown}; expected {expected}")


@dataclass
class _Block:
    """The lines of a sentence. ``imgid`` is ``None`` where no ``IMGID:`` line stands before them."""

    line: int
    imgid: str | None
    lines: list[tuple[int, str | MalformedRow]]


def _imgid_row(path: Path, block: _Block) -> Row | MalformedRow:
    if not block.imgid:
        came = "'IMGID:' came without an id" if block.imgid == "" else "a token came before any IMGID: line"
        return MalformedRow(path, block.line, "no IMGID", f"{came}; expected 'IMGID:' and an id before each sentence")
    tokens, tags = [], []
    for number, line in block.lines:
        if isinstance(line, MalformedRow):
            return line
        columns = line.rstrip(" \t").split("\t" if "\t" in line else " ")
        if len(columns) != 2:
            return MalformedRow(path, number, "bad line", f"{line!r} came; expected token<TAB>tag")
        tokens.append(columns[0])
        tags.append(columns[1].strip())
    image = block.imgid
    if PurePosixPath(image).suffix.lower() not in IMAGE_SUFFIXES:
        image += ".*"
    return Row(path, block.line, block.imgid, None, tokens, tags, image, line_per_token=True)


@functools.lru_cache(maxsize=1024)
def _entity_type(tag: str) -> str | None:
    match = re.fullmatch(r"[BI]-(\S+)", tag)
    return match[1] if match else None
