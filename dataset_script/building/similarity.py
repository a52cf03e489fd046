"""Near-duplicate sentences (MinHash: Broder 1997) and images (perceptual hash)."""

import hashlib
import unicodedata
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, TypeVar

import imagehash
import numpy as np
from datasketch import MinHash
from PIL import Image

from ..images import open_image

K = TypeVar("K", bound=Hashable)

NEAR_DUPLICATE = 0.8
"""The Jaccard similarity of word pairs from which sentences are near-duplicates."""
PERMUTATIONS, BANDS, ROWS = 128, 21, 6
"""Of a MinHash signature: the longest bands that two sentences at the threshold share in 995 of 1,000 cases."""
MIN_WORDS = 5
"""Sentences of fewer words are duplicates only when equal: one word more or less makes them another sentence."""
MIN_BITS_SET = 28
"""Of the 64 of a perceptual hash, which compares with the median and so sets 32, unless the image has no detail."""
MAX_RESIDUE = 2.0
"""Standard deviation, in grey levels of 256, of an image of one colour or of stripes after JPEG compression."""
_CHUNK = 1000  # sentences whose signatures are made at a time
IMAGE_DISTANCE = 6
"""The bits of 64 in which the perceptual hashes of near-duplicate images may differ."""


def words(tokens: Iterable[str]) -> list[str]:
    """What of a sentence is compared: its words without case, punctuation and links, or all where nothing is left."""
    plain = [unicodedata.normalize("NFKC", token).casefold() for token in tokens]
    kept = [token for token in plain if any(map(str.isalnum, token)) and not token.startswith(("http:", "https:"))]
    return kept or plain


def near_duplicate_sentences(rows: Iterable[tuple[int, Sequence[str]]]) -> Iterator[tuple[int, int, float]]:
    """Find the pairs of sentences whose bigrams of words have a Jaccard similarity of at least ``NEAR_DUPLICATE``.

    Each pair is checked exactly. One at the very threshold is missed once in 200 times, more similar ones hardly
    ever. ``rows`` are (key, tokens), each key once.

    Yields:
        (key, key, similarity), the one that came first before the other. Of sentences with the same words, each is
        paired with the first of them alone, and only that one with others: ``groups`` are complete.
    """
    first_of: dict[bytes, int] = {}
    keys: list[int] = []
    shingles: list[np.ndarray] = []
    for key, tokens in rows:
        found = words(tokens)
        first = first_of.setdefault(_hash(" ".join(found), 16), key)
        if first != key:
            yield first, key, 1.0
        else:
            keys.append(key)
            shingles.append(_shingles(found))
    candidates: set[tuple[int, int]] = set()
    for band in _bands(shingles):
        order = np.argsort(band, kind="stable")
        _, starts, counts = np.unique(band[order], return_index=True, return_counts=True)
        for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):
            candidates.update(combinations(order[start : start + count].tolist(), 2))
    for earlier, later in sorted(candidates):
        common = len(np.intersect1d(shingles[earlier], shingles[later], assume_unique=True))
        similarity = common / (len(shingles[earlier]) + len(shingles[later]) - common)
        if similarity >= NEAR_DUPLICATE:
            yield keys[earlier], keys[later], similarity


