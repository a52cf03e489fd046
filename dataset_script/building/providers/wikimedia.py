"""Pictures of named entities: from a name to its Wikipedia article, its Wikidata item, a free picture on Commons."""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from ...files import claim
from .base import Candidate, Mention, Picture
from .fetching import LIMITS, POLITE, Fetcher, Limits, Politeness, Refused, clear_parts, politeness_of
from .ledger import Ledger, Todo
from .licences import LICENCES, AllowList
from .mediawiki import File, Item, MediaWiki, Page, batches, title_of
from .taxonomy import CLASSES, Taxonomy

logger = logging.getLogger(__name__)

WIKIPEDIA = "https://{lang}.wikipedia.org/w/api.php"
WIKIDATA = "https://www.wikidata.org/w/api.php"
COMMONS = "https://commons.wikimedia.org/w/api.php"
SIZE_PX = 500
"""Width of the pictures. Wikimedia serves 20, 40, 60, 120, 250, 330, 500, 960, 1280, ... and rounds others up."""
MAX_DEPTH = 12
"""Steps from a class up to those above it."""
MAX_FAILURES_IN_A_ROW = 12
"""Requests that fail one after the other, each after all its attempts, before a run gives up."""

# What was answered is kept for good: titles, links, items, files, and in files.name the pictures that are on disk.
# What was asked (names, choices) is written anew by each run.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS titles (
    lang TEXT, title TEXT, outcome TEXT NOT NULL, page TEXT, item TEXT, image TEXT, PRIMARY KEY (lang, title)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS links (lang TEXT, page TEXT, items TEXT, PRIMARY KEY (lang, page)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS items (
    id TEXT PRIMARY KEY, now TEXT, classes TEXT NOT NULL, parents TEXT NOT NULL, images TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
    file TEXT, width INTEGER, problem TEXT, url TEXT, licence TEXT, author TEXT, page TEXT, refused TEXT, name TEXT,
    PRIMARY KEY (file, width)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_name ON files (name);
CREATE TABLE IF NOT EXISTS names (
    surface TEXT, type TEXT, lang TEXT, title TEXT, outcome TEXT, item TEXT, entity TEXT, picture TEXT,
    PRIMARY KEY (surface, type, lang)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS names_by_title ON names (lang, title);
CREATE INDEX IF NOT EXISTS names_by_item ON names (item);
CREATE INDEX IF NOT EXISTS names_by_picture ON names (picture);
CREATE TABLE IF NOT EXISTS choices (item TEXT PRIMARY KEY, outcome TEXT, file TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS items_by_now ON items (now);
CREATE TEMP TABLE refusals (file TEXT PRIMARY KEY, cause TEXT) WITHOUT ROWID;
"""
FOUND, FAILED = "found", "no answer"


class Wikimedia:
    """The provider of pictures from Wikimedia Commons.

    A name is looked up as a title in the Wikipedia of its language. The item of the page must agree with the entity
    type; of a disambiguation page exactly one of the articles that it links to must. The picture is the item's (P18,
    those of preferred rank first), else the page's free one, whichever first has a licence that is allowed.

    All that was answered or downloaded is in ``workspace`` (an SQLite file and a folder) as soon as it came, so a run
    that was killed goes on where it was. Questions that got no answer are counted, and asked again by the next run.

    Args:
        workspace: a folder of this provider's own; it is made where there is none.
        contact: mail address or URL of whoever runs this, for the User-Agent.
        size_px: width of the pictures.
        max_mentions: only that many names are looked up, the most frequent ones; all if left out.
        politeness: how hard servers are pressed.
        limits: the largest picture that is taken.
        classes, licences: YAML files in place of ``wikidata_classes.yaml`` and ``licences.yaml``.
        wikipedia, wikidata, commons: the URLs of ``api.php``, that of Wikipedia with ``{lang}`` in it.

    Raises:
        FileExistsError: the workspace holds files, and is not one of this provider.
        ValueError: an option makes no sense.
    """

    name = "wikimedia"
    natural = False

    def __init__(
        self,
        workspace: Path,
        contact: str,
        size_px: int = SIZE_PX,
        max_mentions: int | None = None,
        politeness: Politeness = POLITE,
        limits: Limits = LIMITS,
        classes: Path = CLASSES,
        licences: Path = LICENCES,
        wikipedia: str = WIKIPEDIA,
        wikidata: str = WIKIDATA,
        commons: str = COMMONS,
    ):
        if size_px < 1:
            raise ValueError(f"size_px is {size_px}; expected the width of the pictures in pixels.")
        self._size_px, self._max_mentions = size_px, max_mentions
        self._limits = limits
        self._licences = AllowList(licences)
        self._taxonomy = Taxonomy(classes, self._parents, MAX_DEPTH)
        workspace = Path(workspace)
        claim(workspace, f"workspace of {self.name}")
        self._images = workspace / "images"
        self._images.mkdir(parents=True, exist_ok=True)
        self._fetcher = Fetcher(contact, workspace / "answers.sqlite", politeness)
        self._wiki = MediaWiki(self._fetcher, wikipedia, wikidata, commons)
        self._ledger = Ledger(
            workspace / "wikimedia.sqlite", _SCHEMA, politeness.workers, max_failures_in_a_row=MAX_FAILURES_IN_A_ROW
        )
        self._mention = lru_cache(4096)(self._look_up)

    def prepare(
        self, mentions: Callable[[], Iterator[tuple[Mention, int]]], row_ids: Callable[[], Iterator[str]]
    ) -> None:
        """Look up the names, then their items, then the files; download the pictures.

        Raises:
            ConnectionError: request after request failed. What came before is kept for the next run.
        """
        clear_parts(self._images)
        self._ledger.begin()
        self._ledger.execute("DELETE FROM refusals")
        self._taxonomy.forget()
        self._take(mentions())
        self._ask_titles()
        self._ask_links()
        self._ask_items(self._asked_items(), "Items")
        for _ in range(MAX_DEPTH + 1):
            if not self._ask_items(self._open_classes(), "Classes"):
                break
        self._settle_items()
        self._settle_pictures()
        self._mention.cache_clear()
        self._count()

    def candidates(self, row_id: str, mentions: Sequence[Mention]) -> list[Candidate]:
        """The pictures of the entities named."""
        found: dict[str, Candidate] = {}
        for mention in mentions:
            picture = self._mention(mention)[1]
            if picture:
                found.setdefault(picture, Candidate(picture, mention))
        return list(found.values())

    def entity(self, mention: Mention) -> str | None:
        """The Wikidata item; of items that share one picture, the first."""
        return self._mention(mention)[0]

    def names(self) -> Iterator[str]:
        """The pictures of the names that were looked up last, by name."""
        query = "SELECT DISTINCT picture FROM names WHERE picture > ? ORDER BY picture LIMIT 1000"
        last = ""
        while page := [name for (name,) in self._ledger.execute(query, last)]:
            yield from page
            last = page[-1]

    def picture(self, name: str) -> Picture:
        """The picture of a name, with the licence, author and description URL that Commons states."""
        facts = self._ledger.execute("SELECT licence, author, page FROM files WHERE name = ?", name).fetchone()
        rows = self._ledger.execute("SELECT entity, type, surface FROM names WHERE picture = ?", name).fetchall()
        if facts is None or not rows:
            raise KeyError(name)
        entities, types, surfaces = (tuple(sorted(set(column))) for column in zip(*rows, strict=True))
        return Picture(name, self._images / name, entities[0], types, surfaces, *facts)

    def counts(self) -> dict[str, int]:
        """Names asked and what became of them, files refused and why, requests that failed."""
        return self._ledger.counts()

    def close(self) -> None:
        """Close the database and all connections."""
        self._fetcher.close()
        self._ledger.close()

    # Names and their pages

    def _take(self, mentions: Iterable[tuple[Mention, int]]) -> None:
        known = set(self._taxonomy.types)
        with self._ledger.transaction():
            self._ledger.execute("DELETE FROM names")
            for mention, _ in islice(mentions, self._max_mentions):
                title = title_of(mention.surface)
                outcome = None
                if mention.type not in known:
                    title, outcome = None, "type without classes"
                elif title is None:
                    outcome = "not a title"
                self._ledger.execute(
                    "INSERT OR IGNORE INTO names (surface, type, lang, title, outcome) VALUES (?, ?, ?, ?, ?)",
                    mention.surface, mention.type, mention.lang, title, outcome,
                )  # fmt: skip

    def _ask_titles(self) -> None:
        todo = self._ledger.todo(
            "SELECT DISTINCT lang, title FROM names LEFT JOIN titles USING (lang, title) "
            "WHERE title IS NOT NULL AND titles.outcome IS NULL ORDER BY lang, title"
        )
        by_lang = groupby(todo.rows(), key=lambda row: row[0])
        asked = ((lang, batch) for lang, rows in by_lang for batch in batches(title for _, title in rows))

        def keep(asked: tuple[str, list[str]], pages: dict[str, Page]) -> None:
            for title, page in pages.items():
                self._ledger.execute(
                    "INSERT INTO titles VALUES (?, ?, ?, ?, ?, ?)",
                    asked[0], title, page.outcome, page.title, page.item, page.image,
                )  # fmt: skip
            self._note_missing([f"{asked[0]}:{title}" for title in asked[1] if title not in pages])

        self._ledger.ask(
            "Titles", todo, asked, lambda asked: self._wiki.pages(*asked), keep,
            lambda asked: [f"{asked[0]}:{title}" for title in asked[1]],
        )  # fmt: skip

    def _ask_links(self) -> None:
        todo = self._ledger.todo(
            "SELECT DISTINCT lang, page FROM names JOIN titles USING (lang, title) LEFT JOIN links USING (lang, page) "
            "WHERE titles.outcome = 'disambiguation' AND links.page IS NULL ORDER BY lang, page"
        )

        def keep(asked: tuple[str, str], items: list[str] | None) -> None:
            value = None if items is None else json.dumps(items)
            self._ledger.execute("INSERT INTO links VALUES (?, ?, ?)", *asked, value)

        self._ledger.ask(
            "Disambiguation pages", todo, todo.rows(), lambda asked: self._wiki.linked_items(*asked), keep,
            lambda asked: [":".join(asked)],
        )  # fmt: skip

    # Items and their classes

    def _asked_items(self) -> Todo:
        return self._ledger.todo(
            "WITH wanted AS (SELECT DISTINCT titles.lang, titles.outcome, titles.page, titles.item "
            "FROM names JOIN titles USING (lang, title)), ids AS ("
            "SELECT item AS id FROM wanted WHERE outcome = 'page' UNION "
            "SELECT value FROM wanted JOIN links USING (lang, page), json_each(links.items) "
            "WHERE wanted.outcome = 'disambiguation') "
            "SELECT id, NULL FROM ids LEFT JOIN items USING (id) WHERE items.id IS NULL ORDER BY id"
        )

    def _open_classes(self) -> Todo:
        return self._ledger.todo(
            "WITH above AS (SELECT value AS id FROM items, json_each(items.classes) UNION "
            "SELECT value FROM items, json_each(items.parents)) "
            "SELECT id, NULL FROM above LEFT JOIN items USING (id) "
            "WHERE items.id IS NULL AND id NOT IN (SELECT key FROM failures) ORDER BY id"
        )

    def _ask_items(self, todo: Todo, what: str) -> int:
        def keep(asked: list[str], items: dict[str, Item | None]) -> None:
            for item_id, item in items.items():
                item = item or Item("")
                values = [json.dumps(part) for part in (item.classes, item.parents, item.images)]
                self._ledger.execute("INSERT INTO items VALUES (?, ?, ?, ?, ?)", item_id, item.id or None, *values)
            self._note_missing([item_id for item_id in asked if item_id not in items])

        asked = batches(item_id for item_id, _ in todo.rows())
        number = todo.number
        self._ledger.ask(what, todo, asked, self._wiki.items, keep, lambda asked: asked)
        return number

    def _parents(self, name: str) -> list[str] | None:
        row = self._ledger.execute("SELECT parents FROM items WHERE id = ?", name).fetchone()
        return json.loads(row[0]) if row else None

    def _settle_items(self) -> None:
        """Write the outcome and the item of each name."""
        query = (
            "SELECT names.surface, names.type, names.lang, titles.outcome, titles.item, links.page, links.items "
            "FROM names LEFT JOIN titles USING (lang, title) LEFT JOIN links USING (lang, page) "
            "WHERE names.outcome IS NULL AND (names.surface, names.type, names.lang) > (?, ?, ?) "
            "ORDER BY names.surface, names.type, names.lang LIMIT 1000"
        )
        last = ("", "", "")
        while rows := self._ledger.execute(query, *last).fetchall():
            last = rows[-1][:3]
            with self._ledger.transaction():
                for surface, kind, lang, outcome, item, page, links in rows:
                    if outcome is None:
                        outcome = FAILED
                    elif outcome == "page":
                        outcome, item = self._agreeing([item], kind, "item of another class")
                    elif outcome == "disambiguation":
                        if page is None:
                            outcome, item = FAILED, None
                        elif links is None:
                            outcome, item = "ambiguous", None
                        else:
                            outcome, item = self._agreeing(json.loads(links), kind, "disambiguation without a match")
                    self._ledger.execute(
                        "UPDATE names SET outcome = ?, item = ? WHERE surface = ? AND type = ? AND lang = ?",
                        outcome, item if outcome == FOUND else None, surface, kind, lang,
                    )  # fmt: skip

    def _agreeing(self, ids: list[str], kind: str, otherwise: str) -> tuple[str, str | None]:
        found = set()
        for item_id in ids:
            row = self._ledger.execute("SELECT now, classes FROM items WHERE id = ?", item_id).fetchone()
            agrees = self._taxonomy.agrees(json.loads(row[1]), kind) if row else None
            if agrees is None:
                return FAILED, None
            if agrees:
                found.add(row[0])
        if len(found) > 1:
            return "ambiguous", None
        return (FOUND, found.pop()) if found else (otherwise, None)

    # Files

    def _settle_pictures(self) -> None:
        """Find the first usable file of each item, and have it on disk."""
        with self._ledger.transaction():
            self._ledger.execute("DELETE FROM choices")
            self._ledger.execute("INSERT INTO choices (item) SELECT DISTINCT item FROM names WHERE item IS NOT NULL")
        while True:
            facts, downloads = self._ledger.todo(), self._ledger.todo()
            self._choose(facts, downloads)
            if not facts.number and not downloads.number:
                break
            self._ask_files(facts)
            self._download(downloads)
        with self._ledger.transaction():
            self._ledger.execute(
                "UPDATE names SET outcome = (SELECT outcome FROM choices WHERE item = names.item), "
                "picture = (SELECT name FROM choices JOIN files USING (file) "
                "WHERE choices.item = names.item AND width = ?) WHERE outcome = ?",
                self._size_px, FOUND,
            )  # fmt: skip
            # Names whose items share a picture are one entity, as far as the picture tells.
            self._ledger.execute(
                "UPDATE names SET entity = coalesce("
                "(SELECT min(same.item) FROM names AS same WHERE same.picture = names.picture), item)"
            )

    def _choose(self, facts: Todo, downloads: Todo) -> None:
        """Settle the items that can be; of each other put down the file that must be asked for or downloaded first."""
        last = ""
        update = "UPDATE choices SET outcome = ?, file = ? WHERE item = ?"
        query = "SELECT item FROM choices WHERE outcome IS NULL AND item > ? ORDER BY item LIMIT 1000"
        while items := [item for (item,) in self._ledger.execute(query, last)]:
            last = items[-1]
            with self._ledger.transaction():
                for item in items:
                    self._ledger.execute(update, *self._choice(item, facts, downloads), item)

    def _choice(self, item: str, facts: Todo, downloads: Todo) -> tuple[str | None, str | None]:
        files = self._files_of(item)
        for file in files:
            failed = self._ledger.failed(f"File:{file}")
            row = self._ledger.execute(
                "SELECT problem, licence, refused, name, url FROM files WHERE file = ? AND width = ?",
                file, self._size_px,
            ).fetchone()  # fmt: skip
            if row is None:
                if not failed:
                    facts.add(file)
                return (FAILED if failed else None), None
            problem, licence, refused, name, url = row
            cause = problem or refused or self._licence_problem(licence)
            if cause:
                self._ledger.execute("INSERT OR IGNORE INTO refusals VALUES (?, ?)", file, cause)
            elif name and (self._images / name).is_file():
                return FOUND, file
            elif failed:
                return FAILED, None
            else:
                downloads.add(file, url)
                return None, None
        return ("item whose pictures are refused" if files else "item without a picture"), None

    def _files_of(self, item: str) -> list[str]:
        (images,) = self._ledger.execute(
            "SELECT images FROM items WHERE id = (SELECT min(id) FROM items WHERE now = ?)", item
        ).fetchone()
        pages = self._ledger.execute(
            "SELECT DISTINCT titles.lang, titles.image FROM names JOIN titles USING (lang, title) "
            "WHERE names.item = ? AND titles.outcome = 'page' AND titles.image IS NOT NULL ORDER BY 1, 2",
            item,
        )
        return list(dict.fromkeys([*json.loads(images), *(image for _, image in pages)]))

    def _licence_problem(self, licence: str | None) -> str | None:
        if licence is None:
            return "no licence stated"
        return None if self._licences.allows(licence) else "licence not allowed"

    def _ask_files(self, todo: Todo) -> None:
        def keep(asked: list[str], files: dict[str, File]) -> None:
            for name, file in files.items():
                self._ledger.execute(
                    "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
                    name, self._size_px, file.problem, file.url, file.licence, file.author, file.page,
                )  # fmt: skip
            self._note_missing([f"File:{name}" for name in asked if name not in files])

        asked = batches((file for file, _ in todo.rows()), "File:")
        self._ledger.ask(
            "Files", todo, asked, lambda names: self._wiki.files(names, self._size_px), keep,
            lambda names: [f"File:{name}" for name in names],
        )  # fmt: skip

    def _download(self, todo: Todo) -> None:
        def fetch(asked: tuple[str, str]) -> Path | Refused:
            file, url = asked
            stem = sha256(f"{file}\n{self._size_px}".encode()).hexdigest()[:24]
            try:
                return self._fetcher.picture(url, self._images, stem, self._limits)
            except Refused as error:
                if error.cause in ("HTTP 401", "HTTP 403"):  # this client is refused, not the picture
                    raise
                return error

        def keep(asked: tuple[str, str], result: Path | Refused) -> None:
            path, cause = (result.name, None) if isinstance(result, Path) else (None, result.cause)
            self._ledger.execute(
                "UPDATE files SET name = ?, refused = ? WHERE file = ? AND width = ?",
                path, cause, asked[0], self._size_px,
            )  # fmt: skip

        self._ledger.ask("Pictures", todo, todo.rows(), fetch, keep, lambda asked: [f"File:{asked[0]}"])

    def _note_missing(self, keys: list[str]) -> None:
        if keys:
            self._ledger.fail(keys, "the answer to a request for several says nothing of it")

    def _count(self) -> None:
        counts: Counter[str] = Counter()
        (counts["mentions asked"],) = self._ledger.execute("SELECT count(*) FROM names").fetchone()
        for outcome, number in self._ledger.execute("SELECT outcome, count(*) FROM names GROUP BY 1 ORDER BY 1"):
            counts[f"mentions: {outcome}"] = number
        for cause, number in self._ledger.execute("SELECT cause, count(*) FROM refusals GROUP BY 1 ORDER BY 1"):
            counts[f"files refused: {cause}"] = number
        counts["questions without an answer"] = self._ledger.failures()
        (counts["pictures"],) = self._ledger.execute("SELECT count(DISTINCT picture) FROM names").fetchone()
        self._ledger.set_counts(counts)
        if counts["questions without an answer"]:
            logger.warning(
                "%d questions got no answer: %d names are without a picture for it. The next run asks again.",
                counts["questions without an answer"], counts[f"mentions: {FAILED}"],
            )  # fmt: skip

    def _look_up(self, mention: Mention) -> tuple[str | None, str | None]:
        row = self._ledger.execute(
            "SELECT entity, picture FROM names WHERE surface = ? AND type = ? AND lang = ?",
            mention.surface, mention.type, mention.lang,
        ).fetchone()  # fmt: skip
        return row or (None, None)


def add_arguments(parser: Any) -> None:
    """The options of this provider."""
    parser.add_argument("--image_size", type=int, default=SIZE_PX, help=f"width of the pictures in pixels ({SIZE_PX})")
    parser.add_argument("--max_mentions", type=int, help="look up only so many names, the most frequent ones")
    parser.add_argument("--wikidata_classes", type=Path, default=CLASSES, help="YAML: the classes of each entity type")
    parser.add_argument("--allowed_licences", type=Path, default=LICENCES, help="YAML: the licences that are taken")
    for name, url in (("wikipedia", WIKIPEDIA), ("wikidata", WIKIDATA), ("commons", COMMONS)):
        variable = f"MMNER_{name.upper()}_API"
        parser.add_argument(
            f"--{name}_api", default=os.environ.get(variable, url), help=f"URL of its API, or ${variable} ({url})"
        )


def from_arguments(arguments: Any, workspace: Path) -> Wikimedia:
    """The provider that the command line asks for."""
    if not arguments.contact:
        raise ValueError("--provider wikimedia needs --contact (or $MMNER_CONTACT): your mail address, or a URL.")
    return Wikimedia(
        workspace / "wikimedia",
        arguments.contact,
        size_px=arguments.image_size,
        max_mentions=arguments.max_mentions,
        politeness=politeness_of(arguments),
        classes=arguments.wikidata_classes,
        licences=arguments.allowed_licences,
        wikipedia=arguments.wikipedia_api,
        wikidata=arguments.wikidata_api,
        commons=arguments.commons_api,
    )
