"""What a provider has fetched: answers and images on disk, so that a build that was killed goes on where it was."""

import json
import logging
import math
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from hashlib import sha256
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ...files import claim
from .fetching import Fetcher, Refused, Temporary

logger = logging.getLogger(__name__)

IMAGES = "images"


class Workspace:
    """Answers of servers, as JSON by kind and key, and images by key. To be used by one thread.

    Args:
        folder: of one provider, by ``kind``, as for ``claim``.
        max_failures_in_a_row: requests that fail one after the other before a run gives up.
    """

    def __init__(self, folder: Path, kind: str, fetcher: Fetcher, max_failures_in_a_row: float = math.inf):
        claim(folder, kind)
        self.fetcher, self._max_failures_in_a_row = fetcher, max_failures_in_a_row
        self.images = Path(folder) / IMAGES
        self.images.mkdir(exist_ok=True)
        self._database = sqlite3.connect(Path(folder) / "answers.sqlite", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
            "CREATE TABLE IF NOT EXISTS answers (kind TEXT, key TEXT, answer TEXT, PRIMARY KEY (kind, key))"
        )
        self.failed: set[tuple[str, str]] = set()
        """Kind and key of the questions of this run that got no answer; the next run asks them again."""
        self._in_a_row = 0

    def get(self, kind: str, key: str) -> Any:
        """An answer, or ``None`` where there is none."""
        query = "SELECT answer FROM answers WHERE kind = ? AND key = ?"
        found = self._database.execute(query, (kind, key)).fetchone()
        answer = json.loads(found[0]) if found else None
        if kind == IMAGES and answer and "name" in answer and not (self.images / answer["name"]).is_file():
            return None  # someone has removed it
        return answer

    def ask(
        self,
        kind: str,
        keys: Iterable[str],
        function: Callable[[Sequence[str]], Mapping[str, Any]],
        batched: Callable[[list[str]], Iterable[Sequence[str]]] = zip,
    ) -> None:
        """Ask the questions of a kind that have no answer yet, and keep each answer as soon as it comes.

        ``function`` asks a batch, in another thread; it raises ``Temporary`` or ``Refused`` where it gets no
        answer. Too many of these in a row raise ``ConnectionError``.
        """
        asked = [key for key in dict.fromkeys(keys) if self.get(kind, key) is None and (kind, key) not in self.failed]
        pool = ThreadPoolExecutor(self.fetcher.politeness.workers)
        try:
            futures = {pool.submit(function, batch): batch for batch in batched(asked)}
            for future in tqdm(as_completed(futures), kind, len(futures), disable=None):
                answers: Mapping[str, Any] = {}
                error = None
                try:
                    answers = future.result()
                except (Temporary, Refused) as reason:
                    error = reason
                rows = [(kind, key, json.dumps(answer)) for key, answer in answers.items()]
                self._database.execute("BEGIN")
                self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)
                self._database.execute("COMMIT")
                if missing := [key for key in futures[future] if key not in answers]:
                    self.failed.update((kind, key) for key in missing)
                    logger.warning("No answer for %d %s: %s", len(missing), kind, error or "not mentioned")
                self._in_a_row = self._in_a_row + 1 if error else 0
                if self._in_a_row >= self._max_failures_in_a_row:
                    raise ConnectionError(
                        f"{self._in_a_row} requests in a row failed, the last with: {error}. What was answered before "
                        "is kept: run the same command again when the servers can be reached."
                    ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def download(self, urls: Mapping[str, str]) -> None:
        """Download images by key; ``get(IMAGES, key)`` then has the ``name`` of a file, or why it is ``refused``."""

        def fetch(keys: Sequence[str]) -> dict[str, dict[str, str]]:
            (key,) = keys
            try:
                stem = sha256(key.encode()).hexdigest()[:24]
                return {key: {"name": self.fetcher.image(urls[key], self.images, stem).name}}
            except Refused as error:
                if error.cause in ("HTTP 401", "HTTP 403"):  # this client is refused, not the image
                    raise
                return {key: {"refused": error.cause}}

        self.ask(IMAGES, urls, fetch)

    def close(self) -> None:
        """Close the database and all connections."""
        self.fetcher.close()
        self._database.close()
