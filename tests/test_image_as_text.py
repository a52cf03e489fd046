"""Captions read beside sentences: what the tower is given, what is trained, what the controls hide, what is said."""

import json
import logging

import datasets
import pytest
import torch
from tiny_models import tiny_batch, tiny_model

from crf_2mner import LinearChainCRF
from mmner.data.collator import MultimodalCollator
from mmner.data.sentences import WindowedSentences
from mmner.options import DataArguments, ModelArguments, TrainingArguments
from mmner.training.model import build_model
from mmner.training.trainer import TwoMNERTrainer
from pipeline_2mner import TwoMNERPipeline
from run_mmner import main

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
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
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=LABELS)),
            "caption": datasets.Value("string"),
        }
    )
    tokens = [["Jordan", "won", "."], ["Jordan"], ["in", "Paris", "today", "."], ["Paris"]]
    tags = [[3, 0, 0], [1], [0, 1, 0, 0], [1]]
    return datasets.Dataset.from_dict({"tokens": tokens, "ner_tags": tags, "caption": CAPTIONS}, features=features)


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
        seen = read["input_ids"][row][read["text_attention_mask"][row].bool()].tolist()
        assert seen == ids[0]
        for word in range(len(text[row])):
            pieces = [batch["input_ids"][row, batch["word_starts"][row, word]] for batch in (plain, read)]
            assert pieces[0] == pieces[1]
    assert (plain["word_starts"] >= 0).equal(read["word_starts"] >= 0)
    assert "text_attention_mask" not in plain


def test_a_caption_is_cut_to_the_room_beside_its_sentence_and_that_is_said(made, caplog):
    processor = made[1]
    with caplog.at_level(logging.WARNING):
        batch = processor([["Jordan", "won"]], captions=["man " * 100], max_length=12)
    assert batch["input_ids"].shape[1] == 12
    assert "caption of sentence 0 is cut from" in caplog.text


def test_controls_hide_and_shuffle_captions(made):
    model, processor = made
    sentences = WindowedSentences(rows(), processor, model.config.label2id, captions=True, training=True)
    assert [window["caption"] for window in sentences] == CAPTIONS
    assert [window["caption"] for window in sentences.with_images("hidden")] == [None] * 4
    shuffled = [window["caption"] for window in sentences.with_images("shuffled")]
    assert shuffled[1] is None
    assert sorted(filter(None, shuffled)) == sorted(filter(None, CAPTIONS))
    assert all(other != own for other, own in zip(shuffled, CAPTIONS, strict=True) if own)
    bare = rows().remove_columns("caption")
    with pytest.raises(ValueError, match="the set has none: give it a column `caption`"):
        WindowedSentences(bare, processor, model.config.label2id, captions=True)


def test_training_learns_from_both_views(made, tmp_path):
    model, processor = made
    sentences = WindowedSentences(rows(), processor, model.config.label2id, captions=True, training=True)
    collator = MultimodalCollator(processor, use_images=False)
    trainer = TwoMNERTrainer(
        model=model,
        args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none"),
        data_collator=collator,
        train_dataset=sentences,
        eval_dataset=sentences,
        processing_class=processor,
    )
    batch = collator([sentences[index] for index in range(4)])
    without = processor(rows()["tokens"][:], word_labels=rows()["ner_tags"][:])
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    try:
        known = model.config.consistency_weight
        model.config.consistency_weight = 0.5
        with torch.no_grad():
            views = [model(**{k: v for k, v in batch.items() if k != "text_attention_mask"}), model(**without)]
            found, output = trainer.compute_loss(model, dict(batch), return_outputs=True)
            mask = without["word_starts"] >= 0
            divergence = model.crf.divergence(views[0].logits, views[1].logits, mask).mean()
        assert divergence > 0
        expected = views[0].loss + views[1].loss + 0.5 * divergence
        assert found.item() == pytest.approx(expected.item(), rel=1e-4)
        assert output.consistency_loss.item() == pytest.approx(divergence.item(), rel=1e-4)
        assert found.item() == pytest.approx((output.ner_loss + 0.5 * output.consistency_loss).item())
        assert torch.equal(output.logits, views[0].logits)
        with pytest.raises(ValueError, match=r"`text_attention_mask` has shape \(4, 2\); expected one entry a piece"):
            model(**(batch | {"text_attention_mask": torch.ones(4, 2)}))
    finally:
        model.config.consistency_weight = known
        model.eval()


