"""What the parts of datasets (their splits) have in common, exactly or nearly: sentences or pictures."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

MAX_EXAMPLES = 3


@dataclass
class Overlap:
    """What one part shares with another.

    Attributes:
        kind: ``sentences``, ``pictures``, or ``names`` of pictures whose files are not both there.
        part, other: the names of the two parts, as ``A/test``; equal for what a part repeats.
        rows: rows of ``part``.
        exact: of them, rows that have the very thing in ``other``.
        near: further ones that have nearly the same there.
        things: how many different things of ``part`` these are, exact and near.
        pairs: a few pairs of such rows, by their numbers.
        examples: the same in words.
    """

    kind: str
    part: str
    other: str
    rows: int
    exact: int = 0
    near: int = 0
    things: int = 0
    pairs: list[tuple[int, int]] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    @property
    def shared(self) -> int:
        """Rows of ``part`` that have the thing, or nearly, in ``other``."""
        return self.exact + self.near


@dataclass
class Occurrences:
    """Which rows have which thing.

    Attributes:
        thing: (rows,) the number of the thing of each row; -1 where it has none.
        part: (rows,) int8 the part of each row.
        parts: the names of the parts.
        near: pairs of things that are nearly the same.
    """

    thing: np.ndarray
    part: np.ndarray
    parts: list[str]
    near: list[tuple[int, int]]


def overlaps(kind: str, occurrences: Occurrences) -> list[Overlap]:
    """Compare all parts with each other and with themselves; the overlaps that there are."""
    rows = np.bincount(occurrences.part, minlength=len(occurrences.parts))
    neighbours: dict[int, list[int]] = defaultdict(list)
    for first, second in occurrences.near:
        neighbours[first].append(second)
        neighbours[second].append(first)
    places, row_of = _places(occurrences, neighbours)
    found: dict[tuple[int, int], Overlap] = {}
    for thing in sorted(places):
        own = places[thing]
        for part, count in sorted(own.items()):
            mine = row_of[thing, part]
            for other, name in enumerate(occurrences.parts):
                close = [near for near in neighbours.get(thing, ()) if places[near][other]]
                exact = own[other] > (other == part)
                if not exact and not close:
                    continue
                fresh = Overlap(kind, occurrences.parts[part], name, int(rows[part]))
                overlap = found.setdefault((part, other), fresh)
                overlap.things += 1
                overlap.exact += count if exact else 0
                overlap.near += 0 if exact else count
                if len(overlap.pairs) < MAX_EXAMPLES:
                    theirs = row_of[thing if exact else close[0], other]
                    overlap.pairs.append((mine[0], theirs[exact and part == other]))
    return [found[key] for key in sorted(found)]


def _places(
    occurrences: Occurrences, neighbours: Iterable[int]
) -> tuple[dict[int, Counter[int]], dict[tuple[int, int], list[int]]]:
    """Of the things that occur twice, or nearly so: rows by part, and the first two rows of each part."""
    things = occurrences.thing
    times = np.bincount(things[things >= 0]) if (things >= 0).any() else np.zeros(0, int)
    wanted = np.zeros(len(times), bool)
    wanted[times > 1] = True
    wanted[[thing for thing in neighbours if thing < len(times)]] = True
    places: dict[int, Counter[int]] = {}
    row_of: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row in np.flatnonzero((things >= 0) & wanted[np.maximum(things, 0)] if len(times) else []):
        thing, part = int(things[row]), int(occurrences.part[row])
        places.setdefault(thing, Counter())[part] += 1
        if len(row_of[thing, part]) < 2:
            row_of[thing, part].append(int(row))
    return places, row_of
