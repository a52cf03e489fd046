"""IOB2 is one rule: dataset, metric and pipeline find seqeval's entities; and the tags of a row by name."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from seqeval.scheme import IOB2, Entities

from dataset_script.rows import (
    TagError,
    iob2_problems,
    iob2_spans,
    iob2_tags,
    is_unlabelled,
    mended_tags,
    tag_names,
)
from mmner.entity_f1 import find_entities
from pipeline_2mner import TwoMNERPipeline

NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
SEQUENCES = [
    [NAMES[number] for number in numbers]
    for length in range(6)
    for numbers in itertools.product(range(5), repeat=length)
]


def test_every_door_reads_seqevals_entities_of_every_sequence():
    expected = [
        [(entity.start, entity.end, entity.tag) for entity in entities]
        for entities in Entities(SEQUENCES, scheme=IOB2).entities
    ]
    assert len(SEQUENCES) == 3906
    assert [list(iob2_spans(tags)) for tags in SEQUENCES] == expected
    assert [[(*place, kind) for kind, *place in found] for found in find_entities(SEQUENCES)] == expected
    pipe = SimpleNamespace(_begins={1: ("PER", 2), 3: ("LOC", 4)}, _outside=0)
    for tags, spans in zip(SEQUENCES, expected, strict=True):
        found = TwoMNERPipeline._spans_of(pipe, [NAMES.index(tag) for tag in tags])
        assert [(start, end, NAMES[begin][2:]) for start, end, begin, _ in found] == spans


def test_mended_tags_are_iob2_and_others_stay():
    for tags in SEQUENCES:
        mended = mended_tags(tags)
        assert not list(iob2_problems(mended))
        sound = not list(iob2_problems(tags))
        assert (mended == tags) == sound
    assert mended_tags(["I-PER", "I-LOC", "I-LOC"]) == ["B-PER", "B-LOC", "I-LOC"]


def test_the_tags_of_a_row_are_numbers_or_names():
    tokens = ["Ada", "Brand", "in", "Bergen"]
    expected = ["B-PER", "I-PER", "O", "B-LOC"]
    for tags in ([1, 2, 0, 3], np.array([1, 2, 0, 3]), tuple(expected), [1, "I-PER", 0, "B-LOC"]):
        assert iob2_tags(tokens, tags, NAMES) == expected
    assert iob2_tags(tokens, expected) == expected
    assert iob2_tags([], [], NAMES) == []


BAD_ROWS = [
    (["a", "b"], [0, -1], "no gold label", "-1 came as tag 2 (token 'b'), which is no gold label; expected a number "),
    (["a", "b"], None, "no gold label", "ner_tags is None; expected a tag for each token"),
    (["a", "b"], [0, 99], "wrong value", "99 came as tag 2 (token 'b'); expected a number from 0 (O) to 4 (I-LOC)"),
    (["a", "b"], [0.0, 1.0], "wrong value", "0.0 came as tag 1"),
    (["a", "b"], [False, True], "wrong value", "False came as tag 1"),
    (["a", "b"], "OO", "wrong value", "ner_tags is 'OO'; expected a list"),
    (["a", None], [0, 1], "wrong value", "token 2 is None; expected text"),
    (None, [0, 1], "wrong value", "tokens is None; expected a list"),
    (["a"], [0, 1], "length mismatch", "1 tokens and 2 ner_tags came; expected as many tags as tokens"),
]


@pytest.mark.parametrize(("tokens", "tags", "reason", "message"), BAD_ROWS)
def test_tags_that_are_none_say_which_and_what_is_expected(tokens, tags, reason, message):
    with pytest.raises(TagError) as caught:
        tag_names(tokens, tags, NAMES)
    assert caught.value.reason == reason and str(caught.value).startswith(message)


def test_numbers_without_names_and_names_that_are_not_iob2():
    with pytest.raises(TagError, match=r"0 came as tag 1 \(token 'a'\); expected O, B-TYPE or I-TYPE"):
        tag_names(["a"], [0])
    with pytest.raises(TagError, match="'PER' came as tag 1 .*; expected O, B-TYPE or I-TYPE"):
        iob2_tags(["a"], [1], ["O", "PER"])
    with pytest.raises(TagError, match="'I-LOC' came as tag 2 .* after 'B-PER'; in IOB2 an entity begins") as caught:
        iob2_tags(["a", "b"], [1, 4], NAMES)
    assert caught.value.mended == "B-LOC"


def test_a_row_without_gold_labels():
    assert all(map(is_unlabelled, [None, [-1], [-100, -100], [None, None], [-1, None]]))
    assert not any(map(is_unlabelled, [[], [0], [-1, 0], ["O"], [-2], ["-1"]]))
