"""Pictures that rows name by URL, as the sets do that may not pass on the pictures themselves."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.request import getproxies

from ...files import claim
from .base import Candidate, Mention, Picture
from .fetching import LIMITS, POLITE, Fetcher, Limits, Politeness, Refused, clear_parts, politeness_of
from .ledger import Ledger
from .tables import read_table

logger = logging.getLogger(__name__)

COLUMNS = ("id", "url", "licence", "author", "source")
PATIENCE = replace(POLITE, attempts=3)
"""Of a list of URLs many are dead for good."""

# files keeps what was answered for good; rows is written anew by each run.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (url TEXT PRIMARY KEY, name TEXT, refused TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_name ON files (name);
CREATE TABLE IF NOT EXISTS rows (
    id TEXT PRIMARY KEY, url TEXT NOT NULL, licence TEXT, author TEXT, source TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS rows_by_url ON rows (url);
DELETE FROM rows;
CREATE TEMP TABLE wanted (id TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class Urls:
    """The provider of pictures by URL: that of a row belongs to it as a whole.

    All that was downloaded or refused is in ``workspace`` as soon as it came, so a run that was killed goes on where
    it was. URLs without an answer (a host that is down, a server error) are counted, and asked again by the next run.
    Only public addresses are asked, and directly, whatever proxies the environment names.

    Args:
        workspace: a folder of this provider's own; it is made where there is none.
        contact: mail address or URL of whoever runs this, for the User-Agent.
        table: TSV with a header, or JSONL: ``id`` of the row and ``url``, and where known ``licence``, ``author``,
            ``source``. Rows that are not in the set are passed over.
        politeness: how hard servers are pressed.
        limits: the largest picture that is taken.

    Raises:
        FileExistsError: the workspace holds files, and is not one of this provider.
        FileNotFoundError: the table is not there.
        ValueError: an option makes no sense.
    """

    name = "urls"
    natural = True

    def __init__(
        self,
        workspace: Path,
        contact: str,
        table: Path | None = None,
        politeness: Politeness = PATIENCE,
        limits: Limits = LIMITS,
    ):
        self._table = Path(table).expanduser() if table else None
        if self._table and not self._table.is_file():
            raise FileNotFoundError(f"{self._table} is not there: expected a TSV or JSONL file of row ids and URLs.")
        self._limits = limits
        if proxies := sorted(getproxies().keys() & {"http", "https", "all"}):
            logger.warning("The proxies for %s are not used: rows may name any host.", ", ".join(proxies))
        workspace = Path(workspace)
        claim(workspace, f"workspace of {self.name}")
        self._images = workspace / "images"
        self._images.mkdir(parents=True, exist_ok=True)
        self._fetcher = Fetcher(contact, None, politeness, public_only=True)
        self._ledger = Ledger(workspace / "urls.sqlite", _SCHEMA, politeness.workers)

    def add(
        self,
        row_id: str,
        url: str,
        licence: str | None = None,
        author: str | None = None,
        source: str | None = None,
    ) -> None:
        """Take the URL that a row carries itself; the first of a row counts, and goes before the table's."""
        self._ledger.execute(
            "INSERT OR IGNORE INTO rows VALUES (?, ?, ?, ?, ?)", row_id, url.strip(), licence, author, source
        )

    def prepare(
        self, mentions: Callable[[], Iterator[tuple[Mention, int]]], row_ids: Callable[[], Iterator[str]]
    ) -> None:
        """Download the pictures of the rows.

        Raises:
            ValueError: a line of the table is malformed; it is named.
        """
        clear_parts(self._images)
        self._ledger.begin()
        counts: Counter[str] = Counter()
        with self._ledger.transaction():
            self._ledger.execute("DELETE FROM wanted")
            for row_id in row_ids():
                self._ledger.execute("INSERT OR IGNORE INTO wanted VALUES (?)", row_id)
            if self._table:
                for line, record in read_table(self._table, ("id", "url"), COLUMNS):
                    counts["lines of the table for no row of the set"] += not self._take(line, record)
        self._drop_lost()
        todo = self._ledger.todo(
            "SELECT DISTINCT url, NULL FROM wanted JOIN rows USING (id) LEFT JOIN files USING (url) "
            "WHERE files.url IS NULL ORDER BY url"
        )
        urls = (url for url, _ in todo.rows())
        self._ledger.ask("Pictures", todo, urls, self._fetch, self._keep, lambda url: [url])
        self._count(counts)

    def candidates(self, row_id: str, mentions: Sequence[Mention]) -> list[Candidate]:
        """The row's own picture."""
        query = "SELECT name FROM rows JOIN files USING (url) WHERE id = ? AND name IS NOT NULL"
        return [Candidate(name) for (name,) in self._ledger.execute(query, row_id)]

    def entity(self, mention: Mention) -> str | None:
        """Not known."""
        return None

    def names(self) -> Iterator[str]:
        """The pictures that rows have, by name."""
        query = (
            "SELECT DISTINCT name FROM files JOIN rows USING (url) JOIN wanted USING (id) WHERE name > ? "
            "ORDER BY name LIMIT 1000"
        )
        last = ""
        while page := [name for (name,) in self._ledger.execute(query, last)]:
            yield from page
            last = page[-1]

    def picture(self, name: str) -> Picture:
        """The picture of a name, with what its first row says of it; the source is the URL where it says none."""
        facts = self._ledger.execute(
            "SELECT licence, author, coalesce(source, url) FROM files JOIN rows USING (url) WHERE name = ? "
            "ORDER BY rows.id LIMIT 1",
            name,
        ).fetchone()
        if facts is None:
            raise KeyError(name)
        return Picture(name, self._images / name, None, (), (), *facts)

    def counts(self) -> dict[str, int]:
        """Rows with and without a picture, URLs refused and why, URLs that gave no answer."""
        return self._ledger.counts()

    def close(self) -> None:
        """Close the database and all connections."""
        self._fetcher.close()
        self._ledger.close()

    def _take(self, line: int, record: dict[str, Any]) -> bool:
        row_id, url = record.get("id"), record.get("url")
        if not (isinstance(row_id, str | int) and str(row_id) and isinstance(url, str) and url.strip()):
            raise ValueError(f"{self._table}:{line}: id {row_id!r} and url {url!r} came; expected a row id and a URL.")
        if not self._ledger.execute("SELECT 1 FROM wanted WHERE id = ?", str(row_id)).fetchone():
            return False
        self.add(str(row_id), url, *(record.get(name) or None for name in COLUMNS[2:]))
        return True

    def _fetch(self, url: str) -> Path | Refused:
        try:
            return self._fetcher.picture(url, self._images, sha256(url.encode()).hexdigest()[:24], self._limits)
        except Refused as error:
            return error

    def _keep(self, url: str, result: Path | Refused) -> None:
        name, cause = (result.name, None) if isinstance(result, Path) else (None, result.cause)
        self._ledger.execute("INSERT INTO files VALUES (?, ?, ?)", url, name, cause)

    def _drop_lost(self) -> None:
        # A file that someone has removed is fetched anew.
        last = ""
        query = "SELECT name FROM files WHERE name > ? ORDER BY name LIMIT 1000"
        while page := [name for (name,) in self._ledger.execute(query, last)]:
            for name in page:
                if not (self._images / name).is_file():
                    self._ledger.execute("DELETE FROM files WHERE name = ?", name)
            last = page[-1]

    def _count(self, counts: Counter[str]) -> None:
        def number(query: str) -> int:
            return self._ledger.execute(query).fetchone()[0]

        named = "FROM wanted JOIN rows USING (id)"
        counts["rows"] = number("SELECT count(*) FROM wanted")
        counts["rows that name a picture"] = number(f"SELECT count(*) {named}")
        counts["rows with a picture"] = number(f"SELECT count(name) {named} JOIN files USING (url)")
        counts["pictures"] = number(f"SELECT count(DISTINCT name) {named} JOIN files USING (url)")
        refused = self._ledger.execute(
            f"SELECT refused, count(DISTINCT url) {named} JOIN files USING (url) WHERE refused IS NOT NULL "
            "GROUP BY 1 ORDER BY 1"
        )
        for cause, urls in refused:
            counts[f"URLs refused: {cause}"] = urls
        counts["URLs without an answer"] = self._ledger.failures()
        self._ledger.set_counts(counts)
        if counts["URLs without an answer"]:
            logger.warning("%d URLs gave no answer. The next run asks again.", counts["URLs without an answer"])


def add_arguments(parser: Any) -> None:
    """The options of this provider."""
    parser.add_argument("--image_urls", type=Path, help="TSV or JSONL of the pictures' URLs: " + ", ".join(COLUMNS))


def from_arguments(arguments: Any, workspace: Path) -> Urls:
    """The provider that the command line asks for."""
    if not arguments.contact:
        raise ValueError("--provider urls needs --contact (or $MMNER_CONTACT): your mail address, or a URL.")
    politeness = politeness_of(arguments, PATIENCE)
    return Urls(workspace / "urls", arguments.contact, arguments.image_urls, politeness)
