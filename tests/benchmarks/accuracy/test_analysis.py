"""Kinds of mistakes, and calibration: by hand, by invariants, and by scores drawn to be calibrated."""

import random

import numpy as np
import pytest

from benchmarks.accuracy.analysis import MISTAKES, calibration, judge, mistakes, repairs
from mmner.entity_f1 import entity_scores, find_entities


def test_each_kind_of_mistake():
    gold = [["B-PER", "I-PER", "O", "B-LOC", "O", "B-ORG"], ["O", "B-PER"], ["B-LOC", "B-LOC", "O"]]
    predicted = [["B-PER", "I-PER", "O", "B-ORG", "B-PER", "O"], ["B-PER", "I-PER"], ["B-LOC", "I-LOC", "O"]]
    assert [one.kind for one in judge(gold, predicted)] == [
        *("right", "type", "missed", "spurious"),
        "boundary",
        *("boundary", "boundary"),
    ]


def test_mistakes_add_up_to_what_the_scorer_counts():
    rng = random.Random(0)
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]

    def sentence():
        words, before = [], "O"
        for _ in range(9):
            before = rng.choice([tag for tag in tags if tag[0] != "I" or before[1:] == tag[1:]])
            words.append(before)
        return words

    gold, predicted = [sentence() for _ in range(200)], [sentence() for _ in range(200)]
    counts = mistakes(judge(gold, predicted))
    assert set(counts) == set(MISTAKES) and min(counts.values()) > 0
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
    assert calibration(scores, right).expected_error < 0.02
    # Twice as far from certain as claimed: the error is the mean of |s - s / 2|.
    assert calibration(scores, rng.uniform(size=20_000) < scores / 2).expected_error == pytest.approx(0.25, abs=0.02)


def test_calibration_by_hand():
    found = calibration([0.95, 1.0, 0.05, 0.15], [True, False, False, True], bins=10)
    assert found.counts == [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert found.confidence[9] == pytest.approx(0.975) and found.precision[9] == 0.5
    assert found.expected_error == pytest.approx((0.05 + 0.85 + 2 * 0.475) / 4)
    assert calibration([], []).expected_error == 0.0


def test_scores_that_are_none_are_refused():
    with pytest.raises(ValueError, match="all in .0, 1."):
        calibration([1.2], [True])
    with pytest.raises(ValueError, match="2 scores for 1"):
        calibration([0.1, 0.2], [True])
