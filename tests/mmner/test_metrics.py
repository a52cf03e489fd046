"""The scores, against seqeval's own and cases worked out by hand."""

import logging
import random

import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

from mmner.metrics import entity_scores, find_entities, groups_of

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
STRICT = {"mode": "strict", "scheme": IOB2}


def random_sentences(seed: int, count: int = 60) -> tuple[list[list[str]], list[list[str]]]:
    """Gold tags that are IOB2, and predictions that often are not."""
    rng = random.Random(seed)
    gold, predicted = [], []
    for _ in range(count):
        tags = []
        for _ in range(rng.randint(0, 9)):
            inside = [f"I-{tags[-1][2:]}"] if tags and tags[-1] != "O" else []
            tags.append(rng.choice(["O", "O", "B-PER", "B-LOC", *inside]))
        gold.append(tags)
        predicted.append([tag if rng.random() < 0.7 else rng.choice(TAGS) for tag in tags])
    return gold, predicted


@pytest.mark.parametrize("seed", range(5))
def test_overall_scores_are_seqevals(seed):
    gold, predicted = random_sentences(seed)
    scores = entity_scores(gold, predicted)
    assert scores["f1"] == pytest.approx(f1_score(gold, predicted, **STRICT))
    assert scores["precision"] == pytest.approx(precision_score(gold, predicted, **STRICT))
    assert scores["recall"] == pytest.approx(recall_score(gold, predicted, **STRICT))


@pytest.mark.parametrize("seed", range(3))
def test_a_groups_score_is_seqevals_over_its_sentences_or_types(seed):
    gold, predicted = random_sentences(seed)
    languages = [random.Random(seed + 9).choice(["en", "de"])] * 20 + ["fr"] * (len(gold) - 20)
    relations = ["depicts" if row % 2 else "none" for row in range(len(gold))]
    scores = entity_scores(gold, predicted, languages, relations)
    for groups in (languages, relations):
        for name in set(groups):
            rows = [row for row, group in enumerate(groups) if group == name]
            expected = f1_score([gold[row] for row in rows], [predicted[row] for row in rows], **STRICT)
            assert scores[f"f1_{name}"] == pytest.approx(expected)
    for kind, expected in zip(("LOC", "PER"), f1_score(gold, predicted, average=None, **STRICT), strict=True):
        assert scores[f"f1_{kind}"] == pytest.approx(expected)


def test_by_hand():
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O"]]
    predicted = [["B-PER", "O", "O", "B-LOC"], ["B-ORG", "B-ORG"]]  # a wrong boundary, one too many
    scores = entity_scores(gold, predicted, ["en", "de"], [None, None])
    assert scores == {
        "f1": pytest.approx(4 / 7),  # 2 correct, 3 gold, 4 predicted
        "precision": pytest.approx(2 / 4),
        "recall": pytest.approx(2 / 3),
        "f1_en": pytest.approx(1 / 2),
        "f1_de": pytest.approx(2 / 3),
        "f1_LOC": 1.0,
        "f1_ORG": pytest.approx(2 / 3),
        "f1_PER": 0.0,
    }


def test_an_entity_begins_with_b_alone():
    assert find_entities([["I-PER", "B-PER", "I-LOC", "I-LOC", "B-PER", "I-PER", "B-PER"], []]) == [
        [("PER", 1, 2), ("PER", 4, 6), ("PER", 6, 7)],
        [],
    ]


def test_a_type_name_may_hold_a_hyphen():
    assert find_entities([["B-creative-work", "I-creative-work"]]) == [[("creative-work", 0, 2)]]


def test_a_group_without_gold_entities_has_no_score_even_if_something_is_predicted():
    scores = entity_scores([["B-PER"], ["O"]], [["B-PER"], ["B-LOC"]], ["en", "de"])
    assert set(scores) == {"f1", "precision", "recall", "f1_en", "f1_PER"}
    assert scores["precision"] == 0.5  # the false one still counts over all


def test_a_group_with_gold_entities_of_which_none_is_found_has_zero():
    assert entity_scores([["B-PER"]], [["O"]], ["en"])["f1_en"] == 0.0


def test_a_set_without_entities_has_no_score_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        assert entity_scores([["O"], []], [["B-PER"], []]) == {}
    assert caplog.messages == ["None of the 2 sentences has a gold entity: there is no score."]


def test_two_groups_of_one_name_are_not_mixed_up(caplog):
    scores = entity_scores([["B-none"]], [["B-none"]], ["en"], ["none"])
    assert scores["f1_none"] == 1.0
    assert "The image relation none is left out of the scores" in caplog.text


def test_lengths_that_differ_are_errors():
    with pytest.raises(ValueError, match="1 predicted sentences for 2 gold ones"):
        entity_scores([["O"], ["O"]], [["O"]])
    with pytest.raises(ValueError, match="2 predicted tags for the 1 words of sentence 1"):
        entity_scores([["O"], ["O"]], [["O"], ["O", "O"]])


def test_groups_of_a_set():
    groups = groups_of([["B-PER", "I-PER"], ["O", "B-LOC"]], ["fr", "en"], [None, "depicts"])
    assert groups == {"language": ["en", "fr"], "type": ["LOC", "PER"], "image": ["depicts"]}
