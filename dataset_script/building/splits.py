"""Assigns rows to splits so that what is to be unseen in training (entities, images, near-duplicates) is.

Rows that must stay together form components, and each component goes into one split. Entities and images that are
everywhere would tie all rows into one component: these *hubs* get a split each, and a row of hubs of two splits is
left out.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .draws import position

SPLITS = ("train", "validation", "test")
UNSEEN = ("none", "images", "entities", "both")
MAX_COMPONENT = 0.01
"""The share of all rows that one component may hold before its most frequent entities are made hubs."""
ROUNDS = 10
"""Draws of the splits, each with shares corrected by what the last one gave, until they are within 5 %."""


@dataclass
class Assignment:
    """The split of each row: (rows,) int8, a position in ``SPLITS``, or -1 for a row left out; the number of rows left
    out by reason; and the number of entities and images that were given a split before the rows were."""

    split: np.ndarray
    left_out: Counter[str] = field(default_factory=Counter)
    hubs: int = 0


def resplit(rows: int, shares: Sequence[float], seed: int, together: np.ndarray, ties: np.ndarray) -> Assignment:
    """Draw a split for each row.

    Args:
        shares: of ``SPLITS``; they need not sum to one.
        together: (N, 2) pairs of rows that must be in one split.
        ties: (M, 2) pairs of a row and an entity or an image, as numbers from 0, that must be in one split.
    """
    things = int(ties[:, 1].max()) + 1 if len(ties) else 0
    hub = _hubs(rows, together, ties, np.bincount(ties[:, 1], minlength=things))
    is_hard = hub[ties[:, 1]] if len(ties) else np.zeros(0, bool)
    component = _components(rows, together, ties[~is_hard])
    asked = np.array(shares, float) / sum(shares)
    weights, split = asked, np.zeros(rows, np.int8)
    for _ in range(ROUNDS):
        split = _draw(component, hub, ties[is_hard], weights, seed)
        obtained = np.bincount(split[split >= 0], minlength=len(SPLITS)) / max(1, (split >= 0).sum())
        if np.allclose(obtained, asked, rtol=0.05, atol=0):
            break
        # Large components and hubs go where most of their rows may stay, which favours the largest split.
        weights = weights * np.where(obtained > 0, asked / np.maximum(obtained, 1e-9), 1)
        weights = weights / weights.sum()
    torn = int((split < 0).sum())
    left_out = Counter({"has frequent entities or images of two splits": torn} if torn else {})
    return Assignment(split, left_out, int(hub.sum()))


def keep_given(given: np.ndarray, together: np.ndarray, ties: np.ndarray) -> Assignment:
    """Keep the splits that the sources have, ``given``: (rows,) int8, positions in ``SPLITS``.

    Of what hangs together (``together``, ``ties`` as for ``resplit``), rows of training are left out for the sake
    of validation and test, and those of validation for the sake of test.
    """
    left_out: Counter[str] = Counter()
    split = given.copy()
    group = joined(len(given), together)
    latest = np.full(len(given), -1, np.int8)
    np.maximum.at(latest, group, given)
    for row in np.flatnonzero(given < latest[group]):
        split[row] = -1
        left_out[f"{SPLITS[given[row]]} row is a near-duplicate of one in {SPLITS[latest[group[row]]]}"] += 1
    if len(ties):
        latest = np.full(int(ties[:, 1].max()) + 1, -1, np.int8)
        np.maximum.at(latest, ties[:, 1], given[ties[:, 0]])
        for row in np.unique(ties[given[ties[:, 0]] < latest[ties[:, 1]], 0]):
            if split[row] >= 0:
                left_out[f"{SPLITS[given[row]]} row names an entity that a later split has"] += 1
                split[row] = -1
    return Assignment(split, left_out)


def numbered(keys: Iterable[object]) -> tuple[np.ndarray, int]:
    """The number of each key, from 0 in the order of first appearance, and how many different keys there are."""
    digests = (hashlib.blake2b(str(key).encode(), digest_size=8).digest() for key in keys)
    hashes = np.fromiter((int.from_bytes(digest, "big") >> 1 for digest in digests), np.int64)
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse], len(first)


def joined(count: int, pairs: np.ndarray) -> np.ndarray:
    """(count,) numbers from 0: equal for things that ``pairs``, (N, 2), link, directly or by others. Numbers from
    ``count`` on are links only.
    """
    size = max(count, int(pairs.max(initial=-1)) + 1)
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    return np.unique(labels[:count], return_inverse=True)[1]


def _draw(component: np.ndarray, hub: np.ndarray, hard: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """(rows,) a split for each row: hubs first, then each component; -1 where hubs tear a row from its component."""
    rows, components = len(component), int(component.max(initial=-1)) + 1
    hub_split = np.full(len(hub), -1, np.int8)
    for thing in np.flatnonzero(hub):
        hub_split[thing] = position(shares.tolist(), seed, "hub", thing)
    # torn[row, split]: the row has a hub of a split other than this one.
    torn = np.zeros((rows, len(SPLITS)), bool)
    for number in range(len(SPLITS)):
        torn[hard[hub_split[hard[:, 1]] != number, 0], number] = True

    first = np.full(components, rows)
    np.minimum.at(first, component, np.arange(rows))
    drawn = np.array([position(shares.tolist(), seed, "component", row) for row in first], np.int8)
    kept = np.stack([np.bincount(component[~torn[:, number]], minlength=components) for number in range(len(SPLITS))])
    # As drawn, where at least half as many rows may stay as anywhere else; otherwise where most may.
    enough = 2 * kept[drawn, np.arange(components)] >= kept.max(axis=0, initial=0)
    split = np.where(enough, drawn, kept.argmax(axis=0))[component].astype(np.int8)
    split[torn[np.arange(rows), split]] = -1
    return split


def _hubs(rows: int, together: np.ndarray, ties: np.ndarray, degree: np.ndarray) -> np.ndarray:
    """The fewest, most frequent things without which no component holds more than ``MAX_COMPONENT`` of the rows."""
    limit = max(MAX_COMPONENT * rows, 1)
    levels = np.unique(degree[degree > 1])

    def largest(above: float) -> int:
        soft = ties[degree[ties[:, 1]] <= above] if len(ties) else ties
        return int(np.bincount(_components(rows, together, soft)).max()) if rows else 0

    low, high = 0, len(levels)  # of levels, the first `low` surely tie no more than the limit
    while low < high:
        middle = (low + high + 1) // 2
        if largest(levels[middle - 1]) <= limit:
            low = middle
        else:
            high = middle - 1
    if low == len(levels):
        return np.zeros(len(degree), bool)
    return degree > (levels[low - 1] if low else 1)


def _components(rows: int, together: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """(rows,) the component of each row, counted from 0."""
    return joined(rows, np.concatenate([together, ties + (0, rows)]) if len(ties) else together)
