"""Whether one tagger is better than another on the same sentences, or was lucky: randomisation and bootstrap."""

from collections.abc import Sequence

import numpy as np

from mmner.entity_f1 import find_entities

# Random draws computed at a time: bounds the memory, not the result.
_DRAWS_AT_ONCE = 256


def sentence_counts(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> np.ndarray:
    """
    Args:
        gold, predicted: IOB2 tags of each sentence.

    Returns:
        (N, 3) int64: entities right, predicted, and in the gold tags of each sentence.

    Raises:
        ValueError: not as many sentences, or a sentence of another length.
    """
    if [len(tags) for tags in gold] != [len(tags) for tags in predicted]:
        raise ValueError(
            f"Gold tags of {len(gold)} sentences and predictions of {len(predicted)} do not belong together: expected "
            "the same sentences, in the same order, with as many tags each."
        )
    return np.array(
        [
            (len(set(right) & set(found)), len(found), len(right))
            for right, found in zip(find_entities(gold), find_entities(predicted), strict=True)
        ],
        dtype=np.int64,
    ).reshape(-1, 3)


def micro_f1(counts: np.ndarray) -> np.ndarray:
    """Entity F1 from counts (..., 3) that are summed over sentences; 0 where there is no entity at all."""
    right, found, gold = counts[..., 0], counts[..., 1], counts[..., 2]
    return 2 * right / np.maximum(found + gold, 1)


def randomization_test(first: np.ndarray, second: np.ndarray, rounds: int = 10_000, seed: int = 0) -> float:
    """
    Approximate randomisation (Noreen 1989; Yeh, COLING 2000): how often systems whose outputs are exchanged sentence
    by sentence, at random, differ at least as much as these two.

    Args:
        first, second: (S, N, 3), the counts of S seeds over the same N sentences. A sentence is exchanged for all
            seeds at once, so that seeds do not pass for sentences. The difference is that of the mean F1.
        rounds: random exchanges.
        seed: of them.

    Returns:
        The two-sided p-value, at least 1 / (rounds + 1).

    Raises:
        ValueError: shapes that differ, or no sentence.
    """
    _check(first, second)
    rng = np.random.default_rng(seed)
    difference = (first - second).transpose(1, 0, 2).reshape(first.shape[1], -1).astype(np.float64)  # (N, S * 3)
    total = (first + second).sum(axis=1)  # (S, 3)
    observed = abs(_mean_difference(first.sum(axis=1), second.sum(axis=1)))
    as_far = 0
    for start in range(0, rounds, _DRAWS_AT_ONCE):
        draws = min(_DRAWS_AT_ONCE, rounds - start)
        signs = rng.choice((-1.0, 1.0), size=(draws, len(difference)))
        shift = (signs @ difference).reshape(draws, *total.shape)  # (draws, S, 3)
        found = _mean_difference((total + shift) / 2, (total - shift) / 2)
        as_far += int((np.abs(found) >= observed - 1e-12).sum())
    return (as_far + 1) / (rounds + 1)


def bootstrap_interval(
    first: np.ndarray, second: np.ndarray, rounds: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """
    The interval in which the difference of the mean F1 of `first` and `second` lies for sentences drawn anew, with
    replacement (paired bootstrap: Koehn, EMNLP 2004).

    Args:
        first, second: (S, N, 3), as in `randomization_test`.
        rounds: sets of sentences drawn.
        seed: of the draws.
        level: the share of them inside the interval.

    Raises:
        ValueError: shapes that differ, or no sentence.
    """
    _check(first, second)
    rng = np.random.default_rng(seed)
    size = first.shape[1]
    sides = [x.transpose(1, 0, 2).reshape(size, -1).astype(np.float64) for x in (first, second)]
    found = []
    for start in range(0, rounds, _DRAWS_AT_ONCE):
        draws = min(_DRAWS_AT_ONCE, rounds - start)
        times = rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(np.float64)  # (draws, N)
        found.append(_mean_difference(*((times @ x).reshape(draws, -1, 3) for x in sides)))
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _mean_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of the F1 of counts (..., S, 3), the mean over the seeds."""
    return (micro_f1(first) - micro_f1(second)).mean(axis=-1)


def _check(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape or first.ndim != 3 or first.shape[2] != 3 or 0 in first.shape:
        raise ValueError(
            f"Got counts of shapes {first.shape} and {second.shape}; expected (seeds, sentences, 3) twice, with the "
            "same seeds and sentences, at least one of each."
        )


__all__ = ["bootstrap_interval", "micro_f1", "randomization_test", "sentence_counts"]
