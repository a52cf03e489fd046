"""A `Trainer` whose run can be ended at any moment and goes on to the same weights; what ends it for good is told."""

import json
import logging
import random
import time
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, set_seed
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_pt_utils import nested_gather
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from mmner.training import checkpoints
from mmner.training.stop_signals import heed_parent_alone

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
LOWER = "Lower the learning rates (--crf_learning_rate, ...; --learning_rate for parts that have none of their own)"
NAMES_SHOWN = 3
SEEN_AT_MOST = 1000


class ResumableTrainer(Trainer):
    """
    Beside what `Trainer` does:

    - Checkpoints and the final model are written aside and renamed, so that each is whole or not there; only then are
      older ones deleted. The last checkpoint stays until the end, so that a run ended after its training does not
      train again.
    - The random numbers of a step are a function of seed, step and process, whatever was drawn before it: by
      evaluations, by data loaders, before a resume.
    - The best checkpoint is one that this run saved, or the run that it goes on with: others in the folder are not
      looked at.
    - The patience of early stopping, the mean loss and the seconds of training go on from the checkpoint.
    - A loss, gradient or weight that is not finite, a batch that does not fit into memory and a full disk end the run
      with a message; no checkpoint is written from weights that are not finite.
    """

    def __init__(self, *args, **kwargs):
        self._staging: Path | None = None
        self._progress: dict[str, Any] = {}
        self._restored = True
        self._order = 0
        self._run: str | None = None
        self._started = 0.0
        self._micro_step = (-1, 0)
        self._seen: list[tuple[int, tuple[str, ...], torch.Tensor]] = []
        super().__init__(*args, **kwargs)

    # ---- The same numbers after a resume ----

    def get_train_dataloader(self):
        # A random sampler takes the seed set last for its own.
        set_seed(self.args.seed)
        loader = super().get_train_dataloader()
        if not len(loader):
            raise ValueError(
                f"The {len(self.train_dataset)} training rows make no whole batch (--per_device_train_batch_size "
                f"{self.args.per_device_train_batch_size}), and --dataloader_drop_last leaves out what is less."
            )
        loader.base_dataloader.worker_init_fn = partial(heed_parent_alone, then=loader.worker_init_fn)
        return loader

    def get_eval_dataloader(self, eval_dataset=None):
        loader = super().get_eval_dataloader(eval_dataset)
        loader.base_dataloader.worker_init_fn = heed_parent_alone
        return loader

    def _seed_step(self) -> None:
        step, micro = self._micro_step
        self._micro_step = (self.state.global_step, micro + 1 if step == self.state.global_step else 0)
        numbers = (self.args.seed, *self._micro_step, self.args.process_index)
        seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the generator that libraries draw from)
        if self.args.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # the other call keeps, for later devices, the whole stack
        else:
            torch.manual_seed(seed)

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ) -> tuple[int, int]:
        done = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        self._progress, self._restored, self._seen, self._micro_step = {}, False, [], (-1, 0)
        self._order = checkpoints.next_order(self._get_output_dir(trial))
        if resume_from_checkpoint is None:
            (self._run,) = broadcast_object_list([uuid.uuid4().hex])
            return done
        checkpoint = Path(resume_from_checkpoint)
        if not self.is_deepspeed_enabled and not (checkpoint / SCHEDULER_NAME).is_file():
            raise ValueError(
                f"{checkpoint} holds a model, but no state of an optimizer (save_only_model?): training cannot go on "
                "from it. Train the model further as a new run: --model_name_or_path."
            )
        if (checkpoint / checkpoints.PROGRESS).is_file():
            self._progress = json.loads((checkpoint / checkpoints.PROGRESS).read_bytes())
        self._run = checkpoints.run_of(checkpoint)
        self._find_best(checkpoint, trial)
        is_over = self._is_out_of_patience() or self.state.global_step >= max_steps
        return (num_train_epochs, 0) if is_over else done

    def _find_best(self, checkpoint: Path, trial: Any) -> None:
        """
        The best checkpoint by its step: a path in the state may be relative, or of a folder since moved.

        Raises:
            ValueError: the run is to end with the best checkpoint, and that is lost, or may never have been saved.
        """
        state, is_wanted = self.state, self.args.load_best_model_at_end
        # They go on as they were in the checkpoint, whatever the options say now.
        by_steps = self.args.eval_strategy == self.args.save_strategy == "steps"
        if is_wanted and by_steps and state.save_steps != state.eval_steps:
            raise ValueError(
                f"The run of {checkpoint} is scored every {state.eval_steps} steps and saved every "
                f"{state.save_steps}, so that its best evaluation may not be saved. Go on with "
                "--load_best_model_at_end false --early_stopping_patience none, or start anew with equal steps."
            )
        if not state.best_global_step:
            return
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        places = [Path(self._get_output_dir(trial)) / name, checkpoint.parent / name]
        if state.best_model_checkpoint is not None and Path(state.best_model_checkpoint).name == name:
            places.append(Path(state.best_model_checkpoint))
        found = next(filter(self._is_ours, places), None)
        if found is None and is_wanted:
            raise ValueError(
                f"The best evaluation of the run of {checkpoint} was that of step {state.best_global_step} "
                f"({self.args.metric_for_best_model} {state.best_metric:.4f}), and the {name} that it saved is "
                f"neither in {places[0].parent} nor in {checkpoint.parent}. Put it there, or go on without it: "
                "--load_best_model_at_end false --early_stopping_patience none."
            )
        state.best_model_checkpoint = None if found is None else str(found)

    def _is_ours(self, checkpoint: Path) -> bool:
        """Whether a checkpoint is whole, and this run's or that of the run it goes on with."""
        return checkpoints.is_complete(checkpoint) and checkpoints.run_of(checkpoint) == self._run

    def _is_out_of_patience(self) -> bool:
        """Restores the counter of early stopping; whether it had ended the training."""
        saved = self.state.stateful_callbacks.get(EarlyStoppingCallback.__name__)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback) and isinstance(saved, dict):
                counter = saved["attributes"]["early_stopping_patience_counter"]
                callback.early_stopping_patience_counter = counter
                return counter >= callback.early_stopping_patience
        return False

    def _run_epoch(self, *args, start_time: float, **kwargs) -> None:
        start_time = self._go_on_counting(start_time)
        super()._run_epoch(*args, start_time=start_time, **kwargs)

    def _finalize_training(self, trial, num_train_samples, start_time):
        self._check_finite()
        start_time = self._go_on_counting(start_time)
        self._initial_global_step = 0
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is None:
            logger.warning(
                f"No evaluation of this training gave a best checkpoint ({self.args.metric_for_best_model}): its last "
                "weights are kept. Was it over before eval_delay, or is that score no number?"
            )
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(trial, num_train_samples, start_time)
        finally:
            self.args.save_total_limit = limit

    def _go_on_counting(self, start_time: float) -> float:
        """The start of the training if it had been one; the loss since the last entry of the log is as it was."""
        if not self._restored and self._progress:
            losses, rank = self._progress["loss_since_log"], self.args.process_index
            as_many = len(losses) == self.args.world_size
            self._tr_loss.fill_(losses[rank] if as_many else sum(losses) / len(losses))
            self._total_loss_scalar = self._progress["loss_until_log"]
            self._globalstep_last_logged = self._progress["last_logged_step"]
        self._restored = True
        self._started = start_time - self._progress.get("seconds", 0.0)
        return self._started

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        super()._issue_warnings_after_load(load_result)
        tensors = self.model.state_dict()
        missing = set(load_result.missing_keys) & set(tensors)
        loaded = {tensors[name].data_ptr() for name in tensors if name not in missing}
        if lost := sorted(name for name in missing if tensors[name].data_ptr() not in loaded):  # the rest are tied
            raise ValueError(
                f"The checkpoint lacks {len(lost)} tensors of this model ({', '.join(lost[:NAMES_SHOWN])}, ...): it "
                "is of another model. Give the options that it was trained with."
            )

    # ---- Written whole ----

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._check_weights()
        folder = Path(self._get_output_dir(trial))
        place = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staged = folder / checkpoints.SAVING / place.name
        best_before = self.state.best_model_checkpoint
        progress = {
            "order": self._order,
            "run": self._run,
            "seconds": time.time() - self._started,
            "loss_since_log": nested_gather(self._tr_loss, self.args.parallel_mode).flatten().tolist(),
            "loss_until_log": self._total_loss_scalar,
            "last_logged_step": self._globalstep_last_logged,
        }

        def left() -> str:
            return f"Last good checkpoint: {newest_or_none(folder)}; --resume_from_checkpoint last goes on from it. "

        try:
            with checkpoints.explained_disk_errors(place, self._checkpoint_bytes, left):
                self._staging = staged.parent
                try:
                    super()._save_checkpoint(model, trial)
                finally:
                    self._staging = None
                self.state.best_model_checkpoint = best_before
                if best := self.state.best_global_step:
                    best_folder = folder / f"{PREFIX_CHECKPOINT_DIR}-{best}"
                    if best_folder == place or self._is_ours(best_folder):
                        self.state.best_model_checkpoint = str(best_folder)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    (staged / checkpoints.PROGRESS).write_text(json.dumps(progress))
                    self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
                    checkpoints.commit(staged, place)
        except Exception:
            self.state.best_model_checkpoint = best_before
            checkpoints.discard(staged)
            raise
        self._order += 1
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            checkpoints.rotate(folder, self.args.save_total_limit, None if best is None else Path(best))
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the plain one; to the folder of the run, each file is replaced at once."""
        folder = Path(self.args.output_dir)
        if output_dir is not None and Path(output_dir) != folder:
            super().save_model(output_dir, _internal_call=_internal_call)
            return
        self._check_weights()
        staged = folder / checkpoints.SAVING / "model"

        def left() -> str:
            return f"Last checkpoint: {newest_or_none(folder)}; --resume_from_checkpoint last finishes from it. "

        try:
            with checkpoints.explained_disk_errors(folder, self._weights_bytes, left):
                super().save_model(str(staged), _internal_call=True)
                self.accelerator.wait_for_everyone()
                if self.args.should_save and staged.is_dir():
                    checkpoints.commit_files(staged, folder)
        except Exception:
            checkpoints.discard(staged)
            raise
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _weights_bytes(self) -> int:
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _checkpoint_bytes(self) -> int:
        states = getattr(self.optimizer, "state", {}).values()
        tensors = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
        return self._weights_bytes() + sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    # ---- What ends a run ----

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """As the plain one, with random numbers of its own; see the class for what it raises."""
        self._seed_step()
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        except (RuntimeError, MemoryError) as error:
            if self.args.auto_find_batch_size or not is_out_of_memory(error):
                raise
            raise torch.OutOfMemoryError(
                f"Not enough memory in step {self.state.global_step + 1} for a batch of {shape_of(inputs)}. Lower "
                f"--per_device_train_batch_size ({self.args.per_device_train_batch_size}; raise "
                "--gradient_accumulation_steps to keep the batch of an update as it is) or --max_length, take "
                "--bf16 true or --activation_checkpointing true, or freeze part of a tower (--freeze_text_model, "
                f"--freeze_vision_model). Last good checkpoint: {newest_or_none(self.args.output_dir)}."
            ) from error

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args, **kwargs):
        """As the plain one; a batch that does not fit into memory is told with its shape."""
        try:
            return super().prediction_step(model, inputs, *args, **kwargs)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise torch.OutOfMemoryError(
                f"Not enough memory to score a batch of {shape_of(inputs)}. Lower --per_device_eval_batch_size "
                f"({self.args.per_device_eval_batch_size}). Last good checkpoint: "
                f"{newest_or_none(self.args.output_dir)}."
            ) from error

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As the plain one; what it gives in training is looked at by `_check_finite`."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            parts = {"loss": loss, **(outputs if isinstance(outputs, dict) else {})}
            self._see(
                {
                    name: value
                    for name, value in parts.items()
                    if isinstance(value, torch.Tensor) and (name == "loss" or name.endswith("_loss"))
                }
            )
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # Under fp16 a gradient overflows now and then: the scaler leaves out that step, and scales less.
        if grad_norm is not None and not self.args.fp16:
            self._see({"gradient norm": torch.as_tensor(grad_norm)})
        return grad_norm

    def _see(self, values: dict[str, torch.Tensor]) -> None:
        """On a GPU they are kept until the next log, evaluation or save: to look at them is to wait for them."""
        stacked = torch.stack([value.detach().float().mean() for value in values.values()])
        self._seen.append((self.state.global_step + 1, tuple(values), stacked))
        if stacked.device.type == "cpu" or len(self._seen) >= SEEN_AT_MOST:
            self._check_finite()

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self._check_finite()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _check_finite(self) -> None:
        """
        Raises:
            FloatingPointError: the loss or the gradient of a step since the last check is not finite.
        """
        seen, self._seen = self._seen, []
        if not seen:
            return
        numbers = torch.cat([values.cpu() for _, _, values in seen]).tolist()
        for step, names, _ in seen:
            values = dict(zip(names, numbers, strict=False))
            numbers = numbers[len(names) :]
            bad = [name for name, value in values.items() if not np.isfinite(value)]
            if bad:
                raise FloatingPointError(self._not_finite_message(step, bad, values))

    def _not_finite_message(self, step: int, bad: list[str], values: dict[str, float]) -> str:
        parts = [name for name in bad if name.endswith("_loss")] or bad
        rates = {group.get("name", "all"): f"{group['lr']:g}" for group in self.optimizer.param_groups}
        return (
            f"The {' and the '.join(parts)} of step {step} is not finite "
            f"({', '.join(f'{name} {value:g}' for name, value in values.items())}; learning rates: "
            f"{', '.join(f'{name} {rate}' for name, rate in rates.items())}). Training ends here, so that no "
            f"checkpoint is made of it. {LOWER}, warm up (--warmup_steps), clip (--max_grad_norm, now "
            f"{self.args.max_grad_norm:g}), train in float32 or --bf16 instead of --fp16, or fix "
            "alignment_temperature. Last good checkpoint: "
            f"{newest_or_none(self.args.output_dir)}; with such options, --resume_from_checkpoint last goes on."
        )

    def _check_weights(self) -> None:
        """
        Raises:
            FloatingPointError: a weight is not finite, or a buffer holds a NaN.
        """
        checks = {}
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
            values = tensor.detach()
            values = values.to_local() if hasattr(values, "to_local") else values
            if values.is_floating_point() and values.numel():
                bad = ~values.isfinite() if isinstance(tensor, nn.Parameter) else values.isnan()
                checks[name] = bad.any()
        if not checks:
            return
        found = torch.stack(list(checks.values())).tolist()
        if bad := [name for name, is_bad in zip(checks, found, strict=True) if is_bad]:
            raise FloatingPointError(
                f"{len(bad)} tensors of the model are not finite after step {self.state.global_step} "
                f"({', '.join(bad[:NAMES_SHOWN])}, ...); they are not saved. {LOWER}, or clip (--max_grad_norm). "
                f"Last good checkpoint: {newest_or_none(self.args.output_dir)}."
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def shape_of(inputs: dict[str, Any]) -> str:
    """The size of a batch in words."""
    rows, pieces = inputs["input_ids"].shape
    pixels = inputs.get("pixel_values")
    images = len(inputs.get("image_ids", ()))
    size = f" of {' x '.join(map(str, pixels.shape[-2:]))} pixels" if pixels is not None else ""
    return f"{rows} rows of {pieces} pieces with {images} different images{size}"


def newest_or_none(folder: str | Path) -> str:
    """The newest checkpoint of a folder in words."""
    newest = checkpoints.newest_checkpoint(folder)
    return "none" if newest is None else str(newest)


__all__ = ["ResumableTrainer", "is_out_of_memory"]
