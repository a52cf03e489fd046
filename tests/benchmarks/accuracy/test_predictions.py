"""Published predictions: they are read as they were written, and scored against the sentences and the tables."""

import itertools
import random

import pytest

from benchmarks.accuracy import predictions
from benchmarks.accuracy.predictions import publish, read, with_gold

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def made_run(seed, columns=3, sentences=30):
    """Rows as `predictions_test.jsonl` has them, gold tags the same for every seed."""
    gold, rng = random.Random(0), random.Random(seed)
    rows = []
    for place in range(sentences):
        length = gold.randint(1, 9)
        row = {"id": f"en-{place}", "tokens": ["x"] * length, "lang": "en", "image_relation": "depicts"}
        tags = gold.choices(TAGS, k=length)
        row["ner_tags"] = [
            tag if not tag.startswith("I-") or before[2:] == tag[2:] else f"B-{tag[2:]}"  # IOB2
            for before, tag in itertools.pairwise(["O", *tags])
        ]
        for column in list(predictions.COLUMNS)[:columns]:
            row[column] = [tag if rng.random() < 0.7 else rng.choice(TAGS) for tag in row["ner_tags"]]
        rows.append(row)
    return rows


def test_predictions_come_back_without_the_sentences(tmp_path):
    path, runs = tmp_path / "set.npz", {("own", 1): made_run(1), ("text", 1): made_run(2, columns=1)}
    publish(path, runs)
    known = {run: [{name: row[name] for name in ("id", *predictions.COLUMNS) if name in row} for row in rows]
             for run, rows in runs.items()}  # fmt: skip
    assert read(path) == known
    assert with_gold(read(path)["own", 1], runs["own", 1]) == runs["own", 1]
    first = path.read_bytes()
    publish(path, {("own", 1): runs["own", 1]})
    assert path.read_bytes() == first  # the other run is kept, and a rerun that reproduces a run changes no file


@pytest.mark.parametrize("others", [made_run(1)[:-1], made_run(1)[::-1]])
def test_predictions_of_other_sentences_are_refused(tmp_path, others):
    path = tmp_path / "set.npz"
    publish(path, {("own", 1): made_run(1)})
    with pytest.raises(ValueError, match="expected the same as the others"):
        with_gold(read(path)["own", 1], others)
    with pytest.raises(ValueError, match="own, seed 2: .* expected the same as the others"):
        publish(path, {("own", 2): others})
