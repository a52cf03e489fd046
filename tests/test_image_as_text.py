"""Captions read beside sentences: what the tower is given, what is trained, what the controls hide, what is said."""

import logging

import datasets
import pytest
import torch
from sharded_rows import LABELS, rows_of
from written_files import write_jsonl

from mmner.data.sentences import WindowedSentences
from mmner.options import DataArguments, ModelArguments
from mmner.training.model import build_model
from pipeline_2mner import TwoMNERPipeline
from run_mmner import main

WORDS = "Jordan won in Paris today a man runs river bank .".split()
CAPTIONS = ["a man runs", None, "a river bank", "Paris"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An untrained model that reads captions, and its processor."""
    torch.manual_seed(0)
    args = ModelArguments(
        text_model="tiny", vision_model="tiny", collaboration="none", image_as_text=True, dropout=0.0
    )
    model, processor = build_model(args, LABELS, [WORDS], tmp_path_factory.mktemp("made"), build=True)
    with torch.no_grad():
        model.classifier.weight.normal_(std=3)
    return model.eval(), processor


def rows() -> datasets.Dataset:
    tokens = [["Jordan", "won", "."], ["Jordan"], ["in", "Paris", "today", "."], ["Paris"]]
    tags = [[3, 0, 0], [1], [0, 1, 0, 0], [1]]
    return rows_of(tokens, tags, caption=CAPTIONS)


@pytest.mark.parametrize("side", ["right", "left"])
def test_captions_follow_their_sentences(made, side, monkeypatch):
    processor = made[1]
    monkeypatch.setattr(processor.tokenizer, "padding_side", side)
    text = [["Jordan", "won"], ["in", "Paris", "."]]
    plain, read = processor(text), processor(text, captions=["a man runs", None])
    alone = processor([["a", "man", "runs"]])["input_ids"][0][1:]  # with the closing token, not the opening one
    for row, extra in enumerate((alone.tolist(), [])):
        ids = [batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist() for batch in (plain, read)]
        assert ids[1] == ids[0] + extra
        for word in range(len(text[row])):
            tokens = [batch["input_ids"][row, batch["word_starts"][row, word]] for batch in (plain, read)]
            assert tokens[0] == tokens[1]
    assert (plain["word_starts"] >= 0).equal(read["word_starts"] >= 0)


def test_a_caption_is_cut_to_the_room_beside_its_sentence_and_that_is_said(made, caplog):
    processor = made[1]
    with caplog.at_level(logging.WARNING):
        batch = processor([["Jordan", "won"]], captions=["man " * 1000])
    assert batch["input_ids"].shape[1] == processor.max_length
    assert "caption of sentence 0 is cut from" in caplog.text


def test_controls_hide_and_shuffle_captions(made):
    model, processor = made
    sentences = WindowedSentences(rows(), processor, model.config.label2id, captions=True)

    def read(images: str) -> list[str | None]:
        shown = sentences.with_images(images)
        return [
            window["caption"] for _, window in sorted(zip(shown.row_of, shown, strict=True), key=lambda pair: pair[0])
        ]

    assert read("own") == CAPTIONS and read("hidden") == [None] * 4
    shuffled = read("shuffled")
    assert shuffled[1] is None
    assert sorted(filter(None, shuffled)) == sorted(filter(None, CAPTIONS))
    assert all(other != own for other, own in zip(shuffled, CAPTIONS, strict=True) if own)
    bare = rows().remove_columns("caption")
    with pytest.raises(ValueError, match="the dataset has none: give it a column `caption`"):
        WindowedSentences(bare, processor, model.config.label2id, captions=True)


def test_the_pipeline_reads_a_caption_as_training_does(made):
    model, processor = made
    ner = TwoMNERPipeline(model=model, processor=processor)
    text = "Jordan won in Paris."
    with torch.no_grad():
        logits = model(**processor(text, captions="a man runs"))
        expected = [model.config.labels[tag] for tag in model.crf.decode(logits.logits, torch.ones(1, 5).bool())[0]]
    found = ner({"text": text, "caption": "a man runs"}, aggregation_strategy="none")
    assert [item["entity"] for item in found] == [tag for tag in expected if tag != "O"]
    mixed = ner([{"text": text, "caption": "a man runs"}, text], batch_size=2)
    assert mixed[1] == ner(text)
    with pytest.raises(ValueError, match="caption of type int; expected a string"):
        ner({"text": text, "caption": 3})


def test_a_run_reads_captions_and_scores_its_controls(tmp_path):
    for split in ("train", "validation", "test"):
        lines = [
            {"id": f"{split}{i}", "lang": "en", "tokens": t, "ner_tags": [LABELS[x] for x in y], "caption": c}
            for i, (t, y, c) in enumerate(zip(rows()["tokens"][:], rows()["ner_tags"][:], CAPTIONS, strict=True))
        ]
        write_jsonl(tmp_path / f"{split}.jsonl", *lines)
    options = "--text_model tiny --vision_model tiny --collaboration none --image_as_text true --max_steps 2"
    options += " --use_cpu true --report_to none --per_device_train_batch_size 2"
    results = main([*options.split(), "--dataset", str(tmp_path), "--output_dir", str(tmp_path / "out")])
    assert {"test_f1", "test_text_only_f1", "test_shuffled_image_f1"} <= set(results)
    assert DataArguments().captions is None
