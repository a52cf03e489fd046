"""The same numbers after a resume; and what ends a run for good ends it with a message and a whole checkpoint."""

import hashlib
import inspect
import random
import resource
import shutil
import textwrap

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sharded_rows import make_rows
from tiny_runs import EVERY_SECOND_STEP, make_model, trainer_of
from transformers import Trainer, TrainerCallback

from mmner.data.sentences import WindowedSentences
from mmner.training.checkpoints import checkpoint_to_resume, noted_checkpoint
from mmner.training.trainer import TwoMNERTrainer


class After(TrainerCallback):
    """After a step, does something with the model and the control."""

    def __init__(self, step, how):
        self.step, self.how = step, how

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step == self.step:
            self.how(model, control)


def stop(model, control):
    control.should_training_stop = True


def make_trainer(towers, folder, after=None, **options) -> TwoMNERTrainer:
    model, processor = make_model(towers, alignment="clip", modality_dropout=0.3)
    train = WindowedSentences(make_rows(12), processor, model.config.label2id, training=True, seed=4)
    dev = WindowedSentences(make_rows(12), processor, model.config.label2id)
    callbacks = None if after is None else [After(*after)]
    fixed = {"per_device_train_batch_size": 2, "logging_steps": 3, "learning_rate": 1e-3, "seed": 1}
    options = EVERY_SECOND_STEP | fixed | options
    return trainer_of(model, processor, folder, train, dev, callbacks, **options)


# The private methods of the Trainer that are overridden: a hash of the source, and which methods call it.
OVERRIDDEN = {"_get_output_dir": ("a0570e03", {"_save_checkpoint", "_finalize_training"})}


def test_the_private_methods_that_are_overridden_are_as_they_were():
    """Fails when the library changes them: read its change, and then write down the new hash and callers."""
    own = {name for name in vars(TwoMNERTrainer) if name.startswith("_") and not name.startswith("__")}
    assert {name for name in own if hasattr(Trainer, name)} == set(OVERRIDDEN)
    for name, (digest, callers) in OVERRIDDEN.items():
        source = textwrap.dedent(inspect.getsource(getattr(Trainer, name)))
        assert hashlib.sha256(source.encode()).hexdigest()[:8] == digest
        methods = inspect.getmembers(Trainer, inspect.isfunction)
        assert {other for other, method in methods if f"self.{name}(" in inspect.getsource(method)} == callers


def test_the_mean_loss_is_that_of_all_steps(towers, tmp_path):
    trainer = make_trainer(towers, tmp_path, max_steps=7, logging_steps=3)
    losses, step = [], trainer.training_step
    trainer.training_step = lambda *args: losses.append(step(*args)) or losses[-1]
    metrics = trainer.train().metrics
    assert metrics["train_loss"] == pytest.approx(np.mean(losses), rel=1e-6) and len(losses) == 7


def test_every_batch_has_random_numbers_of_its_own(towers, tmp_path, monkeypatch):
    drawn = []

    def draw(*args):
        drawn.append((torch.rand(()).item(), random.random(), np.random.rand()))
        return torch.zeros(())

    monkeypatch.setattr(Trainer, "training_step", draw)
    trainer = make_trainer(towers, tmp_path)
    for step in (0, 0, 1, 2, 2, 2):
        trainer.state.global_step = step
        trainer.training_step(trainer.model, {"input_ids": torch.zeros(1, 1)})
    assert [len(set(column)) for column in zip(*drawn, strict=True)] == [6, 6, 6]


def test_a_checkpoint_of_another_model_or_without_an_optimizer_is_refused(towers, tmp_path):
    make_trainer(towers, tmp_path, max_steps=2).train()
    other = make_trainer(towers, tmp_path, max_steps=4)
    other.model.config.collaboration = "umt"
    with pytest.raises(ValueError, match="has collaboration=gated, but this run has collaboration=umt"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    (tmp_path / "checkpoint-2" / "scheduler.pt").unlink()
    with pytest.raises(ValueError, match="holds a model without the state of its optimizer"):
        make_trainer(towers, tmp_path, max_steps=4).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


BEST = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "learning_rate": 1e-9}


