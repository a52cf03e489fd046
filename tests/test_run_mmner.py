"""A whole run on a small synthetic set with tiny towers: every file and name of the run contract, and a resume."""

import json
import logging
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForTokenClassification
from written_files import read_jsonl, write_jsonl

import run_mmner
from mmner.entity_f1 import entity_scores

RECIPE = """{
dataset: probe, probe_sentences: 240, text_model: tiny, vision_model: tiny, alignment: clip, modality_dropout: 0.1,
num_train_epochs: 4, save_total_limit: 4, per_device_train_batch_size: 16, per_device_eval_batch_size: 8,
learning_rate: 2e-3, logging_steps: 2, use_cpu: true, disable_tqdm: true}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE)
    return str(path)


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    """The folder of a finished run, and its results."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run_mmner.main([recipe, "--output_dir", str(folder)])


def test_every_name_of_the_contract_is_in_the_results(finished):
    folder, results = finished
    assert json.loads((folder / "all_results.json").read_text()) == results
    groups = ["en", "de", "fr", "es", "PER", "LOC", "ORG", "MISC", "depicts", "unrelated", "none"]
    names = ["f1", "precision", "recall", *(f"f1_{group}" for group in groups)]
    for name in names:
        for control in ("", "text_only_", "shuffled_image_"):
            assert 0 <= results[f"test_{control}{name}"] <= 1
    for name in ("f1", "precision", "recall", "text_only_f1", "shuffled_image_f1", "f1_en", "f1_PER"):
        assert 0 <= results[f"eval_{name}"] <= 1
    assert results["train_samples_per_second"] > 0 and results["total_runtime"] > results["train_runtime"]
    assert (results["train_samples"], results["eval_samples"], results["test_samples"]) == (168, 24, 48)
    assert 0 < results["train_samples_with_image"] < 168 and results["train_missing_images"] == 0


def test_the_predictions_file_scores_what_the_results_say(finished):
    folder, results = finished
    for split, prefix in (("validation", "eval"), ("test", "test")):
        rows = read_jsonl(folder / f"predictions_{split}.jsonl")
        source = []
        for lang in ("en", "de", "fr", "es"):
            source += read_jsonl(folder / "_data" / "probe-240" / lang / f"{split}.jsonl")
        gold = {row["id"]: row for row in source}
        assert {row["id"] for row in rows} == set(gold)
        for row in rows:
            assert row["tokens"] == gold[row["id"]]["tokens"] and row["ner_tags"] == gold[row["id"]]["ner_tags"]
        scores = entity_scores(
            [row["ner_tags"] for row in rows],
            [row["predicted_tags"] for row in rows],
            [row["lang"] for row in rows],
            [row["image_relation"] for row in rows],
        )
        assert {f"{prefix}_{name}": value for name, value in scores.items()}.items() <= results.items()


