"""The images that the rows came with: for a set that has its own, or to split and publish one anew."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ...images import FoundImage, ImageFolder
from ..stage import Mention, Stage, StagedRow
from .base import ImageProvider, ProvidedImage
from .folder import Folder

logger = logging.getLogger(__name__)


class Own(ImageProvider):
    """The provider of the images that the sources name beside their sentences.

    Args:
        folders: where the images of each source lie; ``None`` where they are inside the rows, or there are none.
        index: what the images show, by their file names, and which names are one entity's, where that is known.
    """

    name = "own"

    def __init__(self, folders: Mapping[str, Path | None], index: Folder | None = None):
        super().__init__()
        self._given, self._index = folders, index
        self._folders: dict[str, ImageFolder] = {}

    def prepare(self, stage: Stage) -> None:
        """Look up the image of every row."""
        self._folders = {name: ImageFolder(folder or stage.images / name) for name, folder in self._given.items()}
        indexed = self._index.images if self._index else {}
        for row in stage.rows:
            name, found = self._find(row)
            if row.image is None:
                self.counts["rows that name no image"] += 1
            elif found.path is None:
                self.counts["rows whose image is missing"] += 1
            else:
                self.counts["rows with an image"] += 1
                image = indexed.get(found.name) or ProvidedImage(name, found.path)
                self.images[name] = replace(image, name=name, path=found.path)
        self.images = dict(sorted(self.images.items()))
        self.counts["images"] = len(self.images)
        if missing := self.counts["rows whose image is missing"]:
            logger.warning("The images of %d rows are missing (--image_folder says where they are).", missing)

    def entity(self, mention: Mention) -> str | None:
        """What the index, if there is one, says."""
        return self._index.entity(mention) if self._index else None

    def candidates(self, row: StagedRow) -> dict[str, Mention | None]:
        """The row's own image."""
        name, found = self._find(row)
        return {name: None} if found.path else {}

    def _find(self, row: StagedRow) -> tuple[str, FoundImage]:
        found = FoundImage("") if row.image is None else self._folders[row.source].locate(row.image)
        # Two sources may each have a 1.jpg.
        return (found.name if len(self._folders) == 1 else f"{row.source}/{found.name}"), found
