"""Kinds of mistakes, repairs and calibration: by hand, by invariants, and by scores drawn to be calibrated."""

import random

import numpy as np
import pytest

from benchmarks.accuracy.analysis import calibration, mistakes, repairs
from mmner.entity_f1 import entity_scores, find_entities


@pytest.mark.parametrize(
    "gold, predicted, kinds",
    [
        ("B-PER I-PER O B-LOC", "B-PER I-PER O B-ORG", "right type"),
        ("O B-ORG O", "B-PER O O", "missed spurious"),
        ("O B-PER", "B-PER I-PER", "boundary"),
        ("B-LOC B-LOC O", "B-LOC I-LOC O", "boundary boundary"),
    ],
)
def test_each_kind_of_mistake(gold, predicted, kinds):
    found = mistakes([gold.split()], [predicted.split()])
    assert found == {kind: kinds.split().count(kind) for kind in found}


def test_mistakes_sum_to_the_counts_of_the_scorer():
    rng = random.Random(0)

    def sentence():
        words, before = [], "O"
        for _ in range(9):
            tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
            before = rng.choice([tag for tag in tags if tag[0] != "I" or before[1:] == tag[1:]])
            words.append(before)
        return words

    gold, predicted = [sentence() for _ in range(200)], [sentence() for _ in range(200)]
    counts = mistakes(gold, predicted)
    assert min(counts.values()) > 0
    entities = sum(map(len, find_entities(gold)))
    assert sum(counts.values()) - counts["spurious"] == entities
    assert counts["right"] / entities == pytest.approx(entity_scores(gold, predicted)["recall"])


def test_repairs_by_hand():
    gold = [["B-PER", "O", "B-LOC"], ["B-ORG", "I-ORG", "O"]]
    before = [["B-PER", "O", "B-ORG"], ["B-ORG", "O", "O"]]
    after = [["B-LOC", "O", "B-LOC"], ["B-ORG", "I-ORG", "B-PER"]]
    assert repairs(gold, before, after) == {"entities": 3, "wrong": 2, "repaired": 2, "broken": 1}
    assert repairs(gold, gold, gold) == {"entities": 3, "wrong": 0, "repaired": 0, "broken": 0}


def test_scores_that_are_probabilities_are_calibrated_and_others_are_not():
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=20_000)
    right = rng.uniform(size=20_000) < scores
    assert calibration(scores, right)["expected_error"] < 0.02
    # Right half as often as claimed: the error is the mean of |s - s / 2|.
    half = calibration(scores, rng.uniform(size=20_000) < scores / 2)
    assert half["expected_error"] == pytest.approx(0.25, abs=0.02)


def test_calibration_by_hand():
    found = calibration([0.95, 1.0, 0.05, 0.15], [True, False, False, True])
    assert found["counts"] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert found["confidence"][9] == pytest.approx(0.975) and found["precision"][9] == 0.5
    assert found["expected_error"] == pytest.approx((0.05 + 0.85 + 2 * 0.475) / 4)
    assert calibration([], [])["expected_error"] == 0.0


@pytest.mark.parametrize("scores, right", [([1.2], [True]), ([0.1, 0.2], [True])])
def test_scores_outside_0_to_1_or_of_another_length_are_refused(scores, right):
    with pytest.raises(ValueError, match="all in .0, 1."):
        calibration(scores, right)
