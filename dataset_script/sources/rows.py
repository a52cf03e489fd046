"""A sentence as a file has it, what makes it malformed, and the IOB2 scheme."""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

LANGUAGES = ("en", "de", "fr", "es")
SPLIT_FILES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""Split -> the file names, without suffix, that it may have."""
IMAGE_RELATIONS = ("depicts", "unrelated", "none")


class MalformedRow(ValueError):
    """A row that breaks its format.

    Attributes:
        path: the file.
        line: counted from 1; of a file that is one JSON array, the number of the item.
        reason: the kind of the problem in a few words; rows left out are counted by it.
        detail: what came and what was expected.
    """

    def __init__(self, path: Path, line: int, reason: str, detail: str, remedy: str = ""):
        self.path, self.line, self.reason, self.detail = path, line, reason, detail
        remedy = remedy or "Correct it, or load with errors='skip' to leave such rows out and count them."
        super().__init__(f"{path}:{line}: {detail}. {remedy}")


@dataclass
class Row:
    """A sentence as its file has it: nothing decoded, the text unchanged.

    Attributes:
        path, line: where it stands.
        id: its own, or where the format has none its number in the file, from 0.
        lang: its own language; ``None`` where the row does not say it.
        image: the name of a file in the image folder; ``stem.*`` where it has no suffix.
        image_url: where the picture can be fetched.
        ignored_keys: what the source says besides, and no column takes.
        first_token_line: where each token has a line of its own, that of the first.
    """

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
    first_token_line: int | None = None
    image_url: str | None = None

    def problem(self, reason: str, detail: str, token: int | None = None, remedy: str = "") -> MalformedRow:
        """The error for this row; ``token`` counts from 0 and gives the line where each token has its own."""
        line = self.line if token is None or self.first_token_line is None else self.first_token_line + token
        return MalformedRow(self.path, line, reason, detail, remedy)


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
        "".join((row.id, row.image or "", row.image_url or "", row.caption or "", *row.tokens)).encode()
    except UnicodeEncodeError as error:
        character = error.object[error.start : error.end]
        raise row.problem("bad text", f"{character!r} came; half a surrogate pair is no character") from None
    if row.image is not None:
        image = PurePosixPath(row.image)
        if image.is_absolute() or ".." in image.parts:
            raise row.problem("bad image", f"image {row.image!r} came; expected a file name inside the image folder")


def iob2_problems(tags: Sequence[str]) -> Iterator[tuple[int, str, str | None]]:
    """Where the tags break IOB2: the position, the tag, and the tag that would mend it or ``None``.

    To mend them all is also to convert from IOB1, where B- stands only between two entities of one type that touch:
    both schemes then name the same entities.
    """
    previous = "O"
    for position, tag in enumerate(tags):
        if tag != "O":
            kind = entity_type(tag)
            if kind is None:
                yield position, tag, None
            elif tag[0] == "I" and previous[2:] != kind:
                yield position, tag, f"B-{kind}"
        previous = tag


def is_iob1(tags: Sequence[str]) -> bool:
    """Whether the tags may be IOB1: no B-X but right after an X."""
    pairs = zip(("O", *tags), tags, strict=False)
    return not any(tag.startswith("B-") and previous[2:] != tag[2:] for previous, tag in pairs)


@functools.lru_cache(maxsize=1024)
def entity_type(tag: str) -> str | None:
    """``X`` of ``B-X`` and ``I-X``; ``None`` for anything else."""
    match = re.fullmatch(r"[BI]-(\S+)", tag)
    return match[1] if match else None


def is_tag(text: str) -> bool:
    """Whether ``text`` is a tag: ``O``, ``B-TYPE`` or ``I-TYPE``."""
    return text == "O" or entity_type(text) is not None
