"""The pictures of the rows under audit: which rows have the same one, which open, and what a sample looks like."""

import hashlib
from collections import Counter
from pathlib import Path, PurePosixPath

from ..images import IMAGE_SUFFIXES, open_image
from ..similarity import image_hash
from .picture_kinds import Sample
from .rows import AuditRow

NO_PICTURE = -1


class AuditedPictures:
    """Pictures by number, whichever datasets they are of. One is known by its bytes, or by its name without suffix
    where its file is absent.

    Args:
        datasets: how many there are.
        sample_size: pictures of each whose look is kept.
        seed: of the samples.
    """

    def __init__(self, datasets: int, sample_size: int, seed: int):
        self.samples = [Sample(sample_size, seed) for _ in range(datasets)]
        self.hashes: dict[int, int] = {}
        """Of those that open: number -> perceptual hash."""
        self.problems: list[dict[str, str]] = [{} for _ in range(datasets)]
        """For each dataset: name -> why the picture does not open."""
        self.missing: list[Counter[str]] = [Counter() for _ in range(datasets)]
        """For each dataset: name -> rows whose picture's file is absent."""
        self.opened: list[set[int]] = [set() for _ in range(datasets)]
        self._by_digest: dict[bytes, int] = {}
        self._by_stem: dict[str, int] = {}
        self._by_path: dict[Path, int] = {}
        self._unreadable: dict[int, str] = {}
        self._absent: set[int] = set()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def look_at(self, row: AuditRow, dataset: int) -> int:
        """The number of the picture of a row; ``NO_PICTURE`` where it names none."""
        if row.image is None:
            return NO_PICTURE
        stem = _stem(row.image)
        if row.picture is None:
            self.missing[dataset][row.image] += 1
            if stem not in self._by_stem:
                self._by_stem[stem] = self._new()
                self._absent.add(self._by_stem[stem])
            return self._by_stem[stem]
        if isinstance(row.picture, Path):
            if row.picture not in self._by_path:
                self._by_path[row.picture] = self._number(row.picture.read_bytes(), stem)
            number = self._by_path[row.picture]
        else:
            number = self._number(row.picture, stem)
        if number in self._unreadable:
            self.problems[dataset][row.image] = self._unreadable[number]
        elif number not in self.opened[dataset]:
            self._open(number, row, dataset)
        return number

    def _new(self) -> int:
        self._count += 1
        return self._count - 1

    def _number(self, data: bytes, stem: str) -> int:
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if digest not in self._by_digest:
            named = self._by_stem.get(stem)
            # A row whose file is absent may have named it before.
            number = named if named in self._absent else self._new()
            self._absent.discard(number)
            self._by_digest[digest] = number
            self._by_stem.setdefault(stem, number)
        return self._by_digest[digest]

    def _open(self, number: int, row: AuditRow, dataset: int) -> None:
        try:
            image = open_image(row.picture)
        except OSError as error:
            self._unreadable[number] = self.problems[dataset][row.image] = str(error)
            return
        if number not in self.hashes:
            self.hashes[number] = image_hash(image)
        self.opened[dataset].add(number)
        self.samples[dataset].offer(number, f"{self.hashes[number]:016x}", image)


def _stem(name: str) -> str:
    if name.endswith(".*") or PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
        return name.rpartition(".")[0]
    return name
