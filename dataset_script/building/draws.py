"""Random choices that depend on a seed and on names, not on the order in which they are made."""

import hashlib
from collections.abc import Sequence

import numpy as np


def uniform(seed: int, *names: object) -> float:
    """A number in [0, 1): the same for the same seed and names, on any machine; else independent."""
    key = "\x1f".join(map(str, (seed, *names))).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64


def position(shares: Sequence[float], seed: int, *names: object) -> int:
    """A position of ``shares``, each as likely as its share of the sum."""
    edges = np.cumsum(shares)
    drawn = np.searchsorted(edges, uniform(seed, *names) * edges[-1], side="right")
    return min(int(drawn), int(np.flatnonzero(shares)[-1]))  # rounding may leave a crumb
