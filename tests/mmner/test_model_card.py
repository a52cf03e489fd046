"""The card: metadata that huggingface_hub reads back, both controls, and no word that is not true of the run."""

import re

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from tiny_models import tiny_config

from configuration_2mner import TwoMNERConfig
from mmner.arguments import DataArguments, ModelArguments, TrainingArguments, parse_arguments
from mmner.model_card import hardware, write_model_card

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
RESULTS = {
    "train_samples": 100,
    "train_samples_with_image": 60,
    "train_missing_images": 3,
    "train_runtime": 125.4,
    "total_runtime": 3725.0,
    "test_samples": 20,
    "test_f1": 0.91234567,
    "test_precision": 0.9,
    "test_recall": 0.92,
    "test_text_only_f1": 0.5,
    "test_f1_de": 1.0,
    "test_text_only_f1_de": 0.25,
    "test_shuffled_image_f1_de": 0.2,
}
TABLES = {"test": [("", "all", [0.91234567, 0.5, None]), ("language", "de", [1.0, 0.25, 0.2])]}
ENTITY = {"entity_group": "LOC", "score": 0.9, "word": "Paris", "start": 0, "end": 5}
EXAMPLES = [{"text": 'Paris "gewinnt"', "output": [ENTITY]}, {"text": "nichts", "output": []}]


def make_config(**options) -> TwoMNERConfig:
    return tiny_config(labels=LABELS, **options)


def write(tmp_path, model=None, data=None, config=None, examples=EXAMPLES, location=None, **training):
    model = ModelArguments(**(model or {"text_model": "tiny", "vision_model": "tiny"}))
    data = DataArguments(**(data or {"dataset": "probe"}))
    training = TrainingArguments(output_dir=str(tmp_path / "my-run"), use_cpu=True, **training)
    arguments = (model, data, training)
    path = write_model_card(tmp_path, arguments, config or make_config(), RESULTS, TABLES, examples, location)
    return ModelCard.load(path)


def test_the_metadata_is_read_back(tmp_path):
    card = write(tmp_path)
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == (
        "transformers",
        "token-classification",
        "apache-2.0",
    )
    assert data["language"] == ["de"] and "synthetic" in data["tags"]
    assert data["widget"] == EXAMPLES
    results = {result.metric_name: result for result in card.data.eval_results}
    over_all = {"F1", "Precision", "Recall", "F1, text only"}
    german = {"F1 (language de)", "F1, text only (language de)", "F1, shuffled (language de)"}
    assert set(results) == over_all | german
    assert results["F1, shuffled (language de)"].metric_value == 0.2
    assert (results["F1"].metric_value, results["F1"].dataset_split) == (0.9123, "test")
    assert results["F1, text only"].metric_value == 0.5
    assert card.data.model_name == "my-run"


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


def test_the_usage_is_code_that_compiles_and_names_where_the_model_is(tmp_path):
    text = write(tmp_path).text
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == 3
    for code in snippets:
        compile(code, "card", "exec")
        assert '"my-run", trust_remote_code=True)' in code
    assert 'ner("Paris \\"gewinnt\\"")' in snippets[0]
    assert '"me/model", trust' in write(tmp_path, hub_model_id="me/model").text
    assert '"you/model", trust' in write(tmp_path, hub_model_id="model", location="you/model").text


def test_a_text_only_model_is_not_shown_a_picture(tmp_path):
    card = write(tmp_path, config=make_config(collaboration="none", alignment="none"))
    assert "photo.jpg" not in card.text and "images=None" in card.text
    assert "alone, without pictures" in card.text and "multimodal" not in card.data.tags
    assert "photo.jpg" in write(tmp_path).text


def test_seeds_duration_hardware_and_versions_are_told(tmp_path):
    text = write(tmp_path, seed=7, data_seed=8).text
    assert "- seed: 7\n" in text and "order of the data: 8\n" in text
    assert "- duration of the training: 2 min 5 s\n" in text and ": 1 h 2 min 5 s\n" in text
    assert f"- hardware: {hardware()}; 1 process\n" in text
    assert f"torch {torch.__version__}" in text


def test_plots_are_shown_where_there_are_any(tmp_path):
    assert "![" not in write(tmp_path).text
    for name in ("training_curve.png", "f1_test.png", "f1_validation.png"):
        (tmp_path / name).write_bytes(b"")
    assert re.findall(r"!\[.*?\]\((.*?)\)", write(tmp_path).text) == ["f1_test.png", "training_curve.png"]


