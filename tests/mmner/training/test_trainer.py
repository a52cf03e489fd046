"""Where the plain Trainer is not enough: parameter groups, the order of sentences, scores of entities."""

import io
import logging
import random
from collections import Counter

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import TrainerState, set_seed

from mmner.data.collator import MultimodalCollator
from mmner.data.sentences import WindowedSentences
from mmner.options import RECIPES, ModelArguments, TrainingArguments, parse_arguments
from mmner.results.report import prediction_rows
from mmner.training.model import build_model
from mmner.training.trainer import (
    ENOUGH_STEPS,
    EpochSampler,
    TwoMNERTrainer,
    few_steps,
    parameter_groups,
)

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
WORDS = ["Jordan", "won", "in", "Paris", "today", "."]


def make_rows(count: int, seed: int = 0) -> datasets.Dataset:
    rng = random.Random(seed)
    tokens = [[rng.choice(WORDS) for _ in range(rng.randint(1, 12))] for _ in range(count)]
    tags = [[{"Jordan": 3, "Paris": 1}.get(word, 0) for word in words] for words in tokens]
    images = []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (rng.randint(0, 255), 0, 0)).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None} if rng.random() < 0.7 else None)
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=LABELS)),
            "image": datasets.Image(),
        }
    )
    return datasets.Dataset.from_dict({"tokens": tokens, "ner_tags": tags, "image": images}, features=features)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    build_model(ModelArguments(text_model="tiny", vision_model="tiny"), LABELS, [WORDS], folder, build=True)
    return folder


def make_model(towers, **options):
    set_seed(0)
    arguments = ModelArguments(text_model="tiny", vision_model="tiny", **options)
    return build_model(arguments, LABELS, [], towers, build=False)


def make_trainer(towers, folder, rows=20, model_options=None, **options) -> TwoMNERTrainer:
    model, processor = make_model(towers, **(model_options or {}))
    options = {"logging_steps": 1, "per_device_train_batch_size": 4, "report_to": "none", **options}
    return TwoMNERTrainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), use_cpu=True, disable_tqdm=True, seed=1, **options),
        data_collator=MultimodalCollator(processor),
        train_dataset=WindowedSentences(make_rows(rows), processor, model.config.label2id, training=True),
        eval_dataset=WindowedSentences(make_rows(7, seed=1), processor, model.config.label2id),
        processing_class=processor,
    )


@pytest.mark.parametrize("collaboration", ["none", "cross_attention", "gated", "umt"])
@pytest.mark.parametrize("alignment", ["none", "nt_xent", "token"])
def test_each_trained_parameter_is_in_one_group(towers, tmp_path, collaboration, alignment):
    model, _ = make_model(towers, collaboration=collaboration, alignment=alignment, freeze_text_model="1")
    groups = parameter_groups(model, TrainingArguments(output_dir=str(tmp_path), use_cpu=True))
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trained = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) < len(list(model.parameters()))
    assert Counter(grouped) == Counter(trained)
    assert all(group["params"] for group in groups)


def test_each_part_has_its_rate_and_vectors_do_not_decay(towers, tmp_path):
    model, _ = make_model(towers, alignment="clip")
    rates = {"text_learning_rate": 1e-5, "vision_learning_rate": 2e-5, "crf_learning_rate": 1e-2}
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, learning_rate=3e-4, weight_decay=0.1, **rates)
    found = {
        id(p): (group["lr"], group["weight_decay"]) for group in parameter_groups(model, args) for p in group["params"]
    }
    base = model.model
    parts = {1e-5: [base.text_model], 2e-5: [base.vision_model], 1e-2: [model.crf]}
    parts[3e-4] = [base.collaboration, base.alignment, model.classifier]
    for rate, modules in parts.items():
        for module in modules:
            for name, parameter in module.named_parameters():
                decay = 0.1 if parameter.dim() > 1 and module is not model.crf else 0.0
                if parameter.requires_grad:
                    assert found[id(parameter)] == (rate, decay), name
    norm = base.text_model.encoder.layer[0].output.LayerNorm
    assert found[id(norm.weight)][1] == found[id(norm.bias)][1] == 0.0


@pytest.mark.parametrize(("given", "expected"), [(None, 3e-4), (2e-3, 2e-3)])
def test_the_classifier_has_the_rate_of_the_head_or_its_own(towers, tmp_path, given, expected):
    model, _ = make_model(towers)
    args = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, head_learning_rate=3e-4, classifier_learning_rate=given
    )
    rates = {id(p): group["lr"] for group in parameter_groups(model, args) for p in group["params"]}
    assert rates[id(model.classifier.weight)] == rates[id(model.classifier.bias)] == expected
    assert {rates[id(p)] for p in model.model.collaboration.parameters()} == {3e-4}


