"""Images that lie in a folder, and an index of the entities that they show."""

import logging
import unicodedata
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...files import is_inside
from ...images import LINK
from ..similarity import groups
from ..stage import Mention, Stage
from .base import ImageProvider, ProvidedImage, read_table

logger = logging.getLogger(__name__)

COLUMNS = ("file", "types", "mentions", "licence", "author", "source")


def name_key(surface: str) -> str:
    """What two spellings of a name have in common: letters without case, white space or Unicode form."""
    return "".join(unicodedata.normalize("NFC", surface).casefold().split())


class Folder(ImageProvider):
    """The provider of local images.

    Args:
        index: TSV with a header, or JSONL: ``file``, ``types`` and ``mentions`` (in TSV separated by ``;``, in JSONL
            lists), and where known ``licence``, ``author``, ``source``. Only images with mentions are drawn.
        folder: the folder that the files are named in; by default ``images/`` beside the index, else the index's own.
    """

    name = "folder"
    natural = False

    def __init__(self, index: Path, folder: Path | None = None):
        super().__init__()
        index = Path(index).expanduser()
        if not index.is_file():
            raise FileNotFoundError(f"--image_index: {index} is not there; expected a TSV or JSONL file.")
        beside = index.parent / "images"
        folder = Path(folder).expanduser() if folder else (beside if beside.is_dir() else index.parent)
        if not folder.is_dir():
            raise FileNotFoundError(f"--image_folder: {folder} is not a folder; expected that of the indexed images.")
        for line, record in read_table(index, COLUMNS[:3]):
            image = _image(f"{index}:{line}", folder, record)
            if image.name in self.images:
                raise ValueError(f"{index}:{line}: {image.name} came a second time; expected one line an image.")
            if not image.path.is_file():
                self.counts["missing files"] += 1
            elif not is_inside(image.path, folder):
                self.counts["links out of the folder"] += 1
                logger.warning("%s is %s.", image.path, LINK)
            else:
                self.images[image.name] = image
        self.counts["images"] = len(self.images)
        if missing := self.counts["missing files"]:
            logger.warning("%d of the images that %s names are not in %s.", missing, index, folder)
        self._showing: dict[str, list[str]] = {}
        keys = {name: list(dict.fromkeys(map(name_key, image.mentions))) for name, image in self.images.items()}
        # Two images that share a name show one entity, as far as names can tell: so do all their names.
        linked = groups(pair for names in keys.values() for pair in pairwise(names))
        self._entities = {key: linked.get(key, key) for names in keys.values() for key in names}
        for name, image in self.images.items():
            for key in keys[name]:
                self._showing.setdefault(key, []).append(name)
            if image.mentions:
                self.images[name] = replace(image, entity=self._entities[keys[name][0]])

    def prepare(self, stage: Stage) -> None:
        """Count how many of the names are in the index."""
        found = [bool(self.showing(mention)) for mention in stage.mentions()]
        self.counts["mentions asked"], self.counts["mentions found"] = len(found), sum(found)

    def entity(self, mention: Mention) -> str | None:
        """One identity for all the names that the index gives to one image."""
        return self._entities.get(name_key(mention.surface))

    def showing(self, mention: Mention) -> list[str]:
        """The images of a name, of its type."""
        names = self._showing.get(name_key(mention.surface), ())
        return [name for name in names if mention.type in self.images[name].types]


def _image(place: str, folder: Path, record: dict[str, Any]) -> ProvidedImage:
    file, types, mentions = record.get("file"), _texts(record.get("types")), _texts(record.get("mentions"))
    if not isinstance(file, str) or not file or Path(file).is_absolute() or ".." in Path(file).parts:
        raise ValueError(f"{place}: file is {file!r}; expected the name of a file in {folder}.")
    if types is None or mentions is None:
        raise ValueError(f"{place}: types or mentions are neither text nor a list of texts.")
    if mentions and not types:
        raise ValueError(f"{place}: {file} has mentions but no types; expected the entity types that it may show.")
    facts = (record.get(key) or None for key in ("licence", "author", "source"))
    return ProvidedImage(file, folder / file, None, tuple(types), tuple(mentions), *facts)


def _texts(value: Any) -> list[str] | None:
    values = value.split(";") if isinstance(value, str) else value or []
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        return None
    return [item.strip() for item in values if item.strip()]
