"""The rows of a dataset under construction, on disk: memory holds a few of them, however many there are."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..rows import Row, iob2_spans

_SCHEMA = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
CREATE TABLE rows (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, lang TEXT NOT NULL, row TEXT NOT NULL);
CREATE TABLE names (
    id INTEGER PRIMARY KEY, surface TEXT NOT NULL, type TEXT NOT NULL, lang TEXT NOT NULL,
    rows INTEGER NOT NULL DEFAULT 0, UNIQUE (surface, type, lang)
);
CREATE TABLE mentions (row INTEGER NOT NULL, name INTEGER NOT NULL, PRIMARY KEY (row, name)) WITHOUT ROWID;
"""


class Mention(NamedTuple):
    """An entity as a sentence names it: its tokens joined by blanks, its type after the label map, the language."""

    surface: str
    type: str
    lang: str


@dataclass(frozen=True)
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
    """A temporary database of rows and of the names that they mention, in a new ``folder``.

    Images inside the rows of the sources may be written to ``images``.
    """

    def __init__(self, folder: Path):
        self.images = folder / "images"
        self._database = sqlite3.connect(folder / "stage.sqlite", isolation_level=None)
        self._database.executescript(_SCHEMA)
        self.rows = self.rows_with_image = 0

    def add(self, rows: Iterable[tuple[str, Row]], source: str) -> Counter[str]:
        """Take the (split, row) pairs of a source. Returns the number of rows by language."""
        counts: Counter[str] = Counter()
        self._database.execute("BEGIN")
        for split, row in rows:
            lang = str(row.lang)
            staged = StagedRow(
                self.rows, self._free_id(row.id, source, lang, split), source, lang, split, row.tokens, row.tags,
                row.caption, row.image, row.image_url, row.image_relation,
            )  # fmt: skip
            values = (staged.key, staged.id, lang, json.dumps(vars(staged)))
            self._database.execute("INSERT INTO rows VALUES (?, ?, ?, ?)", values)
            for mention in staged.mentions:
                (name,) = self._database.execute(
                    "INSERT INTO names (surface, type, lang, rows) VALUES (?, ?, ?, 1) "
                    "ON CONFLICT DO UPDATE SET rows = rows + 1 RETURNING id",
                    mention,
                ).fetchone()
                self._database.execute("INSERT INTO mentions VALUES (?, ?)", (staged.key, name))
            self.rows += 1
            self.rows_with_image += row.image is not None
            counts[lang] += 1
        self._database.execute("COMMIT")
        return counts

    def read(self, lang: str | None = None) -> Iterator[StagedRow]:
        """The rows in the order of reading, those of one language or all."""
        query = "SELECT row FROM rows WHERE lang = coalesce(?, lang) ORDER BY key"
        for (row,) in self._database.execute(query, (lang,)):
            yield StagedRow(**json.loads(row))

    def mentions(self) -> Iterator[Mention]:
        """Each distinct mention, the most frequent first."""
        query = "SELECT surface, type, lang FROM names ORDER BY rows DESC, surface, type, lang"
        return map(Mention._make, self._database.execute(query))

    def names(self) -> Iterator[Mention]:
        """Each distinct mention, in the order of the numbers by which ``mention_pairs`` names it."""
        return map(Mention._make, self._database.execute("SELECT surface, type, lang FROM names ORDER BY id"))

    def mention_pairs(self) -> np.ndarray:
        """(N, 2) int64: the row and the number of the name of each mention, both from 0, each pair once."""
        (count,) = self._database.execute("SELECT count(*) FROM mentions").fetchone()
        pairs = self._database.execute("SELECT row, name - 1 FROM mentions")
        return np.fromiter((number for pair in pairs for number in pair), np.int64, 2 * count).reshape(-1, 2)

    def types(self) -> list[str]:
        """The entity types of all rows, sorted."""
        return [kind for (kind,) in self._database.execute("SELECT DISTINCT type FROM names ORDER BY type")]

    def close(self) -> None:
        """Close the database; the file stays."""
        self._database.close()

    def _free_id(self, row_id: str, source: str, lang: str, split: str) -> str:
        # Each source counts its rows from 0. An id that is taken is extended by where the row comes from.
        number, free = 1, row_id
        while self._database.execute("SELECT 1 FROM rows WHERE id = ?", (free,)).fetchone():
            free = f"{source}-{lang}-{split}-{row_id}" + (f"-{number}" if number > 1 else "")
            number += 1
        return free