@pytest.mark.parametrize("alignment", ["nt_xent", "clip", "siglip", "token"])
def test_a_captions_loss_is_the_weighted_sum_of_its_parts(alignment):
    model = tiny_model(alignment=alignment, image_as_text=True, ner_weight=1.6, consistency_weight=0.7).train()
    batch = tiny_batch()
    batch["text_attention_mask"] = batch["attention_mask"].clone()
    batch["text_attention_mask"][:, 4:] = 0
    output = model(**batch)
    output.loss.backward()
    views = [model(**{k: v for k, v in batch.items() if k != "text_attention_mask"})]
    batch["attention_mask"] = batch.pop("text_attention_mask")
    views.append(model(**batch))
    mask = batch["word_starts"] >= 0
    for name in ("ner_loss", "alignment_loss"):
        torch.testing.assert_close(output[name], views[0][name] + views[1][name])
    divergence = model.crf.divergence(views[0].logits, views[1].logits, mask).mean()
    consistency = views[0].consistency_loss + views[1].consistency_loss + divergence
    torch.testing.assert_close(output.consistency_loss, consistency)
    parts = 1.6 * output.ner_loss + output.alignment_loss + 0.7 * output.consistency_loss
    torch.testing.assert_close(output.loss, parts)


def test_in_half_precision_the_gradients_of_both_views_are_added_in_full():
    model, batch = tiny_model(image_as_text=True, collaboration="none").train(), tiny_batch()
    text_mask = batch["attention_mask"].clone()
    text_mask[:, 4:] = 0
    losses = []
    for mask in (batch["attention_mask"], text_mask):
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(model(**(batch | {"attention_mask": mask})).loss)
    sum(losses).backward()
    expected = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch, text_attention_mask=text_mask).loss
    loss.backward()
    assert expected and all(torch.equal(model.get_parameter(name).grad, value) for name, value in expected.items())


def test_in_evaluation_the_sentence_alone_is_not_read():
    model, batch = tiny_model(image_as_text=True, consistency_weight=0.7), tiny_batch()
    expected = model(**batch)
    found = model(**batch, text_attention_mask=torch.zeros_like(batch["attention_mask"]))
    assert set(found) == set(expected)
    assert torch.equal(found.loss, expected.loss) and torch.equal(found.logits, expected.logits)


def test_divergence_is_that_of_independent_words_without_transitions():
    torch.manual_seed(0)
    crf = LinearChainCRF(3)
    for parameter in crf.parameters():
        parameter.data.zero_()
    teacher, student = torch.randn(2, 4, 3), torch.randn(2, 4, 3, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    found = crf.divergence(teacher, student, mask)
    word = torch.nn.functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="none").sum(-1)
    assert torch.allclose(found, (word * mask).sum(1), atol=1e-5)
    found.sum().backward()
    assert student.grad[1, 1].any() and not student.grad[1, 2].any()


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
    model.config.image_as_text = False
    try:
        with pytest.raises(ValueError, match="not trained to read captions"):
            ner({"text": text, "caption": "a man"})
    finally:
        model.config.image_as_text = True


def test_a_run_reads_captions_and_scores_its_controls(tmp_path):
    for split in ("train", "validation", "test"):
        lines = [
            {"id": f"{split}{i}", "lang": "en", "tokens": t, "ner_tags": [LABELS[x] for x in y], "caption": c}
            for i, (t, y, c) in enumerate(zip(rows()["tokens"][:], rows()["ner_tags"][:], CAPTIONS, strict=True))
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = {
        "text_model": "tiny", "vision_model": "tiny", "collaboration": "none", "image_as_text": "true",
        "dataset": tmp_path, "output_dir": tmp_path / "out", "max_steps": 2, "consistency_weight": 1,
        "use_cpu": "true", "report_to": "none", "per_device_train_batch_size": 2,
    }  # fmt: skip
    results = main([part for name, value in options.items() for part in (f"--{name}", str(value))])
    assert {"test_f1", "test_text_only_f1", "test_shuffled_image_f1"} <= set(results)
    assert DataArguments().captions is None
