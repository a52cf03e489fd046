"""Images of named entities: from a name to its Wikipedia article, its Wikidata item, a free image on Commons."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ..stage import Mention, Stage
from .base import ImageProvider, ProvidedImage
from .fetching import POLITE, Fetcher, Politeness
from .mediawiki import MediaWiki, batches, title_of
from .workspace import IMAGES, Workspace

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent
CLASSES = yaml.safe_load((_HERE / "wikidata_classes.yaml").read_text(encoding="utf-8"))
"""Entity type -> ``roots`` and ``not``, each class id -> name."""
LICENCES = [
    re.compile(pattern, re.IGNORECASE)
    for entry in yaml.safe_load((_HERE / "licences.yaml").read_text(encoding="utf-8"))
    for pattern in entry["patterns"]
]
"""The licences under which an image is kept: a pattern must match the whole name, as its origin gives it."""
SIZE_PX = 500
"""Width of the images. Wikimedia serves 20, 40, 60, 120, 250, 330, 500, 960, 1280, ... and rounds others up."""
MAX_DEPTH = 12
"""Steps from a class up to those above it."""
MAX_FAILURES_IN_A_ROW = 12
"""Requests that fail one after the other, each after all its attempts, before a run gives up."""
FOUND, FAILED = "found", "no answer"
_UNKNOWN = "?"


class Taxonomy:
    """Which entity types a Wikidata item agrees with, by its classes and the classes above them (P279*).

    Args:
        parents: from a class to those it is a subclass of, or to ``None`` where that is not known.
    """

    def __init__(self, parents: Callable[[str], Iterable[str] | None]):
        self._marked = {name for entry in CLASSES.values() for part in entry.values() for name in part} | {_UNKNOWN}
        self._parents = parents
        self._above: dict[str, set[str]] = {}

    def agrees(self, classes: Iterable[str], kind: str) -> bool | None:
        """Whether an item of these classes may stand for an entity of the type ``kind``; ``None``: not known."""
        above = {mark for name in classes for mark in self._marks(name)}
        if above & CLASSES[kind]["not"].keys():
            return False
        return None if _UNKNOWN in above else bool(above & CLASSES[kind]["roots"].keys())

    def _marks(self, name: str) -> set[str]:
        if name not in self._above:
            seen, level = {name}, {name}
            for _ in range(MAX_DEPTH):
                found = [self._parents(child) for child in level]
                seen |= {_UNKNOWN} if None in found else set()
                level = {parent for parents in found for parent in parents or ()} - seen
                seen |= level
            self._above[name] = seen & self._marked
        return self._above[name]


class Wikimedia(ImageProvider):
    """The provider of images from Wikimedia Commons.

    A name is looked up as a title in the Wikipedia of its language. The item of the page must agree with the entity
    type. The image is the item's (P18, those of preferred rank first), else the page's free one, whichever first
    has a licence that is allowed.

    All that was answered or downloaded is in ``workspace``, a folder of this provider's own, as soon as it came, so
    a run that was killed goes on where it was. Questions that got no answer are counted, and asked again by the
    next run.
    """

    name = "wikimedia"
    natural = False

    def __init__(self, workspace: Path, contact: str | None, politeness: Politeness = POLITE):
        super().__init__()
        self._taxonomy = Taxonomy(self._parents)
        fetcher = Fetcher(contact, politeness)
        self._wiki = MediaWiki(fetcher)
        self._work = Workspace(workspace, "workspace of wikimedia", fetcher, MAX_FAILURES_IN_A_ROW)
        self._entities: dict[Mention, str] = {}
        self._showing: dict[Mention, str] = {}

    def prepare(self, stage: Stage) -> None:
        """Look up the names, then their items, then the files; download the images.

        Raises:
            ConnectionError: request after request failed. What came before is kept for the next run.
        """
        outcomes: dict[Mention, str] = {}
        titles: dict[Mention, str] = {}
        for mention in stage.mentions():
            title = title_of(mention.surface)
            if mention.type not in CLASSES:
                outcomes[mention] = "type without classes"
            elif title is None:
                outcomes[mention] = "not a title"
            else:
                titles[mention] = title
        pages = self._ask_pages(titles)
        self._ask_items({page["item"] for page in pages.values() if page["outcome"] == "page"})
        items: dict[Mention, str] = {}
        files: dict[str, list[str]] = {}  # of each item: its images, then those of its pages
        for mention, page in pages.items():
            outcomes[mention], item = self._item(mention, page)
            if item:
                items[mention] = item["id"]
                own = files.setdefault(item["id"], item["images"])
                if page["image"] and page["image"] not in own:
                    own.append(page["image"])
        wanted = sorted({file for names in files.values() for file in names})
        self._work.ask("files", wanted, partial(self._wiki.files, SIZE_PX), partial(batches, prefix="File:"))
        chosen, refused = self._choose(files)
        outcomes |= {mention: chosen[item_id][0] for mention, item_id in items.items()}
        self._note(items, chosen)
        failed = len(self._work.failed)
        self.counts = Counter({"mentions asked": len(outcomes)})
        self.counts.update(f"mentions: {outcome}" for outcome in sorted(outcomes.values()))
        self.counts.update(f"files refused: {cause}" for cause in sorted(refused.values()))
        self.counts.update({"questions without an answer": failed, "images": len(self.images)})
        if failed:
            logger.warning("%d questions got no answer, and are asked again by the next run.", failed)

    def entity(self, mention: Mention) -> str | None:
        """The Wikidata item; of items that share one image, the first."""
        return self._entities.get(mention)

    def showing(self, mention: Mention) -> list[str]:
        """The image of a name, if there is one."""
        return [self._showing[mention]] if mention in self._showing else []

    def close(self) -> None:
        """Close the database and all connections."""
        self._work.close()

    def _parents(self, name: str) -> list[str] | None:
        item = self._work.get("items", name)
        return item and item["parents"]

    def _ask_pages(self, titles: dict[Mention, str]) -> dict[Mention, dict[str, Any]]:
        for lang in sorted({mention.lang for mention in titles}):
            asked = sorted({title for mention, title in titles.items() if mention.lang == lang})
            self._work.ask(f"titles in {lang}", asked, partial(self._wiki.pages, lang), batches)
        found = {mention: self._work.get(f"titles in {mention.lang}", title) for mention, title in titles.items()}
        return {mention: page or {"outcome": FAILED} for mention, page in found.items()}

    def _ask_items(self, ids: set[str]) -> None:
        """Ask for items, then for their classes and the classes above these, level by level."""
        self._work.ask("items", sorted(ids), self._wiki.items, batches)
        level = {name for item_id in ids for name in (self._work.get("items", item_id) or {}).get("classes", ())}
        seen: set[str] = set()
        for _ in range(MAX_DEPTH + 1):
            self._work.ask("items", sorted(level), self._wiki.items, batches)
            seen |= level
            level = {parent for name in level for parent in self._parents(name) or ()} - seen

    def _item(self, mention: Mention, page: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
        """The outcome of a name, and the item of its page if that agrees with its type."""
        if page["outcome"] != "page":
            return page["outcome"], None
        item = self._work.get("items", page["item"])
        agrees = self._taxonomy.agrees(item["classes"], mention.type) if item else None
        if agrees is None:
            return FAILED, None
        return (FOUND, item) if agrees else ("item of another class", None)

    def _choose(self, files: dict[str, list[str]]) -> tuple[dict[str, tuple[str, str | None]], dict[str, str]]:
        """Find the first usable file of each item, and download it.

        Returns:
            item -> outcome and file, and file -> why it is refused.
        """
        refused: dict[str, str] = {}
        while True:
            chosen = {item_id: self._choice(names, refused) for item_id, names in files.items()}
            wanted = sorted({file for outcome, file in chosen.values() if file and outcome != FOUND})
            if not wanted:
                return chosen, refused
            urls = {file: self._work.get("files", file)["url"] for file in wanted}
            self._work.download(urls)

    def _choice(self, files: list[str], refused: dict[str, str]) -> tuple[str, str | None]:
        """The outcome of an item and its file; the outcome is empty while that is not downloaded."""
        for file in files:
            facts, image = self._work.get("files", file), self._work.get(IMAGES, file) or {}
            if facts is None or (IMAGES, file) in self._work.failed:
                return FAILED, None
            cause = facts["problem"] or image.get("refused")
            if facts["licence"] is None:
                cause = cause or "no licence stated"
            elif not any(pattern.fullmatch(facts["licence"].strip()) for pattern in LICENCES):
                cause = cause or "licence not allowed"
            if not cause:
                return (FOUND if image else ""), file
            refused[file] = cause
        return ("item whose images are refused" if files else "item without an image"), None

    def _note(self, items: dict[Mention, str], chosen: dict[str, tuple[str, str | None]]) -> None:
        """Say of each name which entity and image it stands for."""
        named: dict[str, list[Mention]] = {}  # file -> its names
        for mention, item_id in items.items():
            if file := chosen[item_id][1]:
                named.setdefault(file, []).append(mention)
        self._entities, self._showing, images = dict(items), {}, []
        for file, mentions in named.items():
            name, facts = self._work.get(IMAGES, file)["name"], self._work.get("files", file)
            # Names whose items share an image are one entity, as far as the image tells.
            entity = min(items[mention] for mention in mentions)
            self._entities.update(dict.fromkeys(mentions, entity))
            self._showing.update(dict.fromkeys(mentions, name))
            types, surfaces = {mention.type for mention in mentions}, {mention.surface for mention in mentions}
            shown = (entity, tuple(sorted(types)), tuple(sorted(surfaces)))
            origin = (facts["licence"], facts["author"], facts["page"])
            images.append(ProvidedImage(name, self._work.images / name, *shown, *origin))
        self.images = {image.name: image for image in sorted(images, key=lambda image: image.name)}
