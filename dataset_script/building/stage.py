"""The rows of a dataset under construction, on disk: whatever their number, memory holds a few of them."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..rows import Row, iob2_spans
from .providers.base import Mention

_SCHEMA = """
CREATE TABLE rows (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, source TEXT NOT NULL, lang TEXT NOT NULL, split TEXT NOT NULL,
    tokens TEXT NOT NULL, tags TEXT NOT NULL, caption TEXT, image TEXT, image_url TEXT, relation TEXT
);
CREATE TABLE names (
    id INTEGER PRIMARY KEY, surface TEXT NOT NULL, type TEXT NOT NULL, lang TEXT NOT NULL,
    rows INTEGER NOT NULL DEFAULT 0, UNIQUE (surface, type, lang)
);
CREATE TABLE mentions (row INTEGER NOT NULL, name INTEGER NOT NULL, PRIMARY KEY (row, name)) WITHOUT ROWID;
"""


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
        found = {
            Mention(" ".join(self.tokens[start:end]), kind, self.lang): None
            for start, end, kind in iob2_spans(self.tags)
        }
        return list(found)


class Stage:
    """A scratch database of rows and of the names that they mention.

    Args:
        folder: a new one; the pictures of rows that hold them may be written to ``pictures`` in it.
    """

    def __init__(self, folder: Path):
        self.pictures = folder / "own_pictures"
        # It holds nothing that cannot be read again, so it need not survive a crash, and is written by one thread.
        self._database = sqlite3.connect(folder / "stage.sqlite", isolation_level=None)
        self._database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _SCHEMA)
        self.rows = 0

    def add(self, rows: Iterable[tuple[str, Row]], source: str) -> Counter[str]:
        """Take the (split, row) pairs of a source.

        Returns:
            Rows by language.
        """
        counts: Counter[str] = Counter()
        database = self._database
        database.execute("BEGIN")
        for split, row in rows:
            staged = StagedRow(
                self.rows,
                self._free_id(row.id, source, str(row.lang), split),
                source,
                str(row.lang),
                split,
                row.tokens,
                row.tags,
                row.caption,
                row.image,
                row.image_url,
                row.image_relation,
            )
            tokens, tags = (json.dumps(items, ensure_ascii=False) for items in (row.tokens, row.tags))
            database.execute(
                "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (staged.key, staged.id, source, staged.lang, split, tokens, tags)
                + (row.caption, row.image, row.image_url, row.image_relation),
            )
            for mention in staged.mentions:
                (name,) = database.execute(
                    "INSERT INTO names (surface, type, lang, rows) VALUES (?, ?, ?, 1) "
                    "ON CONFLICT DO UPDATE SET rows = rows + 1 RETURNING id",
                    (mention.surface, mention.type, mention.lang),
                ).fetchone()
                database.execute("INSERT INTO mentions VALUES (?, ?)", (self.rows, name))
            self.rows += 1
            counts[staged.lang] += 1
        database.execute("COMMIT")
        return counts

    def mentions(self) -> Iterator[tuple[Mention, int]]:
        """Each distinct mention with the number of rows that have it, the most frequent first."""
        query = "SELECT surface, type, lang, rows FROM names ORDER BY rows DESC, surface, type, lang"
        for surface, kind, lang, rows in self._database.execute(query):
            yield Mention(surface, kind, lang), rows

    def names(self) -> Iterator[tuple[int, Mention]]:
        """Each distinct mention with its number, by which ``mention_pairs`` names it; numbers count from 1."""
        query = "SELECT id, surface, type, lang FROM names ORDER BY id"
        for name, surface, kind, lang in self._database.execute(query):
            yield name, Mention(surface, kind, lang)

    def types(self) -> list[str]:
        """The entity types of all rows, sorted."""
        return sorted(kind for (kind,) in self._database.execute("SELECT DISTINCT type FROM names"))

    def mention_pairs(self) -> np.ndarray:
        """(N, 2) int64: the row and the number of the name of each mention, each pair once."""
        (count,) = self._database.execute("SELECT count(*) FROM mentions").fetchone()
        flat = (number for pair in self._database.execute("SELECT row, name FROM mentions") for number in pair)
        return np.fromiter(flat, dtype=np.int64, count=2 * count).reshape(-1, 2)

    def row_ids(self) -> Iterator[str]:
        """The ids of all rows."""
        return (row_id for (row_id,) in self._database.execute("SELECT id FROM rows ORDER BY key"))

    def own_images(self) -> int:
        """The rows whose source names an image."""
        return self._database.execute("SELECT count(image) FROM rows").fetchone()[0]

    def image_of(self, row_id: str) -> tuple[str, str] | None:
        """The source of a row and the image name that it gives, or ``None``."""
        query = "SELECT source, image FROM rows WHERE id = ? AND image IS NOT NULL"
        return self._database.execute(query, (row_id,)).fetchone()

    def read(self, lang: str | None = None) -> Iterator[StagedRow]:
        """The rows in the order of reading, those of one language or all."""
        where, values = ("WHERE lang = ?", (lang,)) if lang else ("", ())
        query = f"SELECT * FROM rows {where} ORDER BY key"
        for *before, tokens, tags, caption, image, url, relation in self._database.execute(query, values):
            yield StagedRow(*before, json.loads(tokens), json.loads(tags), caption, image, url, relation)

    def close(self) -> None:
        """Close the database; the file stays."""
        self._database.close()

    def _free_id(self, row_id: str, source: str, lang: str, split: str) -> str:
        # Sources count their rows from nought each; an id that is taken says where it comes from.
        number, free = 1, row_id
        while self._database.execute("SELECT 1 FROM rows WHERE id = ?", (free,)).fetchone():
            free = f"{source}-{lang}-{split}-{row_id}" + (f"-{number}" if number > 1 else "")
            number += 1
        return free
