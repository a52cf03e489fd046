"""The card: metadata that huggingface_hub reads back, both controls, and no word that is not true of the run."""

import ast
import re

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from tiny_models import tiny_config

from mmner.options import DataArguments, ModelArguments, TrainingArguments, parse_arguments
from mmner.results.model_card import hardware, write_model_card
from mmner.results.publish import card_for

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
RESULTS = {"train_samples": 100, "train_samples_with_image": 60, "train_missing_images": 3, "test_samples": 20}
RESULTS |= {"train_runtime": 125.4, "total_runtime": 3725.0}
RESULTS |= {"test_f1": 0.91234567, "test_precision": 0.9, "test_recall": 0.92, "test_text_only_f1": 0.5}
RESULTS |= {"test_f1_de": 1.0, "test_text_only_f1_de": 0.25, "test_shuffled_image_f1_de": 0.2}
TABLES = {"test": [("", "all", [0.91234567, 0.5, None]), ("language", "de", [1.0, 0.25, 0.2])]}
ENTITY = {"entity_group": "LOC", "score": 0.9, "word": "Paris", "start": 0, "end": 5}
EXAMPLES = [{"text": 'Paris "gewinnt"', "output": [ENTITY]}, {"text": "nichts", "output": []}]


def make_config(**options):
    return tiny_config(labels=LABELS, **options)


def write(tmp_path, model=None, data=None, config=None, examples=EXAMPLES, tables=TABLES, results=RESULTS, **training):
    """The card of a run, by default of the probe."""
    arguments = (
        ModelArguments(**(model or {"text_model": "tiny", "vision_model": "tiny"})),
        DataArguments(**(data or {"dataset": "probe"})),
        TrainingArguments(output_dir=str(tmp_path / "my-run"), use_cpu=True, **training),
    )
    return ModelCard.load(write_model_card(tmp_path, arguments, config or make_config(), results, tables, examples))


def test_the_metadata_is_read_back(tmp_path):
    card = write(tmp_path)
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "token-classification")
    assert data["license"] == "apache-2.0"
    assert data["language"] == ["de"] and "synthetic" in data["tags"]
    assert data["widget"] == EXAMPLES
    results = {result.metric_name: result for result in card.data.eval_results}
    over_all = {"F1", "Precision", "Recall", "F1, text only"}
    german = {"F1 (language de)", "F1, text only (language de)", "F1, shuffled (language de)"}
    assert set(results) == over_all | german
    assert results["F1, shuffled (language de)"].metric_value == 0.2
    assert (results["F1"].metric_value, results["F1"].dataset_split) == (0.9123, "test")
    assert results["F1, text only"].metric_value == 0.5
    assert card.data.model_name == "this-model" and "# this-model\n" in card.text


def test_the_probe_is_called_synthetic_and_other_data_is_not(tmp_path):
    assert "**Synthetic data.**" in write(tmp_path).text
    card = write(tmp_path, {"text_model": "org/text", "vision_model": "org/vision"}, {"dataset": "org/set"})
    assert "ynthetic" not in card.content
    assert card.data.license == "other" and "their licences apply" in card.text
    assert card.data.base_model == ["org/text", "org/vision"] and card.data.datasets == ["org/set"]


def test_scores_data_and_recipe_are_told(tmp_path):
    text = write(tmp_path, learning_rate=3e-4).text
    assert "| all | 91.23 | 50.00 |  |" in text and "| language de | 100.00 | 25.00 | 20.00 |" in text
    assert "| train | 100 | 60 | 3 |" in text and "| test | 20 |  |  |" in text
    recipe = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL).group(1))
    assert recipe["learning_rate"] == 3e-4 and recipe["dataset"] == "probe" and "output_dir" not in recipe


