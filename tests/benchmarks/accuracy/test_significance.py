"""Significance of a difference in F1: against every exchange there is, closed forms, and the scorer itself."""

import itertools

import numpy as np
import pytest

from benchmarks.accuracy.significance import bootstrap_interval, micro_f1, randomization_test, sentence_counts
from mmner.entity_f1 import entity_scores

GOLD = [["B-PER", "I-PER", "O"], ["O", "B-LOC"], ["O"], ["B-ORG"]]
PREDICTED = [["B-PER", "O", "O"], ["O", "B-LOC"], ["B-PER"], ["B-LOC"]]


def test_counts_give_the_score_of_the_scorer():
    counts = sentence_counts(GOLD, PREDICTED)
    assert counts.tolist() == [[0, 1, 1], [1, 1, 1], [0, 1, 0], [0, 1, 1]]
    scores = entity_scores(GOLD, PREDICTED, [None] * 4, [None] * 4)
    assert micro_f1(counts.sum(axis=0)) == pytest.approx(scores["f1"])


def drawn(rng, seeds, sentences, skill):
    gold = np.tile(rng.integers(0, 4, size=sentences), (seeds, 1))
    right = rng.binomial(gold, skill)
    found = right + rng.binomial(gold - right + 1, 0.4)
    return np.stack([right, found, gold], axis=2)


def test_random_exchanges_agree_with_all_exchanges():
    rng = np.random.default_rng(1)
    first = drawn(rng, 2, 10, 0.9)
    second = first.copy()
    second[..., :2] = drawn(rng, 2, 10, 0.6)[..., :2]

    def difference(a, b):
        return np.mean([micro_f1(x) - micro_f1(y) for x, y in zip(a.sum(axis=1), b.sum(axis=1), strict=True)])

    observed, far = abs(difference(first, second)), 0
    for swap in itertools.product([False, True], repeat=10):
        swap = np.array(swap)[None, :, None]
        found = difference(np.where(swap, second, first), np.where(swap, first, second))
        far += abs(found) >= observed - 1e-12
    exact = far / 2**10
    assert 0.005 < exact < 0.5, "a case that tells something"
    assert randomization_test(first, second, rounds=20_000) == pytest.approx(exact, abs=0.015)


def test_equal_systems_do_not_differ_and_unlike_ones_do():
    rng = np.random.default_rng(0)
    good = drawn(rng, 3, 400, 0.9)
    assert randomization_test(good, good, rounds=500) == 1.0
    assert bootstrap_interval(good, good, rounds=500) == (0.0, 0.0)
    bad = good.copy()
    bad[..., 0] = rng.binomial(bad[..., 0], 0.9)
    assert randomization_test(good, bad, rounds=500) == pytest.approx(1 / 501)
    low, high = bootstrap_interval(good, bad, rounds=500)
    difference = (micro_f1(good.sum(axis=1)) - micro_f1(bad.sum(axis=1))).mean()
    assert 0 < low < difference < high


def test_the_interval_is_that_of_the_normal_approximation():
    rng = np.random.default_rng(5)
    sides = []
    for skill in (0.8, 0.7):
        right = rng.binomial(1, skill, size=2000)
        sides.append(np.stack([right, np.ones(2000, dtype=int), np.ones(2000, dtype=int)], axis=1)[None])
    # One entity a sentence, always predicted: F1 is the mean of `right`.
    apart = (sides[0][0, :, 0] - sides[1][0, :, 0]).astype(float)
    half = 1.96 * apart.std() / 2000**0.5
    low, high = bootstrap_interval(*sides, rounds=4000)
    assert (low, high) == pytest.approx((apart.mean() - half, apart.mean() + half), abs=0.15 * half)


def test_counts_of_other_sentences_are_refused():
    with pytest.raises(ValueError, match="expected the same sentences"):
        sentence_counts(GOLD, PREDICTED[:3])
    counts = sentence_counts(GOLD, PREDICTED)[None]
    with pytest.raises(ValueError, match="expected .seeds, sentences, 3."):
        randomization_test(counts, counts[:, :2])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval(counts[:, :0], counts[:, :0])
