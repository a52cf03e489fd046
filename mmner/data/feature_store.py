"""
Vectors of pictures on disk: what a frozen image tower says of a picture, computed once and memory-mapped ever after.

A store is a folder; in it, one folder for each fingerprint of what computes the vectors; in that, segments: files of
records of one size, each the key of a picture and its vectors. A segment has one writer, so that any number of
processes write at once. A record counts from the moment when its head is written, which is after all the rest: a
writer that is killed leaves a record that nobody reads.
"""

import contextlib
import fcntl
import json
import logging
import math
import os
import struct
import uuid
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from dataset_script.files import claim

logger = logging.getLogger(__name__)

FORMAT = 1
SUFFIX = ".segment"
PREAMBLE_BYTES = 4096  # of a segment: what its records are like, as JSON
SMALLEST_SEGMENT_BYTES = 256 * 2**20
MOST_SEGMENTS = 256  # in a store that is full: each is a file that stays open
CONTENT_BYTES = 16

_HEAD = struct.Struct("<4sIQ16s")  # _WRITTEN, checksum, picture, content of its file
_WRITTEN = b"2MNF"


@dataclass(frozen=True)
class Layout:
    """The vectors of one picture: the type and shape of each tensor."""

    parts: tuple[tuple[torch.dtype, tuple[int, ...]], ...]

    @classmethod
    def of(cls, tensors: Sequence[torch.Tensor]) -> "Layout":
        """That of these tensors."""
        return cls(tuple((tensor.dtype, tuple(tensor.shape)) for tensor in tensors))

    @property
    def sizes(self) -> list[int]:
        """Bytes of each tensor."""
        return [dtype.itemsize * math.prod(shape) for dtype, shape in self.parts]

    @property
    def record_bytes(self) -> int:
        """Bytes of a picture in the store."""
        return _HEAD.size + sum(self.sizes)

    def to_json(self) -> list[list[Any]]:
        return [[str(dtype).removeprefix("torch."), list(shape)] for dtype, shape in self.parts]

    @classmethod
    def from_json(cls, parts: list[list[Any]]) -> "Layout":
        return cls(tuple((getattr(torch, name), tuple(shape)) for name, shape in parts))


