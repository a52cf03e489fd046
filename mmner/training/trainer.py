"""The Trainer of 2M-NER: learning rates by part, batches by length, entity scores, and exact resuming."""

import json
import logging
import math
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer, TrainerCallback, TrainerState
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, PredictionOutput, TrainOutput

from mmner.data.sentences import WindowedSentences
from mmner.options import ARCHITECTURE, TrainingArguments
from mmner.training.checkpoints import SAVING, commit, rotate
from mmner.training.decoding import decode_sentences
from mmner.training.stop_signals import ignore_stop_signals
from mmner.training.streaming import POSITION, SentenceStream, collate_stream

logger = logging.getLogger(__name__)

# What an evaluation has beside the scores of entities.
ALWAYS_SCORED = ("eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
# With multilingual-e5-small, 16 sentences a step and recipes/local.yaml, dev F1 is 0, 0, 57, 76, 86 after 13, 25, 50,
# 100, 200 steps.
ENOUGH_STEPS = 200
# The part of a parameter, by the beginning of its name; the first that fits. Everything else is a new layer.
PARTS = {
    "text": ("model.text_model.",),
    "vision": ("model.vision_model.", "model.global_vision_model."),
    "crf": ("crf.",),
    "classifier": ("classifier.",),
    "head": ("",),
}


def parameter_groups(model: nn.Module, args: TrainingArguments) -> list[dict[str, Any]]:
    """
    The trained parameters in groups for the optimizer: text tower (with `text_layer_decay` each of its layers), image
    towers, CRF, classifier, other new layers, each with its own learning rate. Vectors (biases, the scales of a
    normalisation) and the CRF do not decay.

    Returns:
        Groups of `params`, `lr`, `weight_decay` and a `name`. None is empty; each parameter is in one.
    """
    rates = {part: getattr(args, f"{part}_learning_rate") for part in PARTS}
    if rates["classifier"] is None:
        rates["classifier"] = rates["head"]
    groups: dict[str, dict[str, Any]] = {}
    trained = [
        (name.removeprefix("module.").removeprefix("_orig_mod."), parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    last_layer = max((_layer_of(name) for name, _ in trained if name.startswith(PARTS["text"])), default=0)
    for name, parameter in trained:
        part = next(part for part, prefixes in PARTS.items() if name.startswith(prefixes))
        decays = parameter.ndim > 1 and part != "crf"
        below = last_layer - _layer_of(name) if part == "text" and args.text_layer_decay != 1 else 0
        rate = args.learning_rate if rates[part] is None else rates[part]
        group = {
            "name": part + (f"_{below}_below" if below else "") + ("" if decays else "_no_decay"),
            "lr": rate * args.text_layer_decay**below,
            "weight_decay": args.weight_decay if decays else 0.0,
            "params": [],
        }
        groups.setdefault(group["name"], group)["params"].append(parameter)
    return list(groups.values())


def _layer_of(name: str) -> int:
    """The layer of a parameter, by the first number in its name; -1 for what comes before the layers."""
    return next((int(word) for word in name.split(".") if word.isdigit()), -1)


class EpochSampler(Sampler[int]):
    """
    Every sentence once. The order depends on seed and epoch alone, so it is the same on every process and after a
    resume.

    Args:
        batch_size: sentences in a step, over all processes.
        strategy: `sequential`; `random`; or `group_by_length`: the sentences are shuffled, sorted by length within
            stretches of `STRETCH` batches, and the batches shuffled again.
    """

    STRETCH = 50

    def __init__(self, lengths: list[int], batch_size: int, strategy: str = "group_by_length", seed: int = 0):
        self.lengths = lengths
        self.batch_size = batch_size
        self.strategy = strategy
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.strategy == "sequential":
            yield from range(len(self.lengths))
            return
        order = rng.permutation(len(self.lengths)).tolist()
        if self.strategy == "group_by_length":
            stretch = self.STRETCH * self.batch_size
            parts = [order[start : start + stretch] for start in range(0, len(order), stretch)]
            order = [index for part in parts for index in sorted(part, key=lambda index: -self.lengths[index])]
            batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
            # A short batch stays last: the batches after it would not be those that were sorted together.
            last = batches.pop() if batches and len(batches[-1]) < self.batch_size else []
            order = [index for batch in rng.permutation(len(batches)) for index in batches[batch]] + last
        yield from order


def few_steps(args: TrainingArguments, steps: int, rows: int) -> str:
    """What to set where so many steps on so many rows are too few to find entities; empty where they are enough."""
    if steps >= ENOUGH_STEPS:
        return ""
    option = f"--num_train_epochs {math.ceil(args.num_train_epochs * ENOUGH_STEPS / steps)}"
    if args.max_steps > 0:
        option = f"--max_steps {ENOUGH_STEPS}"
    if args.early_stopping_patience is not None:
        option += " --early_stopping_patience none (F1 may be 0 in the first evaluations)"
    return (
        f"{steps} optimizer steps on {rows:,} rows are few: a model may predict no entity at all before it had about "
        f"{ENOUGH_STEPS}. For so many: {option}"
    )


class _Hooks(TrainerCallback):
    """What `TwoMNERTrainer` does between the steps of a training."""

    def __init__(self, trainer: "TwoMNERTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.restore(state)
        dataset = self.trainer.train_dataset
        rows = len(dataset.shards if isinstance(dataset, SentenceStream) else dataset.tokens)
        message = few_steps(args, state.max_steps, rows)
        if message and state.is_world_process_zero and not state.is_hyper_param_search:
            logger.warning(message)

    def on_epoch_begin(self, args, state, control, **kwargs):
        # The Trainer's own call reaches neither the sampler of a resumed epoch nor the dataset.
        for listener in (self.trainer.sampler, self.trainer.train_dataset):
            if hasattr(listener, "set_epoch"):
                listener.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args, state, control, **kwargs):
        if isinstance(self.trainer.train_dataset, SentenceStream):
            state.epoch = state.global_step / state.max_steps  # the Trainer counts from the resume
        self.on_epoch_end(args, state, control)

    def on_epoch_end(self, args, state, control, **kwargs):
        # What is logged is in the checkpoint, so no loss is lost in a resume, and none that is not finite is saved.
        if control.should_save or control.should_evaluate or control.should_training_stop:
            control.should_log = True

    def on_log(self, args, state, control, logs, **kwargs):
        # Under fp16 a gradient overflows now and then, and the scaler leaves out that step.
        names = ("loss",) if args.fp16 else ("loss", "grad_norm")
        if bad := [name for name in names if not math.isfinite(logs.get(name, 0.0))]:
            raise FloatingPointError(
                f"The {' and '.join(bad)} of step {state.global_step} or shortly before is not finite. Training ends "
                "here, and nothing of it is saved. Lower the learning rates (--learning_rate, --crf_learning_rate, "
                "...), warm up (--warmup_steps), clip (--max_grad_norm), or use --bf16 instead of --fp16."
            )

    def on_save(self, args, state, control, **kwargs):
        self.trainer.complete_checkpoint(state)


class TwoMNERTrainer(Trainer):
    """
    A Trainer whose datasets are `WindowedSentences` (or a `SentenceStream` to train on).

    - A run that was killed resumes to the same weights: checkpoints are complete or absent, and the random numbers of
      a step depend on seed, step and process alone.
    - The best checkpoint is found by its step. The patience of early stopping and the mean loss (`train_loss`) go on
      from the checkpoint; times are those of one call of `train`. A training that was over is not continued.
    - A loss that is not finite ends the run.

    Raises:
        ValueError: dev sentences are to choose the checkpoint, and there are none, or they have no score of that name.
    """

    args: TrainingArguments
    model: Any
    train_dataset: Any
    data_collator: Any
    optimizer: Any
    callback_handler: Any
    compute_metrics: Any

    def __init__(self, *args, **kwargs):
        training_args, dev = kwargs["args"], kwargs.get("eval_dataset")
        if not training_args.do_train:
            training_args.eval_strategy = "no"
        if training_args.eval_strategy != "no":
            _check_metric(training_args.metric_for_best_model, dev)
        super().__init__(*args, **kwargs)
        self.sampler: EpochSampler | None = None
        self._resumed_from: Path | None = None
        self._micro_step = (-1, 0)
        if isinstance(self.train_dataset, SentenceStream):
            self.args.ignore_data_skip = True  # a stream is resumed by its positions
        self.add_callback(_Hooks(self))

    # ---- Batches ----

    def get_train_dataloader(self) -> DataLoader:
        """The batches of an epoch, or of the whole training where the dataset is a stream."""
        args = self.args
        if isinstance(self.train_dataset, SentenceStream):
            stream_of = (args.train_batch_size, args.process_index, args.world_size, args.dataloader_num_workers)
            self.train_dataset.use_batches(*stream_of)
            # Not prepared by accelerate: a stream shares itself out among the processes.
            collate = partial(collate_stream, self.data_collator)
            return self._loader(self.train_dataset, batch_size=None, collate_fn=collate)
        seed = args.seed if args.data_seed is None else args.data_seed
        step_size = args.train_batch_size * args.world_size
        self.sampler = EpochSampler(self.train_dataset.lengths, step_size, args.train_sampling_strategy, seed)
        options = {"batch_size": args.train_batch_size, "sampler": self.sampler}
        return self.accelerator.prepare(self._loader(self.train_dataset, **options))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """The sentences in their own order, which is by length."""
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        return self.accelerator.prepare(self._loader(dataset, batch_size=self.args.eval_batch_size))

    get_test_dataloader = get_eval_dataloader

    def _loader(self, dataset: Dataset, **options: Any) -> DataLoader:
        args = self.args
        options = {"collate_fn": self.data_collator} | options
        return DataLoader(
            dataset,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers and dataset is self.train_dataset,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=ignore_stop_signals,
            **options,
        )

    # ---- A training ----

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer that `--optim` names, with `parameter_groups`."""
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = parameter_groups(model, self.args)
            size = sum(parameter.numel() for group in groups for parameter in group["params"])
            rates = sorted({group["lr"] for group in groups})
            logger.info(f"{size:,} weights are trained, at learning rates from {rates[0]:g} to {rates[-1]:g}")
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """
        As in the Trainer; `train_loss` is the mean over all steps, those before a resume included.

        Raises:
            ValueError: the checkpoint is of another model, or cannot be continued.
            FloatingPointError: the loss or a gradient is not finite.
        """
        self._resumed_from = None if resume_from_checkpoint is None else Path(resume_from_checkpoint)
        self._micro_step = (-1, 0)
        if self._resumed_from is not None:
            self._check_checkpoint(self._resumed_from)
        output = super().train(resume_from_checkpoint, *args, **kwargs)
        losses = [(entry["step"], entry["loss"]) for entry in self.state.log_history if "loss" in entry]
        steps = np.diff([0, *(step for step, _ in losses)])
        output.metrics["train_loss"] = float(np.average([loss for _, loss in losses], weights=steps))
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is None:
            logger.warning(
                f"No evaluation of this training gave a best checkpoint ({self.args.metric_for_best_model}): the last "
                "weights are kept. Was training over before --eval_delay?"
            )
        return output

    def _check_checkpoint(self, checkpoint: Path) -> None:
        if not (checkpoint / SCHEDULER_NAME).is_file() and not self.is_deepspeed_enabled:
            raise ValueError(
                f"{checkpoint} holds a model without the state of its optimizer (--save_only_model), so training "
                "cannot continue. Train the model further as a new run: --model_name_or_path."
            )
        saved, config = json.loads((checkpoint / "config.json").read_bytes()), self.model.config
        for name in (*ARCHITECTURE, "lora_rank"):
            own = getattr(config, name, None)
            if saved.get(name) != own:
                raise ValueError(
                    f"{checkpoint} has {name}={saved.get(name)}, but this run has {name}={own}. "
                    "Give the options that the checkpoint was trained with."
                )

    def set_initial_training_values(self, args: Any, dataloader: DataLoader) -> tuple:
        """As in the Trainer, but no epochs where the resumed training was over: it would train a step more."""
        epochs, *rest = super().set_initial_training_values(args, dataloader)
        if self._resumed_from is not None:
            state = TrainerState.load_from_json(str(self._resumed_from / TRAINER_STATE_NAME))
            patience = args.early_stopping_patience
            if state.global_step >= rest[-1] or (
                patience is not None and _evaluations_without_gain(state) >= patience
            ):
                epochs = 0
        return (epochs, *rest)

    def restore(self, state: TrainerState) -> None:
        """
        Restores, from the state of a checkpoint, what the Trainer does not.

        Raises:
            ValueError: the best checkpoint is wanted and lost, or a stream is another one.
        """
        if self._resumed_from is None:
            return
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                callback.early_stopping_patience_counter = _evaluations_without_gain(state)
                _callback_states(state).setdefault(EarlyStoppingCallback.__name__, {})
        # A path in the state may be relative, or that of a folder that was moved since.
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        folders = [Path(self.args.output_dir), self._resumed_from.parent]
        found = next((folder / name for folder in folders if (folder / name).is_dir()), None)
        if found is None and state.best_global_step and self.args.load_best_model_at_end:
            raise ValueError(
                f"The best checkpoint, {name} ({self.args.metric_for_best_model} {state.best_metric:.4f}), "
                f"is neither in {folders[0]} nor in {folders[1]}. Put it there, or go on without it: "
                "--load_best_model_at_end false --early_stopping_patience none."
            )
        state.best_model_checkpoint = None if found is None else str(found)
        if isinstance(self.train_dataset, SentenceStream):
            states = dict(enumerate(_callback_states(state).get(SentenceStream.__name__, [])))
            self.train_dataset.load_state_dict(states.get(self.args.process_index, {}))

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """As in the Trainer, with random numbers that depend on seed, step and process alone."""
        step, micro_step = self._micro_step
        self._micro_step = (self.state.global_step, micro_step + 1 if step == self.state.global_step else 0)
        numbers = (self.args.seed, *self._micro_step, self.args.process_index)
        seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the generator that libraries draw from)
        if self.args.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # the other call keeps, for GPUs to come, the whole stack
        else:
            torch.manual_seed(seed)
        position = inputs.pop(POSITION, None)
        loss = super().training_step(model, inputs, num_items_in_batch)
        if position is not None:
            self.train_dataset.advance(position)
        return loss

    # ---- Checkpoints ----

    def _get_output_dir(self, trial: Any) -> str:
        # The Trainer has no public hook for where it writes a checkpoint. It must not be in the place of a complete
        # one; `complete_checkpoint` moves it there.
        return str(Path(super()._get_output_dir(trial)) / SAVING)

    def complete_checkpoint(self, state: TrainerState) -> None:
        """Moves the checkpoint that the Trainer has written to its place, when every process has written its part."""
        place = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if state.best_global_step == state.global_step:
            state.best_model_checkpoint = str(place)
        if isinstance(self.train_dataset, SentenceStream):
            _callback_states(state)[SentenceStream.__name__] = gather_object([self.train_dataset.state_dict()])
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            state.save_to_json(str(place.parent / SAVING / place.name / TRAINER_STATE_NAME))
            commit(place)
            rotate(place.parent, self.args.save_total_limit, state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    # ---- Scores ----

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """
        As in the Trainer, but a sentence is decoded once, over the emissions of all its windows, and scored by its
        dataset. `predictions` is a pair: the tag ids (num_windows, num_words), -100 where there is no word, and at the
        first word of each predicted entity its exact posterior under the CRF, else 0.
        """
        sentences: WindowedSentences = dataloader.dataset
        crf = self.accelerator.unwrap_model(self.model).crf
        decoded: list[np.ndarray] = []

        def compute_metrics(gathered: EvalPrediction) -> dict[str, float]:
            decoded[:] = decode_sentences(crf, sentences, gathered.predictions)
            return sentences.scores(decoded[0])

        self.compute_metrics = compute_metrics
        kwargs["prediction_loss_only"] = False
        ignored = {*self.model.config.keys_to_ignore_at_inference, "predictions"}
        kwargs["ignore_keys"] = list(ignored - {"logits"})
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        if not decoded:  # without gold labels no metrics are computed
            decoded[:] = decode_sentences(crf, sentences, output.predictions)
        return output._replace(predictions=tuple(decoded))

    def predict_with_controls(self, sentences: WindowedSentences, prefix: str) -> PredictionOutput:
        """
        Scores sentences as they are, with their images hidden, and with their images shuffled.

        Args:
            sentences: with their own images, or hidden ones where the model's tags do not depend on them.
            prefix: of the scores: `{prefix}_f1`, `{prefix}_text_only_f1`, `{prefix}_shuffled_image_f1`, ...

        Returns:
            As `predict`, the metrics with those of the controls, and as a third of `predictions` the tag
            ids of each control that was run. A control that changes no input is not run and has the same scores. One
            that cannot be made (no two images differ) has none, and that is logged.
        """
        output = self.predict(sentences, metric_key_prefix=prefix)
        metrics: dict[str, float] = output.metrics or {}
        own = {
            name.removeprefix(f"{prefix}_"): value
            for name, value in metrics.items()
            if name.startswith(tuple(f"{prefix}_{score}" for score in ("f1", "precision", "recall")))
        }
        controls = {}
        for control, images in (("text_only", "hidden"), ("shuffled_image", "shuffled")):
            scores = own
            if sentences.images == "own" and sentences.rows_with_image:
                try:
                    others = sentences.with_images(images)
                except ValueError as error:
                    logger.warning(f"The control {control} is left out: {error}")
                    continue
                (controls[control], _), _, found = self.predict(others, metric_key_prefix=control)
                scores = {name: (found or {})[f"{control}_{name}"] for name in own}
            metrics |= {f"{prefix}_{control}_{name}": value for name, value in scores.items()}
        return output._replace(predictions=(*output.predictions, controls), metrics=metrics)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: a run writes its own card, which a push to the Hub must not replace."""


def _check_metric(metric: str | None, dev: WindowedSentences | None) -> None:
    """
    Raises:
        ValueError: the evaluations will have no such score.
    """
    scores = sorted(f"eval_{name}" for name in dev.score_names) if dev else []
    if metric not in (None, *scores, *(ALWAYS_SCORED if dev else ())):
        raise ValueError(
            f"--metric_for_best_model {metric}: the {len(dev.tokens) if dev else 0} dev sentences give only "
            f"{', '.join([*scores, 'eval_loss']) if dev else 'nothing'}. Choose one of these, take more of the "
            "sentences (--max_eval_samples), or keep the last checkpoint: --eval_strategy no --load_best_model_at_end "
            "false --early_stopping_patience none."
        )


def _callback_states(state: TrainerState) -> dict[str, Any]:
    return cast(dict[str, Any], state.stateful_callbacks)  # the Trainer's annotation is another


def _evaluations_without_gain(state: TrainerState) -> int:
    """The counter of early stopping in a saved state."""
    saved = _callback_states(state).get(EarlyStoppingCallback.__name__, {})
    return saved.get("attributes", {}).get("early_stopping_patience_counter", 0)