def image_hash(image: Image.Image | Path | bytes) -> int:
    """64 bits that hardly change when an image is scaled, recompressed or brightened (ImageHash's pHash).

    pHash sees the brightness of larger details. All images without any (a single colour, a flag of stripes) would
    share a hash; these get the colours of their rows and columns instead.

    Raises:
        OSError: the image does not open.
    """
    if not isinstance(image, Image.Image):
        image = open_image(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        # Pixels that nobody sees would count else.
        alpha = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", alpha.size, "white"), alpha)
    image = image.convert("RGB")
    perceptual = int(str(imagehash.phash(image)), 16)
    plain = perceptual.bit_count() < MIN_BITS_SET or _varies_one_way(image)
    return _colour_layout(image) if plain else perceptual


def near_duplicate_images(hashes: Iterable[tuple[K, int]]) -> Iterator[tuple[K, K, int]]:
    """Find the pairs of images whose hashes (``image_hash``) differ in at most ``IMAGE_DISTANCE`` of 64 bits.

    Yields:
        (name, name, distance in bits). Of images of one hash, each is paired with the first of them alone, and only
        that one with others.
    """
    first_of: dict[int, K] = {}
    for name, value in hashes:
        first = first_of.setdefault(value, name)
        if first != name:
            yield first, name, 0
    names, bits = list(first_of.values()), np.fromiter(first_of, np.uint64, len(first_of))
    for number, value in enumerate(bits):  # 100,000 images take seconds
        distances = np.bitwise_count(bits[number + 1 :] ^ value)
        for offset in np.flatnonzero(distances <= IMAGE_DISTANCE):
            yield names[number], names[number + 1 + offset], int(distances[offset])


def groups(pairs: Iterable[Sequence[Any]]) -> dict[Any, Any]:
    """Each key of the pairs -> the least key that it is linked to, directly or by others."""
    parents: dict[Any, Any] = {}

    def root(key: Any) -> Any:
        above = parents.setdefault(key, key)
        while above != parents[above]:
            parents[key] = above = parents[above]
        return above

    for first, second, *_ in pairs:
        low, high = sorted((root(first), root(second)))
        parents[high] = low
    return {key: root(key) for key in parents}


def _hash(text: str, num_bytes: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=num_bytes).digest()


def _shingles(found: Sequence[str]) -> np.ndarray:
    """The pairs of neighbouring words as sorted uint64 hashes; of fewer than ``MIN_WORDS`` words, one for all."""
    # That of a short sentence begins with a blank, so that it is no pair of a longer sentence.
    texts = set(map(" ".join, pairwise(found))) if len(found) >= MIN_WORDS else {" ".join(["", *found])}
    return np.unique(np.frombuffer(b"".join(_hash(text, 8) for text in texts), "<u8"))


def _bands(shingles: Sequence[np.ndarray]) -> np.ndarray:
    """(bands, sentences) uint64: equal where a band of the MinHash signatures of two sentences is."""
    mixed = np.zeros((BANDS, len(shingles)), np.uint64)
    for start in range(0, len(shingles), _CHUNK):
        low_32_bits = [(one & 0xFFFFFFFF).tolist() for one in shingles[start : start + _CHUNK]]
        signatures = MinHash.bulk(low_32_bits, num_perm=PERMUTATIONS, seed=1, hashfunc=int, scheme="affine32")
        values = np.stack([signature.hashvalues for signature in signatures])[:, : BANDS * ROWS].astype(np.uint64)
        for row in values.reshape(-1, BANDS, ROWS).transpose(2, 1, 0):  # FNV-1a over 64 bits
            part = (mixed[:, start : start + _CHUNK] ^ row) * np.uint64(0x100000001B3)
            mixed[:, start : start + _CHUNK] = part ^ (part >> np.uint64(29))
    return mixed


def _varies_one_way(image: Image.Image) -> bool:
    """Whether all columns of an image are alike, or all rows: its pHash is then mostly noise of its compression."""
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=np.float32)
    return any((grey - grey.mean(axis, keepdims=True)).std() < MAX_RESIDUE for axis in (0, 1))


def _colour_layout(image: Image.Image) -> int:
    """48 bits: the mean colours of four bands across and four bands down, each channel in three levels."""
    rows = np.asarray(image.resize((1, 4), Image.Resampling.BOX)).reshape(-1)
    columns = np.asarray(image.resize((4, 1), Image.Resampling.BOX)).reshape(-1)
    levels = np.concatenate([rows, columns])
    # Dark, middle, bright as 00, 01, 11: the further apart, the more bits differ.
    bits = np.stack([levels > 170, levels > 85], axis=1).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