def test_a_rate_that_no_part_has_is_told(towers, tmp_path, caplog):
    own = {"text_learning_rate": 1e-5, "head_learning_rate": 1e-4, "crf_learning_rate": 1e-2}
    own["model_options"] = {"freeze_vision_model": "all"}  # which else would have it
    make_trainer(towers, tmp_path, learning_rate=3e-4, **own).create_optimizer()
    (told,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "--learning_rate 0.0003 has no effect" in told
    assert all(f"--{part}_learning_rate" in told for part in ("text", "head", "crf")) and "--vision" not in told
    caplog.clear()
    make_trainer(towers, tmp_path, **own).create_optimizer()  # not given
    make_trainer(towers, tmp_path, learning_rate=3e-4, **own | {"crf_learning_rate": None}).create_optimizer()
    make_trainer(towers, tmp_path, learning_rate=3e-4, **own | {"model_options": {}}).create_optimizer()
    assert "has no effect" not in caplog.text


@pytest.mark.parametrize("recipe", ["base", "large", "local"])
def test_the_learning_rate_of_a_recipe_is_that_of_its_text_tower(towers, tmp_path, recipe):
    argv = [str(RECIPES / f"{recipe}.yaml"), "--output_dir", str(tmp_path), "--use_cpu", "--bf16", "false"]
    names, _, plain = parse_arguments(argv)
    model, _ = make_model(towers, freeze_vision_model=names.freeze_vision_model)
    lowered = parse_arguments([*argv, "--learning_rate", "1e-7"])[2]
    before, after = (
        {group["name"]: group["lr"] for group in parameter_groups(model, args)} for args in (plain, lowered)
    )
    expected = {"base": 2e-5, "large": 1e-5, "local": 1e-4}[recipe]
    assert before["text"] == before["text_no_decay"] == expected
    assert after == {name: 1e-7 if name.startswith("text") else rate for name, rate in before.items()}


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
    assert trainer.sampler.lengths is trainer.train_dataset.lengths and trainer.sampler.batch_size == 4
    first = [batch["input_ids"] for batch in loader]
    state = TrainerState(epoch=2.5)  # as after a resume in the middle of the third epoch
    trainer.callback_handler.on_epoch_begin(trainer.args, state, trainer.control)
    assert trainer.sampler.epoch == 2 and not torch.equal(first[0], next(iter(loader))["input_ids"])
    labels = [row for batch in trainer.get_test_dataloader(trainer.eval_dataset) for row in batch["labels"].tolist()]
    assert [[x for x in row if x >= 0] for row in labels] == [
        trainer.eval_dataset[index]["labels"] for index in range(7)
    ]


def test_without_dev_sentences_the_checkpoint_cannot_be_chosen(towers, tmp_path):
    model, processor = make_model(towers)
    train = WindowedSentences(make_rows(4), processor, model.config.label2id, training=True)
    options = {"model": model, "data_collator": MultimodalCollator(processor), "train_dataset": train}
    with pytest.raises(ValueError, match="no dev sentences .* test set must not be used for it.*--eval_strategy no"):
        TwoMNERTrainer(args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True), **options)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, eval_strategy="no", load_best_model_at_end=False)
    TwoMNERTrainer(args=args, **options)
    only_test = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, do_train=False)
    TwoMNERTrainer(args=only_test, **{**options, "train_dataset": None})


@pytest.mark.parametrize(
    ("metric", "words", "message"),
    [
        (
            "f1",
            ["in", "today"],
            "eval_f1 is no score of the 2 dev sentences, which have no entities.*--max_eval_samples",
        ),
        ("f1_LOC", ["Jordan", "won"], "eval_f1_LOC is no score .*eval_f1, eval_f1_PER, eval_"),
        ("f1", ["in", "Paris"], None),
        ("f1_LOC", ["in", "Paris"], None),
        ("loss", ["in", "today"], None),
    ],
)
def test_the_score_to_choose_by_is_one_that_dev_has(towers, tmp_path, metric, words, message):
    model, processor = make_model(towers)
    features = make_rows(1).features
    rows = {"tokens": [words] * 2, "ner_tags": [[{"Jordan": 3, "Paris": 1}.get(word, 0) for word in words]] * 2}
    dev = datasets.Dataset.from_dict(rows | {"image": [None] * 2}, features=features)
    train = WindowedSentences(make_rows(4), processor, model.config.label2id, training=True)
    options = {"model": model, "data_collator": MultimodalCollator(processor), "train_dataset": train}
    options["eval_dataset"] = WindowedSentences(dev, processor, model.config.label2id)
    arguments = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "metric_for_best_model": metric}
    if message is None:
        metrics = TwoMNERTrainer(args=TrainingArguments(**arguments), **options).evaluate()
        assert f"eval_{metric}" in metrics
        return
    with pytest.raises(ValueError, match=message):
        TwoMNERTrainer(args=TrainingArguments(**arguments), **options)
    TwoMNERTrainer(args=TrainingArguments(**arguments, do_train=False), **options)
    last = {"eval_strategy": "no", "load_best_model_at_end": False}
    TwoMNERTrainer(args=TrainingArguments(**arguments, **last), **options)


