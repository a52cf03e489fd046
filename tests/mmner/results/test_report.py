"""What a run leaves behind: files that read back, offsets that fit, a table with the right numbers in it."""

import json
import logging

import datasets
import numpy as np
import pytest
from PIL import Image

from mmner.data.sentences import WindowedSentences
from mmner.results.report import (
    caution,
    format_table,
    plot_scores,
    plot_training,
    prediction_rows,
    score_table,
    write_predictions,
    write_results,
)
from processing_2mner import Window

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


class WordProcessor:
    """A word is a token, a window eight of them: all that the cutting of sentences asks of a processor."""

    def token_budget(self, max_length=None):
        return 8

    def token_counts(self, words):
        return [1] * len(words)

    def windows(self, words, stride, max_length):
        return [Window(0, 8, 0, 7), Window(6, len(words), 7, len(words))]


@pytest.fixture
def sentences():
    rows = {
        "id": ["a", "b", "c"],
        "lang": ["en", "fr", "en"],
        "tokens": [["In", "São", "Paulo", "😀"], ["l'", "été"], ["x"] * 10],
        "ner_tags": [[0, 1, 2, 0], [0, 0], [0] * 10],
        "image_relation": ["depicts", None, "none"],
    }
    features = {name: datasets.Value("string") for name in ("id", "lang", "image_relation")}
    features["tokens"] = datasets.List(datasets.Value("string"))
    features["ner_tags"] = datasets.List(datasets.ClassLabel(names=LABELS))
    rows = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    return WindowedSentences(rows, WordProcessor(), {label: index for index, label in enumerate(LABELS)})


def fill(sentences, tags):
    """What a Trainer gives for these tags and a score of 0.5 at each beginning."""
    predictions = np.full((len(sentences), 9), -100)
    for index, (row, window) in enumerate(zip(sentences.row_of, sentences.windows, strict=True)):
        values = tags[row][window.start : window.stop]
        predictions[index, : len(values)] = values
    return predictions, np.where(np.isin(predictions, [1, 3]), 0.5, 0.0)


def test_a_prediction_has_gold_tags_predicted_tags_and_entities_with_offsets(sentences):
    rows = prediction_rows(sentences, *fill(sentences, [[0, 1, 2, 0], [0, 3], [0] * 7 + [1, 2, 0]]))
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert rows[0] == {
        "id": "a",
        "lang": "en",
        "text": "In São Paulo 😀",
        "tokens": ["In", "São", "Paulo", "😀"],
        "ner_tags": ["O", "B-LOC", "I-LOC", "O"],
        "predicted_tags": ["O", "B-LOC", "I-LOC", "O"],
        "entities": [{"entity_group": "LOC", "score": 0.5, "word": "São Paulo", "start": 3, "end": 12}],
        "image_relation": "depicts",
    }
    assert "image_relation" not in rows[1]
    assert rows[1]["entities"][0]["entity_group"] == "PER" and rows[1]["ner_tags"] == ["O", "O"]
    assert rows[2]["entities"] == [{"entity_group": "LOC", "score": 0.5, "word": "x x", "start": 14, "end": 17}]
    for row in rows:
        assert all(row["text"][entity["start"] : entity["end"]] == entity["word"] for entity in row["entities"])


def test_a_predictions_file_is_a_line_of_json_a_sentence(sentences, tmp_path):
    rows = prediction_rows(sentences, *fill(sentences, [[0, 1, 2, 0], [0, 3], [0] * 10]))
    path = write_predictions(tmp_path, "test", rows)
    assert path.name == "predictions_test.jsonl"
    text = path.read_text(encoding="utf-8")
    assert "São Paulo" in text and text.count("\n") == 3
    assert [json.loads(line) for line in text.splitlines()] == rows
    assert type(rows[0]["entities"][0]["score"]) is float


def test_an_evaluation_keeps_the_results_of_the_training_but_not_those_of_its_split(tmp_path):
    before = {"test_f1": 0.1, "test_f1_de": 0.5, "test_samples": 40, "eval_f1": 0.2, "train_loss": 0.5, "epoch": 3}
    write_results(tmp_path, before)
    new = {"test_f1": 0.2, "test_f1_fr": 0.3, "test_samples": 1}
    path = write_results(tmp_path, new, update=True)
    assert json.loads(path.read_text()) == new | {"eval_f1": 0.2, "train_loss": 0.5, "epoch": 3}
    write_results(tmp_path, new)
    assert json.loads(path.read_text()) == new


