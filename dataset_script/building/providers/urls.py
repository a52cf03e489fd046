"""Images that rows name by URL, as the sets do that may not pass on the images themselves."""

import logging
from pathlib import Path
from typing import Any
from urllib.request import getproxies

from ..stage import Mention, Stage, StagedRow
from .base import ImageProvider, ProvidedImage, read_table
from .fetching import Fetcher, Politeness
from .workspace import IMAGES, Workspace

logger = logging.getLogger(__name__)

COLUMNS = ("id", "url", "licence", "author", "source")
PATIENCE = Politeness(attempts=3)
"""Few attempts, since of a list of URLs many are dead for good."""


class Urls(ImageProvider):
    """The provider of images by URL. The image of a row belongs to the whole row.

    A run that was killed goes on where it was. URLs without an answer are asked again by the next run. Only public
    addresses are asked, without proxies.

    Args:
        workspace: a folder of this provider's own (``FileExistsError`` if it holds other files).
        contact: as for ``user_agent``.
        table: TSV with a header, or JSONL: ``id`` of the row and ``url``, and where known ``licence``, ``author``,
            ``source``. Rows that are not in the set are passed over. A URL that a row carries itself goes first.
    """

    name = "urls"

    def __init__(
        self,
        workspace: Path,
        contact: str | None,
        table: Path | None = None,
        politeness: Politeness = PATIENCE,
    ):
        super().__init__()
        self._table = Path(table).expanduser() if table else None
        if self._table and not self._table.is_file():
            raise FileNotFoundError(
                f"--image_urls: {self._table} is not there; expected a TSV or JSONL file of row ids and URLs."
            )
        if proxies := sorted(getproxies().keys() & {"http", "https", "all"}):
            logger.warning("The proxies for %s are not used: rows may name any host.", ", ".join(proxies))
        self._work = Workspace(workspace, "workspace of urls", Fetcher(contact, politeness, public_only=True))
        self._urls: dict[str, str] = {}  # by row id

    def prepare(self, stage: Stage) -> None:
        """Download the images of the rows.

        Raises:
            ValueError: a line of the table is malformed; the message names it.
        """
        given = {row.id: (row.image_url or "").strip() for row in stage.rows}
        facts: dict[str, list[Any]] = {row_id: [url, None, None, None] for row_id, url in given.items() if url}
        for line, record in read_table(self._table, COLUMNS[:2]) if self._table else ():
            row_id, url = record.get("id"), record.get("url")
            if not (isinstance(row_id, str | int) and str(row_id) and isinstance(url, str) and url.strip()):
                raise ValueError(
                    f"{self._table}:{line}: id {row_id!r} and url {url!r} came; expected a row id and a URL."
                )
            if str(row_id) in given:
                facts.setdefault(str(row_id), [url.strip(), *(record.get(name) or None for name in COLUMNS[2:])])
            else:
                self.counts["lines of the table for no row of the set"] += 1
        self._urls = {row_id: url for row_id, (url, *_) in facts.items()}
        urls = sorted(set(self._urls.values()))
        self._work.download(dict(zip(urls, urls, strict=True)))
        self.counts.update({"rows": len(given), "rows that name an image": len(facts), "rows with an image": 0})
        for row_id, (url, licence, author, source) in sorted(facts.items()):
            if name := self._name(row_id):
                origin = (licence, author, source or url)
                self.images.setdefault(name, ProvidedImage(name, self._work.images / name, None, (), (), *origin))
                self.counts["rows with an image"] += 1
        refused = [answer["refused"] for url in urls if "refused" in (answer := self._work.get(IMAGES, url) or {})]
        self.counts.update(f"URLs refused: {cause}" for cause in sorted(refused))
        self.counts.update({"images": len(self.images), "URLs without an answer": len(self._work.failed)})

    def candidates(self, row: StagedRow) -> dict[str, Mention | None]:
        """The row's own image."""
        name = self._name(row.id)
        return {name: None} if name else {}

    def close(self) -> None:
        """Close the database and all connections."""
        self._work.close()

    def _name(self, row_id: str) -> str | None:
        return (self._work.get(IMAGES, self._urls.get(row_id, "")) or {}).get("name")
