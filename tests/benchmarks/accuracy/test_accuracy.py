"""The grid: a system is compared with published predictions as with its own runs; nothing is trained needlessly."""

import json
import random

import pytest
from written_files import write_file, write_jsonl

from benchmarks.accuracy import accuracy

LABELS = ("O", "B-PER", "B-LOC")
QUALITY = {"good": 0.9, "fair": 0.7, "poor": 0.4}


def fake_run(arguments, folder, dataset, options, seed):
    """In place of training: tags that are right as often as the system is good, drawn by system and seed."""
    name = folder.name.rpartition("-")[0]
    gold, rng = random.Random(0), random.Random(f"{name}-{seed}")
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
    write_jsonl(folder / "predictions_test.jsonl", *rows)
    write_file(folder / "all_results.json", {"test_f1": rng.random(), "train_samples": 9})


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """Calls the command with systems and --against; returns the facts of its set."""
    monkeypatch.setattr(accuracy, "run", fake_run)
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path / "published")

    def call(systems, against, output="out", data="toy=folder"):
        file = tmp_path / "systems.yaml"
        file.write_text("".join(f"{name}: {{}}\n" for name in QUALITY), encoding="utf-8")
        words = f"--text_model t --vision_model v --data {data} --systems_file {file} --systems {systems} "
        words += f"--against {against} --output_dir {tmp_path / 'grid'} --output {tmp_path / output / 'a.json'}"
        monkeypatch.setattr("sys.argv", ["accuracy.py", *words.split(), "--seeds", "1", "2", "--", "--bf16=false"])
        accuracy.main()
        return json.loads((tmp_path / output / "a.json").read_text(encoding="utf-8"))

    return call


def test_a_system_is_compared_with_published_predictions_as_with_its_runs(grid, tmp_path):
    (at_once,) = grid("good poor", "good", output="published")
    (tmp_path / "grid" / "toy" / "good-1" / "predictions_test.jsonl").unlink()  # only what is published is left
    (alone,) = grid("poor", "good")
    assert alone["runs"] == at_once["runs"][2:] and len(alone["runs"]) == 2
    pairs = [(pair["system"], pair["against"]) for pair in alone["comparisons"]]
    assert pairs == [("poor", "images hidden"), ("poor", "good")]
    assert all(pair in at_once["comparisons"] for pair in alone["comparisons"])
    difference = alone["comparisons"][1]["slices"]["all"]
    assert (
        difference["difference"] == pytest.approx(sum(difference["by_seed"]) / 2, abs=1e-5) and difference["p"] < 0.05
    )


def test_other_sets_in_the_output_are_kept(grid):
    (first,) = grid("good", "good")
    assert [facts["data"] for facts in grid("fair", "fair", data="other=folder")] == ["toy", "other"]
    assert grid("good", "good")[0] == first


def test_a_system_whose_predictions_are_nowhere_is_refused_before_training(grid, tmp_path):
    with pytest.raises(ValueError, match="--against good: there are no published predictions"):
        grid("poor", "good")
    assert not (tmp_path / "grid").exists()
