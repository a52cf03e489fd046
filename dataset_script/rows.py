"""A sentence with its tags: what a row of a file holds, the IOB2 scheme, and what makes a row malformed."""

import functools
import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path, PurePosixPath
from typing import Any

LANGUAGES = ("en", "de", "fr", "es")
"""The languages of the built dataset, which come first where languages are listed."""
LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
"""A language code as of BCP 47: ``it``, ``pt-BR``, ``zh-Hans``."""
UNKNOWN_LANGUAGE = "und"
"""BCP 47's code for a language that nothing states."""
SPLIT_FILES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""Split -> the file names, without suffix, that it may have."""
IMAGE_RELATIONS = ("depicts", "unrelated", "none")
SKIP = "errors='skip' (--dataset_errors skip, --errors skip)"
"""What leaves malformed rows out, as it is written in Python and on the command lines."""
NO_LABEL = (None, -1, -100)
"""What stands for the tag of a word that has no gold label."""


class TagError(ValueError):
    """What is wrong with the tokens or tags of a row: its kind in a few words (``reason``), the word, from 0
    (``None``: the row as a whole), and the tag that would be IOB2 there (``mended``), or ``None``.
    """

    def __init__(self, reason: str, detail: str, position: int | None = None, mended: str | None = None):
        self.reason, self.position, self.mended = reason, position, mended
        super().__init__(detail)


class MalformedRow(ValueError):
    """A row that breaks its format.

    ``line`` counts from 1; in a file that is one JSON array, it is the number of the item. Skipped rows are counted
    by ``reason``, the kind of the problem. ``detail`` says what came and what was expected.
    """

    def __init__(self, path: Path, line: int, reason: str, detail: str, remedy: str = ""):
        self.path, self.line, self.reason, self.detail = path, line, reason, detail
        remedy = remedy or (f"Correct it, or leave such rows out and count them: {SKIP}.")
        super().__init__(f"{path}:{line}: {detail}. {remedy}")


@dataclass
class Row:
    """A sentence as its file has it: the text unchanged, the image not opened."""

    path: Path
    line: int  # where it stands
    id: str  # its own, or its number in the file, from 0
    lang: str | None  # its own language; ``None`` where the row does not state it
    tokens: list[str]
    tags: list[str]  # one for each token; members of ``NO_LABEL`` where the row has no gold labels
    image: str | None = None  # the name of a file in the image folder; ``stem.*`` where it has no suffix
    caption: str | None = None
    image_relation: str | None = None
    ignored_keys: tuple[str, ...] = ()  # keys of the source that no column takes
    token_lines: list[int] | None = None  # where each token has a line of its own
    image_url: str | None = None  # where the image can be downloaded
    known_types: list[str] | None = None  # what its annotators tagged; a word that is O may be of another type
    image_bytes: bytes | None = None  # the image, where it lies in the row
    missing_tags: str | None = None  # where the row has no column of tags: what came and what was expected

    @property
    def place(self) -> str:
        """Where it stands, by the last two parts of the path, which say nothing of the machine."""
        return f"{Path(*self.path.parts[-2:]).as_posix()}:{self.line}"

    def problem(self, reason: str, detail: str, token: int | None = None, remedy: str = "") -> MalformedRow:
        """The error for this row; ``token`` counts from 0 and gives the line where each token has its own."""
        line = self.line if token is None or self.token_lines is None else self.token_lines[token]
        return MalformedRow(self.path, line, reason, detail, remedy)


def split_order(split: str) -> int:
    """A number to sort splits by: train, validation, test, then others."""
    return list(SPLIT_FILES).index(split) if split in SPLIT_FILES else len(SPLIT_FILES)


def language_order(lang: str) -> tuple[int, str]:
    """A key to sort languages by: ``LANGUAGES``, then others by name."""
    return (LANGUAGES.index(lang) if lang in LANGUAGES else len(LANGUAGES), lang)


def check(row: Row, labelled: bool = True) -> None:
    """Check language, tags (if ``labelled``), text and image name.

    Raises:
        MalformedRow: the first problem found.
    """
    if not LANGUAGE.fullmatch(row.lang or ""):
        raise row.problem("unknown language", f"language {row.lang!r} came; expected a code such as en, it or pt-BR")
    if labelled and row.missing_tags:
        raise row.problem("missing key", row.missing_tags)
    try:
        if labelled:
            iob2_tags(row.tokens, row.tags)
    except TagError as error:
        remedy = error.mended and (
            f"Correct it, or load with iob2='repair' (--dataset_iob2 repair, --iob2 repair) to read it as "
            f"{error.mended!r}, or leave such rows out: {SKIP}; either counts them."
        )
        raise row.problem(error.reason, str(error), error.position, remedy or "") from None
    strange = sorted({tag[2:] for tag in row.tags if labelled and tag != "O"} - set(row.known_types or ()))
    if row.known_types is not None and strange:
        detail = f"an entity of type {strange[0]} came, which known_types ({', '.join(row.known_types)}) leaves out"
        raise row.problem("unknown type", detail)
    try:
        "".join((row.id, row.image or "", row.image_url or "", row.caption or "", *row.tokens)).encode()
    except UnicodeEncodeError as error:
        character = error.object[error.start : error.end]
        raise row.problem("bad text", f"{character!r} came; half a surrogate pair is no character") from None
    if row.image is not None:
        image = PurePosixPath(row.image)
        if image.is_absolute() or ".." in image.parts:
            raise row.problem("bad image", f"image {row.image!r} came; expected a file name inside the image folder")


# IOB2


def iob2_tags(tokens: Any, tags: Any, names: Sequence[str] = ()) -> list[str]:
    """The tags of a row by name, one for each token, checked to be IOB2; else a ``TagError``.

    Args:
        tokens: of the row, as a file or ``datasets`` gives them.
        tags: names, or numbers that stand for ``names``, the tag names in id order.
    """
    tags = tag_names(tokens, tags, names)
    for position, tag, mended in iob2_problems(tags):
        came = f"{tag!r} came as tag {position + 1} (token {tokens[position]!r})"
        if mended is None:
            raise TagError("not IOB2", f"{came}; expected O, B-TYPE or I-TYPE", position)
        before = f"after {tags[position - 1]!r}" if position else "at the start of the sentence"
        raise TagError("not IOB2", f"{came} {before}; in IOB2 an entity begins with B-", position, mended)
    return tags


def tag_names(tokens: Any, tags: Any, names: Sequence[str] = ()) -> list[str]:
    """The tags of a row by name, whatever the scheme; a ``TagError`` for tokens that are not text, for tags that are
    not as many, and for one that is no name and no number of ``names``.
    """
    check_tokens(tokens)
    if tags is None:
        raise TagError("no gold label", "ner_tags is None; expected a tag for each token")
    if not _is_list(tags):
        raise TagError("wrong value", f"ner_tags is {reprlib.repr(tags)}; expected a list")
    if len(tokens) != len(tags):
        detail = f"{len(tokens)} tokens and {len(tags)} ner_tags came; expected as many tags as tokens"
        raise TagError("length mismatch", detail)
    return [tag if isinstance(tag, str) else _name(position, tag, tokens, names) for position, tag in enumerate(tags)]


def check_tokens(tokens: Any) -> None:
    """Raise a ``TagError`` unless the tokens of a row are a list of text."""
    if not _is_list(tokens):
        raise TagError("wrong value", f"tokens is {reprlib.repr(tokens)}; expected a list")
    for position, token in enumerate(tokens):
        if not isinstance(token, str):
            raise TagError("wrong value", f"token {position + 1} is {token!r}; expected text", position)


def is_unlabelled(tags: Sequence[Any] | None) -> bool:
    """Whether a row has tokens and no gold label at all."""
    return tags is None or (len(tags) > 0 and all(tag in NO_LABEL for tag in tags))


def iob2_spans(tags: Iterable[str]) -> Iterator[tuple[int, int, str]]:
    """The entities of IOB2 ``tags``, in order: first token, token after the last, type.

    Read strictly, as seqeval's ``IOB2`` scheme does: an I-X that does not continue an entity of type X is in none.
    """
    start, kind = None, ""
    for position, tag in enumerate((*tags, "O")):
        if start is not None and tag != f"I-{kind}":
            yield start, position, kind
            start = None
        if tag.startswith("B-"):
            start, kind = position, tag[2:]


def iob2_problems(tags: Iterable[str]) -> Iterator[tuple[int, str, str | None]]:
    """Where the tags break IOB2: the position, the tag, and the tag that would mend it or ``None``."""
    previous = "O"
    for position, tag in enumerate(tags):
        if tag != "O":
            kind = entity_type(tag)
            if kind is None:
                yield position, tag, None
            elif tag[0] == "I" and previous[2:] != kind:
                yield position, tag, f"B-{kind}"
        previous = tag


def mended_tags(tags: Sequence[str]) -> list[str]:
    """The tags with each I-X that begins an entity as B-X. This also converts IOB1 to IOB2 without loss."""
    mended = {position: tag for position, _, tag in iob2_problems(tags) if tag is not None}
    return [mended.get(position, tag) for position, tag in enumerate(tags)]


def is_iob1(tags: Sequence[str]) -> bool:
    """Whether the tags may be IOB1, where B-X stands only right after an entity of type X."""
    pairs = zip(("O", *tags), tags, strict=False)
    return not any(tag.startswith("B-") and previous[2:] != tag[2:] for previous, tag in pairs)


@functools.lru_cache(maxsize=1024)
def entity_type(tag: Any) -> str | None:
    """``X`` of ``B-X`` and ``I-X``; ``None`` for anything else."""
    match = re.fullmatch(r"[BI]-(\S|\S.*\S)", tag) if isinstance(tag, str) else None
    return match[1] if match else None


def _is_list(values: Any) -> bool:
    return isinstance(values, Iterable) and not isinstance(values, (str, bytes))


def _name(position: int, tag: Any, tokens: Sequence[str], names: Sequence[str]) -> str:
    if isinstance(tag, Integral) and not isinstance(tag, bool) and 0 <= int(tag) < len(names):
        return names[int(tag)]
    expected = f"a number from 0 ({names[0]}) to {len(names) - 1} ({names[-1]})" if names else "O, B-TYPE or I-TYPE"
    came = f"{tag} came as tag {position + 1} (token {tokens[position]!r})"
    if tag in NO_LABEL:
        raise TagError("no gold label", f"{came}, which is no gold label; expected {expected}", position)
    raise TagError("wrong value", f"{came}; expected {expected}", position)
