"""What the parts of datasets (their splits) share, exactly or nearly: sentences or images."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

MAX_EXAMPLES = 3


@dataclass
class Overlap:
    """What one part shares with another, named as ``A/test``, or repeats, where both are the same."""

    kind: str  # ``sentences`` or ``images``
    part: str
    other: str
    rows: int  # of ``part``
    exact: int = 0  # of them, those that have the very same item in ``other``
    near: int = 0  # further ones that have nearly the same there
    items: int = 0  # how many different items of ``part`` these are
    pairs: list[tuple[int, int]] = field(default_factory=list)  # a few pairs of such rows, by their numbers
    examples: list[str] = field(default_factory=list)  # the same in words


def overlaps(
    kind: str, items: Sequence[Hashable | None], parts: Sequence[str], near: Iterable[tuple[Hashable, Hashable]]
) -> list[Overlap]:
    """Compare all parts with each other and with themselves; the overlaps that there are, in the order of the parts.

    Args:
        kind: of the items.
        items, parts: (rows,) which item each row has, or ``None``, and its part.
        near: pairs of items that are nearly the same.
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
