"""Which image stands beside which sentence: at most one, of an entity that it names, of something else, or none.

Images of something else are drawn as often as they were drawn for a sentence that names what they show. So neither
the image nor its kind tells whether the sentence names what it shows, nor of which types its entities are.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .draws import position, uniform
from .plan import DEPICTS, NONE, UNKNOWN, UNRELATED, Plan
from .providers.base import ImageProvider
from .stage import Mention, Stage, StagedRow

RELATIONS = ("depicts", "unrelated", "none")
ATTEMPTS = 64
"""Draws of an unrelated image before a sentence is left without: each may fall on one that shows its entity."""


class Pairs:
    """The image of each row, by its key; at first none.

    ``image``: (rows,) int32, a position in ``names`` or -1; ``relation``: (rows,) int8, ``DEPICTS``, ``UNRELATED``,
    ``NONE``, or ``UNKNOWN`` for a natural pair; ``counts``: what could not be had as asked.
    """

    def __init__(self, rows: int, names: Sequence[str] = ()):
        self.names = list(names)
        self.image = np.full(rows, -1, np.int32)
        self.relation = np.full(rows, NONE, np.int8)
        self.counts: Counter[str] = Counter()


def draw_depicting(stage: Stage, provider: ImageProvider, plan: Plan, names: Sequence[str]) -> Pairs:
    """Draw the relation of every row, and of ``names`` the images of those that get one of their entities."""
    pairs = Pairs(len(stage.rows), names)
    numbers = {name: number for number, name in enumerate(pairs.names)}
    for row in stage.rows:
        found = {name: mention for name, mention in provider.candidates(row).items() if name in numbers}
        if not provider.natural:
            _depict(pairs, row, plan, found, numbers, plan.relation(row.id, bool(found)))
        elif found:
            pairs.image[row.key] = numbers[next(iter(found))]
            pairs.relation[row.key] = RELATIONS.index(row.relation) if row.relation else UNKNOWN
    return pairs


def keep_to_own(
    stage: Stage, provider: ImageProvider, plan: Plan, pairs: Pairs, may_have: Callable[[int, int], bool]
) -> None:
    """Draw anew for the rows whose image belongs to another split: among their own, or something else, or none.

    ``may_have``: whether the row of a key may have the image of a number.
    """
    numbers = {name: number for number, name in enumerate(pairs.names)}
    for row in stage.rows:
        if pairs.image[row.key] < 0 or may_have(row.key, int(pairs.image[row.key])):
            continue
        pairs.counts["images given up because another split has them"] += 1
        pairs.image[row.key], pairs.relation[row.key] = -1, NONE
        if not provider.natural:
            candidates = provider.candidates(row).items()
            found = {name: one for name, one in candidates if name in numbers and may_have(row.key, numbers[name])}
            _depict(pairs, row, plan, found, numbers, DEPICTS if found else plan.relation(row.id, False))


def draw_unrelated(stage: Stage, provider: ImageProvider, seed: int, pairs: Pairs, split: np.ndarray) -> None:
    """Give an image of something else to the rows that are to have one.

    ``split``: (rows,) the split of each row, negative for a row left out. Images come from those that depict an
    entity for a row of the same split, each as likely as it does so.
    """
    cumulated = {}
    for number in np.unique(split[split >= 0]):
        used = pairs.image[(split == number) & (pairs.relation == DEPICTS)]
        cumulated[int(number)] = np.cumsum(np.bincount(used, minlength=len(pairs.names)))
    for row in stage.rows:
        number = int(split[row.key])
        if number < 0 or pairs.relation[row.key] != UNRELATED or pairs.image[row.key] >= 0:
            continue
        weights = cumulated[number]
        shown = provider.candidates(row)
        entities = {provider.entity(mention) for mention in row.mentions} - {None}
        for attempt in range(ATTEMPTS if weights.any() else 0):
            at = uniform(seed, "unrelated", row.id, attempt) * weights[-1]
            image = int(np.searchsorted(weights, at, side="right"))
            name = pairs.names[image]
            if name not in shown and provider.images[name].entity not in entities:
                pairs.image[row.key] = image
                break
        else:
            pairs.relation[row.key] = NONE
            pairs.counts["rows left without an image since no unrelated one was found"] += 1


def _depict(
    pairs: Pairs,
    row: StagedRow,
    plan: Plan,
    found: Mapping[str, Mention | None],
    numbers: Mapping[str, int],
    relation: int,
) -> None:
    pairs.relation[row.key] = relation
    if relation != DEPICTS:
        return
    # First an entity, then one of its images: an entity of many images is not shown more often for it. The name
    # "picture" is part of the seed.
    mentions = list(dict.fromkeys(found.values()))
    mention = mentions[position([1] * len(mentions), plan.seed, "mention", row.id)]
    images = [name for name, shown in found.items() if shown == mention]
    pairs.image[row.key] = numbers[images[position([1] * len(images), plan.seed, "picture", row.id)]]
