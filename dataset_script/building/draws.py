"""Random choices that depend on a seed and on names, not on the order in which they are made."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def uniform(seed: int, *names: object) -> float:
    """A number in [0, 1): the same for the same seed and names, on any machine; else independent."""
    key = "\x1f".join(map(str, (seed, *names))).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64


def choice(options: Sequence[T], seed: int, *names: object) -> T:
    """One of ``options``, each as likely as the others."""
    return options[int(uniform(seed, *names) * len(options))]


def position(shares: Sequence[float], seed: int, *names: object) -> int:
    """A position of ``shares``, each as likely as its share of the sum."""
    edges = np.cumsum(shares)
    drawn = np.searchsorted(edges, uniform(seed, *names) * edges[-1], side="right")
    return min(int(drawn), int(np.flatnonzero(shares)[-1]))  # rounding may leave a crumb