def test_the_card_that_is_published_is_that_of_its_repository(tmp_path):
    """And no other: not of the folder's name, not of the repository of the options of the run."""
    write(tmp_path, hub_model_id="else/where")
    card = ModelCard(card_for(tmp_path, "me/1.0"))
    assert "# 1.0\n" in card.text and card.data.model_name == "1.0"  # a name, which YAML must not read as a number
    assert set(re.findall(r'"([^"]*)", trust_remote_code', card.text)) == {"me/1.0"}
    assert "--model_name_or_path me/1.0 --dataset" in card.text
    assert not re.search("this-model|my-run|else/where", card.content)
    assert card.data.to_dict() | {"model-index": 0} == write(tmp_path).data.to_dict() | {"model-index": 0}
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Mine\nWritten by hand.\n")
    assert card_for(tmp_path, "me/y") == (tmp_path / "README.md").read_text()


def test_a_text_only_model_is_not_shown_an_image(tmp_path):
    card = write(tmp_path, config=make_config(collaboration="none", alignment="none"))
    assert "photo.jpg" not in card.text and "images=None" in card.text
    assert "alone, without images" in card.text and "multimodal" not in card.data.tags
    assert "photo.jpg" in write(tmp_path).text


def test_seeds_duration_hardware_and_versions_are_told(tmp_path):
    text = write(tmp_path, seed=7, data_seed=8).text
    assert "- seed: 7\n" in text and "order of the data: 8\n" in text
    assert "- duration of the training (h:mm:ss): 0:02:05\n" in text and "(h:mm:ss): 1:02:05\n" in text
    assert f"- hardware: {hardware()}; 1 process\n" in text
    assert f"torch {torch.__version__}" in text


def test_plots_are_shown_where_there_are_any(tmp_path):
    for name in ("training_curve.png", "f1_test.png", "f1_validation.png"):
        (tmp_path / name).write_bytes(b"")
    assert re.findall(r"!\[.*?\]\((.*?)\)", write(tmp_path).text) == ["f1_test.png", "training_curve.png"]


def test_a_model_that_has_learned_nothing_is_told_so(tmp_path):
    caution = "The model predicts no entity at all in these 20 sentences, which have 31."
    assert f"\n\n**{caution}**\n\n| | own images" in write(tmp_path, results=RESULTS | {"test_caution": caution}).text


def test_the_recipe_file_holds_for_another_set_and_the_card_tells_of_this_one(tmp_path):
    """What is not there for another: files, languages, a form of the set, a space to search."""
    of_data = {"train_languages": "en,de", "dataset_config": "de", "streaming": True, "max_train_samples": 7}
    of_data |= {"dataset_iob2": "repair"}
    text = write(tmp_path, data={"dataset": "org/set", "shuffle_buffer": 9, **of_data}, search_trials=2).text
    shown = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL).group(1))
    assert (of_data | {"search_trials": 2}).items() <= shown.items()
    command = re.search(r"python run_mmner.py recipe.yaml (.*)", text).group(1).split()
    _, data, training = parse_arguments([str(tmp_path / "recipe.yaml"), *command])
    assert data == DataArguments(dataset="path/to/folder", shuffle_buffer=9)
    assert training.search_trials == 0


