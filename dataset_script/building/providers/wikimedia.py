"""Images of named entities: from a name to its Wikipedia article, its Wikidata item, a free image on Commons."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from ..stage import Mention, Stage
from .base import ImageProvider, ProvidedImage
from .fetching import POLITE, Fetcher, Politeness, politeness_of
from .mediawiki import MediaWiki, batches, title_of
from .workspace import IMAGES, Workspace

logger = logging.getLogger(__name__)

CLASSES = Path(__file__).with_name("wikidata_classes.yaml")
LICENCES = Path(__file__).with_name("licences.yaml")
SIZE_PX = 500
"""Width of the images. Wikimedia serves 20, 40, 60, 120, 250, 330, 500, 960, 1280, ... and rounds others up."""
MAX_DEPTH = 12
"""Steps from a class up to those above it."""
MAX_FAILURES_IN_A_ROW = 12
"""Requests that fail one after the other, each after all its attempts, before a run gives up."""
FOUND, FAILED = "found", "no answer"
_UNKNOWN = "?"


def licence_patterns(path: Path = LICENCES) -> list[re.Pattern[str]]:
    """The licences under which an image is kept, of YAML: a list of ``licence`` (a name) and ``patterns``.

    Each pattern must match the whole name of a licence, as its origin names it.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        return [re.compile(pattern, re.IGNORECASE) for entry in entries for pattern in entry["patterns"]]
    except (TypeError, KeyError, re.error) as error:
        expected = "expected a list of mappings with licence and patterns"
        raise ValueError(f"--allowed_licences: {path}: {error!r}; {expected}.") from None


class Taxonomy:
    """Which entity types a Wikidata item agrees with, by its classes and the classes above them (P279*).

    Args:
        path: YAML: for each type ``roots`` and ``not``, mappings from class id to its name.
        parents: from a class to those it is a subclass of, or to ``None`` where that is not known.
        max_depth: steps up from a class of an item.
    """

    def __init__(self, path: Path, parents: Callable[[str], Iterable[str] | None], max_depth: int = MAX_DEPTH):
        try:
            types = yaml.safe_load(path.read_text(encoding="utf-8"))
            self.types = {kind: ({*entry["roots"]}, {*(entry.get("not") or ())}) for kind, entry in types.items()}
            self._marked = {name for both in self.types.values() for part in both for name in part}
            if wrong := [name for name in self._marked if not re.fullmatch(r"Q\d+", str(name))]:
                raise TypeError(f"{wrong[0]!r} is not the id of a class, like Q5")
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"--wikidata_classes: {path}: {error!r}; expected roots and not, mappings by class id, for each type."
            ) from None
        self._parents, self._max_depth = parents, max_depth
        self._above: dict[str, set[str]] = {}

    def agrees(self, classes: Iterable[str], kind: str) -> bool | None:
        """Whether an item of these classes may stand for an entity of the type ``kind``; ``None``: not known."""
        roots, others = self.types[kind]
        above = {mark for name in classes for mark in self._marks(name)}
        if above & others:
            return False
        return None if _UNKNOWN in above else bool(above & roots)

    def _marks(self, name: str) -> set[str]:
        if name not in self._above:
            seen, level = {name}, {name}
            for _ in range(self._max_depth):
                found = [self._parents(child) for child in level]
                seen |= {_UNKNOWN} if None in found else set()
                level = {parent for parents in found for parent in parents or ()} - seen
                seen |= level
            self._above[name] = seen & (self._marked | {_UNKNOWN})
        return self._above[name]


