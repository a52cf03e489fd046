"""The pictures of the rows under audit: which rows have the same one, which open, and what a sample looks like."""

import hashlib
from collections import Counter
from pathlib import Path

from ..building.similarity import image_hash
from ..files import regular
from ..images import candidates, open_image
from .image_kinds import Sample
from .rows import AuditRow

NO_PICTURE = -1


class AuditedPictures:
    """Pictures by number, whichever datasets they are of. One is known by its bytes, or by its name where its file is
    absent; ``stem.*`` is the name of a picture that has any of the suffixes.

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
        self._by_name: dict[str, int] = {}
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
        if row.picture is None:
            self.missing[dataset][row.image] += 1
            named = self._named(row.image)
            if named is None:
                named = self._by_name[row.image] = self._new()
                self._absent.add(named)
            return named
        if isinstance(row.picture, Path):
            if row.picture not in self._by_path:
                self._by_path[row.picture] = self._number(regular(row.picture).read_bytes(), row.image)
            number = self._by_path[row.picture]
        else:
            number = self._number(row.picture, row.image)
        if number in self._unreadable:
            self.problems[dataset][row.image] = self._unreadable[number]
        elif number not in self.opened[dataset]:
            self._open(number, row, dataset)
        return number

    def _new(self) -> int:
        self._count += 1
        return self._count - 1

    def _named(self, name: str) -> int | None:
        same = (name, f"{name.rpartition('.')[0]}.*", *candidates(name))
        return next((self._by_name[other] for other in same if other in self._by_name), None)

    def _number(self, data: bytes, name: str) -> int:
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if digest not in self._by_digest:
            named = self._named(name)
            # A row whose file is absent may have named it before.
            number = named if named in self._absent else self._new()
            self._absent.discard(number)
            self._by_digest[digest] = number
            self._by_name.setdefault(name, number)
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
