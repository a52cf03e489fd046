"""The plain `Trainer`, with parameter groups for towers, new layers and CRF, and sentences grouped by length."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import DistributedType
from huggingface_hub import CommitInfo
from torch import nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from mmner.data.sentences import WindowedSentences
from mmner.options import TrainingArguments
from mmner.results.publish import publish
from mmner.training.checkpoints import is_complete, newest_checkpoint, tidy
from mmner.training.decoding import decode_sentences, entity_posteriors
from mmner.training.resumable_trainer import ResumableTrainer

logger = logging.getLogger(__name__)

# Where every process has all gradients.
PLAIN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
# What an evaluation has beside the scores of entities.
ALWAYS_SCORED = ("eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
# With multilingual-e5-small and 16 of 200 Wikipedia sentences a step, dev F1 after 13, 25, 50, 100 and 200 steps is 0,
# 0, 55, 76, 79 at the rates of recipes/local.yaml, and 0, 0, 0, 0, 49 at those of recipes/base.yaml.
ENOUGH_STEPS = 200
KEEP_THE_LAST = "--eval_strategy no --load_best_model_at_end false --early_stopping_patience none"
# Where a parameter belongs, by the beginning of its name; the first that fits. Everything else is a new layer.
PARTS = {
    "text": ("model.text_model.",),
    "vision": ("model.vision_model.", "model.global_vision_model."),
    "crf": ("crf.",),
    "classifier": ("classifier.",),
    "head": ("",),
}


def parameter_groups(model: nn.Module, args: TrainingArguments) -> list[dict[str, Any]]:
    """
    The trained parameters in groups for the optimizer: text tower, image towers, CRF, classifier, other new layers,
    each with its own learning rate. Vectors (biases, the scales of a normalisation) and the CRF's log-scores do not
    decay.

    Args:
        model: a `TwoMNERForTokenClassification`, wrapped or not.
        args: has the learning rates and the weight decay.

    Returns:
        Groups of `params`, `lr`, `weight_decay` and a `name`; none is empty, each parameter is in one.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        name = name.removeprefix("module.").removeprefix("_orig_mod.")
        part = next(part for part, prefixes in PARTS.items() if name.startswith(prefixes))
        decays = parameter.ndim > 1 and part != "crf"
        group = groups.setdefault(
            part if decays else f"{part}_no_decay",
            {
                "params": [],
                "lr": getattr(args, rate_option(part, args)),
                "weight_decay": args.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return [{**group, "name": name} for name, group in groups.items()]


def rate_option(part: str, args: TrainingArguments) -> str:
    """The name of the option from which a part of `PARTS` has its learning rate: its own, if given."""
    own = {"classifier": ("classifier", "head")}.get(part, (part,))
    options = [f"{name}_learning_rate" for name in own]
    return next((option for option in options if getattr(args, option) is not None), "learning_rate")


class LengthGroupedSampler(Sampler[int]):
    """
    Every sentence once, in random order, those of a batch of about one length: the sentences are shuffled, sorted by
    length within stretches of `STRETCH` batches, and the batches shuffled again. The order is a function of seed and
    epoch alone, so that it is the same on every process and after a resume.

    Args:
        lengths: of the sentences.
        batch_size: sentences in a step, over all processes.
        seed: of the order.
    """

    STRETCH = 50

    def __init__(self, lengths: list[int], batch_size: int, seed: int = 0):
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Another epoch, another order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        stretch = self.STRETCH * self.batch_size
        order = [
            index
            for start in range(0, len(order), stretch)
            for index in sorted(order[start : start + stretch], key=lambda index: -self.lengths[index])
        ]
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        # A short batch stays last: the batches after it would not be those that were sorted together.
        last = batches.pop() if batches and len(batches[-1]) < self.batch_size else []
        for batch in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[batch]
        yield from last


class _EpochSetter(TrainerCallback):
    """Tells sampler or set their epoch: the data loader's call does not reach them after a resume of several
    processes, nor the copy of a set that a worker process has."""

    def __init__(self):
        self.told: dict[str, LengthGroupedSampler | WindowedSentences] = {}

    def on_epoch_begin(self, args, state, control, **kwargs):
        for listener in self.told.values():
            listener.set_epoch(int(state.epoch or 0))


def few_steps(args: TrainingArguments, steps: int, rows: int) -> str:
    """
    What to set where a training is too short for a tagger to find entities; empty where it is long enough.

    Args:
        args: of the run.
        steps: optimizer steps.
        rows: training sentences.
    """
    if steps >= ENOUGH_STEPS:
        return ""
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    option = f"--max_steps {ENOUGH_STEPS}"
    if args.max_steps <= 0:
        option = f"--num_train_epochs {math.ceil(args.num_train_epochs * ENOUGH_STEPS / steps)}"
    if args.early_stopping_patience is not None:
        option += " --early_stopping_patience none (F1 may be 0 in the first evaluations)"
    return (
        f"{steps} optimizer steps ({rows:,} rows, {batch} a step, {steps * batch / rows:.1f} epochs) are few: a model "
        f"may predict no entity before it had about {ENOUGH_STEPS}. For so many: {option}"
    )


class WarnOfFewSteps(TrainerCallback):
    """
    Says before a training that its steps are few.

    Args:
        rows: training sentences.
    """

    def __init__(self, rows: int):
        self.rows = rows

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero and (message := few_steps(args, state.max_steps, self.rows)):
            logger.warning(message)


def checkpoint_to_resume(args: TrainingArguments) -> str | None:
    """
    The folder to go on from: the one given, the checkpoint saved `last` in the output folder, or none. With `auto` it
    is the last, or none where there is none yet. What a killed process left half written is removed first.

    Raises:
        ValueError: there is no such checkpoint, or it is not whole.
    """
    folder, asked = Path(args.output_dir), args.resume_from_checkpoint
    with args.main_process_first(desc="tidying the output folder"):
        if args.local_process_index == 0:
            tidy(folder)
    last = newest_checkpoint(folder)
    if asked is None:
        if last is not None:
            logger.warning(
                f"Training starts anew beside {last}; --resume_from_checkpoint last would go on from there."
            )
        return None
    if asked == "auto" and last is None:
        logger.info(f"There is no checkpoint in {folder} to go on from: training starts.")
        return None
    found = last if asked in ("last", "auto") else Path(asked)
    if found is None or not found.is_dir():
        raise ValueError(
            f"resume_from_checkpoint is {asked}, but there is no such checkpoint"
            f"{f' in {folder}' if asked == 'last' else ''}; leave it out to start anew."
        )
    if not is_complete(found):
        raise ValueError(
            f"{found} is not whole (no readable trainer_state.json): its save or copy was broken off. Go on from the "
            "last whole one: --resume_from_checkpoint last."
        )
    logger.info(f"Training goes on from {found}.")
    return str(found)


def _check_metric(metric: str | None, dev: WindowedSentences) -> None:
    """
    Raises:
        ValueError: the evaluations will have no such score.
    """
    scores = {f"eval_{name}" for name in dev.score_names}
    if metric is None or metric in scores or metric in ALWAYS_SCORED:
        return
    if not scores:
        raise ValueError(
            f"None of the {len(dev.tokens)} dev sentences has an entity, so that there is no {metric} to follow the "
            "training by. Take more of them (--max_eval_samples), follow it by --metric_for_best_model eval_loss, or "
            f"keep the last checkpoint: {KEEP_THE_LAST}."
        )
    raise ValueError(
        f"`metric_for_best_model` is {metric}, which is no score of these dev sentences; they have "
        f"{', '.join(sorted(scores))} and eval_loss."
    )


class TwoMNERTrainer(ResumableTrainer):
    """
    A trainer whose datasets are `WindowedSentences`: they know their lengths, and score what was predicted for them.

    Raises:
        ValueError: the checkpoint is to be chosen, or training to be followed, on dev sentences, and there are none,
            or they have no score of that name.
    """

    args: TrainingArguments

    def __init__(self, *args, **kwargs):
        training_args, dev = kwargs.get("args"), kwargs.get("eval_dataset")
        if training_args is not None and training_args.do_train and training_args.eval_strategy != "no":
            if not dev:
                raise ValueError(
                    "There are no dev sentences to choose the checkpoint on (no `validation` split, or an empty one); "
                    "the test set must not be used for it. Give the set a `validation` split, or keep the last one: "
                    f"{KEEP_THE_LAST}."
                )
            _check_metric(training_args.metric_for_best_model, dev)
        if training_args is not None and not training_args.do_train:
            training_args.eval_strategy = "no"
        super().__init__(*args, **kwargs)
        self._epoch_setter = _EpochSetter()
        self.add_callback(self._epoch_setter)
        if hasattr(self.train_dataset, "set_epoch"):
            self._epoch_setter.told["set"] = self.train_dataset

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            choice = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, model)
            optimizer_class, options = choice
            if not isinstance(optimizer_class, type) or {"params", "model", "optimizer_dict"} & set(options):
                raise ValueError(
                    f"`optim` is {self.args.optim}, which takes no parameter groups; use one that does: adamw_torch."
                )
            groups = parameter_groups(model, self.args)
            for group in groups:
                size = sum(parameter.numel() for parameter in group["params"])
                logger.info(f"{group['name']}: {size:,} weights, learning rate {group['lr']:g}")
            parts = [group["name"].removesuffix("_no_decay") for group in groups]
            rates = list(dict.fromkeys(rate_option(part, self.args) for part in parts))
            is_given = self.args.learning_rate != type(self.args).learning_rate
            if is_given and "learning_rate" not in rates:
                logger.warning(
                    f"learning_rate ({self.args.learning_rate:g}) has no effect: every part that is trained has a "
                    f"rate of its own. Change {', '.join(f'--{rate}' for rate in rates)} (none takes one back)."
                )
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: WindowedSentences | None = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler = LengthGroupedSampler(dataset.lengths, self.args.train_batch_size * self.args.world_size, seed)
        self._epoch_setter.told["sampler"] = sampler
        return sampler

    def _get_eval_sampler(self, eval_dataset: WindowedSentences) -> Sampler:
        return SequentialSampler(eval_dataset)  # ordered by length as it is, and the predictions must stay in order

    def evaluation_loop(self, dataloader, *args, ignore_keys=None, **kwargs) -> EvalLoopOutput:
        """
        As the plain one, scored by the set itself. Where a sentence has several windows, emissions are gathered too,
        and each sentence is decoded once, over those of all its windows.
        """
        sentences: WindowedSentences = dataloader.dataset
        kwargs["prediction_loss_only"] = False
        if not sentences.has_long_sentences:
            self.compute_metrics = sentences.compute_metrics
            return super().evaluation_loop(dataloader, *args, ignore_keys=ignore_keys, **kwargs)
        with_scores = self.preprocess_logits_for_metrics is not None
        self.preprocess_logits_for_metrics = None
        crf = self.accelerator.unwrap_model(self.model).crf
        decoded: list[np.ndarray] = []

        def compute_metrics(gathered: EvalPrediction) -> dict[str, float]:
            decoded[:] = decode_sentences(crf, sentences, *gathered.predictions)
            return sentences.compute_metrics(EvalPrediction(decoded[0], gathered.label_ids))

        self.compute_metrics = compute_metrics
        output = super().evaluation_loop(dataloader, *args, ignore_keys=self._all_but_emissions(), **kwargs)
        if not decoded:  # without gold labels no metrics are computed
            decoded[:] = decode_sentences(crf, sentences, *output.predictions)
        return output._replace(predictions=tuple(decoded) if with_scores else decoded[0])

    def predict_with_scores(self, dataset: WindowedSentences, metric_key_prefix: str = "test") -> PredictionOutput:
        """
        As `predict`, but `predictions` is a pair: the tag ids (num_windows, num_words), -100 where there is no word,
        and at the first word of each predicted entity the entity's exact posterior under the CRF, else 0.
        """
        self.preprocess_logits_for_metrics = self._with_scores
        try:
            return self.predict(dataset, ignore_keys=self._all_but_emissions(), metric_key_prefix=metric_key_prefix)
        finally:
            self.preprocess_logits_for_metrics = None

    def predict_with_controls(self, sentences: WindowedSentences, prefix: str) -> PredictionOutput:
        """
        Scores sentences as they are, with their images hidden, and with their images shuffled.

        Args:
            sentences: with their own images, or hidden ones where the model's tags do not depend on them.
            prefix: of the scores: `{prefix}_f1`, `{prefix}_text_only_f1`, `{prefix}_shuffled_image_f1`, ...

        Returns:
            As `predict_with_scores`, the metrics with those of the controls, and as a third of `predictions` the tag
            ids of each control that was run. A control that changes no input is not run and has the same scores; one
            that cannot be made (no two images differ) has none, and that is logged.
        """
        output = self.predict_with_scores(sentences, prefix)
        own = {
            name.removeprefix(f"{prefix}_"): value
            for name, value in output.metrics.items()
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
                controls[control], _, metrics = self.predict(others, metric_key_prefix=control)
                scores = {name: metrics[f"{control}_{name}"] for name in own}
            output.metrics.update({f"{prefix}_{control}_{name}": value for name, value in scores.items()})
        return output._replace(predictions=(*output.predictions, controls))

    def create_model_card(self, *args, **kwargs) -> None:
        """Does nothing: a run writes its own card, which a push to the Hub must not replace."""

    def push_to_hub(
        self,
        commit_message: str = "2M-NER model",
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> CommitInfo | None:
        """
        Publishes what the output folder holds, in one commit (see `mmner.results.publish`), from the main process.

        Args:
            commit_message: of the commit.
            token, revision, private: as in `publish`. Default: `hub_token`, `hub_revision`, `hub_private_repo`.
        """
        if not self.is_world_process_zero():
            return None
        args = self.args
        return publish(
            args.output_dir,
            getattr(self, "hub_model_id", None) or args.hub_model_id or Path(args.output_dir).absolute().name,
            token=args.hub_token if token is None else token,
            private=args.hub_private_repo if private is None else private,
            revision=args.hub_revision if revision is None else revision,
            message=commit_message,
        )

    def _all_but_emissions(self) -> list[str]:
        return [name for name in self.model.config.keys_to_ignore_at_inference if name != "logits"]

    def _with_scores(self, outputs: tuple[torch.Tensor, torch.Tensor], labels: Any) -> tuple[torch.Tensor, ...]:
        predictions, emissions = outputs  # (B, W), (B, W, K)
        model = self.accelerator.unwrap_model(self.model)
        return predictions, entity_posteriors(model.crf, model.config.id2label, predictions, emissions)


__all__ = [
    "LengthGroupedSampler",
    "TwoMNERTrainer",
    "WarnOfFewSteps",
    "checkpoint_to_resume",
    "few_steps",
    "parameter_groups",
]
