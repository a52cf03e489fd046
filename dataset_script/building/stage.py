"""The rows of a dataset under construction."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..images import ImageFiles
from ..rows import Row, iob2_spans


class Mention(NamedTuple):
    """An entity as a sentence names it: its tokens joined by blanks, its type after the label map, the language."""

    surface: str
    type: str
    lang: str


@dataclass(frozen=True, slots=True)
class StagedRow:
    """A row as it was read; ``key`` counts from 0 in the order of reading, and ``id`` is unique among all rows."""

    key: int
    id: str
    source: str
    lang: str
    split: str
    tokens: list[str]
    tags: list[str]
    caption: str | None
    image: str | None
    image_url: str | None
    relation: str | None

    @property
    def mentions(self) -> list[Mention]:
        """The entities of the row by name, each once, in the order of their first mention."""
        spans = iob2_spans(self.tags)
        found = (Mention(" ".join(self.tokens[start:end]), kind, self.lang) for start, end, kind in spans)
        return list(dict.fromkeys(found))


class Stage:
    """The rows, and the names that they mention. Images that lie in rows are written to ``images``, by source."""

    def __init__(self, images: Path):
        self.images = images
        self.rows: list[StagedRow] = []
        self._names: Counter[Mention] = Counter()
        self._ids: set[str] = set()

    def add(self, rows: Iterable[tuple[str, Row]], source: str) -> Counter[str]:
        """Take the (split, row) pairs of a source. Returns the number of rows by language.

        Raises:
            ValueError: a row is of a set that was tagged for some types only.
        """
        counts: Counter[str] = Counter()
        files = ImageFiles(self.images / source)
        for split, row in rows:
            lang = str(row.lang)
            if row.known_types is not None:
                raise ValueError(
                    f"{source}: a row states known_types, which a build does not keep; mix sets with them."
                )
            if row.image_bytes is not None:
                row.image = files.add(row.image_bytes, str(row.image))
            tokens, tags = (list(map(sys.intern, texts)) for texts in (row.tokens, row.tags))  # each text once
            staged = StagedRow(
                len(self.rows), self._free_id(row.id, f"{source}-{lang}-{split}"), source, lang, split, tokens, tags,
                row.caption, row.image, row.image_url, row.image_relation,
            )  # fmt: skip
            self.rows.append(staged)
            self._names.update(staged.mentions)
            counts[lang] += 1
        return counts

    def mentions(self) -> Iterator[Mention]:
        """Each distinct mention, the most frequent first."""
        return iter(sorted(self._names, key=lambda mention: (-self._names[mention], mention)))

    def names(self) -> list[Mention]:
        """Each distinct mention, in the order of the numbers by which ``mention_pairs`` names it."""
        return list(self._names)

    def mention_pairs(self) -> np.ndarray:
        """(N, 2) int64: the row and the number of the name of each mention, both from 0, each pair once."""
        numbers = {mention: number for number, mention in enumerate(self._names)}
        pairs = [(row.key, numbers[mention]) for row in self.rows for mention in row.mentions]
        return np.array(pairs, np.int64).reshape(-1, 2)

    def types(self) -> list[str]:
        """The entity types of all rows, sorted."""
        return sorted({mention.type for mention in self._names})

    def _free_id(self, row_id: str, place: str) -> str:
        # Each source counts its rows from 0. An id that is taken is extended by where the row comes from.
        number, free = 1, row_id
        while free in self._ids:
            free = f"{place}-{row_id}" + (f"-{number}" if number > 1 else "")
            number += 1
        self._ids.add(free)
        return free