RESULTS = {
    "test_f1": 0.9,
    "test_text_only_f1": 0.5,
    "test_shuffled_image_f1": 0.4567,
    "test_f1_en": 1.0,
    "test_text_only_f1_en": 0.25,
    "test_f1_LOC": 0.8,
    "test_text_only_f1_LOC": 0.0,
    "eval_f1": 0.7,
}
GROUPS = {"language": ["en", "xx"], "type": ["LOC"], "image": []}


def test_a_table_has_a_line_a_group_and_a_column_a_control():
    table = score_table(RESULTS, "test", GROUPS)
    assert table == [
        ("", "all", [0.9, 0.5, 0.4567]),
        ("language", "en", [1.0, 0.25, None]),
        ("type", "LOC", [0.8, 0.0, None]),
    ]
    lines = format_table(table, "F1 on test").splitlines()
    assert lines[0].split() == ["F1", "on", "test", "own", "images", "text", "only", "shuffled"]
    assert lines[2].split() == ["all", "90.00", "50.00", "45.67"]
    assert lines[3].split() == ["language", "en", "100.00", "25.00", "-"]
    assert len({len(line) for line in lines}) == 1
    assert score_table({}, "test", GROUPS) == []


def test_plots_are_images(tmp_path):
    log = [{"step": step, "loss": 1 / step} for step in range(1, 5)] + [{"step": 4, "eval_f1": 0.5}]
    for path in (
        plot_scores(tmp_path, "test", score_table(RESULTS, "test", GROUPS)),
        plot_training(tmp_path, log),
        plot_training(tmp_path, log[:4]),
    ):
        with Image.open(path) as image:
            assert image.format == "PNG" and min(image.size) >= 400
            assert len(image.convert("RGB").getcolors(1 << 24)) > 10  # something is drawn
    assert {path.name for path in tmp_path.iterdir()} == {"f1_test.png", "training_curve.png"}


def test_a_type_with_dollars_is_drawn_as_it_is_written(tmp_path):
    plot_scores(tmp_path, "test", [("", "all", [0.5, 0.5, 0.5]), ("type", "$\\frac$", [1.0, None, None])])


def test_without_a_logged_loss_there_is_no_curve_and_that_is_said(tmp_path, caplog):
    (tmp_path / "training_curve.png").write_bytes(b"of the training before")
    with caplog.at_level(logging.INFO):
        assert plot_training(tmp_path, [{"step": 1, "eval_f1": 0.5}]) is None
    assert "No training loss was logged" in caplog.text and not list(tmp_path.iterdir())


def test_a_plot_of_zeros_is_not_drawn(tmp_path):
    zeros = [("", "all", [0.0, 0.0, None]), ("type", "LOC", [0.0, None, None])]
    (tmp_path / "f1_test.png").write_bytes(b"of the model before")
    assert plot_scores(tmp_path, "test", zeros) is None
    assert not list(tmp_path.iterdir())
    assert plot_scores(tmp_path, "test", [*zeros, ("type", "PER", [0.0, 0.0, 0.1])]).is_file()


@pytest.mark.parametrize(
    ("predicted", "warning"),
    [
        ([["O"] * 4, ["O"] * 2], "The model predicts no entity at all in these 2 sentences, which have 3."),
        # Words and type must be right: a shorter one and one of another type are not.
        (
            [["O", "B-LOC", "O", "O"], ["B-LOC", "O"]],
            "Of the 2 entities that the model predicts in these 2 sentences, none is correct.",
        ),
        ([["O", "B-LOC", "I-LOC", "O"], ["O", "O"]], "The model never predicts PER; these 2 sentences have 2."),
        ([["O", "B-LOC", "I-LOC", "O"], ["B-PER", "O"]], ""),
    ],
)
def test_scores_come_with_a_warning(predicted, warning):
    gold = [["O", "B-LOC", "I-LOC", "B-PER"], ["B-PER", "O"]]
    rows = [{"ner_tags": tags, "predicted_tags": others} for tags, others in zip(gold, predicted, strict=True)]
    assert caution(rows) == warning
