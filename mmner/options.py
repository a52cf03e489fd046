"""The options of a run: three dataclasses, filled by a YAML recipe and overridden on the command line."""

import argparse
import dataclasses
import difflib
import json
import os
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
import yaml
from transformers import HfArgumentParser

from configuration_2mner import ALIGNMENTS, COLLABORATIONS, TAGGING_HEADS, TEXT_POOLINGS, TwoMNERConfig

RECIPES = Path(__file__).resolve().parent / "recipes"  # in the repository a link to its own folder of them
DEFAULT_RECIPE = RECIPES / "probe.yaml"

# What a saved model has weights for: another value would throw some away and draw others at random.
ARCHITECTURE = ("alignment", "collaboration", "collaboration_heads", "projection_dim", "tagging_head")
FREEZE_HELP = "What of it is not trained: none, embeddings, all, or a number of lowest layers (embeddings included)."


def _choice(allowed: Sequence[str], text: str, default: str | None = None) -> Any:
    return field(default=default, metadata={"help": f"{text} One of {', '.join(allowed)}.", "choices": list(allowed)})


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """Which model: a saved one, or towers with options. An option left out has the default of `TwoMNERConfig`."""

    _argument_group_name: ClassVar[str] = "model"

    model_name_or_path: str | None = _option(None, "A saved 2M-NER model to train further, evaluate or predict with.")
    new_types: str | None = _choice(
        ("add", "replace"),
        "For a saved model and a dataset of other types: learn them beside the model's own (add), or alone (replace).",
    )
    text_model: str | None = _option(None, "Name or folder of the text tower; 'tiny': an untrained one, made here.")
    vision_model: str | None = _option(None, "Name or folder of the image tower; 'tiny': an untrained one, made here.")
    global_vision_model: str | None = _option(None, "Name or folder of a second image tower, read as one vector.")
    vocabulary_size: int | None = _option(
        None, "Keep only so many of a new model's tokens: those that the training sentences use most (Unigram)."
    )
    whole_image: bool = _option(True, "Resize the whole image to the tower's size instead of cropping its centre.")
    freeze_text_model: str = _option("none", f"The text tower. {FREEZE_HELP}")
    freeze_vision_model: str = _option("none", f"The image tower. {FREEZE_HELP}")
    freeze_global_vision_model: str = _option("none", f"The second image tower. {FREEZE_HELP}")
    lora_rank: int | None = _option(
        None, "Train adapters of this rank (8) on the text tower's linear layers instead of the tower itself (LoRA)."
    )

    alignment: str | None = _choice(ALIGNMENTS, "Contrastive loss between text and image.")
    alignment_weight: float | None = _option(None, "Factor of the contrastive loss.")
    alignment_temperature: float | None = _option(None, "Temperature of the contrastive loss (its start, if learned).")
    projection_dim: int | None = _option(None, "Width of the space in which text and image are compared.")
    text_pooling: str | None = _choice(TEXT_POOLINGS, "Sentence vector of the contrastive loss.")
    collaboration: str | None = _choice(COLLABORATIONS, "How words and image are fused; none: text only.")
    collaboration_heads: int | None = _option(None, "Attention heads of the collaboration.")
    tagging_head: str | None = _choice(TAGGING_HEADS, "How the tags of a sentence are decided.")
    image_as_text: bool | None = _option(None, "Read each image's caption after its sentence.")
    ner_weight: float | None = _option(None, "Factor of the tagging loss.")
    consistency_weight: float | None = _option(None, "Factor of the KL between the tags with and without the image.")
    modality_dropout: float | None = _option(None, "Probability of hiding a row's image in training.")
    dropout: float | None = _option(None, "Dropout in the collaboration and before the classifier.")

    def config_options(self) -> dict[str, Any]:
        """The options of `TwoMNERConfig` that were given."""
        names = {f.name for f in dataclasses.fields(TwoMNERConfig)} & {f.name for f in dataclasses.fields(self)}
        return {name: value for name in sorted(names) if (value := getattr(self, name)) is not None}

    def check_architecture(self, config: TwoMNERConfig) -> None:
        """
        Raises:
            ValueError: an option contradicts the saved model of this configuration.
        """
        for name, value in self.config_options().items():
            if name in ARCHITECTURE and value != getattr(config, name):
                raise ValueError(
                    f"--{name} is {value}, but the saved {self.model_name_or_path} has {getattr(config, name)}. Leave "
                    "it as saved, or build a new model from towers."
                )


