"""Posts tagged by the model itself, beside training rows of new types."""

import datasets
import pytest
import sharded_rows
import torch
from tiny_pipelines import LABELS

from mmner.data.splits import with_known_types
from mmner.training.labels import with_labels
from mmner.training.rehearsal import with_rehearsal

NEW = ["O", "B-DISH", "I-DISH"]


def rows_of(labels):
    tokens = [["hot", "soup"], ["Anna", "fliegt", "nach", "Rom", "!"]]
    rows = sharded_rows.rows_of(tokens, [[1, 2], [0] * 5], id=["1", "2"], lang=["en", "de"])
    rows = rows.cast_column("ner_tags", datasets.List(datasets.ClassLabel(names=labels)))
    return with_known_types(rows, ["DISH"])


@pytest.fixture(scope="module")
def rows():
    return rows_of(NEW)


def test_own_tags_are_what_the_model_finds_and_rows_keep_theirs(ner, rows):
    model = with_labels(ner.model, [*LABELS, "B-DISH", "I-DISH"])
    with torch.no_grad():  # a model that takes everything for a dish
        model.classifier.bias[-2:] += 100
    found = with_rehearsal(rows, model, ["PER", "LOC"], ner.processor, 40, seed=1)
    names = found.features["ner_tags"].feature.names
    assert names == [*LABELS, "B-DISH", "I-DISH"] and len(found) == 42
    assert [names[tag] for tag in found[0]["ner_tags"]] == ["B-DISH", "I-DISH"]
    assert found[0]["known_types"] == found[1]["known_types"] == ["PER", "LOC", "DISH"]
    assert found["tokens"][:2] == rows["tokens"][:] and found["id"][:2] == ["1", "2"]
    posts = found.select(range(2, 42))
    assert all(known == ["PER", "LOC", "DISH"] for known in posts["known_types"])
    assert {*posts["lang"]} == {"de", "en", "es", "fr"}
    tagged = found.select(range(1, 42))  # less the first, whose words are a dish
    for tokens, tags in zip(tagged["tokens"], tagged["ner_tags"], strict=True):
        expected = ["O"] * len(tokens)
        for word in ner({"tokens": tokens}, aggregation_strategy="none"):
            expected[word["index"] - 1] = word["entity"]
        assert [names[tag] for tag in tags] == expected


def test_the_seed_chooses_the_posts(ner, rows):
    model = with_labels(ner.model, [*LABELS, "B-DISH", "I-DISH"])
    one, same, other = (
        with_rehearsal(rows, model, ["PER", "LOC"], ner.processor, 6, seed)["tokens"][:] for seed in (1, 1, 2)
    )
    assert one == same != other


def test_posts_keep_the_types_that_the_rows_have_too(ner, rows):
    model = with_labels(ner.model, [*LABELS, "B-DISH", "I-DISH"])
    shared = rows_of([*NEW, "B-PER", "I-PER"])
    alone, beside = (with_rehearsal(some, model, ["PER", "LOC"], ner.processor, 40, seed=1) for some in (rows, shared))
    names = [found.features["ner_tags"].feature.names for found in (alone, beside)]
    tags = [
        [[of[tag] for tag in row] for row in found["ner_tags"]]
        for of, found in zip(names, (alone, beside), strict=True)
    ]
    assert tags[0][2:] == tags[1][2:] and any("B-PER" in row for row in tags[1][2:])
    assert not any("PER" in tag for row in tags[1][:2] for tag in row)  # the rows say themselves where persons are
