"""What an image provider is: it finds images for the entities that sentences mention, or for whole sentences.

``build`` reads all rows first, then lets the provider ``prepare``, then asks it row by row.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..stage import Mention, Stage, StagedRow


@dataclass(frozen=True)
class ProvidedImage:
    """An image on disk, and where it comes from."""

    name: str  # its file name, which no other image of the provider has
    path: Path
    entity: str | None = None  # what it shows, by any name in any language, where known
    types: tuple[str, ...] = ()  # the entity types that it may stand for
    mentions: tuple[str, ...] = ()  # the names of what it shows, where known
    licence: str | None = None  # as its origin states it
    author: str | None = None
    source: str | None = None


class ImageProvider:
    """Where images come from: this one has none. Attributes and answers stay the same after ``prepare``.

    ``natural``: images belong to sentences; then their relation is not known, and none is drawn at random.
    ``images`` are in a fixed order. ``counts`` is for the record of the build: mentions asked, found, refused and
    why ...
    """

    name = "none"
    natural = True

    def __init__(self) -> None:
        self.images: dict[str, ProvidedImage] = {}
        self.counts: Counter[str] = Counter()

    def prepare(self, stage: Stage) -> None:
        """Find and fetch what the rows need; resumable."""

    def entity(self, mention: Mention) -> str | None:
        """The identity of what is mentioned, where the provider knows it."""
        return None

    def showing(self, mention: Mention) -> Sequence[str]:
        """The names of the images that show an entity, in a fixed order."""
        return ()

    def candidates(self, row: StagedRow) -> dict[str, Mention | None]:
        """The names of the images that show an entity of a row, with its mention, or that belong to the whole row."""
        found: dict[str, Mention | None] = {}
        for mention in row.mentions:
            for name in self.showing(mention):
                found.setdefault(name, mention)
        return found

    def close(self) -> None:
        """Let go of files and connections; no call may follow."""


def read_table(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a user's table of images with their line: JSONL if it is called so, else TSV.

    ``needed``: the columns that the header of a TSV must have. A malformed line is a ``ValueError`` that names it.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".jsonl":
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError:
                    record = None
                if not isinstance(record, dict):
                    raise ValueError(f"{path}:{number}: {line[:80]!r} came; expected a JSON object a line.")
                yield number, record
            return
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = rows.fieldnames or ()
        if not {*needed} <= {*names}:
            raise ValueError(f"{path} has the columns {', '.join(names) or 'none'}; expected {', '.join(needed)}.")
        for record in rows:
            if None in record or None in record.values():
                raise ValueError(f"{path}:{rows.line_num}: expected {len(names)} columns, as the header has.")
            yield rows.line_num, record