def test_the_best_checkpoint_is_found_by_its_step(towers, tmp_path):
    """So low a learning rate that the first evaluation stays the best; the folder is moved meanwhile."""
    make_trainer(towers, tmp_path / "there", max_steps=8, after=(4, stop), save_total_limit=1, **BEST).train()
    (tmp_path / "there").rename(tmp_path / "here")
    resumed = make_trainer(
        towers, tmp_path / "here", max_steps=8, save_total_limit=1, resume_from_checkpoint="last", **BEST
    )
    resumed.train(resume_from_checkpoint=checkpoint_to_resume(resumed.args))
    assert resumed.state.best_model_checkpoint == str(tmp_path / "here" / "checkpoint-2")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["checkpoint-2", "checkpoint-8"]


def test_a_run_whose_best_checkpoint_is_lost_is_not_resumed(towers, tmp_path):
    make_trainer(towers, tmp_path, max_steps=8, after=(4, stop), **BEST).train()
    shutil.rmtree(tmp_path / "checkpoint-2")
    newest = str(tmp_path / "checkpoint-4")
    with pytest.raises(ValueError, match="The best checkpoint, checkpoint-2 .eval_f1 .*is neither in"):
        make_trainer(towers, tmp_path, max_steps=8, **BEST).train(resume_from_checkpoint=newest)
    last = make_trainer(towers, tmp_path, max_steps=6, **BEST | {"load_best_model_at_end": False})
    last.train(resume_from_checkpoint=newest)
    assert last.state.global_step == 6 and last.state.best_model_checkpoint is None


def test_a_training_without_an_evaluation_says_that_nothing_was_chosen(towers, tmp_path, caplog):
    make_trainer(towers, tmp_path / "late", max_steps=2, eval_delay=3, **BEST).train()
    assert "the last weights are kept" in caplog.text


def test_a_loss_that_is_not_finite_ends_the_run(towers, tmp_path):
    """It is looked at when it is logged, at the latest before the next save."""

    def spoil(model, control):
        model.config.alignment_weight = float("inf")

    trainer = make_trainer(towers, tmp_path, max_steps=9, logging_steps=100, after=(3, spoil))
    message = "The loss.* of step 4 or shortly before is not finite"
    with pytest.raises(FloatingPointError, match=message) as caught, noted_checkpoint(tmp_path):
        trainer.train()
    assert f"Last good checkpoint: {tmp_path}/checkpoint-2;" in caught.value.__notes__[0]
    assert all(value.isfinite().all() for value in load_file(tmp_path / "checkpoint-2/model.safetensors").values())
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.parametrize("part", ["model.safetensors", "optimizer.pt"])
def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_from_it(towers, tmp_path, part):
    """The weights do not fit, or they do and the optimizer's state, twice as large, does not."""
    whole = make_trainer(towers, tmp_path / "whole", max_steps=6)
    whole.train()
    names = ("model.safetensors", "optimizer.pt")
    sizes = [(tmp_path / "whole" / "checkpoint-6" / name).stat().st_size for name in names]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = sizes[0] // 2 if part == "model.safetensors" else sum(sizes) // 2

    def fill(model, control):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    run = tmp_path / "run"
    trainer = make_trainer(towers, run, max_steps=6, after=(3, fill))
    try:
        with pytest.raises(Exception) as caught, noted_checkpoint(run):  # noqa: PT011 (of whoever writes)
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "bytes are free" in caught.value.__notes__[0] and "checkpoint-2; --resume" in caught.value.__notes__[0]
    again = make_trainer(towers, run, max_steps=6, resume_from_checkpoint="last")
    again.train(resume_from_checkpoint=checkpoint_to_resume(again.args))
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-6"]
    torch.testing.assert_close(again.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
