"""The pictures that the rows came with: for a set that has its own, or to split and publish one anew."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...images import ImageFolder
from .base import Candidate, Mention, Picture
from .folder import Folder


class Own:
    """The provider of the pictures that the sources name beside their sentences.

    Args:
        image_of: from the id of a row to its source and the image name that the source gives, or ``None``.
        folders: where the pictures of each source lie; ``None`` where there is no such folder.
        index: what the pictures show, by their file names, and which names are one entity's; ``None`` where it is not
            known.
    """

    name = "own"
    natural = True

    def __init__(
        self,
        image_of: Callable[[str], tuple[str, str] | None],
        folders: Mapping[str, Path | None],
        index: Folder | None = None,
    ):
        self._image_of = image_of
        self._index = index
        self._folders = {source: ImageFolder(folder) for source, folder in folders.items()}
        self._counts: Counter[str] = Counter()
        self._paths: dict[str, Path] = {}
        self._files: dict[str, str] = {}

    def prepare(
        self, mentions: Callable[[], Iterator[tuple[Mention, int]]], row_ids: Callable[[], Iterator[str]]
    ) -> None:
        """Look up the picture of every row."""
        counts: Counter[str] = Counter()
        for row_id in row_ids():
            image = self._image_of(row_id)
            if image is None:
                counts["rows that name no picture"] += 1
            elif self._find(*image) is None:
                counts["rows whose picture is missing or does not open"] += 1
            else:
                counts["rows with a picture"] += 1
        counts["pictures"] = len(self._paths)
        self._counts = counts

    def candidates(self, row_id: str, mentions: Sequence[Mention]) -> list[Candidate]:
        """The row's own picture."""
        image = self._image_of(row_id)
        found = self._find(*image) if image is not None else None
        return [Candidate(found)] if found else []

    def entity(self, mention: Mention) -> str | None:
        """What the index, if there is one, says."""
        return self._index.entity(mention) if self._index is not None else None

    def names(self) -> Iterator[str]:
        """The pictures that rows have, by name."""
        return iter(sorted(self._paths))

    def picture(self, name: str) -> Picture:
        """The picture of a name, with what the index, if there is one, says of it."""
        indexed = self._index.get(self._files[name]) if self._index is not None else None
        if indexed is None:
            return Picture(name, self._paths[name])
        return replace(indexed, name=name, path=self._paths[name])

    def counts(self) -> dict[str, int]:
        """Rows with and without a picture."""
        return dict(self._counts)

    def close(self) -> None:
        """Nothing is held open."""

    def _find(self, source: str, name: str) -> str | None:
        found = self._folders[source].find(name)
        if found.path is None:
            return None
        # Two sources may each have a 1.jpg.
        own = found.name if len(self._folders) == 1 else f"{source}/{found.name}"
        self._paths[own], self._files[own] = found.path, found.name
        return own
