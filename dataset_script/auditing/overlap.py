"""What the parts of datasets (their splits) share, exactly or nearly: sentences or images."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

MAX_EXAMPLES = 3


@dataclass
class Overlap:
    """What one part shares with another.

    Attributes:
        kind: ``sentences`` or ``images``.
        part, other: the names of the two parts, as ``A/test``; equal for what a part repeats.
        rows: rows of ``part``.
        exact: of them, rows that have the very same item in ``other``.
        near: further ones that have nearly the same there.
        items: how many different items of ``part`` these are, exact and near.
        pairs: a few pairs of such rows, by their numbers.
        examples: the same in words.
    """

    kind: str
    part: str
    other: str
    rows: int
    exact: int = 0
    near: int = 0
    items: int = 0
    pairs: list[tuple[int, int]] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)


def overlaps(
    kind: str, items: Sequence[Hashable | None], parts: Sequence[str], near: Iterable[tuple[Hashable, Hashable]]
) -> list[Overlap]:
    """Compare all parts with each other and with themselves.

    Args:
        kind: of the items.
        items: (rows,) which item each row has, or ``None``.
        parts: (rows,) the part of each row.
        near: pairs of items that are nearly the same.

    Returns:
        The overlaps that there are, in the order of the parts.
    """
    rows_of: dict[Hashable, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, (item, part) in enumerate(zip(items, parts, strict=True)):
        if item is not None:
            rows_of[item][part].append(row)
    neighbours: dict[Hashable, set[Hashable]] = defaultdict(set)
    for first, second in near:
        neighbours[first].add(second)
        neighbours[second].add(first)
    sizes = Counter(parts)
    found: dict[tuple[str, str], Overlap] = {}
    for item, places in rows_of.items():
        for part, mine in places.items():
            for other in sizes:
                same = next((row for row in places.get(other, ()) if row != mine[0]), None)
                close = (row for one in neighbours.get(item, ()) for row in rows_of[one].get(other, ()))
                theirs = next(close, None) if same is None else same
                if theirs is not None:
                    overlap = found.setdefault((part, other), Overlap(kind, part, other, sizes[part]))
                    overlap.items += 1
                    overlap.exact += 0 if same is None else len(mine)
                    overlap.near += len(mine) if same is None else 0
                    if len(overlap.pairs) < MAX_EXAMPLES:
                        overlap.pairs.append((mine[0], theirs))
    order = list(sizes)
    return sorted(found.values(), key=lambda one: (order.index(one.part), order.index(one.other)))