@dataclass
class DataArguments:
    """Which sentences and images, and how much of them."""

    _argument_group_name: ClassVar[str] = "data"

    dataset: str | None = _option(
        None, "'probe' (synthetic, made here), a folder or file of any format in docs/data.md, or a name on the Hub."
    )
    dataset_config: str | None = _option(
        None, "Part of it: a language (en, it), all (default), or a config on the Hub."
    )
    dataset_lang: str | None = _option(None, "Of a folder: the language of files that do not say theirs.")
    dataset_errors: str = _choice(("raise", "skip"), "Of a folder: what to do about a malformed row.", "raise")
    dataset_iob2: str = _choice(
        ("auto", "repair", "strict"),
        "Of a folder: an I- tag that begins an entity is an error (strict), is read as B- (repair), or is read as B- "
        "where at most one sentence in ten has one (auto).",
        "auto",
    )
    text_column: str | None = _option(None, "The column of the tokens, or of text with spans, if not called so.")
    tags_column: str | None = _option(
        None,
        "The column of the tags or spans: its name or, in files of columns, its number from 1 or (negative) from the "
        "end.",
    )
    image_column: str | None = _option(None, "The column of the image, if not called image.")
    captions: str | None = _option(None, "Of a folder: its file of captions, if not found by itself.")
    image_folder: str | None = _option(None, "Of a folder: where its images are, if not in images/.")
    streaming: bool = _option(False, "Train from Parquet files as they lie. Needs --max_steps.")
    shuffle_buffer: int = _option(2048, "Of a stream: rows that each reader (process or worker) holds and shuffles.")
    image_feature_store: str = _option(
        "none", "A folder that keeps a frozen image tower's outputs for this and later runs; none: nowhere."
    )
    max_length: int | None = _option(None, "Tokens of a window in training, special tokens included. Default: all.")
    stride: int | None = _option(
        None, "Tokens that the windows of a long sentence share when it is evaluated. Default: 64 or a quarter of one."
    )
    mention_dropout: float = _option(0.0, "In training, probability of hiding an entity's words beside an image.")
    text_augmentation: float = _option(
        0.0, "In training, the probability of reading a sentence in lower case, in capitals or without punctuation."
    )
    post_augmentation: float = _option(
        0.0, "In training, the probability of changing a sentence into a post: hashtags, handles, links, a cut end."
    )
    repeat_rare_types: float = _option(
        0.0,
        "In training, sentences with a type that a smaller share of them than this has (0.05) come more often: as the "
        "root of how much rarer it is.",
    )
    validation_share: float = _option(0.0, "Of a dataset without a validation split: so much of train becomes one.")
    rehearsal_posts: int = _option(
        0,
        "With --new_types add: so many posts, tagged by the model itself, among the training rows, so that it keeps "
        "its own types.",
    )
    train_languages: str | None = _option(None, "Train on these languages (en,de); dev and test keep all.")
    max_train_samples: int | None = _option(None, "A random subset of this many training rows.")
    max_eval_samples: int | None = _option(None, "A random subset of this many dev rows, the same for every seed.")
    max_predict_samples: int | None = _option(None, "A random subset of this many test rows, the same for every seed.")
    probe_sentences: int = _option(2000, "Size of the synthetic probe.")


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """The plain arguments with the defaults that are right here, and a learning rate for each part."""

    _argument_group_name: ClassVar[str] = "training"

    output_dir: str = _option("outputs", "The folder of the run.")
    text_learning_rate: float | None = _option(None, "Of the text tower. Default: learning_rate.")
    vision_learning_rate: float | None = _option(None, "Of the image towers. Default: learning_rate.")
    head_learning_rate: float | None = _option(None, "Of the new layers but the CRF. Default: learning_rate.")
    classifier_learning_rate: float | None = _option(None, "Of the emissions' layer. Default: head_learning_rate.")
    crf_learning_rate: float | None = _option(None, "Of the CRF's transitions. Default: learning_rate.")
    text_layer_decay: float = _option(1.0, "The learning rate of each text layer is this times that of the one above.")
    min_train_steps: int = _option(0, "Raise --num_train_epochs until there are so many optimizer steps.")
    early_stopping_patience: int | None = _option(None, "Stop after so many evaluations without a better dev F1.")
    search_trials: int = _option(0, "First train so often with options of --search_space; go on with the best on dev.")
    search_space: str = _option("recipes/search/local.yaml", "A YAML file of the options that search_trials searches.")

    do_train: bool = _option(True, "Train.")
    do_eval: bool = _option(True, "Score the chosen checkpoint on the dev set.")
    do_predict: bool = _option(True, "Score the chosen checkpoint on the test set, once.")
    eval_strategy: str = _option("epoch", "When to score the dev set in training: no, steps, epoch.")
    save_strategy: str = _option("epoch", "When to save a checkpoint: no, steps, epoch, best.")
    save_total_limit: int | None = _option(1, "How many checkpoints to keep beside the best.")
    load_best_model_at_end: bool = _option(True, "End with the checkpoint that is best on the dev set.")
    metric_for_best_model: str = _option("eval_f1", "What 'best' means: a score of dev, with or without eval_.")
    greater_is_better: bool | None = _option(None, "Whether more of it is better. Default: unless it is a loss.")
    train_sampling_strategy: str = _choice(
        ("group_by_length", "random", "sequential"), "Order of the sentences.", "group_by_length"
    )
    resume_from_checkpoint: str | None = _option(
        None, "A checkpoint to go on from; last: the last one in output_dir; auto: the same, or none where none is."
    )
    logging_nan_inf_filter: bool = _option(False, "Must stay false.")
    hub_strategy: str = _option("end", "Must stay 'end'.")
    remove_unused_columns: bool = _option(False, "Must stay false.")

    # Options of the plain Trainer that would silently change what is learned or scored here.
    _fixed: ClassVar[dict[str, tuple[Any, str]]] = {
        "remove_unused_columns": (False, "words and images become tensors only in the collator"),
        "hub_strategy": ("end", "weights, card and scores are pushed together, in one commit"),
        "logging_nan_inf_filter": (False, "it hides a loss that is not finite, which must end the run"),
        "label_smoothing_factor": (0.0, "it smooths a softmax; the tags' loss is a CRF's"),
        "prediction_loss_only": (False, "without predictions there is no F1"),
        "batch_eval_metrics": (False, "entity F1 needs whole sentences, not batches"),
        "enable_jit_checkpoint": (False, "a signal saves a checkpoint as it is, and the run then ends"),
        "auto_find_batch_size": (False, "another batch size would be another run, which could not be resumed"),
        "dataloader_drop_last": (False, "it leaves out training sentences"),
        "eval_do_concat_batches": (True, "entity F1 needs whole sentences, not batches"),
    }

    def __post_init__(self):
        for name, (value, reason) in self._fixed.items():
            if getattr(self, name) != value:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must stay {value}: {reason}.")
        do_eval = self.do_eval
        if not torch.accelerator.is_available():
            self.use_cpu = True  # else the plain class takes bf16 for a GPU's, and processes for one GPU each
        super().__post_init__()
        if self.metric_for_best_model is not None and not self.metric_for_best_model.startswith("eval_"):
            self.metric_for_best_model = f"eval_{self.metric_for_best_model}"  # as the evaluation calls it
        self.do_eval = do_eval  # the plain class switches it on when dev is scored during training
        if self.do_train and self.num_train_epochs <= 0 and self.max_steps <= 0:
            raise ValueError(
                f"--num_train_epochs is {self.num_train_epochs:g}, which trains nothing; expected more than 0. To "
                "score a saved model: --do_train false --model_name_or_path FOLDER."
            )
        chooses = self.do_train and self.eval_strategy != "no" and self.metric_for_best_model is not None
        if self.search_trials and (not chooses or self.resume_from_checkpoint):
            raise ValueError(
                "--search_trials trains anew and chooses on dev: it needs --do_train, --eval_strategy and "
                "--metric_for_best_model, and does not go with --resume_from_checkpoint."
            )
        by_steps = self.eval_strategy == self.save_strategy == "steps"
        if self.load_best_model_at_end and by_steps and self.save_steps != self.eval_steps:
            raise ValueError(
                f"--load_best_model_at_end with --eval_steps {self.eval_steps:g} --save_steps {self.save_steps:g}: "
                "the best evaluation may not be saved. Give both the same value (or --save_strategy best), or keep "
                "the last weights: --load_best_model_at_end false --early_stopping_patience none."
            )
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise ValueError(
                "--early_stopping_patience needs --load_best_model_at_end: pass both, or neither "
                "(--early_stopping_patience none)."
            )


