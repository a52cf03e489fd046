"""Published predictions: they come back as they were, and are held against the sentences and the tables."""

import itertools
import json
import random

import pytest

from benchmarks.accuracy import predictions
from benchmarks.accuracy.accuracy import compare
from benchmarks.accuracy.predictions import of_run, publish, published, with_gold

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def made_run(seed, sentences=30):
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
        for column in predictions.SCORES:
            row[column] = [tag if rng.random() < 0.7 else rng.choice(TAGS) for tag in row["ner_tags"]]
        rows.append(row)
    return rows


@pytest.mark.parametrize("columns", [3, 1])
def test_what_is_published_comes_back_without_the_sentences(tmp_path, columns):
    names = list(predictions.SCORES)[:columns]
    rows = made_run(1)
    rows = [{name: row[name] for name in ("id", "tokens", "ner_tags", *names)} for row in rows]
    path = tmp_path / "set" / "system-1.npz"
    publish(rows, path)
    assert published(path) == [{name: row[name] for name in ("id", *names)} for row in rows]
    assert with_gold(published(path), rows) == rows
    first = path.read_bytes()
    publish(rows, path)
    assert path.read_bytes() == first  # a rerun that reproduces a run changes no file


def test_a_system_is_compared_with_published_predictions_as_with_its_run(tmp_path):
    ours, other = made_run(1), made_run(2)
    publish(other, tmp_path / "other-1.npz")
    read = with_gold(published(tmp_path / "other-1.npz"), ours)
    assert compare([ours], [read], ["all", "en"]) == compare([ours], [other], ["all", "en"])


@pytest.mark.parametrize("change", ["fewer", "another order"])
def test_predictions_of_other_sentences_are_refused(tmp_path, change):
    rows = made_run(1)
    publish(rows, tmp_path / "system-1.npz")
    others = rows[:-1] if change == "fewer" else rows[::-1]
    with pytest.raises(ValueError, match="Expected the same sentences in the same order"):
        with_gold(published(tmp_path / "system-1.npz"), others)


def test_scores_are_made_again_from_what_is_published(tmp_path, monkeypatch, capsys):
    rows = made_run(1)
    folder = tmp_path / "data"
    folder.mkdir()
    columns = ("id", "tokens", "ner_tags", "lang")
    lines = [json.dumps({name: row[name] for name in columns}) for row in rows]
    (folder / "test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    run = tmp_path / "run"
    run.mkdir()
    (run / "predictions_test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    monkeypatch.setattr(predictions, "RESULTS", tmp_path)
    monkeypatch.setattr(predictions, "PUBLISHED", tmp_path / "predictions")
    monkeypatch.setattr("sys.argv", ["predictions.py", f"toy={folder}"])
    publish(of_run(run), tmp_path / "predictions" / "toy" / "system-1.npz")

    scores = {}
    for column, name in predictions.SCORES.items():
        right = sum(span in gold_spans(row) for row in rows for span in spans(row[column]))
        total = sum(len(spans(row[column])) + len(gold_spans(row)) for row in rows)
        scores[name] = round(2 * right / total, 5)
    facts = [{"data": "toy", "runs": [{"system": "system", "seed": 1, "scores": scores}]}]
    (tmp_path / "accuracy.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        predictions.main()
    assert ended.value.code == 0

    scores["test_text_only_f1"] += 0.001
    (tmp_path / "ablations.json").write_text(json.dumps(facts), encoding="utf-8")  # one of two tables is wrong
    with pytest.raises(SystemExit) as ended:
        predictions.main()
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert said.count("but the tables say") == 1 and "test_text_only_f1" in said


def spans(tags):
    """Entities by a loop of the test's own: an I- that continues nothing begins none."""
    found, start = [], None
    for place, tag in enumerate([*tags, "O"]):
        goes_on = start is not None and tag.startswith("I-") and tag[2:] == tags[start][2:]
        if start is not None and not goes_on:
            found.append((start, place, tags[start][2:]))
            start = None
        if tag.startswith("B-"):
            start = place
    return found


def gold_spans(row):
    return spans(row["ner_tags"])
