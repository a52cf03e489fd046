"""The same numbers after a resume; and what ends a run for good ends it with a message and a whole checkpoint."""

import io
import json
import random
import resource
import shutil

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import TrainerCallback, set_seed

from mmner.data.collator import MultimodalCollator
from mmner.data.sentences import WindowedSentences
from mmner.options import ModelArguments, TrainingArguments
from mmner.probe.tiny_towers import make_tiny_towers
from mmner.training import resumable_trainer
from mmner.training.checkpoints import SAVING, newest_checkpoint
from mmner.training.model import build_model
from mmner.training.resumable_trainer import is_out_of_memory, shape_of
from mmner.training.trainer import TwoMNERTrainer, checkpoint_to_resume

LABELS = ["O", "B-LOC", "I-LOC"]
WORDS = ["Paris", "Texas", "is", "far", "."]


def make_rows(count: int) -> datasets.Dataset:
    rng = random.Random(count)
    tokens = [["Paris", "Texas"] + [rng.choice(WORDS[2:]) for _ in range(rng.randint(1, 9))] for _ in range(count)]
    images = []
    for number in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    features = {
        "tokens": datasets.List(datasets.Value("string")),
        "ner_tags": datasets.List(datasets.ClassLabel(names=LABELS)),
        "image": datasets.Image(),
    }
    tags = [[1, 2] + [0] * (len(words) - 2) for words in tokens]
    return datasets.Dataset.from_dict(
        {"tokens": tokens, "ner_tags": tags, "image": images}, features=datasets.Features(features)
    )


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    sizes = {"text_width": 32, "text_layers": 1, "vocab_size": 300, "image_size_px": 32, "image_widths": (8, 16)}
    make_tiny_towers(folder, [WORDS], **sizes)
    return folder


class Stop(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def make_trainer(towers, folder, mention_dropout=0.0, stop=None, **options) -> TwoMNERTrainer:
    set_seed(0)
    names = {"text_model": str(towers / "text"), "vision_model": str(towers / "vision")}
    arguments = ModelArguments(**names, alignment="clip", modality_dropout=0.3)
    model, processor = build_model(arguments, LABELS, [], towers, build=False)
    processor.tokenizer.mask_token = processor.tokenizer.pad_token
    options = {
        "per_device_train_batch_size": 2,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "save_strategy": "steps",
        "save_steps": 2,
        "logging_steps": 3,
        "report_to": "none",
        "learning_rate": 1e-3,
        **options,
    }
    rows = make_rows(12)
    return TwoMNERTrainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), use_cpu=True, disable_tqdm=True, seed=1, **options),
        data_collator=MultimodalCollator(processor),
        train_dataset=WindowedSentences(
            rows, processor, model.config.label2id, training=True, mention_dropout=mention_dropout, seed=4
        ),
        eval_dataset=WindowedSentences(rows, processor, model.config.label2id),
        processing_class=processor,
        callbacks=None if stop is None else [Stop(stop)],
    )


def assert_same_weights(first, second):
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


@pytest.mark.parametrize("sampling", ["group_by_length", "random"])
def test_an_epoch_is_gone_on_with_in_its_middle(towers, tmp_path, sampling, monkeypatch):
    """Six batches an epoch; ended after the second. Nothing that was learned from is read again."""
    options = {"num_train_epochs": 2, "mention_dropout": 0.5, "train_sampling_strategy": sampling}
    whole = make_trainer(towers, tmp_path / "whole", **options)
    metrics = whole.train().metrics
    make_trainer(towers, tmp_path / "broken", stop=2, **options).train()
    resumed = make_trainer(towers, tmp_path / "broken", resume_from_checkpoint="last", **options)
    read, get = [], WindowedSentences.__getitem__
    monkeypatch.setattr(WindowedSentences, "__getitem__", lambda self, row: read.append(row) or get(self, row))
    torch.manual_seed(99)  # whatever was drawn before
    again = resumed.train(resume_from_checkpoint=checkpoint_to_resume(resumed.args)).metrics
    assert_same_weights(whole, resumed)
    assert len(read) == 20 and len(set(read[:8])) == 8
    assert again["train_loss"] == metrics["train_loss"]
    timeless = [{k: v for k, v in e.items() if k in ("step", "loss", "grad_norm")} for e in whole.state.log_history]
    assert timeless == [
        {k: v for k, v in e.items() if k in ("step", "loss", "grad_norm")} for e in resumed.state.log_history
    ]
    saved = [
        json.loads((newest_checkpoint(tmp_path / name) / "progress.json").read_text()) for name in ("whole", "broken")
    ]
    assert saved[1]["order"] == saved[0]["order"] == 6 and saved[1]["seconds"] > 0