def test_an_optimizer_that_takes_no_groups_is_an_error(towers, tmp_path, monkeypatch):
    trainer = make_trainer(towers, tmp_path)
    monkeypatch.setattr(trainer, "get_optimizer_cls_and_kwargs", lambda *args: (torch.optim.SGD, {"params": []}))
    with pytest.raises(ValueError, match="--optim .* takes no parameter groups"):
        trainer.create_optimizer()


def test_a_set_is_scored_by_its_own_sentences(towers, tmp_path):
    trainer = make_trainer(towers, tmp_path)
    other = WindowedSentences(make_rows(11, seed=9), trainer.processing_class, trainer.model.config.label2id)
    dev, test = trainer.evaluate(), trainer.predict(other)
    assert {"eval_f1", "eval_precision", "eval_recall", "eval_f1_LOC", "eval_f1_PER", "eval_loss"} <= set(dev)
    assert test.metrics["test_f1"] == other.compute_metrics(test)["f1"]
    assert len(test.predictions) == 11 and trainer.evaluate()["eval_f1"] == dev["eval_f1"]


def test_controls_see_other_images_and_their_scores_are_named(towers, tmp_path, monkeypatch):
    trainer = make_trainer(towers, tmp_path)
    seen = []
    predict = trainer.predict
    monkeypatch.setattr(
        trainer, "predict", lambda data, **options: seen.append(data.images) or predict(data, **options)
    )
    output = trainer.predict_with_controls(trainer.eval_dataset, "test")
    assert seen == ["own", "hidden", "shuffled"]
    for name in ("f1", "precision", "recall", "f1_LOC", "f1_PER"):
        assert {f"test_{name}", f"test_text_only_{name}", f"test_shuffled_image_{name}"} <= set(output.metrics)
    hidden = predict(trainer.eval_dataset.with_images("hidden"))
    assert output.metrics["test_text_only_f1"] == hidden.metrics["test_f1"]
    rows = prediction_rows(trainer.eval_dataset, *output.predictions)
    assert [row["text_only_tags"] for row in rows] == trainer.eval_dataset.predicted_tags(hidden.predictions)
    assert all(len(row["shuffled_image_tags"]) == len(row["tokens"]) for row in rows)


def test_a_shuffle_that_cannot_be_made_is_left_out_and_said(towers, tmp_path, caplog):
    trainer = make_trainer(towers, tmp_path)
    rows = make_rows(7, seed=1)
    image = next(image for image in rows.cast_column("image", datasets.Image(decode=False))["image"] if image)
    one = rows.remove_columns("image").add_column("image", [image] * 7).cast_column("image", datasets.Image())
    sentences = WindowedSentences(one, trainer.processing_class, trainer.model.config.label2id)
    with caplog.at_level(logging.WARNING):
        metrics = trainer.predict_with_controls(sentences, "test").metrics
    assert "test_text_only_f1" in metrics and "test_shuffled_image_f1" not in metrics
    assert "The control shuffled_image is left out: Cannot shuffle 7 images of 1 contents" in caplog.text


def test_predictions_come_with_a_score_at_each_entity(towers, tmp_path):
    trainer = make_trainer(towers, tmp_path)
    tags, scores = trainer.predict_with_scores(trainer.eval_dataset).predictions
    begins = np.isin(tags, [LABELS.index("B-LOC"), LABELS.index("B-PER")])
    assert begins.any() and tags.shape == scores.shape
    assert ((scores > 0) == begins).all() and (scores <= 1 + 1e-6).all()
    assert trainer.preprocess_logits_for_metrics is None


@pytest.mark.parametrize(
    ("options", "steps", "told"),
    [
        # 200 rows by 16 are 13 steps an epoch: 16 epochs are 208.
        ({"num_train_epochs": 1, "per_device_train_batch_size": 16}, 13, "--num_train_epochs 16"),
        ({"num_train_epochs": 2, "per_device_train_batch_size": 16}, 26, "--num_train_epochs 16"),
        ({"max_steps": 13, "per_device_train_batch_size": 16}, 13, "--max_steps 200"),
        (
            {"num_train_epochs": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 8},
            28,
            "--num_train_epochs 29",
        ),
    ],
)
def test_few_steps_are_told_with_what_to_set(tmp_path, options, steps, told):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options)
    message = few_steps(args, steps, 200)
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    assert message.startswith(f"{steps} optimizer steps (200 rows, {batch} a step, {steps * batch / 200:.1f} epochs)")
    assert message.endswith(told)
    args.early_stopping_patience = 3
    assert f"{told} --early_stopping_patience none" in few_steps(args, steps, 200)
    assert few_steps(args, ENOUGH_STEPS, 200) == ""
