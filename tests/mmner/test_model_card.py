"""The card: metadata that huggingface_hub reads back, both controls, and no word that is not true of the run."""

import re

import pytest
import yaml
from huggingface_hub import ModelCard

from mmner.arguments import DataArguments, ModelArguments, TrainingArguments
from mmner.model_card import write_model_card

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
RESULTS = {
    "train_samples": 100,
    "train_samples_with_image": 60,
    "train_missing_images": 3,
    "test_samples": 20,
    "test_f1": 0.91234567,
    "test_precision": 0.9,
    "test_recall": 0.92,
    "test_text_only_f1": 0.5,
}
TABLES = {"test": [("", "all", [0.91234567, 0.5, None]), ("language", "de", [1.0, 0.25, 0.2])]}
ENTITY = {"entity_group": "LOC", "score": 0.9, "word": "Paris", "start": 0, "end": 5}
PREDICTIONS = [
    {"lang": "de", "text": "nichts", "tokens": ["nichts"], "entities": []},
    {"lang": "de", "text": 'Paris "gewinnt"', "tokens": ["Paris", '"', "gewinnt", '"'], "entities": [ENTITY]},
    {"lang": "de", "text": "Paris auch", "tokens": ["Paris", "auch"], "entities": [ENTITY]},
    {"lang": "en", "text": "Paris " * 30, "tokens": ["Paris"] * 30, "entities": [ENTITY]},
]


def write(tmp_path, model=None, data=None, **training):
    model = ModelArguments(**(model or {"text_model": "tiny", "vision_model": "tiny"}))
    data = DataArguments(**(data or {"dataset": "probe"}))
    training = TrainingArguments(output_dir=str(tmp_path / "my-run"), use_cpu=True, **training)
    path = write_model_card(tmp_path, (model, data, training), LABELS, RESULTS, TABLES, PREDICTIONS)
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
    assert data["widget"] == [{"text": 'Paris "gewinnt"', "output": [ENTITY]}]
    results = {result.metric_name: result for result in card.data.eval_results}
    assert set(results) == {"F1", "Precision", "Recall", "F1, text only"}
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


def test_the_usage_is_code_that_compiles(tmp_path):
    text = write(tmp_path).text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    compile(code, "card", "exec")
    assert 'ner("Paris \\"gewinnt\\"")' in code and 'model="my-run"' in code
    assert 'model="me/model"' in write(tmp_path, hub_model_id="me/model").text


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
    card = ModelCard.load(write_model_card(tmp_path, arguments, LABELS, {}, tables))
    assert card.data.eval_results is None
    assert ("Not scored." in card.text) == (not tables)
    assert "trained further from: `saved/model`" in card.text
