"""What a provider that fetches has asked and been answered: an SQLite file that survives a kill at any moment."""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from tqdm.auto import tqdm

from .fetching import in_parallel

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, number INTEGER NOT NULL);
CREATE TEMP TABLE failures (key TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class Ledger:
    """A database, and the putting of questions whose answers it keeps. For one thread.

    Args:
        path: the file.
        schema: the statements that make its tables where they are not there.
        workers: questions under way at a time.
        max_failures_in_a_row: questions that fail one after the other before a run gives up.
    """

    def __init__(self, path: Path, schema: str, workers: int, max_failures_in_a_row: int | None = None):
        self._workers, self._max_failures_in_a_row = workers, max_failures_in_a_row
        self._in_a_row = self._last_todo = 0
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(_SCHEMA + schema)

    def begin(self) -> None:
        """Begin a run: forget the failures of the one before, so that its questions are put again."""
        self._in_a_row = 0
        self.execute("DELETE FROM failures")

    def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
        """Run a statement."""
        return self._database.execute(query, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements within, or none."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    def todo(self, query: str | None = None) -> "Todo":
        """A list of pairs, which ``query`` selects or ``Todo.add`` adds."""
        self._last_todo += 1
        return Todo(self._database, f"todo_{self._last_todo}", query)

    def ask(
        self,
        what: str,
        todo: "Todo",
        questions: Iterable[T],
        function: Callable[[T], R],
        keep: Callable[[T, R], None],
        keys: Callable[[T], list[str]],
    ) -> None:
        """Put questions, and keep each answer in a transaction of its own as soon as it comes.

        Args:
            what: for the progress bar.
            todo: what the questions are made of; each is about as many of it as it has ``keys``.
            function: asks, in another thread; it raises ``Temporary`` or ``Refused`` where it gets no answer.
            keep: writes the answer; it may call ``fail`` for a part that has none.
            keys: what a question is known by among the failures of this run.

        Raises:
            ConnectionError: too many failed in a row. What came before is kept.
        """
        failed = 0
        with tqdm(total=todo.number, desc=what, disable=None) as bar:
            for question, answer, error in in_parallel(function, questions, self._workers):
                of = keys(question)
                if error is not None:
                    failed += len(of)
                    self.fail(of, str(error))
                    self._in_a_row += 1
                    if self._max_failures_in_a_row and self._in_a_row >= self._max_failures_in_a_row:
                        raise ConnectionError(
                            f"{self._in_a_row} requests in a row failed, the last with: {error}. What was answered "
                            "before is kept: run the same command again when the servers can be reached."
                        ) from error
                else:
                    self._in_a_row = 0
                    with self.transaction():
                        keep(question, cast(R, answer))
                bar.update(len(of))
                bar.set_postfix(failed=failed)
        todo.drop()

    def fail(self, keys: Sequence[str], why: str) -> None:
        """Note questions that got no answer in this run."""
        logger.warning("No answer for %s: %s", ", ".join(keys[:3]) + (" ..." if keys[3:] else ""), why)
        for key in keys:
            self.execute("INSERT OR IGNORE INTO failures VALUES (?)", key)

    def failed(self, key: str) -> bool:
        """Whether a question has failed in this run."""
        return self.execute("SELECT 1 FROM failures WHERE key = ?", key).fetchone() is not None

    def failures(self) -> int:
        """How many questions have failed in this run."""
        return self.execute("SELECT count(*) FROM failures").fetchone()[0]

    def counts(self) -> dict[str, int]:
        """The counts of the last run, in the order in which they were given."""
        return dict(self.execute("SELECT name, number FROM counts ORDER BY rowid"))

    def set_counts(self, counts: Mapping[str, int]) -> None:
        """Keep the counts of a run."""
        with self.transaction():
            self.execute("DELETE FROM counts")
            for name, number in counts.items():
                self.execute("INSERT INTO counts VALUES (?, ?)", name, number)

    def close(self) -> None:
        """Close the file."""
        self._database.close()


class Todo:
    """What is to be asked, in a temporary table: the tables that it comes from may change meanwhile."""

    def __init__(self, database: sqlite3.Connection, table: str, query: str | None):
        self._database, self._table = database, table
        database.execute(f"CREATE TEMP TABLE {table} (number INTEGER PRIMARY KEY, a TEXT, b TEXT, UNIQUE (a, b))")
        if query:
            database.execute(f"INSERT INTO {table} (a, b) {query}")

    @property
    def number(self) -> int:
        """How many pairs there are."""
        return self._database.execute(f"SELECT count(*) FROM {self._table}").fetchone()[0]

    def add(self, a: str, b: str = "") -> None:
        """Add a pair, unless it is there."""
        self._database.execute(f"INSERT OR IGNORE INTO {self._table} (a, b) VALUES (?, ?)", (a, b))

    def rows(self) -> Iterator[tuple[str, str]]:
        """The pairs, in their order."""
        last = 0
        query = f"SELECT number, a, b FROM {self._table} WHERE number > ? ORDER BY number LIMIT 1000"
        while page := self._database.execute(query, (last,)).fetchall():
            yield from ((a, b) for _, a, b in page)
            last = page[-1][0]

    def drop(self) -> None:
        """Forget them."""
        self._database.execute(f"DROP TABLE {self._table}")
