"""The grid's tables: rows made by one command, by several, and again; none is lost, none is mixed with others."""

import json
import random

import pytest

from benchmarks.accuracy import accuracy
from benchmarks.accuracy.accuracy import compare
from benchmarks.accuracy.predictions import of_run

LABELS = ("O", "B-PER", "B-LOC")
QUALITY = {"good": 0.9, "fair": 0.7, "poor": 0.4}


def fake_run(arguments, folder, dataset, options, seed):
    """In place of a training: tags that are right as often as the system is good, drawn by system and seed."""
    name = folder.name.rpartition("-")[0]
    gold, rng = random.Random(0), random.Random(f"{options['draw']}-{name}-{seed}")
    rows = []
    for place in range(40):
        tags = gold.choices(LABELS, k=gold.randint(1, 6))
        found = [tag if rng.random() < QUALITY[name] else rng.choice(LABELS) for tag in tags]
        entities = [
            {"type": tag[2:], "start": i, "end": i + 1, "score": 0.5} for i, tag in enumerate(found) if tag != "O"
        ]
        row = {"id": str(place), "lang": "en", "image_relation": "depicts", "tokens": ["x"] * len(tags)}
        row |= {"ner_tags": tags, "predicted_tags": found, "entities": entities}
        rows.append(row | {"text_only_tags": rng.choices(LABELS, k=len(tags))})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions_test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / accuracy.RESULTS).write_text(json.dumps({"test_f1": rng.random(), "train_samples": 9}), encoding="utf-8")


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """Calls the command with systems, against, and more; gives the facts of its set."""
    monkeypatch.setattr(accuracy, "run", fake_run)
    monkeypatch.setattr(accuracy, "PUBLISHED", tmp_path / "elsewhere")

    def call(systems, against, *more, draw=0, options="--max_train_samples=9"):
        file = tmp_path / "systems.yaml"
        file.write_text("".join(f"{name}: {{draw: {draw}}}\n" for name in QUALITY), encoding="utf-8")
        words = f"--text_model t --vision_model v --data toy=folder --systems_file {file} --systems {systems} "
        words += f"--against {against} --output_dir {tmp_path / 'grid'} --output {tmp_path / 'out.json'} --seeds 1 2"
        monkeypatch.setattr("sys.argv", ["benchmarks/accuracy/accuracy.py", *words.split(), *more, "--", options])
        accuracy.main()
        return json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))[0]

    return call


def pairs_of(facts):
    return [(pair["system"], pair["against"]) for pair in facts["comparisons"]]


def pair_of(facts, system, against):
    return next(pair for pair in facts["comparisons"] if (pair["system"], pair["against"]) == (system, against))


def test_a_row_is_added_without_training_the_others(grid, tmp_path):
    before = grid("good fair", "good")
    (tmp_path / "grid" / "toy" / "good-1" / "predictions_test.jsonl").unlink()  # only what is published is left
    after = grid("poor", "good")
    assert list(after["systems"]) == [*before["systems"], "poor"]
    assert [made["systems"] for made in after["made"]] == [["good", "fair"], ["poor"]]
    assert all(run in after["runs"] for run in before["runs"]) and len(after["runs"]) == 6
    assert all(pair in after["comparisons"] for pair in before["comparisons"])
    assert set(pairs_of(after)) - set(pairs_of(before)) == {("poor", "images hidden"), ("poor", "good")}


def test_tables_made_in_parts_are_those_made_at_once(grid, tmp_path):
    grid("good", "good")
    grid("fair", "good")
    parts = grid("poor", "good")
    (tmp_path / "out.json").unlink()
    at_once = grid("good fair poor", "good")
    assert {key: parts[key] for key in ("runs", "systems")} == {key: at_once[key] for key in ("runs", "systems")}
    for pair in at_once["comparisons"]:
        assert pair_of(parts, pair["system"], pair["against"]) == pair
    assert sorted(pairs_of(parts)) == sorted(pairs_of(at_once))


def test_a_row_made_again_is_compared_again(grid, tmp_path):
    before = grid("good fair poor", "good fair")
    after = grid("good", "fair", draw=1)
    assert [made["systems"] for made in after["made"]] == [["fair", "poor"], ["good"]]
    assert [run for run in after["runs"] if run["system"] != "good"] == before["runs"][2:]
    assert sorted(pairs_of(after)) == sorted(pairs_of(before))
    folders = {name: [tmp_path / "grid" / "toy" / f"{name}-{seed}" for seed in (1, 2)] for name in ("good", "fair")}
    rows = {name: [of_run(folder) for folder in found] for name, found in folders.items()}
    expected = compare(rows["fair"], rows["good"], ["all", "depicts", "en"])
    assert pair_of(after, "fair", "good")["slices"] == expected != pair_of(before, "fair", "good")["slices"]


@pytest.mark.parametrize("change", ["seeds", "options", "towers"])
def test_rows_of_other_runs_are_not_put_into_one_table(grid, tmp_path, change):
    grid("good fair", "good")
    before = (tmp_path / "out.json").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="Name these systems, too, or give another --output"):
        if change == "seeds":
            grid("poor", "good", "--seeds", "1")
        elif change == "towers":
            grid("poor", "good", "--text_model", "another")
        else:
            grid("poor", "good", options="--max_train_samples=8")
    assert (tmp_path / "out.json").read_text(encoding="utf-8") == before
    assert not (tmp_path / "grid" / "toy" / "poor-1").exists(), "refused before training"


def test_a_system_whose_predictions_are_nowhere_is_refused_before_training(grid, tmp_path):
    with pytest.raises(ValueError, match="to compare with good, its predictions are needed"):
        grid("poor", "good")
    assert not (tmp_path / "grid").exists()
