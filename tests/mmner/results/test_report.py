"""What a run leaves behind: files that read back, offsets that fit, a table with the right numbers in it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sharded_rows import LABELS, rows_of

from mmner.data.sentences import WindowedSentences
from mmner.results.report import (
    caution,
    format_table,
    plot_scores,
    plot_training,
    prediction_rows,
    score_table,
    write_predictions,
)
from processing_2mner import Window


@pytest.fixture
def rows():
    """What is predicted: entities with a score of 0.5; a word is a token, a window eight of them."""
    tokens = [["In", "São", "Paulo", "😀"], ["l'", "été"], ["x"] * 10]
    columns = {"lang": ["en", "fr", "en"], "image_relation": ["depicts", None, "none"], "id": ["a", "b", "c"]}
    processor = SimpleNamespace(
        token_budget=lambda max_length: 8,
        token_counts=lambda words: [1] * len(words),
        windows=lambda words, **options: [Window(0, 8, 0, 7), Window(6, len(words), 7, len(words))],
    )
    label2id = {label: index for index, label in enumerate(LABELS)}
    sentences = WindowedSentences(rows_of(tokens, [[0, 1, 2, 0], [0, 0], [0] * 10], **columns), processor, label2id)
    tags = [[0, 1, 2, 0], [0, 3], [0] * 7 + [1, 2, 0]]
    predictions = np.full((len(sentences), 9), -100)
    for index, (row, window) in enumerate(zip(sentences.row_of, sentences.windows, strict=True)):
        values = tags[row][window.start : window.stop]
        predictions[index, : len(values)] = values
    return prediction_rows(sentences, predictions, np.where(np.isin(predictions, [1, 3]), 0.5, 0.0))


def test_a_prediction_has_gold_tags_predicted_tags_and_entities_with_offsets(rows):
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
    assert rows[1]["entities"][0]["entity_group"] == "PER" and rows[1]["ner_tags"] == ["O", "O"]
    assert "image_relation" not in rows[1]
    assert rows[2]["entities"] == [{"entity_group": "LOC", "score": 0.5, "word": "x x", "start": 14, "end": 17}]


def test_a_predictions_file_is_a_line_of_json_a_sentence(rows, tmp_path):
    path = write_predictions(tmp_path, "test", rows)
    assert path.name == "predictions_test.jsonl"
    text = path.read_text(encoding="utf-8")
    assert "São Paulo" in text and [json.loads(line) for line in text.splitlines()] == rows


RESULTS = {"test_f1": 0.9, "test_text_only_f1": 0.5, "test_shuffled_image_f1": 0.4567, "eval_f1": 0.7}
RESULTS |= {"test_f1_en": 1.0, "test_text_only_f1_en": 0.25, "test_f1_$\\frac$": 0.8}
GROUPS = {"language": ["en", "xx"], "type": ["$\\frac$"], "image": []}


def test_a_table_has_a_line_a_group_and_a_column_a_control():
    table = score_table(RESULTS, "test", GROUPS)
    assert table == [
        ("", "all", [0.9, 0.5, 0.4567]),
        ("language", "en", [1.0, 0.25, None]),
        ("type", "$\\frac$", [0.8, None, None]),
    ]
    lines = format_table(table, "F1 on test").splitlines()
    assert lines[0].split() == ["F1", "on", "test", "own", "images", "text", "only", "shuffled"]
    assert lines[2].split() == ["all", "90.00", "50.00", "45.67"]
    assert lines[3].split() == ["language", "en", "100.00", "25.00", "-"]
    assert len({len(line) for line in lines}) == 1
    assert score_table({}, "test", GROUPS) == []


def test_plots_are_images_and_none_of_an_earlier_training_stays(tmp_path):
    log = [{"step": step, "loss": 1 / step} for step in range(1, 5)] + [{"step": 4, "eval_f1": 0.5}]
    for path in (plot_scores(tmp_path, "test", score_table(RESULTS, "test", GROUPS)), plot_training(tmp_path, log)):
        with Image.open(path) as image:
            assert image.format == "PNG" and min(image.size) >= 400
            assert len(image.convert("RGB").getcolors(1 << 24)) > 10  # something is drawn
    assert plot_training(tmp_path, log[-1:]) is None  # no loss was logged
    assert [path.name for path in tmp_path.iterdir()] == ["f1_test.png"]


@pytest.mark.parametrize(
    ("predicted", "warning"),
    [
        ([["O"] * 4, ["O"] * 2], "The model predicts no entity at all in these 2 sentences, which have 3."),
        ([["O", "B-LOC", "I-LOC", "O"], ["O", "O"]], "The model never predicts PER; these 2 sentences have 2."),
        ([["O", "B-LOC", "I-LOC", "O"], ["B-PER", "O"]], ""),
    ],
)
def test_scores_come_with_a_warning(predicted, warning):
    gold = [["O", "B-LOC", "I-LOC", "B-PER"], ["B-PER", "O"]]
    rows = [{"ner_tags": tags, "predicted_tags": others} for tags, others in zip(gold, predicted, strict=True)]
    assert caution(rows) == warning
