"""Test sentences otherwise than they were written: what changes, and what stays beside it."""

import datasets
import pytest

import run_mmner
from benchmarks.accuracy.robust import PICTURES, SLICES, WAYS, changed, score_run
from mmner.arguments import parse_arguments
from mmner.data import load_splits

LABELS = ["O", "B-LOC", "I-LOC"]


def test_text_changes_and_all_else_stays():
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=LABELS)),
        }
    )
    data = {"id": ["7", "8"], "tokens": [["In", "New", "York", "!"], ["No", "."]], "ner_tags": [[0, 1, 2, 0], [0, 0]]}
    rows = datasets.Dataset.from_dict(data, features=features)
    found = {way: changed(rows, way) for way in WAYS}
    assert all(made.features == features and made["id"][:] == ["7", "8"] for made in found.values())
    assert found["as written"][:] == rows[:]
    assert found["capitals"]["tokens"][:] == [["IN", "NEW", "YORK", "!"], ["NO", "."]]
    last = found["lower case, no punctuation"]
    assert last["tokens"][:] == [["in", "new", "york"], ["no"]]
    assert last["ner_tags"][:] == [[0, 1, 2], [0]]


RECIPE = """
dataset: probe
probe_sentences: 240
text_model: tiny
vision_model: tiny
collaboration: evidence
alignment: none
freeze_vision_model: all
num_train_epochs: 4
per_device_train_batch_size: 16
learning_rate: 2e-3
use_cpu: true
disable_tqdm: true
"""


def test_as_written_a_run_scores_what_it_scored_when_it_ended(tmp_path):
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    argv = [str(recipe), "--output_dir", str(tmp_path / "run")]
    results = run_mmner.main(argv)
    _, data_args, args = parse_arguments([*argv, "--do_train", "false"])
    rows = load_splits(data_args, ["test"], tmp_path / "_data", args.seed)["test"]
    ways = {way: changed(rows, way) for way in ("as written", "capitals")}
    pictures, elsewhere = score_run(tmp_path / "run", args, ways, {"itself": rows}, tmp_path / "store")
    assert pictures["as written"] == {
        part: {kind: pytest.approx(results[f"{prefix}_{score}"]) for kind, prefix in PICTURES.items()}
        for part, score in SLICES.items()
        if f"test_{score}" in results
    }
    assert elsewhere == {"itself": pytest.approx(results["test_text_only_f1"])}
    assert results["test_f1"] > 0.1
    assert pictures["capitals"]["all"]["hidden"] != pytest.approx(results["test_text_only_f1"])