def test_dropout_does_not_depend_on_what_was_drawn_before(towers, tmp_path):
    """An evaluation in between draws; so may a library."""
    plain = make_trainer(towers, tmp_path / "plain", max_steps=4)
    plain.train()
    disturbed = make_trainer(towers, tmp_path / "disturbed", max_steps=4, eval_strategy="steps", eval_steps=1)

    class Draw(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            torch.rand(state.global_step)

    disturbed.add_callback(Draw())
    disturbed.train()
    assert_same_weights(plain, disturbed)


def test_steps_batches_of_an_update_and_processes_have_random_numbers_of_their_own(towers, tmp_path):
    trainer = make_trainer(towers, tmp_path)
    drawn = set()
    for step in (0, 0, 1, 2, 2, 2):
        trainer.state.global_step = step
        trainer._seed_step()
        drawn.add((torch.rand(()).item(), random.random(), np.random.rand()))
    assert len({x for x, _, _ in drawn}) == len({x for _, x, _ in drawn}) == len({x for _, _, x in drawn}) == 6


def test_hidden_mentions_depend_on_seed_epoch_and_row_alone(towers, tmp_path):
    sentences = make_trainer(towers, tmp_path, mention_dropout=0.5).train_dataset

    def read(order):
        return {row: tuple(sentences[row]["tokens"]) for row in order}

    rows = list(range(12))
    first = read(rows)
    torch.manual_seed(5)
    assert read(rows[::-1]) == first and len(set(first.values())) > 2
    loader = torch.utils.data.DataLoader(sentences, 1, collate_fn=lambda rows: rows[0]["tokens"], num_workers=2)
    assert [tuple(tokens) for tokens in loader] == [first[row] for row in rows]
    sentences.set_epoch(1)
    second = read(rows)
    assert second != first and [tuple(tokens) for tokens in loader] == [second[row] for row in rows]
    sentences.set_epoch(0)
    assert read(rows) == first


def test_a_model_of_other_tensors_is_not_gone_on_with(towers, tmp_path):
    make_trainer(towers, tmp_path, max_steps=2).train()
    other = make_trainer(towers, tmp_path, max_steps=4)
    other.model.more = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="lacks 2 tensors of this model .more.bias, more.weight"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    (tmp_path / "checkpoint-2" / "scheduler.pt").unlink()
    with pytest.raises(ValueError, match="holds a model, but no state of an optimizer"):
        make_trainer(towers, tmp_path, max_steps=4).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_the_best_checkpoint_is_found_where_the_folder_is_now(towers, tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "learning_rate": 1e-9}
    make_trainer(towers, tmp_path / "there", max_steps=8, stop=4, **options).train()
    (tmp_path / "there").rename(tmp_path / "here")
    resumed = make_trainer(towers, tmp_path / "here", max_steps=8, resume_from_checkpoint="last", **options)
    resumed.train(resume_from_checkpoint=checkpoint_to_resume(resumed.args))
    assert resumed.state.best_model_checkpoint == str(tmp_path / "here" / "checkpoint-2")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["checkpoint-2", "checkpoint-8"]


def test_the_best_checkpoint_is_never_one_of_an_earlier_run_in_the_folder(towers, tmp_path):
    """The second run is best at a step that it does not save, and at which the first one saved."""
    make_trainer(towers, tmp_path, max_steps=4, save_total_limit=None).train()
    options = {"eval_strategy": "steps", "eval_steps": 2, "learning_rate": 1e-9}  # so low that the first stays best
    second = make_trainer(towers, tmp_path, max_steps=4, save_steps=4, save_total_limit=None, **options)
    second.train()
    assert second.state.best_global_step == 2 and (tmp_path / "checkpoint-2").is_dir()
    assert second.state.best_model_checkpoint is None


def test_a_run_whose_best_checkpoint_is_lost_is_not_gone_on_with(towers, tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "learning_rate": 1e-9}
    make_trainer(towers, tmp_path / "run", max_steps=8, stop=4, **options).train()
    make_trainer(towers, tmp_path / "other", max_steps=2, **options).train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    shutil.copytree(tmp_path / "other" / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
    newest = str(tmp_path / "run" / "checkpoint-4")
    with pytest.raises(ValueError, match="that of step 2 .eval_f1 .*checkpoint-2 that it saved is neither in .*run"):
        make_trainer(towers, tmp_path / "run", max_steps=8, **options).train(resume_from_checkpoint=newest)
    last = make_trainer(towers, tmp_path / "run", max_steps=6, **options | {"load_best_model_at_end": False})
    last.train(resume_from_checkpoint=newest)
    assert last.state.global_step == 6 and last.state.best_model_checkpoint is None


def test_a_run_that_did_not_save_where_it_was_scored_has_no_best_checkpoint_to_go_on_for(towers, tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2}
    make_trainer(towers, tmp_path, max_steps=4, save_steps=4, **options).train()
    again = make_trainer(towers, tmp_path, max_steps=8, save_steps=2, load_best_model_at_end=True, **options)
    with pytest.raises(ValueError, match="scored every 2 steps and saved every 4, .* --load_best_model_at_end false"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_a_training_without_an_evaluation_says_that_nothing_was_chosen(towers, tmp_path, caplog):
    options = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    make_trainer(towers, tmp_path, max_steps=2, eval_delay=3, **options).train()
    assert "its last weights are kept" in caplog.text
    caplog.clear()
    make_trainer(towers, tmp_path, max_steps=2, **options).train()
    assert "its last weights are kept" not in caplog.text


def test_a_checkpoint_that_is_not_whole_is_not_gone_on_with(tmp_path):
    def arguments(asked):
        return TrainingArguments(output_dir=str(tmp_path), resume_from_checkpoint=asked, use_cpu=True)

    assert checkpoint_to_resume(arguments("auto")) is None
    (tmp_path / "checkpoint-3").mkdir()
    assert checkpoint_to_resume(arguments("auto")) is None
    with pytest.raises(ValueError, match="checkpoint-3 is not whole .no readable trainer_state.json"):
        checkpoint_to_resume(arguments(str(tmp_path / "checkpoint-3")))
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text("{}")
    assert checkpoint_to_resume(arguments("auto")) == str(tmp_path / "checkpoint-3")


class Break(TrainerCallback):
    """After a step, does something to the model."""

    def __init__(self, step, how):
        self.step, self.how = step, how

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step == self.step:
            self.how(model)


def finite(folder) -> bool:
    return all(value.isfinite().all() for value in load_file(folder / "model.safetensors").values())


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_loss_that_is_not_finite_ends_the_run(towers, tmp_path, monkeypatch, on_gpu):
    """On a GPU nothing is looked at before the next log, evaluation or save."""
    trainer = make_trainer(towers, tmp_path, max_steps=9)
    steps = []

    def spoil(model):
        model.config.alignment_weight = float("inf")

    if on_gpu:
        see = trainer._see

        def see_later(values):
            with monkeypatch.context() as patch:
                patch.setattr(trainer, "_check_finite", lambda: None)
                see(values)

        monkeypatch.setattr(trainer, "_see", see_later)
    trainer.add_callback(Break(3, spoil))
    trainer.add_callback(Break(4, lambda model: steps.append(4)))
    with pytest.raises(FloatingPointError, match="The loss of step 4 is not finite .loss (nan|inf), ") as caught:
        trainer.train()
    message = str(caught.value)
    assert "ner_loss" in message and "learning rates: text 0.000" in message
    assert f"Last good checkpoint: {tmp_path}/checkpoint-2;" in message
    assert steps == ([4] if on_gpu else [])
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"] and finite(tmp_path / "checkpoint-2")


def test_the_part_of_the_loss_is_named(towers, tmp_path):
    trainer = make_trainer(towers, tmp_path)
    trainer.create_optimizer()
    nan = torch.tensor(float("nan"))
    with pytest.raises(FloatingPointError, match="The alignment_loss of step 1 is not finite"):
        trainer._see(
            {"loss": torch.tensor(float("nan")), "ner_loss": torch.ones(()), "alignment_loss": torch.tensor(1e39)}
        )
    trainer._see({"gradient norm": torch.tensor(3.0)})
    with pytest.raises(FloatingPointError, match="The gradient norm of step 1 is not finite .gradient norm nan"):
        trainer._see({"gradient norm": nan})


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_not_saved(towers, tmp_path, value):
    def spoil(model):
        model.model.text_model.embeddings.word_embeddings.weight.data[-1, 0] = value  # of a piece not in use

    trainer = make_trainer(towers, tmp_path, max_steps=8)
    trainer.add_callback(Break(4, spoil))
    with pytest.raises(FloatingPointError, match="1 tensors of the model are not finite after step 4"):
        trainer.train()
    with pytest.raises(FloatingPointError, match="word_embeddings.weight"):
        trainer.save_model()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"] and finite(tmp_path / "checkpoint-2")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_a_batch_too_large_is_told_with_its_shape(towers, tmp_path, monkeypatch, error):
    trainer = make_trainer(towers, tmp_path, max_steps=8)
    forward, calls = trainer.model.forward, []

    def too_large(*args, **kwargs):
        calls.append(kwargs["input_ids"].shape)
        if len(calls) == 4:
            raise error
        return forward(*args, **kwargs)

    monkeypatch.setattr(trainer.model, "forward", too_large)
    with pytest.raises(torch.OutOfMemoryError, match="in step 4 for a batch of 2 rows of") as caught:
        trainer.train()
    message = str(caught.value)
    assert f"2 rows of {calls[3][1]} pieces with 2 different images of 32 x 32 pixels" in message
    assert "--per_device_train_batch_size (2;" in message and f"{tmp_path}/checkpoint-2" in message
    assert caught.value.__cause__ is error
    calls[:] = [None] * 3
    with pytest.raises(torch.OutOfMemoryError, match="to score a batch of 8 rows .* --per_device_eval_batch_size .8"):
        trainer.evaluate()


def test_a_machine_without_memory_is_recognised():
    """As the allocator itself says it, of more bytes than any machine has."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match")) and not is_out_of_memory(
        KeyError("out of memory")
    )
    assert shape_of({"input_ids": torch.zeros(3, 5)}) == "3 rows of 5 pieces with 0 different images"
    ids = {"input_ids": torch.zeros(3, 5), "image_ids": torch.tensor([0, 7, 7])}
    assert shape_of(ids) == "3 rows of 5 pieces with 1 different images"


@pytest.mark.parametrize("part", ["model.safetensors", "optimizer.pt"])
def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_from_it(towers, tmp_path, part):
    """The weights do not fit, or they do and the optimizer's state, twice as large, does not."""
    make_trainer(towers, tmp_path / "whole", max_steps=6).train()
    trainer = make_trainer(towers, tmp_path / "run", max_steps=6)
    sizes = [
        (tmp_path / "whole" / "checkpoint-6" / name).stat().st_size for name in ("model.safetensors", "optimizer.pt")
    ]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = sizes[0] // 2 if part == "model.safetensors" else (sizes[0] + sizes[1]) // 2
    trainer.add_callback(Break(3, lambda model: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))))
    try:
        with pytest.raises(
            OSError, match=r"while writing .*checkpoint-4: about [\d,]+ bytes are needed and"
        ) as caught:
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = str(caught.value)
    assert f"Last good checkpoint: {tmp_path}/run/checkpoint-2; --resume_from_checkpoint last goes on" in message
    needed = int(message.partition("about ")[2].partition(" bytes")[0].replace(",", ""))
    assert needed == pytest.approx(sum(sizes), rel=0.2)  # the files of such small towers are in good part headers
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-2"]
    again = make_trainer(towers, tmp_path / "run", max_steps=6)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    first, second = (load_file(tmp_path / name / "checkpoint-6" / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_full_disk_leaves_the_model_that_was_there(towers, tmp_path):
    trainer = make_trainer(towers, tmp_path)
    trainer.save_model()
    (tmp_path / "README.md").write_text("ours")
    present = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "model.safetensors" in present and "modeling_2mner.py" in present and SAVING not in present
    trainer.model.classifier.bias.data.fill_(3.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="Last checkpoint: none; .* finishes from it"):
            trainer.save_model()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == present


def test_a_filter_that_hides_what_is_not_finite_is_refused(tmp_path):
    assert not TrainingArguments(output_dir=str(tmp_path), use_cpu=True).logging_nan_inf_filter
    with pytest.raises(ValueError, match="`logging_nan_inf_filter` is True; it must stay False: it hides"):
        TrainingArguments(output_dir=str(tmp_path), logging_nan_inf_filter=True)


def test_the_words_for_the_newest_checkpoint(tmp_path):
    assert resumable_trainer.newest_or_none(tmp_path) == "none"
