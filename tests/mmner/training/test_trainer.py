"""Where the plain Trainer is not enough: parameter groups, the order of sentences, scores of entities."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sharded_rows import make_rows, png, rows_of
from tiny_runs import make_model, trainer_of
from transformers import TrainerState

from mmner.data.sentences import WindowedSentences
from mmner.options import TrainingArguments
from mmner.results.report import prediction_rows
from mmner.training.trainer import ENOUGH_STEPS, EpochSampler, TwoMNERTrainer, few_steps, parameter_groups


def make_trainer(towers, folder, dev=None, **options) -> TwoMNERTrainer:
    model, processor = make_model(towers)
    train = WindowedSentences(make_rows(20), processor, model.config.label2id, training=True)
    dev = make_rows(7, seed=1) if dev is None else dev
    dev = WindowedSentences(dev, processor, model.config.label2id) if dev else None
    return trainer_of(model, processor, folder, train, dev, per_device_train_batch_size=4, **options)


@pytest.mark.parametrize(
    "options",
    [{"collaboration": "none"}, {"collaboration": "umt", "alignment": "token"}, {"alignment": "clip"}],
)
def test_each_trained_parameter_is_in_one_group_with_the_rate_of_its_part(towers, tmp_path, options):
    model, _ = make_model(towers, freeze_text_model="1", **options)
    rates = {"text": 1e-5, "vision": 2e-5, "crf": 1e-2, "head": 3e-4}
    rates = {f"{part}_learning_rate": rate for part, rate in rates.items()}
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, weight_decay=0.1, **rates)
    groups = parameter_groups(model, args)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    counted = Counter(id(p) for group in groups for p in group["params"])
    assert counted == Counter(id(p) for p in model.parameters() if p.requires_grad)
    base = model.model
    parts = {1e-5: [base.text_model], 2e-5: [base.vision_model], 1e-2: [model.crf]}
    parts[3e-4] = [base.collaboration, base.alignment, model.classifier]
    for rate, modules in parts.items():
        for module in filter(None, modules):
            for name, parameter in module.named_parameters():
                decay = 0.1 if parameter.dim() > 1 and module is not model.crf else 0.0
                assert not parameter.requires_grad or found[id(parameter)] == (rate, decay), name


def test_each_layer_of_the_text_tower_has_its_share_of_the_rate_above_it(towers, tmp_path):
    model, _ = make_model(towers, collaboration="none")
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, text_learning_rate=1e-2, text_layer_decay=0.5)
    found = {id(p): group["lr"] for group in parameter_groups(model, args) for p in group["params"]}
    text = model.model.text_model
    layers = text.encoder.layer
    for below, module in enumerate([*reversed(layers), text.embeddings]):
        assert all(found[id(p)] == pytest.approx(1e-2 * 0.5**below) for p in module.parameters())
    assert {found[id(p)] for p in model.classifier.parameters()} == {args.learning_rate}


@given(
    lengths=st.lists(st.integers(0, 50), max_size=300),
    batch_size=st.integers(1, 9),
    strategy=st.sampled_from(["group_by_length", "random", "sequential"]),
)
def test_the_sampler_gives_every_index_once_in_an_order_of_its_own(lengths, batch_size, strategy):
    orders = []
    for seed, epoch in ((5, 0), (5, 1), (6, 0), (5, 1)):
        sampler = EpochSampler(lengths, batch_size, strategy, seed)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(len(lengths))) and len(sampler) == len(lengths)
    assert orders[1] == orders[3]
    if strategy == "sequential":
        assert orders[0] == orders[1] == list(range(len(lengths)))
    elif len(set(lengths)) > 40:
        assert orders[0] != orders[1] != orders[2] != orders[0]


def test_batches_hold_sentences_of_about_one_length_and_come_in_no_order_of_length():
    rng = random.Random(0)
    lengths = [rng.randint(1, 100) for _ in range(2003)]
    order = list(EpochSampler(lengths, 8, seed=0))
    batches = [[lengths[index] for index in order[start : start + 8]] for start in range(0, len(order), 8)]
    assert len(batches[-1]) == 3
    padding = sum(max(batch) * len(batch) - sum(batch) for batch in batches[:-1]) / sum(lengths)
    assert padding < 0.05  # about 0.7 if the sentences were not grouped
    means = np.array([np.mean(batch) for batch in batches[:-1]])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


def test_an_epoch_has_an_order_of_its_own_and_evaluation_keeps_that_of_the_sentences(towers, tmp_path):
    trainer = make_trainer(towers, tmp_path)
    loader = trainer.get_train_dataloader()
    first = [batch["input_ids"].tolist() for batch in loader]
    state = TrainerState(epoch=2.5)  # as after a resume in the middle of the third epoch
    trainer.callback_handler.on_epoch_begin(trainer.args, state, trainer.control)
    assert trainer.sampler.epoch == 2 and first != [batch["input_ids"].tolist() for batch in loader]
    labels = [row for batch in trainer.get_test_dataloader(trainer.eval_dataset) for row in batch["labels"].tolist()]
    expected = [trainer.eval_dataset[index]["labels"] for index in range(7)]
    assert [[x for x in row if x >= 0] for row in labels] == expected


@pytest.mark.parametrize(
    ("metric", "words", "message"),
    [
        ("f1", None, "the 0 dev sentences give only nothing.*--eval_strategy no"),
        ("f1", ["in", "today"], "eval_f1: the 2 dev sentences give only eval_loss.*--max_eval_samples"),
        ("f1_LOC", ["Jordan", "won"], "eval_f1_LOC: .* give only eval_f1, eval_f1_PER, eval_"),
        ("f1_LOC", ["in", "Paris"], None),
        ("loss", ["in", "today"], None),
    ],
)
def test_the_score_to_choose_by_is_one_that_dev_has(towers, tmp_path, metric, words, message):
    tags = [{"Jordan": 3, "Paris": 1}.get(word, 0) for word in words or ()]
    dev = rows_of([words] * 2, [tags] * 2) if words else []
    if message is None:
        assert f"eval_{metric}" in make_trainer(towers, tmp_path, dev, metric_for_best_model=metric).evaluate()
        return
    with pytest.raises(ValueError, match=message):
        make_trainer(towers, tmp_path, dev, metric_for_best_model=metric)
    make_trainer(towers, tmp_path, dev, metric_for_best_model=metric, do_train=False)
    make_trainer(towers, tmp_path, dev, eval_strategy="no", load_best_model_at_end=False)


def test_controls_see_other_images_and_their_scores_are_named(towers, tmp_path, monkeypatch):
    trainer = make_trainer(towers, tmp_path)
    seen, predict, dev = [], trainer.predict, trainer.eval_dataset
    monkeypatch.setattr(trainer, "predict", lambda data, **named: seen.append(data.images) or predict(data, **named))
    output = trainer.predict_with_controls(dev, "test")
    assert seen == ["own", "hidden", "shuffled"]
    for name in ("f1", "precision", "recall", "f1_LOC", "f1_PER"):
        assert {f"test_{name}", f"test_text_only_{name}", f"test_shuffled_image_{name}"} <= set(output.metrics)
    hidden = predict(dev.with_images("hidden"))
    assert output.metrics["test_text_only_f1"] == hidden.metrics["test_f1"]
    rows = prediction_rows(dev, *output.predictions)
    assert [row["text_only_tags"] for row in rows] == dev.predicted_tags(hidden.predictions[0])
    assert all(len(row["shuffled_image_tags"]) == len(row["tokens"]) for row in rows)


def test_a_shuffle_that_cannot_be_made_is_left_out_and_said(towers, tmp_path, caplog):
    trainer = make_trainer(towers, tmp_path)
    one = rows_of([["in", "Paris"]] * 7, [[0, 1]] * 7, [png(1, 2, 3)] * 7)
    sentences = WindowedSentences(one, trainer.processing_class, trainer.model.config.label2id)
    metrics = trainer.predict_with_controls(sentences, "test").metrics
    assert "test_text_only_f1" in metrics and "test_shuffled_image_f1" not in metrics
    assert "The control shuffled_image is left out: Cannot shuffle 7 images of 1 contents" in caplog.text


@pytest.mark.parametrize(
    ("options", "steps", "told"),
    [
        ({"num_train_epochs": 1}, 13, "--num_train_epochs 16"),  # 208 steps
        ({"max_steps": 13}, 13, "--max_steps 200"),
        ({"num_train_epochs": 4}, 28, "--num_train_epochs 29"),
        (
            {"num_train_epochs": 4, "early_stopping_patience": 3},
            28,
            "29 --early_stopping_patience none (F1 may be 0 in",
        ),
    ],
)
def test_few_steps_are_told_with_what_to_set(tmp_path, options, steps, told):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options)
    assert few_steps(args, steps, 200).startswith(f"{steps} optimizer steps on 200 rows are few")
    assert told in few_steps(args, steps, 200)
    assert few_steps(args, ENOUGH_STEPS, 200) == ""
