"""Near-duplicate sentences (MinHash: Broder 1997) and images (perceptual hash)."""

import functools
import hashlib
import sqlite3
import unicodedata
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

import imagehash
import numpy as np
from datasketch import MinHash
from PIL import Image

from ..images import open_image

K = TypeVar("K", bound=Hashable)

PERMUTATIONS = 128
RECALL = 0.995
"""The chance at least that two sentences exactly as similar as the threshold share a band of their signatures."""
MIN_WORDS = 5
"""Sentences of fewer words are duplicates only when equal: one word more or less makes them another sentence."""
MIN_BITS_SET = 28
"""Of the 64 of a perceptual hash, which compares with the median and so sets 32, unless the image has no detail."""
MAX_RESIDUE = 2.0
"""Standard deviation, in grey levels of 256, of an image of one colour or of stripes after JPEG compression."""
_CHUNK = 1000

_SCHEMA = """
PRAGMA cache_size = -16384;
CREATE TABLE sentences (number INTEGER PRIMARY KEY, key INTEGER, words BLOB UNIQUE, shingles BLOB);
CREATE TABLE bands (hash INTEGER, number INTEGER);
"""
_CANDIDATES = """
SELECT DISTINCT later.number, earlier.number FROM bands AS later JOIN bands AS earlier
ON earlier.hash = later.hash AND earlier.number < later.number ORDER BY later.number, earlier.number
"""


def words(tokens: Iterable[str]) -> list[str]:
    """What of a sentence is compared: its words without case, punctuation and links, or all where nothing is left."""
    plain = [unicodedata.normalize("NFKC", token).casefold() for token in tokens]
    kept = [token for token in plain if any(map(str.isalnum, token)) and not token.startswith(("http:", "https:"))]
    return kept or plain


def near_duplicate_sentences(
    rows: Iterable[tuple[int, Sequence[str]]], threshold: float = 0.8
) -> Iterator[tuple[int, int, float]]:
    """Find the pairs of sentences whose bigrams of words have a Jaccard similarity of at least ``threshold``.

    Each pair is checked exactly. One at the very threshold is missed once in 200 times, more similar ones hardly ever.
    Memory does not grow with the rows.

    Args:
        rows: (key, tokens), each key once.
        threshold: in (0, 1].

    Yields:
        (key, key, similarity), the one that came first before the other. Of sentences with the same words, each is
        paired with the first of them alone, and only that one with others: ``groups`` are complete.

    Raises:
        ValueError: ``threshold`` is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"--near_duplicate is {threshold}; expected a Jaccard similarity above 0, of at most 1.")
    database = sqlite3.connect("", isolation_level=None)  # without a name: a temporary file
    try:
        database.executescript(_SCHEMA)
        database.execute("BEGIN")
        number, rows = 0, iter(rows)
        while chunk := list(islice(rows, _CHUNK)):
            fresh: list[tuple[int, np.ndarray]] = []
            for key, tokens in chunk:
                digest = _hash(" ".join(words(tokens)), 16)
                first = database.execute("SELECT key FROM sentences WHERE words = ?", (digest,)).fetchone()
                if first:
                    yield first[0], key, 1.0
                    continue
                shingles = _shingles(tokens)
                database.execute(
                    "INSERT INTO sentences VALUES (?, ?, ?, ?)", (number, key, digest, shingles.tobytes())
                )
                fresh.append((number, shingles))
                number += 1
            if fresh:
                numbers, hashes = zip(*fresh, strict=True)
                bands = zip(numbers, _bands(hashes, threshold).tolist(), strict=True)
                flat = ((band, number) for number, row in bands for band in row)
                database.executemany("INSERT INTO bands VALUES (?, ?)", flat)
        database.execute("CREATE INDEX by_hash ON bands (hash, number)")

        @functools.lru_cache(20_000)
        def sentence(number: int) -> tuple[int, frozenset[int]]:
            query = "SELECT key, shingles FROM sentences WHERE number = ?"
            key, shingles = database.execute(query, (number,)).fetchone()
            return key, frozenset(np.frombuffer(shingles, np.uint64).tolist())

        for later, earlier in database.execute(_CANDIDATES):
            (second, mine), (first, theirs) = sentence(later), sentence(earlier)
            similarity = len(mine & theirs) / len(mine | theirs)
            if similarity >= threshold:
                yield first, second, similarity
    finally:
        database.close()


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


def near_duplicate_images(hashes: Iterable[tuple[K, int]], max_distance: int = 6) -> Iterator[tuple[K, K, int]]:
    """Find the pairs of images whose hashes differ in at most ``max_distance`` of 64 bits.

    Args:
        hashes: (name, ``image_hash``).
        max_distance: in bits.

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
        for offset in np.flatnonzero(distances <= max_distance):
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


def _shingles(tokens: Iterable[str]) -> np.ndarray:
    """The pairs of neighbouring words as sorted uint64 hashes; of fewer than ``MIN_WORDS`` words, one for all."""
    found = words(tokens)
    # That of a short sentence begins with a blank, so that it is no pair of a longer sentence.
    texts = set(map(" ".join, pairwise(found))) if len(found) >= MIN_WORDS else {" ".join(["", *found])}
    return np.unique(np.frombuffer(b"".join(_hash(text, 8) for text in texts), "<u8"))


@functools.cache
def _shape(threshold: float) -> tuple[int, int]:
    """How many bands of how many rows: the longest, most telling bands that keep ``RECALL`` at the threshold."""
    for rows in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return PERMUTATIONS, 1


def _bands(hashes: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """(sentences, bands) int64 of the hashed shingles of each sentence."""
    bands, rows = _shape(threshold)
    low_32_bits = [(shingles & 0xFFFFFFFF).tolist() for shingles in hashes]
    signatures = MinHash.bulk(low_32_bits, num_perm=PERMUTATIONS, seed=1, hashfunc=int, scheme="affine32")
    values = np.stack([signature.hashvalues for signature in signatures])[:, : bands * rows].astype(np.uint64)
    values = values.reshape(len(hashes), bands, rows)
    # Equal values in another band are no match: each band starts from its own number (FNV-1a over 64 bits).
    mixed = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), values.shape[:2])
    for row in range(rows):
        mixed = (mixed ^ values[:, :, row]) * np.uint64(0x100000001B3)
        mixed = mixed ^ (mixed >> np.uint64(29))
    return mixed.view(np.int64)


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
