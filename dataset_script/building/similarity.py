"""Near-duplicate sentences (MinHash: Broder 1997) and pictures (perceptual hash), without comparing all pairs."""

import functools
import hashlib
import sqlite3
import tempfile
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
"""Of the 64 of a perceptual hash, which compares with the median and so sets 32, unless the picture has no detail."""
MAX_RESIDUE = 2.0
"""Standard deviation, in grey levels of 256, of a picture of one colour or of stripes after JPEG compression."""
_CHUNK = 1000
_CACHED_SENTENCES = 20_000

_SCHEMA = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16384;
CREATE TABLE sentences (number INTEGER PRIMARY KEY, key INTEGER, words BLOB UNIQUE, shingles BLOB, bands BLOB);
CREATE TABLE bands (hash INTEGER, number INTEGER);
"""


def words(tokens: Iterable[str]) -> list[str]:
    """What of a sentence is compared: its words without case, punctuation and links, or all where nothing is left."""
    plain = [unicodedata.normalize("NFKC", token).casefold() for token in tokens]
    kept = [token for token in plain if any(map(str.isalnum, token)) and not token.startswith(("http:", "https:"))]
    return kept or plain


def shingles(tokens: Iterable[str]) -> frozenset[str]:
    """The pairs of words that follow each other; in a sentence of fewer than ``MIN_WORDS`` words, all of it as one."""
    found = words(tokens)
    if len(found) < MIN_WORDS:
        # It begins with a blank, so that it is no pair of a longer sentence.
        return frozenset([" ".join(["", *found])])
    return frozenset(map(" ".join, pairwise(found)))


def sentence_signature(tokens: Sequence[str], threshold: float = 0.8) -> tuple[int, ...]:
    """The bands of the MinHash of a sentence: two that are similar by ``threshold`` very likely share one.

    The same on any machine. How many bands there are depends on the threshold alone.
    """
    return tuple(_bands([_hashes(tokens)], threshold)[0].tolist())


def near_duplicate_sentences(
    rows: Iterable[tuple[int, Sequence[str]]], threshold: float = 0.8, workspace: Path | None = None
) -> Iterator[tuple[int, int, float]]:
    """Find the pairs of sentences whose shingles have a Jaccard similarity of at least ``threshold``.

    No pair is given by chance: each is checked by its shingles. One at the very threshold is missed once in 200 times,
    more similar ones hardly ever. Signatures are kept in a scratch file: memory does not grow with the rows.

    Args:
        rows: (key, tokens), each key once.
        threshold: in (0, 1].
        workspace: the folder of the scratch file; that of the system if left out.

    Yields:
        (key, key, similarity), the one that came first before the other. Of sentences with the same words, each
        is paired with the first of them alone, and only that one with sentences like it: ``groups`` are complete, and
        a thousand equal sentences make a thousand pairs, not half a million.

    Raises:
        ValueError: ``threshold`` is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; expected a Jaccard similarity above 0, of at most 1.")
    with tempfile.TemporaryDirectory(dir=workspace, prefix="near-duplicates-") as scratch:
        database = sqlite3.connect(Path(scratch) / "signatures.sqlite", isolation_level=None)
        try:
            database.executescript(_SCHEMA)
            database.execute("BEGIN")
            number = 0
            rows = iter(rows)
            while chunk := list(islice(rows, _CHUNK)):
                fresh: list[tuple[int, list[int]]] = []
                for key, tokens in chunk:
                    digest = hashlib.blake2b(" ".join(words(tokens)).encode(_ENCODING, _ERRORS), digest_size=16)
                    query = "SELECT key FROM sentences WHERE words = ?"
                    first = database.execute(query, (digest.digest(),)).fetchone()
                    if first:
                        yield first[0], key, 1.0
                        continue
                    hashes = _hashes(tokens)
                    row = (number, key, digest.digest(), np.array(hashes, np.uint64).tobytes())
                    database.execute("INSERT INTO sentences VALUES (?, ?, ?, ?, NULL)", row)
                    fresh.append((number, hashes))
                    number += 1
                _insert_bands(database, fresh, threshold)
            database.execute("CREATE INDEX by_hash ON bands (hash, number)")
            yield from _verified(database, threshold)
        finally:
            database.close()