class Wikimedia(ImageProvider):
    """The provider of images from Wikimedia Commons.

    A name is looked up as a title in the Wikipedia of its language. The item of the page must agree with the entity
    type. The image is the item's (P18, those of preferred rank first), else the page's free one, whichever first has
    a licence that is allowed.

    All that was answered or downloaded is in ``workspace`` as soon as it came, so a run that was killed goes on where
    it was. Questions that got no answer are counted, and asked again by the next run.

    Args:
        workspace: a folder of this provider's own; it is made where there is none.
        contact: as for ``user_agent``.
        size_px: width of the images.
        max_mentions: only that many names are looked up, the most frequent ones; all if left out.
        politeness: how hard servers are pressed.
        classes, licences: YAML files in place of ``wikidata_classes.yaml`` and ``licences.yaml``.

    Raises:
        FileExistsError: the workspace holds files, and is not one of this provider.
        ValueError: an option makes no sense.
    """

    name = "wikimedia"
    natural = False

    def __init__(
        self,
        workspace: Path,
        contact: str | None,
        size_px: int = SIZE_PX,
        max_mentions: int | None = None,
        politeness: Politeness = POLITE,
        classes: Path = CLASSES,
        licences: Path = LICENCES,
    ):
        super().__init__()
        if size_px < 1:
            raise ValueError(f"--image_size is {size_px}; expected the width of the images in pixels.")
        self._size_px, self._max_mentions = size_px, max_mentions
        self._files_kind = f"files of {size_px} px"
        self._licences = licence_patterns(licences)
        self._taxonomy = Taxonomy(classes, self._parents)
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
        for mention in islice(stage.mentions(), self._max_mentions):
            title = title_of(mention.surface)
            if mention.type not in self._taxonomy.types:
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
        ask, batched = partial(self._wiki.files, self._size_px), partial(batches, prefix="File:")
        self._work.ask(self._files_kind, sorted({file for names in files.values() for file in names}), ask, batched)
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
            urls = {self._image_key(file): self._work.get(self._files_kind, file)["url"] for file in wanted}
            self._work.download(urls)

    def _choice(self, files: list[str], refused: dict[str, str]) -> tuple[str, str | None]:
        """The outcome of an item and its file; the outcome is empty while that is not downloaded."""
        for file in files:
            key = self._image_key(file)
            facts, image = self._work.get(self._files_kind, file), self._work.get(IMAGES, key) or {}
            if facts is None or (IMAGES, key) in self._work.failed:
                return FAILED, None
            cause = facts["problem"] or image.get("refused")
            if facts["licence"] is None:
                cause = cause or "no licence stated"
            elif not any(pattern.fullmatch(facts["licence"].strip()) for pattern in self._licences):
                cause = cause or "licence not allowed"
            if not cause:
                return (FOUND if image else ""), file
            refused[file] = cause
        return ("item whose images are refused" if files else "item without an image"), None

    def _image_key(self, file: str) -> str:
        return f"{file}\n{self._size_px}"

    def _note(self, items: dict[Mention, str], chosen: dict[str, tuple[str, str | None]]) -> None:
        """Say of each name which entity and image it stands for."""
        named: dict[str, list[Mention]] = {}  # file -> its names
        for mention, item_id in items.items():
            if file := chosen[item_id][1]:
                named.setdefault(file, []).append(mention)
        self._entities, self._showing, images = dict(items), {}, []
        for file, mentions in named.items():
            name, facts = self._work.get(IMAGES, self._image_key(file))["name"], self._work.get(self._files_kind, file)
            # Names whose items share an image are one entity, as far as the image tells.
            entity = min(items[mention] for mention in mentions)
            self._entities.update(dict.fromkeys(mentions, entity))
            self._showing.update(dict.fromkeys(mentions, name))
            types, surfaces = {mention.type for mention in mentions}, {mention.surface for mention in mentions}
            shown = (entity, tuple(sorted(types)), tuple(sorted(surfaces)))
            origin = (facts["licence"], facts["author"], facts["page"])
            images.append(ProvidedImage(name, self._work.images / name, *shown, *origin))
        self.images = {image.name: image for image in sorted(images, key=lambda image: image.name)}


def add_arguments(parser: Any) -> None:
    """The options of this provider."""
    parser.add_argument("--image_size", type=int, default=SIZE_PX, help="width of the images in pixels (%(default)s)")
    parser.add_argument("--max_mentions", type=int, help="look up only so many names, the most frequent ones")
    parser.add_argument("--wikidata_classes", type=Path, default=CLASSES, help="YAML: the classes of each entity type")
    parser.add_argument("--allowed_licences", type=Path, default=LICENCES, help="YAML: the licences that are taken")


def from_arguments(arguments: Any, workspace: Path) -> Wikimedia:
    """The provider that the command line asks for."""
    return Wikimedia(
        workspace / "wikimedia",
        arguments.contact,
        size_px=arguments.image_size,
        max_mentions=arguments.max_mentions,
        politeness=politeness_of(arguments),
        classes=arguments.wikidata_classes,
        licences=arguments.allowed_licences,
    )