def test_a_model_that_has_learned_nothing_is_told_so_instead_of_zeros(tmp_path):
    arguments = (ModelArguments(text_model="tiny"), DataArguments(dataset="probe"), TrainingArguments(str(tmp_path)))
    tables = {"test": [("", "all", [0.0, 0.0, None]), ("language", "de", [0.0, 0.0, None])]}
    caution = "The model predicts no entity at all in these 20 sentences, which have 31."
    results = {name: 0.0 if "f1" in name else value for name, value in RESULTS.items()} | {"test_caution": caution}
    card = ModelCard.load(write_model_card(tmp_path, arguments, make_config(), results, tables))
    assert f"Test set, scored once: every score is 0.\n\n**{caution}**\n" in card.text
    assert "0.00" not in card.text and not card.data.eval_results and card.data.language == ["de"]


def test_a_type_that_is_never_predicted_is_told_above_the_scores(tmp_path, monkeypatch):
    monkeypatch.setitem(RESULTS, "test_caution", "The model never predicts PER; these 20 sentences have 4.")
    text = write(tmp_path).text
    assert 0 < text.index("**The model never predicts PER;") < text.index("| all | 91.23 |")


def test_the_recipe_file_has_every_option_and_repeats_the_run(tmp_path):
    write(tmp_path, learning_rate=3e-4, push_to_hub=False, hub_token="hf_secret", hub_model_id="me/model")
    text = (tmp_path / "recipe.yaml").read_text()
    values = yaml.safe_load(text)
    assert values["learning_rate"] == 3e-4 and values["weight_decay"] == 0.0
    assert values["collaboration_heads"] == 2  # not given, so as the model has it
    assert "hf_secret" not in text and not {"output_dir", "hub_model_id", "push_to_hub"} & set(values)
    again = parse_arguments([str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "my-run")])
    write_model_card(tmp_path, again, make_config(), RESULTS, TABLES, location="me/model")
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text()) == values


def test_the_recipe_file_holds_for_another_set_and_the_card_tells_of_this_one(tmp_path):
    """What is not there for another: files, languages, a form of the set, a space to search."""
    of_data = {"captions": "texts.tsv", "image_folder": "photos", "train_languages": "en,de", "dataset_config": "de"}
    of_data |= {"streaming": True, "max_train_samples": 7, "image_feature_store": "vectors", "dataset_iob2": "repair"}
    of_search = {"search_trials": 2, "search_space": "space.yaml"}
    text = write(tmp_path, data={"dataset": "org/set", "shuffle_buffer": 9, **of_data}, **of_search).text
    shown = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL).group(1))
    assert (of_data | of_search).items() <= shown.items()
    command = re.search(r"python run_mmner.py recipe.yaml (.*)", text).group(1).split()
    _, data, training = parse_arguments([str(tmp_path / "recipe.yaml"), *command])
    assert data == DataArguments(dataset="path/to/folder", shuffle_buffer=9)
    assert training.search_trials == 0


def test_folders_of_the_machine_are_named_by_their_last_part(tmp_path):
    for name in ("text-tower", "image-tower", "data"):
        (tmp_path / name).mkdir()
    model = {"text_model": str(tmp_path / "text-tower"), "vision_model": str(tmp_path / "image-tower")}
    card = write(tmp_path, model, {"dataset": str(tmp_path / "data")})
    assert str(tmp_path) not in card.content
    assert "`text-tower`" in card.text and "text_model: text-tower" in card.text
    assert card.data.base_model is None and card.data.datasets is None


@pytest.mark.parametrize("tables", [{}, {"eval": [("", "all", [0.5, 0.5, 0.5])]}])
def test_a_run_without_test_scores_has_a_card_too(tmp_path, tables):
    arguments = (
        ModelArguments(model_name_or_path="saved/model"),
        DataArguments(dataset="org/set"),
        TrainingArguments(output_dir=str(tmp_path), use_cpu=True),
    )
    card = ModelCard.load(write_model_card(tmp_path, arguments, make_config(), {}, tables))
    assert card.data.eval_results is None
    assert ("Not scored." in card.text) == (not tables)
    assert "trained further from: `saved/model`" in card.text