def image_hash(image: Image.Image | Path | bytes) -> int:
    """64 bits that hardly change when a picture is scaled, recompressed or brightened (ImageHash's pHash).

    pHash sees the brightness of a picture's larger details. One that has none (a single colour, a flag of stripes)
    would share its hash with all such pictures; it gets the colours of its rows and columns instead, so that only
    those of about the same colours are alike.

    Raises:
        OSError: the picture does not open.
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
    """Find the pairs of pictures whose hashes differ in at most ``max_distance`` of 64 bits.

    All are found: of ``max_distance + 1`` parts of two such hashes, one must be equal (multi-index hashing: Norouzi et
    al. 2012), and only pictures that share a part are compared.

    Args:
        hashes: (name, ``image_hash``).
        max_distance: in bits, 0 to 31.

    Yields:
        (name, name, distance in bits). Of pictures of one hash, each is paired with the first of them alone, and only
        that one with others.

    Raises:
        ValueError: ``max_distance`` is out of range.
    """
    if not 0 <= max_distance < 32:
        raise ValueError(f"max_distance is {max_distance}; expected a number of bits from 0 to 31 of 64.")
    first_of: dict[int, K] = {}
    for name, bits in hashes:
        first = first_of.setdefault(bits, name)
        if first != name:
            yield first, name, 0
    names = list(first_of.values())
    bits = np.fromiter(first_of, np.uint64, len(first_of))
    edges = np.linspace(0, 64, max_distance + 2).astype(int)
    masks = [np.uint64((1 << int(high)) - (1 << int(low))) for low, high in pairwise(edges)]
    for position, mask in enumerate(masks):
        order = np.argsort(bits & mask, kind="stable")
        starts = np.flatnonzero(np.diff(bits[order] & mask, prepend=~(bits[order[:1]] & mask))) if len(order) else []
        for members in np.split(order, starts[1:]):
            for offset, one in enumerate(members[:-1]):
                others = members[offset + 1 :]
                difference = bits[one] ^ bits[others]
                near = np.bitwise_count(difference) <= max_distance
                for earlier in masks[:position]:
                    # A pair that an earlier part has shown already.
                    near &= (difference & earlier) != 0
                for other in others[near]:
                    yield names[one], names[other], int(np.bitwise_count(bits[one] ^ bits[other]))


def groups(pairs: Iterable[Sequence[Any]]) -> dict[Any, Any]:
    """Join what is paired, directly or by way of others.

    Args:
        pairs: whose first two items are keys; what follows is not looked at.

    Returns:
        Each key that is in a pair -> the least key of its group. The order of the pairs does not matter.
    """
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


_ENCODING, _ERRORS = "utf-8", "surrogatepass"


def _hashes(tokens: Iterable[str]) -> list[int]:
    """The shingles as sorted 64-bit numbers."""
    texts = (shingle.encode(_ENCODING, _ERRORS) for shingle in shingles(tokens))
    return sorted({int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") for text in texts})


@functools.cache
def _shape(threshold: float) -> tuple[int, int]:
    """How many bands of how many rows: the longest, most telling bands that keep ``RECALL`` at the threshold."""
    for rows in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return PERMUTATIONS, 1


def _bands(hashes: Sequence[Sequence[int]], threshold: float) -> np.ndarray:
    """(sentences, bands) int64 of the hashed shingles of each sentence."""
    bands, rows = _shape(threshold)
    signatures = MinHash.bulk(hashes, num_perm=PERMUTATIONS, seed=1, hashfunc=_low_32_bits, scheme="affine32")
    values = np.stack([signature.hashvalues for signature in signatures])[:, : bands * rows].astype(np.uint64)
    values = values.reshape(len(hashes), bands, rows)
    # Equal values in another band are no match: each band starts from its own number (FNV-1a over 64 bits).
    mixed = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), values.shape[:2])
    for row in range(rows):
        mixed = (mixed ^ values[:, :, row]) * np.uint64(0x100000001B3)
        mixed = mixed ^ (mixed >> np.uint64(29))
    return mixed.view(np.int64)


def _low_32_bits(value: int) -> int:
    return value & 0xFFFFFFFF


def _insert_bands(database: sqlite3.Connection, fresh: list[tuple[int, list[int]]], threshold: float) -> None:
    if not fresh:
        return
    bands = _bands([hashes for _, hashes in fresh], threshold)
    blobs = ((row.tobytes(), number) for row, (number, _) in zip(bands, fresh, strict=True))
    database.executemany("UPDATE sentences SET bands = ? WHERE number = ?", blobs)
    flat = ((band, number) for row, (number, _) in zip(bands.tolist(), fresh, strict=True) for band in row)
    database.executemany("INSERT INTO bands VALUES (?, ?)", flat)


def _verified(database: sqlite3.Connection, threshold: float) -> Iterator[tuple[int, int, float]]:
    """The pairs of distinct sentences that share a band and are as similar as asked."""

    @functools.lru_cache(_CACHED_SENTENCES)
    def fetch(number: int) -> tuple[int, frozenset[int]]:
        query = "SELECT key, shingles FROM sentences WHERE number = ?"
        key, blob = database.execute(query, (number,)).fetchone()
        return key, frozenset(np.frombuffer(blob, np.uint64).tolist())

    marks = ", ".join("?" * _shape(threshold)[0])
    candidates = f"SELECT DISTINCT number FROM bands WHERE hash IN ({marks}) AND number < ? ORDER BY number"
    for number, blob in database.execute("SELECT number, bands FROM sentences ORDER BY number"):
        bands = np.frombuffer(blob, np.int64).tolist()
        for (other,) in database.execute(candidates, (*bands, number)):
            (second, mine), (first, theirs) = fetch(number), fetch(other)
            similarity = _jaccard(mine, theirs)
            if similarity >= threshold:
                yield first, second, similarity


def _jaccard(first: frozenset[Any], second: frozenset[Any]) -> float:
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)


def _varies_one_way(image: Image.Image) -> bool:
    """Whether all columns of a picture are alike, or all rows: its pHash is then mostly noise of its compression."""
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
