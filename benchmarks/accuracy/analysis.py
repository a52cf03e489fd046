"""Kinds of mistakes, what a change of predictions repairs and breaks, and the calibration of scores."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmner.entity_f1 import find_entities

MISTAKES = ("right", "type", "boundary", "missed", "spurious")
Tags = Sequence[Sequence[str]]  # IOB2 tags of each sentence


def mistakes(gold: Tags, predicted: Tags) -> dict[str, int]:
    """
    Counts each gold entity once, and each predicted one that shares no word with a gold one.

    Returns:
        `right`; `type`: the same words with another type; `boundary`: a predicted entity shares some of its words;
        `missed`: none does; `spurious`: predicted where there is no entity.
    """
    counts = dict.fromkeys(MISTAKES, 0)
    for right, found in zip(find_entities(gold), find_entities(predicted), strict=True):
        for kind, start, stop in right:
            touching = [other for other in found if other[1] < stop and start < other[2]]
            if (kind, start, stop) in touching:
                counts["right"] += 1
            elif any(other[1:] == (start, stop) for other in touching):
                counts["type"] += 1
            else:
                counts["boundary" if touching else "missed"] += 1
        for _, start, stop in found:
            counts["spurious"] += not any(start < other[2] and other[1] < stop for other in right)
    return counts


def repairs(gold: Tags, before: Tags, after: Tags) -> dict[str, int]:
    """
    Counts what a change of predictions does.

    Returns:
        `entities`: of gold; `wrong`: those not found before; `repaired`: those of the wrong ones found after;
        `broken`: those found before and not after.
    """
    counts = Counter(entities=0, wrong=0, repaired=0, broken=0)
    for right, old, new in zip(find_entities(gold), find_entities(before), find_entities(after), strict=True):
        counts["entities"] += len(right)
        counts["wrong"] += sum(span not in old for span in right)
        counts["repaired"] += sum(span not in old and span in new for span in right)
        counts["broken"] += sum(span in old and span not in new for span in right)
    return dict(counts)


def calibration(scores: Sequence[float], right: Sequence[bool], bins: int = 10) -> dict[str, Any]:
    """
    Args:
        scores: of the predicted entities, in [0, 1].
        right: whether each is in the gold tags.
        bins: number of bins of equal width.

    Returns:
        Of each bin `counts`, mean score (`confidence`) and share right (`precision`); and `expected_error`, the
        expected calibration error (Guo et al., ICML 2017, eq. 3).

    Raises:
        ValueError: `scores` and `right` differ in length, or a score is outside [0, 1].
    """
    score, correct = np.asarray(scores, dtype=float), np.asarray(right, dtype=bool)
    if score.shape != correct.shape or not ((score >= 0) & (score <= 1)).all():
        raise ValueError(f"Got {score.size} scores for {correct.size} entities; expected as many, all in [0, 1].")
    place = np.minimum((score * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    confidence, precision = (np.bincount(place, x, bins) / np.maximum(counts, 1) for x in (score, correct))
    error = float((counts * abs(confidence - precision)).sum() / max(counts.sum(), 1))
    return {
        "counts": counts.tolist(),
        "confidence": confidence.tolist(),
        "precision": precision.tolist(),
        "expected_error": round(error, 4),
    }