def is_slow_in_bfloat16(args: TrainingArguments) -> bool:
    """Whether training in bfloat16 takes longer than in float32, on a processor without instructions for it."""
    names = ("avx512_bf16", "amx_bf16", "bf16")  # the last is ARM's
    return args.bf16 and args.device.type == "cpu" and not any(map(torch.cpu.get_capabilities().get, names))


class _Parser(HfArgumentParser):
    """A parser in which `none` takes back the value that a recipe gives to an option."""

    def _parse_dataclass_field(self, parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:  # type: ignore[override]
        may_be_none = type(None) in typing.get_args(field.type)  # before the library takes it out of the type
        super()._parse_dataclass_field(parser, field)
        action = parser._option_string_actions[f"--{field.name}"]
        # To some `none` is a value like others (alignment, report_to); and a list has no place for it.
        if may_be_none and "none" not in (field.default, *(action.choices or ())) and action.nargs != "+":
            action.type = _or_none(action.type)
            if action.choices is not None:
                action.choices = [*action.choices, None]

    def error(self, message: str):
        """An error that a caller can catch, without the two hundred lines of usage."""
        raise ValueError(f"{message[0].upper()}{message[1:]}. See --help.")


def _or_none(kind: Any) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return None if text.lower() == "none" else kind(text)

    read.__name__ = kind.__name__  # for argparse's message
    return read


class _UniqueKeyLoader(yaml.SafeLoader):
    """A YAML loader that refuses a key given twice, where the plain one drops the first."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        if repeated := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"{node.start_mark.name} gives {', '.join(repeated)} more than once; keep one.")
        return super().construct_mapping(node, deep)


def parse_arguments(argv: Sequence[str]) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """
    Reads a recipe and the options that override it.

    Args:
        argv: `[recipe] [--name value ...]`, the recipe as in `find_recipe`; without one, `recipes/probe.yaml`.

    Raises:
        ValueError: an unknown or malformed option, in the recipe or on the command line.
        FileNotFoundError: the recipe does not exist.
    """
    kinds: Any = (ModelArguments, DataArguments, TrainingArguments)
    parser = _Parser(kinds, prog="run_mmner.py", allow_abbrev=False)
    parser.usage = "run_mmner.py [recipe.yaml] [--name value ...]"
    argv = list(argv)
    recipe = find_recipe(argv.pop(0)) if argv and not argv[0].startswith("-") else DEFAULT_RECIPE
    from_recipe, cleared = _recipe_options(recipe, parser)
    parser.set_defaults(**cleared)
    *arguments, unknown = parser.parse_args_into_dataclasses(
        from_recipe + argv, return_remaining_strings=True, look_for_args_file=False
    )
    for word in unknown:
        if word.startswith("--"):
            known = [
                name for name in parser._option_string_actions if "-" not in name[2:]
            ]  # not their second spelling
            raise ValueError(_unknown(word.partition("=")[0], "on the command line", known))
        raise ValueError(
            f"Cannot place {word!r} on the command line; expected at most one recipe, first, and then `--name value`."
        )
    return typing.cast(tuple[ModelArguments, DataArguments, TrainingArguments], tuple(arguments))


def find_recipe(name: str | Path) -> Path:
    """
    The file of a recipe or of a search space: a path or, where there is no such file, what one that comes with 2M-NER
    is called (`base`, `base.yaml`, `recipes/base.yaml`, `search/local`).

    Raises:
        FileNotFoundError: there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    files = [*sorted(RECIPES.glob("*.yaml")), *sorted(RECIPES.glob("search/*.yaml"))]
    shipped = {path.relative_to(RECIPES).as_posix(): path for path in files}
    inside = Path(name).as_posix().removeprefix("recipes/").removesuffix(".yaml") + ".yaml"
    if inside in shipped:
        return shipped[inside]
    raise FileNotFoundError(
        f"There is no recipe {name}; expected a YAML file, or one of those in recipes/: {', '.join(shipped)}."
    )


def _unknown(name: str, where: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.replace("-", "_") if not name.startswith("-") else name, known, n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`--help` lists all there are."
    return f"Unknown option {name!r} {where}. {hint}"


def _recipe_options(recipe: Path, parser: HfArgumentParser) -> tuple[list[str], dict[str, Any]]:
    """The recipe as command-line words, so that both are typed and checked alike, and the options it empties."""
    try:
        with recipe.open(encoding="utf-8") as file:
            values = yaml.load(file, _UniqueKeyLoader) or {}  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{recipe} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{recipe} holds a {type(values).__name__}; expected lines of `name: value`.")
    known = [f.name for kind in parser.dataclass_types for f in dataclasses.fields(kind) if f.init]
    words, cleared = [], {}
    for name, value in values.items():
        if value is False and str(name).endswith("_strategy"):
            value = "no"  # which YAML takes for a boolean
        if name not in known:
            raise ValueError(_unknown(str(name), f"in {recipe}", known))
        if value is None or value == []:
            cleared[name] = value
        elif isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        elif isinstance(value, dict):
            words.append(f"--{name}={json.dumps(value)}")
        else:
            words.append(f"--{name}={value}")
    return words, cleared


def recipe_text(*arguments: Any, for_another_set: bool = False) -> str:
    """
    A recipe that repeats the run, without paths on this machine: the options that differ from an empty recipe. With
    `for_another_set` it leaves out `OF_ONE_SET`.
    """
    values = {}
    left_out = NOT_IN_A_RECIPE + PATHS + (OF_ONE_SET if for_another_set else ())
    for group in arguments:
        plain = type(group)()
        for f in dataclasses.fields(group):
            value = getattr(group, f.name)
            if f.init and f.name not in left_out and value != getattr(plain, f.name):
                value = getattr(value, "value", value)  # of an enum
                value = value.to_dict() if hasattr(value, "to_dict") else value
                if not (_has_path(value) or (f.name in NAMES_OR_PATHS and is_local(value))):
                    values[f.name] = value
    return yaml.safe_dump(json.loads(json.dumps(values, default=str)), sort_keys=False, allow_unicode=True)


def is_local(name: Any) -> bool:
    """Whether the value of an option of `NAMES_OR_PATHS` is a folder or file of this machine."""
    return isinstance(name, str) and name not in MADE_HERE and os.path.exists(os.path.expanduser(name))


def _has_path(value: Any) -> bool:
    """Whether an absolute path is anywhere in the value of an option."""
    if isinstance(value, dict | list):
        return any(map(_has_path, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and os.path.isabs(os.path.expanduser(value))


# Paths on this machine: always, or if there is such a folder or file (else a name on the Hub).
PATHS = ("captions", "image_feature_store", "image_folder", "output_dir", "search_space")
NAMES_OR_PATHS = ("dataset", "deepspeed", "global_vision_model", "model_name_or_path", "text_model", "vision_model")
MADE_HERE = ("probe", "tiny")
# What belongs to one process, one start or one place on the Hub.
NOT_IN_A_RECIPE = (
    *("hub_always_push", "hub_model_id", "hub_private_repo", "hub_revision", "hub_token", "local_rank"),
    *("push_to_hub", "resume_from_checkpoint"),
)
# The form of a set, which part of it was taken, and the search that gave the other options.
OF_ONE_SET = (
    *("dataset_config", "dataset_errors", "dataset_iob2", "dataset_lang", "max_eval_samples", "max_predict_samples"),
    *(
        "max_train_samples",
        "search_trials",
        "streaming",
        "text_column",
        "tags_column",
        "image_column",
        "train_languages",
    ),
)