def test_a_run_goes_on_from_its_checkpoint_to_the_same_weights(finished, recipe, tmp_path):
    """From the first run's third epoch to its end, against how the first run ended."""
    whole, _ = finished
    checkpoints = sorted(whole.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    assert len(checkpoints) == 4
    folder = tmp_path / "resumed"
    shutil.copytree(checkpoints[2], folder / checkpoints[2].name)
    (folder / ".2m-ner").touch()  # the folder of a run
    names = ("predictions_test.jsonl", "f1_test.png", "predictions_validation.jsonl", "f1_validation.png")
    stale = [Path(shutil.copy(whole / name, folder / name)) for name in names]
    scoring = ["--do_predict", "false", "--do_eval", "false"]
    argv = [recipe, "--output_dir", str(folder), "--resume_from_checkpoint", "last", *scoring]
    results = run_mmner.main(argv)
    assert results["epoch"] == 4 and results["train_samples_per_second"] > 0
    weights = [load_file(path / checkpoints[3].name / "model.safetensors") for path in (whole, folder)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    assert "test_f1" not in results
    # Neither split was scored, so nothing of it is there: what there was is of an earlier model.
    assert [path.name for path in stale if path.exists()] == []


def test_a_saved_model_is_scored_without_training(finished, recipe, tmp_path):
    folder, results = finished
    argv = [recipe, "--model_name_or_path", str(folder), "--do_train", "false"]
    argv += ["--output_dir", str(tmp_path / "again")]
    again = run_mmner.main(argv)
    for name in ("eval_f1", "test_f1", "test_text_only_f1", "test_shuffled_image_f1", "test_f1_de"):
        assert again[name] == pytest.approx(results[name], abs=1e-6)
    assert not any(name.startswith("train_") for name in again)
    assert not (tmp_path / "again" / "model.safetensors").exists()
    with pytest.raises(ValueError, match="nothing is trained yet: give a saved model"):
        run_mmner.main([recipe, "--do_train", "false", "--output_dir", str(tmp_path / "new")])
    with pytest.raises(ValueError, match="there is nothing new to push.*mmner publish"):
        run_mmner.main([*argv, "--push_to_hub"])


def test_a_test_split_without_gold_labels_is_predicted_and_not_scored(finished, recipe, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder, _ = finished
    for split, ner_tags in (("validation", ["B-PER", "O", "O"]), ("test", [-1, -1, -1])):
        row = {"id": "a", "lang": "en", "tokens": ["Jordan", "is", "here"], "ner_tags": ner_tags}
        write_jsonl(tmp_path / f"{split}.jsonl", row)
    output = tmp_path / "out"
    output.mkdir()
    (output / ".2m-ner").touch()
    for name in ("all_results.json", "f1_test.png", "predictions_test.jsonl"):
        shutil.copy(folder / name, output / name)
    options = ["--dataset", str(tmp_path), "--model_name_or_path", str(folder), "--do_train", "false"]
    results = run_mmner.main([recipe, *options, "--output_dir", str(output)])
    assert f"{tmp_path}, test: no gold labels: predicted, not scored." in caplog.messages
    assert "eval_f1" in results and results["test_samples"] == 1
    assert not [name for name in results if name.startswith("test_") and ("f1" in name or "loss" in name)]
    written = json.loads((output / "all_results.json").read_text())
    assert "test_f1" not in written and written["eval_f1"] == results["eval_f1"]
    (test,), (validation,) = (read_jsonl(output / f"predictions_{split}.jsonl") for split in ("test", "validation"))
    assert test["ner_tags"] is None and validation["ner_tags"] == ["B-PER", "O", "O"]
    assert test["predicted_tags"] == validation["predicted_tags"]
    # The plot was of an earlier run.
    assert not (output / "f1_test.png").exists()
    assert (output / "f1_validation.png").exists()


def test_a_text_only_baseline_builds_no_image_tower_and_says_how_many_images_are_missing(
    recipe, tmp_path, monkeypatch, caplog
):
    """The field's own format, images absent, through the same command."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name, count in (("train.txt", 12), ("valid.txt", 4), ("test.txt", 5)):
        lines = [f"IMGID:{number}\nParis\tB-LOC\nis\tO\n{number}\tO\n\n" for number in range(count)]
        (tmp_path / name).write_text("".join(lines))
    monkeypatch.setattr(Image, "open", lambda *args, **options: pytest.fail("an image was opened"))
    options = ["--dataset", str(tmp_path), "--output_dir", str(tmp_path / "out"), "--num_train_epochs", "1"]
    with caplog.at_level(logging.INFO):
        results = run_mmner.main([recipe, *options, "--collaboration", "none", "--alignment", "none"])
    assert (results["train_missing_images"], results["test_missing_images"]) == (12, 5)
    assert "12 images of 12 rows are missing" in caplog.text
    assert results["test_f1"] == results["test_text_only_f1"] == results["test_shuffled_image_f1"]
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    assert model.model.vision_model is None and model.config.labels == ["O", "B-LOC", "I-LOC"]


def test_a_run_that_learned_nothing_says_so_before_after_and_in_its_card(recipe, tmp_path, caplog):
    """Eleven steps of one epoch; dev is scored in it, which says nothing yet."""
    results = run_mmner.main([recipe, "--output_dir", str(tmp_path), "--num_train_epochs", "1"])
    told = [record.message for record in caplog.records if "optimizer steps" in record.message]
    few = "11 optimizer steps on 168 rows are few"
    assert len(told) == 2 and told[0].startswith(few) and few in told[1]
    assert all(message.endswith("--num_train_epochs 19") for message in told)  # 209 steps
    rows = {split: read_jsonl(tmp_path / f"predictions_{split}.jsonl") for split in ("validation", "test")}
    card = ModelCard.load(tmp_path / "README.md")
    for prefix, split in (("eval", "validation"), ("test", "test")):
        count = sum(tag.startswith("B-") for row in rows[split] for tag in row["ner_tags"])
        said = f"The model predicts no entity at all in these {len(rows[split])} sentences, which have {count}."
        assert results[f"{prefix}_caution"] == said and f"{split}: {said}" in told[1] and f"**{said}**" in card.text
        assert results[f"{prefix}_f1"] == 0


def test_a_run_without_a_step_is_no_success(recipe, tmp_path):
    with pytest.raises(ValueError, match="--num_train_epochs is 0, which trains nothing"):
        run_mmner.main([recipe, "--output_dir", str(tmp_path), "--num_train_epochs", "0"])


def test_a_run_with_adapters_and_tensorboard_saves_a_plain_model_and_curves(recipe, finished, tmp_path, caplog):
    pytest.importorskip("peft")
    event_file = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    folder = tmp_path / "lora"
    options = "--lora_rank 2 --repeat_rare_types 0.9 --probe_sentences 80 --num_train_epochs 1 --report_to tensorboard"
    results = run_mmner.main([recipe, "--output_dir", str(folder), *options.split()])
    assert (
        "LoRA: adapters of rank 2 on " in caplog.text and "windows come again, for types in fewer than" in caplog.text
    )
    assert set(load_file(folder / "model.safetensors")) == set(load_file(finished[0] / "model.safetensors"))
    (events,) = (folder / "runs").rglob("events.out.tfevents.*")
    tags = {value.tag for event in event_file.EventFileLoader(str(events)).Load() for value in event.summary.value}
    assert {"train/loss", "eval/f1"} <= tags
    argv = [recipe, "--model_name_or_path", str(folder), "--do_train", "false", "--probe_sentences", "80"]
    again = run_mmner.main([*argv, "--output_dir", str(tmp_path / "again")])
    assert again["test_f1"] == results["test_f1"]


def test_epochs_are_raised_to_the_steps_that_were_asked_for(tmp_path):
    args = run_mmner.TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=8, min_train_steps=300
    )
    assert [run_mmner.epochs_for(args, rows) for rows in (1, 8, 9, 200, 2400, 5000)] == [300, 300, 150, 12, 1, 1]


def test_a_type_without_an_example_and_a_split_without_its_images_are_told(caplog):
    def split(*types):
        part = object.__new__(run_mmner.WindowedSentences)
        part.tags, part.languages, part.relations = [[f"B-{kind}"] for kind in types], ["en"] * len(types), []
        part.relations = [None] * len(types)
        return part

    sentences = {"train": split("PER", "LOC"), "test": split("PER", "DISH")}
    results = {"train_missing_images": 3, "train_samples_with_image": 0, "test_missing_images": 1}
    run_mmner.warn_of_gaps(sentences, results | {"test_samples_with_image": 5}, ["PER", "LOC", "DISH"])
    assert "train has no example of DISH: they cannot be learned" in caplog.text
    assert "test has no example of LOC: their scores say nothing" in caplog.text
    assert "train lost all of its 3 images" in caplog.text and "test lost" not in caplog.text
    assert "--dataset_lang" not in caplog.text
    sentences["test"].languages = ["en", "und"]
    with caplog.at_level("INFO"):
        run_mmner.warn_of_gaps(sentences, results, ["PER"])
    assert "state no language are scored as und; --dataset_lang en" in caplog.text