class FeatureStore:
    """
    The vectors of pictures, by the picture's id, of one fingerprint.

    While a store is open its segments are locked (`flock`, which ends with the process, however it ends), and no other
    process drops them; what is not locked may be dropped for the sake of the limit, least recently used first. Copies
    of a store in forked or spawned workers read the same files.

    Args:
        folder: of the store, on a disk that all processes of a run share; made where there is none.
        fingerprint: of whatever the vectors depend on but the picture; the name of a folder.
        limit_bytes: that the whole store may take, all fingerprints together.

    Raises:
        FileExistsError: the folder holds files, and is no store.
    """

    def __init__(self, folder: str | os.PathLike, fingerprint: str, limit_bytes: int):
        self.root = Path(folder)
        self.fingerprint = fingerprint
        self.limit_bytes = limit_bytes
        self._segments: dict[str, _Segment] = {}
        self._place: dict[int, tuple[_Segment, int]] = {}
        self._id_of_content: dict[bytes, int] = {}
        self._writer: _Segment | None = None
        claim(self.root, "feature store")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.refresh()

    @property
    def folder(self) -> Path:
        """Where the segments of this fingerprint lie."""
        return self.root / self.fingerprint

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.root, "fingerprint": self.fingerprint, "limit_bytes": self.limit_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._place

    def __getitem__(self, image_id: int) -> list[torch.Tensor]:
        """
        Copies of the vectors of a picture, in the order in which they were added.

        Raises:
            KeyError: the store does not hold it.
        """
        if image_id not in self._place:
            raise KeyError(f"The picture {image_id} is not in {self.folder}, which holds {len(self)} others.")
        segment, row = self._place[image_id]
        payload, tensors, start = segment.payload(row), [], 0
        for (dtype, shape), size in zip(segment.layout.parts, segment.layout.sizes, strict=True):
            part = payload[start : start + size].copy()  # of bytes, which lie anywhere in the file
            tensors.append(torch.from_numpy(part).view(dtype).view(shape))
            start += size
        return tensors

    def id_of(self, content: bytes) -> int | None:
        """The id of the picture that a file of this content hash holds, if it was added with it."""
        return self._id_of_content.get(content)

    def refresh(self) -> None:
        """Takes note of what other processes have written."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            known = self._segments.get(path.name)
            if known is None:
                known = _Segment.open(path)
                if known is None:
                    continue
                self._segments[path.name] = known
            for row, image_id, content in known.new_records():
                self._place.setdefault(image_id, (known, row))
                self._id_of_content.setdefault(content, image_id)

    def check(self, image_ids: Iterable[int]) -> list[int]:
        """
        Reads records whole, compares them with their checksums, and removes those that differ (a disk's fault, or a
        machine that went down before its disk had all).

        Returns:
            The ids that were removed.
        """
        damaged = [image_id for image_id in image_ids if image_id in self and not self._is_sound(image_id)]
        for image_id in damaged:
            segment, row = self._place.pop(image_id)
            segment.erase(row)
            self._id_of_content = {key: value for key, value in self._id_of_content.items() if value != image_id}
        if damaged:
            logger.warning(f"{len(damaged)} records of {self.folder} are damaged; they are computed anew.")
        return damaged

    def _is_sound(self, image_id: int) -> bool:
        segment, row = self._place[image_id]
        return segment.is_sound(row)

    def release_unused(self, image_ids: Collection[int]) -> None:
        """Marks the segments that hold any of these pictures as used now, and lets others be dropped by whoever."""
        used = {id(self._place[image_id][0]) for image_id in image_ids if image_id in self}
        for name, segment in list(self._segments.items()):
            if id(segment) in used:
                os.utime(segment.file.fileno())
            else:
                del self._segments[name]
                self._place = {key: place for key, place in self._place.items() if place[0] is not segment}
                segment.close()
        self._id_of_content = {key: value for key, value in self._id_of_content.items() if value in self._place}

    def reserve(self, count: int, layout: Layout) -> None:
        """
        Makes room for so many pictures, by dropping the least recently used segments that nobody has open.

        Raises:
            ValueError: the limit leaves no room for them.
        """
        with self._alone():
            self._make_room(count * layout.record_bytes + PREAMBLE_BYTES * bool(count))

    def add(self, image_id: int, content: bytes, tensors: Sequence[torch.Tensor]) -> None:
        """
        Writes the vectors of a picture; `refresh` makes them readable, here as in other processes.

        Args:
            image_id: of the picture, positive.
            content: 16 bytes, a hash of its file: `id_of` finds the id by it without opening the picture.
            tensors: its vectors, of the same types and shapes for every picture.

        Raises:
            ValueError: the shapes are not those of the pictures before, or the store is full.
            OSError: the disk is full; what was written stays good.
        """
        layout = Layout.of(tensors)
        if len(content) != CONTENT_BYTES:
            raise ValueError(f"A content hash of {len(content)} bytes; expected {CONTENT_BYTES}.")
        if self._writer is not None and self._writer.layout != layout:
            raise ValueError(
                f"Vectors {layout.to_json()}; those before were {self._writer.layout.to_json()}. A store takes "
                "pictures of one size: use an image processor that gives every picture the same."
            )
        if self._writer is None or self._writer.size + layout.record_bytes > self._segment_bytes:
            self._writer = self._new_segment(layout)
        payload = b"".join(_bytes_of(tensor) for tensor in tensors)
        try:
            self._writer.append(image_id, content, payload)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror} while writing picture vectors; what is written stays good. Make room on that disk, "
                "lower --image_feature_store_gb, or name a folder elsewhere by --image_feature_store",
                str(self.folder),
            ) from error

    @property
    def _segment_bytes(self) -> int:
        return max(SMALLEST_SEGMENT_BYTES, self.limit_bytes // MOST_SEGMENTS)

    def close(self) -> None:
        """Gives up the locks; nothing is left to write."""
        for segment in self._segments.values():
            segment.close()
        if self._writer is not None:
            self._writer.close()
        self._segments, self._place, self._id_of_content, self._writer = {}, {}, {}, None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process makes or drops a segment of this store in the meantime."""
        with (self.root / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _new_segment(self, layout: Layout) -> "_Segment":
        with self._alone():
            self._make_room(PREAMBLE_BYTES + layout.record_bytes)
            self.folder.mkdir(parents=True, exist_ok=True)
            return _Segment.create(self.folder, layout, self.fingerprint)

    def _make_room(self, wanted_bytes: int) -> None:
        for unfinished in self.root.glob("*/*.new"):  # its writer was killed: it would hold the lock that we have
            unfinished.unlink()
        files = [(path.stat(), path) for path in self.root.glob(f"*/*{SUFFIX}")]
        taken, dropped = sum(state.st_size for state, _ in files), 0
        for state, path in sorted(files, key=lambda item: item[0].st_mtime_ns):
            if taken + wanted_bytes <= self.limit_bytes:
                break
            if _drop_unless_open(path):
                taken -= state.st_size
                dropped += state.st_size
        if dropped:
            logger.info(f"{dropped / 2**30:.2f} GiB of {self.root}, the least recently used, were dropped for room.")
        if taken + wanted_bytes > self.limit_bytes:
            raise ValueError(
                f"The picture vectors need {wanted_bytes / 2**30:.3f} GiB more in {self.root}, where "
                f"{taken / 2**30:.3f} GiB are in use and the limit is {self.limit_bytes / 2**30:.3f} GiB. Raise "
                "--image_feature_store_gb, or leave the store out: --image_feature_store none."
            )


class _Segment:
    """A file of records; open, and therefore locked against being dropped."""

    def __init__(self, file: BinaryIO, layout: Layout, size: int):
        self.file = file
        self.layout = layout
        self.size = size
        self._seen_rows = 0
        self._map: np.ndarray | None = None

    @classmethod
    def create(cls, folder: Path, layout: Layout, fingerprint: str) -> "_Segment":
        path = folder / f"{uuid.uuid4().hex}{SUFFIX}"
        unfinished = path.with_suffix(".new")
        file = unfinished.open("w+b", buffering=0)
        fcntl.flock(file, fcntl.LOCK_SH)
        preamble = json.dumps({"format": FORMAT, "fingerprint": fingerprint, "parts": layout.to_json()}).encode()
        _write(file.fileno(), preamble.ljust(PREAMBLE_BYTES), 0)
        unfinished.rename(path)
        return cls(file, layout, PREAMBLE_BYTES)

    @classmethod
    def open(cls, path: Path) -> "_Segment | None":
        try:
            file = path.open("r+b", buffering=0)
        except FileNotFoundError:  # dropped since the folder was listed
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        if os.fstat(file.fileno()).st_nlink == 0:
            file.close()
            return None
        try:
            preamble = json.loads(file.read(PREAMBLE_BYTES))
            if preamble["format"] != FORMAT or preamble["fingerprint"] != path.parent.name:
                raise ValueError("it is of another format or fingerprint")
            return cls(file, Layout.from_json(preamble["parts"]), PREAMBLE_BYTES)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            logger.warning(f"{path} is not read ({error}); its pictures are computed anew.")
            file.close()
            return None

    def append(self, image_id: int, content: bytes, payload: bytes) -> None:
        checksum = _checksum(image_id, content, payload)
        _write(self.file.fileno(), payload, self.size + _HEAD.size)
        # The head last: until it is there the place is a hole, which reads as zeros.
        _write(self.file.fileno(), _HEAD.pack(_WRITTEN, checksum, image_id, content), self.size)
        self.size += self.layout.record_bytes

    def new_records(self) -> list[tuple[int, int, bytes]]:
        """Row, picture and content of the records that were not there at the last call."""
        size = os.fstat(self.file.fileno()).st_size
        rows = (size - PREAMBLE_BYTES) // self.layout.record_bytes
        if rows <= self._seen_rows:
            return []
        shape = (rows, self.layout.record_bytes)
        self._map = np.memmap(self.file, np.uint8, "r", offset=PREAMBLE_BYTES, shape=shape)
        found, first_hole = [], rows
        for row in range(self._seen_rows, rows):
            mark, _, image_id, content = _HEAD.unpack(self._map[row, : _HEAD.size].tobytes())
            if mark == _WRITTEN:
                found.append((row, image_id, content))
            else:
                first_hole = min(first_hole, row)
        self._seen_rows = first_hole  # its writer may yet fill it; a record seen twice is the same
        return found

    def payload(self, row: int) -> np.ndarray:
        return self._map[row, _HEAD.size :]

    def is_sound(self, row: int) -> bool:
        _, checksum, image_id, content = _HEAD.unpack(self._map[row, : _HEAD.size].tobytes())
        return checksum == _checksum(image_id, content, self.payload(row))

    def erase(self, row: int) -> None:
        _write(self.file.fileno(), bytes(len(_WRITTEN)), PREAMBLE_BYTES + row * self.layout.record_bytes)

    def close(self) -> None:
        self._map = None  # it has a descriptor of its own, which would hold the lock
        self.file.close()


def _write(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _checksum(image_id: int, content: bytes, payload: bytes | np.ndarray) -> int:
    return zlib.crc32(payload, zlib.crc32(content, image_id & 0xFFFFFFFF))


def _bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _drop_unless_open(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink()
    with contextlib.suppress(OSError):  # others are in it
        path.parent.rmdir()
    return True


__all__ = ["FeatureStore", "Layout"]
