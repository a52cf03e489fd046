"""Pictures that lie in a folder, and an index of the entities that they show."""

import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...files import is_inside
from ...images import LINK
from .base import Candidate, Mention, Picture
from .tables import read_table

logger = logging.getLogger(__name__)

COLUMNS = ("file", "types", "mentions", "licence", "author", "source")


def name_key(surface: str) -> str:
    """What two spellings of a name have in common: letters without case, white space or Unicode form."""
    return "".join(unicodedata.normalize("NFC", surface).casefold().split())


class Folder:
    """The provider of local pictures.

    Args:
        index: TSV with a header, or JSONL: ``file``, ``types`` and ``mentions`` (in TSV separated by ``;``, in JSONL
            lists), and where known ``licence``, ``author``, ``source``. A picture of no mentions shows no entity that
            is known: it may stand beside a sentence that it has nothing to do with.
        images: the folder that the files are named in; by default ``images/`` beside the index, else the index's own.

    Raises:
        FileNotFoundError: the index or the folder is not there.
        ValueError: a line of the index is malformed; it is named.
    """

    name = "folder"
    natural = False

    def __init__(self, index: Path, images: Path | None = None):
        index = Path(index).expanduser()
        if not index.is_file():
            raise FileNotFoundError(f"{index} is not there: expected the index of the pictures, a TSV or JSONL file.")
        beside = index.parent / "images"
        images = Path(images).expanduser() if images else (beside if beside.is_dir() else index.parent)
        if not images.is_dir():
            raise FileNotFoundError(f"{images} is not a folder: expected that of the pictures which {index} names.")
        self.index, self.images = index, images
        self._counts: Counter[str] = Counter()
        self._pictures: dict[str, Picture] = {}
        self._by_name: dict[str, list[str]] = {}
        identities = _Identities()
        for line, record in read_table(index, ("file", "types", "mentions"), COLUMNS):
            picture = self._picture(line, record)
            if picture.name in self._pictures:
                raise ValueError(f"{index}:{line}: {picture.name} came a second time; expected one line a picture.")
            if not picture.path.is_file():
                self._counts["missing files"] += 1
                continue
            if not is_inside(picture.path, images):
                self._counts["links out of the folder"] += 1
                logger.warning("%s is %s.", picture.path, LINK)
                continue
            self._pictures[picture.name] = picture
            keys = dict.fromkeys(map(name_key, picture.mentions))
            identities.join(list(keys))
            for key in keys:
                self._by_name.setdefault(key, []).append(picture.name)
        self._counts["pictures"] = len(self._pictures)
        # Two pictures that share a name show one entity, as far as names can tell: so do all their names.
        self._entities = {key: identities.of(key) for key in self._by_name}
        if self._counts["missing files"]:
            logger.warning(
                "%d of the pictures that %s names are not in %s, and are not used.",
                self._counts["missing files"], index, images,
            )  # fmt: skip

    def prepare(
        self, mentions: Callable[[], Iterator[tuple[Mention, int]]], row_ids: Callable[[], Iterator[str]]
    ) -> None:
        """Count how many of the names are in the index."""
        self._counts["mentions asked"] = self._counts["mentions found"] = 0
        for mention, _ in mentions():
            self._counts["mentions asked"] += 1
            self._counts["mentions found"] += bool(self._shown(mention))

    def candidates(self, row_id: str, mentions: Sequence[Mention]) -> list[Candidate]:
        """The pictures of the entities named, of their types."""
        found: dict[str, Candidate] = {}
        for mention in mentions:
            for name in self._shown(mention):
                found.setdefault(name, Candidate(name, mention))
        return list(found.values())

    def entity(self, mention: Mention) -> str | None:
        """One identity for all the names that the index gives to one picture."""
        return self._entities.get(name_key(mention.surface))

    def names(self) -> Iterator[str]:
        """The pictures, in the order of the index."""
        return iter(self._pictures)

    def picture(self, name: str) -> Picture:
        """The picture of a file name."""
        picture = self._pictures[name]
        if not picture.mentions:
            return picture
        return replace(picture, entity=self._entities[name_key(picture.mentions[0])])

    def get(self, name: str) -> Picture | None:
        """The picture of a file name, if it is in the index."""
        return self.picture(name) if name in self._pictures else None

    def counts(self) -> dict[str, int]:
        """Pictures, files that are missing, mentions asked and found."""
        return dict(self._counts)

    def close(self) -> None:
        """Nothing is held open."""

    def _shown(self, mention: Mention) -> list[str]:
        names = self._by_name.get(name_key(mention.surface), ())
        return [name for name in names if mention.type in self._pictures[name].types]

    def _picture(self, line: int, record: dict[str, Any]) -> Picture:
        file, types, mentions = record.get("file"), _texts(record.get("types")), _texts(record.get("mentions"))
        problem = None
        if not isinstance(file, str) or not file or Path(file).is_absolute() or ".." in Path(file).parts:
            problem = f"file is {file!r}; expected the name of a file in {self.images}"
        elif types is None or mentions is None:
            problem = "types or mentions are neither text nor a list of texts"
        elif mentions and not types:
            problem = f"{file} has mentions but no types; expected the entity types that it may stand for"
        if problem:
            raise ValueError(f"{self.index}:{line}: {problem}.")
        facts = {key: record.get(key) or None for key in ("licence", "author", "source")}
        return Picture(file, self.images / file, None, tuple(types), tuple(mentions), **facts)


def add_arguments(parser: Any) -> None:
    """The options of this provider."""
    parser.add_argument("--image_index", type=Path, help="TSV or JSONL of the pictures: " + ", ".join(COLUMNS))
    parser.add_argument("--image_folder", type=Path, help="where they lie; images/ beside the index if left out")


def from_arguments(arguments: Any, workspace: Path) -> Folder:
    """The provider that the command line asks for."""
    if arguments.image_index is None:
        raise ValueError("--provider folder needs --image_index, the TSV or JSONL file that says what pictures show.")
    return Folder(arguments.image_index, arguments.image_folder)


def _texts(value: Any) -> list[str] | None:
    if value is None:
        return []
    if isinstance(value, str):
        value = value.split(";")
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return None
    return [item.strip() for item in value if item.strip()]


class _Identities:
    """Names that stand for one entity, joined as they are found to (union-find); the least name speaks for all."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def of(self, name: str) -> str:
        root = name
        while (above := self._parents.get(root, root)) != root:
            root = above
        while name != root:
            above = self._parents[name]
            self._parents[name], name = root, above
        return root

    def join(self, names: list[str]) -> None:
        roots = sorted({self.of(name) for name in names})
        for root in roots:
            self._parents[root] = roots[0]
