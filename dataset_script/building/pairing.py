"""Which picture stands beside which sentence: at most one, of an entity that it names, of something else, or none.

Pictures of something else are drawn as often as they were drawn for a sentence that names what they show. So neither
the picture nor its kind tells whether the sentence names what it shows, nor of which types its entities are.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .draws import choice, position, uniform
from .providers.base import Candidate, ImageProvider
from .stage import Stage, StagedRow

RELATIONS = ("depicts", "unrelated", "none")
DEPICTS, UNRELATED, NONE, UNKNOWN = range(4)
ATTEMPTS = 64
"""Draws of an unrelated picture before a sentence is left without: each may fall on one that shows its entity."""


@dataclass
class Pairs:
    """The picture of each row, as arrays over the keys of the stage.

    Attributes:
        names: picture names; ``picture`` holds positions in it.
        picture: (rows,) int32, -1 for none.
        relation: (rows,) int8: ``DEPICTS``, ``UNRELATED``, ``NONE``, or ``UNKNOWN`` for a natural pair.
        counts: what could not be had as asked.
    """

    names: list[str]
    picture: np.ndarray
    relation: np.ndarray
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Shares:
    """Of all sentences, those that get a picture of something else and those that get none, at least.

    The others get a picture of an entity that they name. Where none of their entities has a picture, they are shared
    out among the two in the same proportion.
    """

    unrelated: float = 0.2
    missing: float = 0.2

    def __post_init__(self) -> None:
        if not (self.unrelated >= 0 and self.missing >= 0 and self.unrelated + self.missing <= 1):
            raise ValueError(
                f"The shares of unrelated ({self.unrelated}) and missing ({self.missing}) pictures came; expected "
                "two numbers of 0 or more, of at most 1 together."
            )

    def relation(self, seed: int, row_id: str, has_candidate: bool) -> int:
        """The relation drawn for a row."""
        drawn = position((1 - self.unrelated - self.missing, self.unrelated, self.missing), seed, "relation", row_id)
        if drawn != DEPICTS or has_candidate:
            return drawn
        if not self.unrelated and not self.missing:
            return NONE
        return (UNRELATED, NONE)[position((self.unrelated, self.missing), seed, "instead", row_id)]


def draw_depicting(stage: Stage, provider: ImageProvider, shares: Shares, seed: int, names: Sequence[str]) -> Pairs:
    """Draw the relation of every row, and the pictures of those that get one of their entities.

    Args:
        names: the pictures that may be used.
    """
    pairs = Pairs(list(names), np.full(stage.rows, -1, np.int32), np.full(stage.rows, NONE, np.int8))
    numbers = {name: number for number, name in enumerate(pairs.names)}
    for row in stage.read():
        found = [candidate for candidate in provider.candidates(row.id, row.mentions) if candidate.name in numbers]
        if provider.natural:
            if found:
                pairs.picture[row.key] = numbers[found[0].name]
                pairs.relation[row.key] = RELATIONS.index(row.relation) if row.relation else UNKNOWN
            continue
        pairs.relation[row.key] = shares.relation(seed, row.id, bool(found))
        if pairs.relation[row.key] == DEPICTS:
            pairs.picture[row.key] = numbers[_draw(found, seed, row.id)]
    return pairs


def keep_to_own(
    stage: Stage, provider: ImageProvider, shares: Shares, seed: int, pairs: Pairs, mine: Callable[[int, int], bool]
) -> None:
    """Draw anew for the rows whose picture belongs to another split: among their own, or something else, or none.

    Args:
        mine: whether the row of a key may have the picture of a number.
    """
    numbers = {name: number for number, name in enumerate(pairs.names)}
    for row in stage.read():
        picture = int(pairs.picture[row.key])
        if picture < 0 or mine(row.key, picture):
            continue
        found = [
            candidate
            for candidate in provider.candidates(row.id, row.mentions)
            if candidate.name in numbers and mine(row.key, numbers[candidate.name])
        ]
        pairs.counts["pictures given up because another split has them"] += 1
        if provider.natural:
            pairs.picture[row.key], pairs.relation[row.key] = -1, NONE
            continue
        pairs.relation[row.key] = DEPICTS if found else shares.relation(seed, row.id, False)
        pairs.picture[row.key] = numbers[_draw(found, seed, row.id)] if found else -1


def draw_unrelated(
    stage: Stage,
    provider: ImageProvider,
    seed: int,
    pairs: Pairs,
    split: np.ndarray,
    fillers: Iterable[tuple[int, int]],
    identity: Callable[[StagedRow], set[str]],
) -> None:
    """Give a picture of something else to the rows that are to have one.

    Args:
        split: (rows,) the split of each row as a number, negative for a row left out. Pictures come from those that
            depict an entity for a row of the same split, each as likely as it does so, and from the fillers.
        fillers: (picture, split) of pictures that show no known entity: each as likely as a picture used once.
        identity: the entities of a row, as ``Picture.entity`` names them.
    """
    cumulated = {}
    for number in np.unique(split[split >= 0]):
        used = pairs.picture[(split == number) & (pairs.relation == DEPICTS)]
        cumulated[int(number)] = np.bincount(used, minlength=len(pairs.names))
    for picture, number in fillers:
        if number in cumulated:
            cumulated[number][picture] += 1
    cumulated = {number: np.cumsum(weights) for number, weights in cumulated.items()}
    for row in stage.read():
        number = int(split[row.key])
        if number < 0 or pairs.relation[row.key] != UNRELATED or pairs.picture[row.key] >= 0:
            continue
        weights = cumulated[number]
        shown = {candidate.name for candidate in provider.candidates(row.id, row.mentions)}
        entities = identity(row)
        for attempt in range(ATTEMPTS if weights[-1] else 0):
            at = uniform(seed, "unrelated", row.id, attempt) * weights[-1]
            picture = int(np.searchsorted(weights, at, side="right"))
            name = pairs.names[picture]
            if name not in shown and provider.picture(name).entity not in entities:
                pairs.picture[row.key] = picture
                break
        else:
            pairs.relation[row.key] = NONE
            pairs.counts["rows left without a picture since no unrelated one was found"] += 1


def _draw(found: Sequence[Candidate], seed: int, row_id: str) -> str:
    # First an entity, then one of its pictures: an entity of many pictures is not shown more often for it.
    mentions = list(dict.fromkeys(candidate.mention for candidate in found))
    mention = choice(mentions, seed, "mention", row_id)
    return choice([candidate.name for candidate in found if candidate.mention == mention], seed, "picture", row_id)