FOLDERS = ["2000 #hash mark: colon", "b\u00fccher-\u672c 'quoted \"twice"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_is_told_of_where_something_lies_on_the_machine(tmp_path, folder, monkeypatch):
    """No part of a path, whatever is in it, absolute or not; the other options come out as they went in."""
    monkeypatch.chdir(tmp_path)
    for name in ("upper", "lower"):
        (tmp_path / folder / name).mkdir(parents=True)
    model = {"text_model": str(tmp_path / folder / "upper"), "vision_model": f"{folder}/lower", "tagging_head": "crf"}
    data = {"dataset": f"{folder}/upper", "captions": str(tmp_path / folder / "c.tsv"), "image_folder": f"{folder}/x"}
    data |= {"image_feature_store": f"{folder}/vectors", "probe_sentences": 70, "dataset_config": "en: #1"}
    training = {"search_space": f"{folder}/space.yaml", "run_name": str(tmp_path / folder), "seed": 3}
    training |= {"hub_token": "hf_secret", "hub_model_id": "me/model"}
    training["lr_scheduler_kwargs"] = {"table": [str(tmp_path / folder)]}
    card = write(tmp_path, model, data, **training)
    recipe = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    parts = {tmp_path.name, "my-run", "upper", "lower", "c.tsv", "vectors", "space.yaml", "hf_secret", "me/model"}
    parts |= {*re.findall(r"\w{4,}", folder)}
    assert not [part for part in parts if part in card.content + recipe]
    shown = re.search(r"```yaml\n(.*?)```", card.text, re.DOTALL).group(1)
    (tmp_path / "shown.yaml").write_text(shown, encoding="utf-8")
    of_set, of_training = {"probe_sentences": 70, "dataset_config": "en: #1"}, {"seed": 3}
    assert yaml.safe_load(shown) == {"tagging_head": "crf"} | of_set | of_training
    again = parse_arguments([str(tmp_path / "shown.yaml")])
    assert again[:2] == (ModelArguments(tagging_head="crf"), DataArguments(**of_set)) and again[2].seed == 3
    again = parse_arguments([str(tmp_path / "recipe.yaml")])
    assert again[1] == DataArguments(probe_sentences=70) and again[2].seed == 3 and again[0].tagging_head == "crf"
    assert f"text tower: a local {make_config().text_config.model_type}\n" in card.text
    assert "A local dataset, `en: #1`.\n" in card.text
    assert card.data.base_model is None and card.data.datasets is None


KINDS = ["<script>alert(1)</script>", "a|b &lt; [a](b)", 'it\'s "x"', "`t` a_b_*c* back\\slash"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_entity_type_is_shown_letter_by_letter_whatever_it_is(tmp_path, kind):
    entity = {"entity_group": kind, "score": 0.9, "word": "Paris", "start": 0, "end": 5}
    card = write(
        tmp_path,
        config=tiny_config(labels=["O", f"B-{kind}", f"I-{kind}"]),
        examples=[{"text": f"Paris ``` {kind}", "output": [entity]}],
        tables={"test": [("", "all", [0.5, 0.5, 0.5]), ("type", kind, [1.0, 0.25, 0.2])]},
    )
    tokens = MarkdownIt("commonmark").enable("table").parse(card.text)
    inline = [token for token in tokens if token.type == "inline"]
    shown = ["".join(child.content for child in token.children) for token in inline]
    assert f"model for text, with the entity types {kind}. Each entity" in shown[1]
    assert [child.type for child in inline[1].children] == ["text", "link_open", "text", "link_close", "text"]
    row = shown.index(f"type {kind}")
    assert shown[row : row + 4] == [f"type {kind}", "100.00", "25.00", "20.00"]
    assert "html_block" not in {token.type for token in tokens}
    snippets = [token.content for token in tokens if token.type == "fence" and token.info == "python"]
    assert len(snippets) == 3
    strings = {node.value for code in snippets for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
    assert {f"B-{kind}", f"Paris ``` {kind}"} <= strings
    assert card.data.to_dict()["widget"][0]["output"] == [entity]
    (answer,) = [token.content for token in tokens if token.type == "fence" and token.info == "text"]
    assert ast.literal_eval(answer) == [entity]


@pytest.mark.parametrize("tables", [{}, {"eval": [("", "all", [0.5, 0.5, 0.5])]}])
def test_a_run_without_test_scores_has_a_card_too(tmp_path, tables):
    card = write(tmp_path, {"model_name_or_path": "saved/model"}, {"dataset": "org/set"}, tables=tables, results={})
    assert card.data.eval_results is None
    assert ("Not scored." in card.text) == (not tables)
    assert "trained further from: `saved/model`" in card.text
