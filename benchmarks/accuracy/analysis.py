"""What kind of mistakes a tagger makes, and whether its scores mean what they say."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mmner.entity_f1 import Span, find_entities

MISTAKES = ("right", "type", "boundary", "missed", "spurious")


class Judged(NamedTuple):
    """A gold entity, or a predicted one that no gold entity touches, and what became of it."""

    kind: str
    """One of `MISTAKES`: `right`; `type`: these words, of another type; `boundary`: a predicted entity shares a word
    with it, but not all; `missed`: none does; `spurious`: predicted where there is no entity."""
    sentence: int
    span: Span
    predicted: Span | None


def judge(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> list[Judged]:
    """
    Each gold entity, and each predicted one that touches none, once.

    Args:
        gold, predicted: IOB2 tags of each sentence, as many and as long.
    """
    found = []
    for sentence, (right, others) in enumerate(zip(find_entities(gold), find_entities(predicted), strict=True)):
        for span in right:
            touching = [other for other in others if other[1] < span[2] and span[1] < other[2]]
            same = next((other for other in touching if other[1:] == span[1:]), None)
            if same is not None:
                found.append(Judged("right" if same == span else "type", sentence, span, same))
            elif touching:
                found.append(Judged("boundary", sentence, span, touching[0]))
            else:
                found.append(Judged("missed", sentence, span, None))
        for other in others:
            if not any(other[1] < span[2] and span[1] < other[2] for span in right):
                found.append(Judged("spurious", sentence, other, other))
    return found


def mistakes(judged: Iterable[Judged]) -> dict[str, int]:
    """How many there are of each of `MISTAKES`."""
    counts = Counter(one.kind for one in judged)
    return {kind: counts[kind] for kind in MISTAKES}


def changes(
    before: Sequence[Sequence[str]], after: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]
) -> Iterator[tuple[str, int, Span]]:
    """
    `repaired` (in gold, found after and not before) or `broken` (the other way round), with the sentence and the
    entity.

    Args:
        before, after, gold: IOB2 tags of each sentence, as many and as long.
    """
    each = zip(find_entities(before), find_entities(after), find_entities(gold), strict=True)
    for sentence, (old, new, right) in enumerate(each):
        for span in right:
            if (span in old) != (span in new):
                yield "repaired" if span in new else "broken", sentence, span


def repairs(
    gold: Sequence[Sequence[str]], before: Sequence[Sequence[str]], after: Sequence[Sequence[str]]
) -> dict[str, int]:
    """
    What a change of predictions does.

    Args:
        gold, before, after: IOB2 tags of each sentence, as many and as long.

    Returns:
        `entities`: of gold; `wrong`: those of them not found before; `repaired`: those of these found after; `broken`:
        found before and not after.
    """
    counts = Counter(entities=0, wrong=0, repaired=0, broken=0)
    for right, old in zip(find_entities(gold), find_entities(before), strict=True):
        counts["entities"] += len(right)
        counts["wrong"] += sum(span not in old for span in right)
    counts.update(kind for kind, *_ in changes(before, after, gold))
    return dict(counts)


class Calibration(NamedTuple):
    """Of predicted entities in bins of equal width by their score: how many, their mean score, the share right."""

    counts: list[int]
    confidence: list[float]
    precision: list[float]

    @property
    def expected_error(self) -> float:
        """Expected calibration error: the mean, over entities, of how far a bin's score is from its share right
        (Guo et al., ICML 2017, eq. 3)."""
        total = sum(self.counts)
        apart = sum(
            count * abs(sure - right)
            for count, sure, right in zip(self.counts, self.confidence, self.precision, strict=True)
        )
        return apart / total if total else 0.0


def calibration(scores: Sequence[float], right: Sequence[bool], bins: int = 10) -> Calibration:
    """
    Args:
        scores: of the predicted entities, in [0, 1].
        right: whether each is in the gold tags.
        bins: their number.

    Raises:
        ValueError: not as many, or a score outside [0, 1].
    """
    scores, right = np.asarray(scores, dtype=float), np.asarray(right, dtype=bool)
    if scores.shape != right.shape or not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"Got {scores.size} scores for {right.size} entities; expected as many, all in [0, 1].")
    place = np.minimum((scores * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    divisor = np.maximum(counts, 1)
    return Calibration(
        counts=counts.tolist(),
        confidence=(np.bincount(place, scores, bins) / divisor).tolist(),
        precision=(np.bincount(place, right, bins) / divisor).tolist(),
    )


__all__ = ["MISTAKES", "Calibration", "Judged", "calibration", "changes", "judge", "mistakes", "repairs"]
