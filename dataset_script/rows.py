"""A sentence as a file has it, and what makes it malformed."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .spans import TagError, iob2_tags

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
        tags: where the row has no gold labels, what stands for them (``spans.NO_LABEL``).
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


def check(row: Row, labelled: bool = True) -> None:
    """Raise the first ``MalformedRow`` of a row: language, tags (``labelled``), text not Unicode, image path."""
    if row.lang not in LANGUAGES:
        raise row.problem("unknown language", f"language {row.lang!r} came; expected one of {', '.join(LANGUAGES)}")
    try:
        if labelled:
            iob2_tags(row.tokens, row.tags)
    except TagError as error:
        remedy = error.mended and (
            f"Correct it, or load with iob2='repair' to read it as {error.mended!r}, "
            "or with errors='skip' to leave such rows out; either counts them."
        )
        raise row.problem(error.reason, str(error), error.position, remedy or "") from None
    try:
        "".join((row.id, row.image or "", row.image_url or "", row.caption or "", *row.tokens)).encode()
    except UnicodeEncodeError as error:
        character = error.object[error.start : error.end]
        raise row.problem("bad text", f"{character!r} came; half a surrogate pair is no character") from None
    if row.image is not None:
        image = PurePosixPath(row.image)
        if image.is_absolute() or ".." in image.parts:
            raise row.problem("bad image", f"image {row.image!r} came; expected a file name inside the image folder")
