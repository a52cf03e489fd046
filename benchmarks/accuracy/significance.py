"""Significance of a difference in F1 between two taggers on the same sentences: randomization test and bootstrap."""

from collections.abc import Iterator, Sequence

import numpy as np

from mmner.entity_f1 import find_entities

_CHUNK = 256  # random draws computed at a time: bounds the memory, not the result


def sentence_counts(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> np.ndarray:
    """
    Args:
        gold, predicted: IOB2 tags of each sentence.

    Returns:
        (N, 3) int64: the number of correct, predicted and gold entities of each sentence.

    Raises:
        ValueError: another number of sentences, or a sentence of another length.
    """
    if [len(tags) for tags in gold] != [len(tags) for tags in predicted]:
        raise ValueError(
            f"Got gold tags of {len(gold)} sentences and predicted tags of {len(predicted)}; expected the same "
            "sentences in the same order, with as many tags each."
        )
    spans = zip(find_entities(gold), find_entities(predicted), strict=True)
    counts = [(len(set(right) & set(found)), len(found), len(right)) for right, found in spans]
    return np.array(counts, dtype=np.int64).reshape(-1, 3)


def micro_f1(counts: np.ndarray) -> np.ndarray:
    """Entity F1 from counts (..., 3) summed over sentences; 0 where there is no entity at all."""
    correct, predicted, gold = counts[..., 0], counts[..., 1], counts[..., 2]
    return 2 * correct / np.maximum(predicted + gold, 1)


def randomization_test(first: np.ndarray, second: np.ndarray, rounds: int = 10_000, seed: int = 0) -> float:
    """
    Approximate randomization (Noreen 1989; Yeh, COLING 2000) of the difference in mean F1: how often two systems
    differ at least as much as these when their outputs are exchanged at random, sentence by sentence.

    Args:
        first, second: (S, N, 3), the counts of S seeds over the same N sentences. A sentence is exchanged for all
            seeds at once, because the seeds are no independent sentences.
        rounds: number of random exchanges.
        seed: of the random numbers.

    Returns:
        The two-sided p-value, at least 1 / (rounds + 1).

    Raises:
        ValueError: the shapes differ, or there is no sentence.
    """
    _check(first, second)
    rng = np.random.default_rng(seed)
    difference = (first - second).transpose(1, 0, 2).reshape(first.shape[1], -1).astype(np.float64)  # (N, S * 3)
    total = (first + second).sum(axis=1)  # (S, 3)
    observed = abs(_mean_difference(first.sum(axis=1), second.sum(axis=1)))
    as_far = 0
    for draws in _chunks(rounds):
        signs = rng.choice((-1.0, 1.0), size=(draws, len(difference)))
        shift = (signs @ difference).reshape(draws, *total.shape)  # (draws, S, 3)
        found = _mean_difference((total + shift) / 2, (total - shift) / 2)
        as_far += int((np.abs(found) >= observed - 1e-12).sum())
    return (as_far + 1) / (rounds + 1)


def bootstrap_interval(
    first: np.ndarray, second: np.ndarray, rounds: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """
    The 95 % interval of the difference in mean F1 by paired bootstrap over sentences (Koehn, EMNLP 2004); arguments
    and errors as in `randomization_test`.
    """
    _check(first, second)
    rng = np.random.default_rng(seed)
    size = first.shape[1]
    sides = [x.transpose(1, 0, 2).reshape(size, -1).astype(np.float64) for x in (first, second)]
    found = []
    for draws in _chunks(rounds):
        times = rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(np.float64)  # (draws, N)
        found.append(_mean_difference(*((times @ x).reshape(draws, -1, 3) for x in sides)))
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return float(low), float(high)


def _chunks(rounds: int) -> Iterator[int]:
    yield from (min(_CHUNK, rounds - start) for start in range(0, rounds, _CHUNK))


def _mean_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Difference in F1 of counts (..., S, 3), averaged over the seeds."""
    return (micro_f1(first) - micro_f1(second)).mean(axis=-1)


def _check(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape or first.ndim != 3 or first.shape[2] != 3 or 0 in first.shape:
        raise ValueError(
            f"Got counts of shapes {first.shape} and {second.shape}; expected (seeds, sentences, 3) twice, with the "
            "same seeds and sentences, at least one of each."
        )
