"""The model card of a run: a README.md with metadata that the Hub reads, both controls beside every score."""

import dataclasses
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import accelerate
import datasets
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from configuration_2mner import TwoMNERConfig
from mmner.arguments import DataArguments, ModelArguments, TrainingArguments, recipe_text
from mmner.card_template import (
    AUTO_SNIPPET,
    CITATION,
    LIMITS,
    LIMITS_OF_PICTURES,
    PIPELINE_SNIPPET,
    PIPELINE_SNIPPET_WITH_IMAGE,
    SYNTHETIC,
    TEMPLATE,
    TRAIN_SNIPPET,
)
from mmner.checkpoints import replacing
from mmner.data import SPLITS
from mmner.report import CONTROLS, Table, is_all_zero

PAPER = "https://arxiv.org/abs/2404.17122"

Arguments = tuple[ModelArguments, DataArguments, TrainingArguments]


def write_model_card(
    folder: str | Path,
    arguments: Arguments,
    config: TwoMNERConfig,
    results: Mapping[str, Any],
    tables: Mapping[str, Table],
    examples: Sequence[Mapping[str, Any]] = (),
    location: str | None = None,
) -> Path:
    """
    Writes `README.md`, and `recipe.yaml` with the options of the run, but those that hold for its set alone.

    Args:
        folder: of the run; what plots it has are shown.
        arguments: of the run.
        config: of the model.
        results: what `all_results.json` holds.
        tables: by prefix (`"eval"`, `"test"`), the lines of `score_table`.
        examples: of `widget_examples`.
        location: from where the snippets load the model. Default: `hub_model_id`, or the name of the output folder.
    """
    folder = Path(folder)
    model_args, data_args, training_args = arguments
    location = location or training_args.hub_model_id or Path(training_args.output_dir).absolute().name
    name = location.rpartition("/")[2]
    is_probe, sees_pictures = data_args.dataset == "probe", config.collaboration != "none"
    types = sorted({label[2:] for label in config.labels if label != "O"})
    languages = sorted({name for table in tables.values() for heading, name, _ in table if heading == "language"})
    examples = list(examples)
    blanks = {
        "location": location,
        "example": _quoted(examples[0]["text"] if examples else "Jordan was seen in Paris."),
        "images": '["photo.jpg"]' if sees_pictures else "None",
        "image": '"photo.jpg"' if sees_pictures else "None",
        "kind": "PER" if "PER" in types else types[0],
    }
    text = TEMPLATE.format(
        name=name,
        location=location,
        paper=PAPER,
        pictures_in_short="and, where there is one, its picture" if sees_pictures else "alone, without pictures",
        languages=", ".join(languages) or "text",
        types=", ".join(types),
        synthetic=SYNTHETIC if is_probe else "",
        pipeline_snippet=(PIPELINE_SNIPPET_WITH_IMAGE if sees_pictures else PIPELINE_SNIPPET)
        .format(**blanks)
        .rstrip(),
        output=_output(examples),
        auto_snippet=AUTO_SNIPPET.format(**blanks).rstrip(),
        train_snippet=TRAIN_SNIPPET.format(**blanks).rstrip(),
        results="\n\n".join(_results(folder, prefix, tables[prefix], results) for prefix in tables) or "Not scored.",
        data=_data(data_args, results),
        towers="\n".join(f"- {part}: `{_short(tower)}`" for part, tower in _towers(model_args).items()),
        facts="\n".join(f"- {fact}: {value}" for fact, value in _facts(training_args, results).items()),
        curve=_plot(folder, "training_curve.png", "Training loss and dev F1 by step"),
        recipe=_recipe(arguments),
        limits="\n".join(f"- {limit}" for limit in LIMITS + (LIMITS_OF_PICTURES if sees_pictures else ())),
        licence=(
            "Apache-2.0, code and weights."
            if is_probe
            else "The code is Apache-2.0. The weights come from the towers and the data above: their licences apply."
        ),
        citation=CITATION,
    )
    on_hub = [tower for tower in _towers(model_args).values() if tower != "tiny" and not Path(tower).exists()]
    dataset_on_hub = not is_probe and not Path(data_args.dataset).expanduser().exists()
    tags = ["2m-ner", "named-entity-recognition", "multilingual", "multimodal" if sees_pictures else "text-only"]
    metadata = ModelCardData(
        language=[name for name in languages if re.fullmatch("[a-z]{2,3}", name)] or None,
        license="apache-2.0" if is_probe else "other",
        library_name="transformers",
        pipeline_tag="token-classification",
        tags=[*tags, *(["synthetic"] if is_probe else [])],
        base_model=on_hub or None,
        datasets=[data_args.dataset] if dataset_on_hub else None,
        metrics=["f1", "precision", "recall"],
        widget=examples or None,
        model_name=name,
        eval_results=_eval_results(data_args, results, tables.get("test", ())) or None,
    )
    with replacing(folder / "recipe.yaml") as recipe:
        recipe.write_text(
            f"# The options of the run that made {location}, for any set: without where its own lay and which part\n"
            "# of it was taken. Folders are named by their last part.\n"
            + _recipe((_with_defaults(model_args, config), data_args, training_args), full=True)
            + "\n",
            encoding="utf-8",
        )
    path = folder / "README.md"
    with replacing(path) as card:
        ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}").save(card)
    return path


def _towers(model_args: ModelArguments) -> dict[str, str]:
    """What the model was made from."""
    if model_args.model_name_or_path is not None:
        return {"trained further from": model_args.model_name_or_path}
    towers = {
        "text tower": model_args.text_model,
        "image tower": model_args.vision_model,
        "second image tower": model_args.global_vision_model,
    }
    return {part: tower for part, tower in towers.items() if tower is not None}


def _short(name: str) -> str:
    """A folder by its last part alone: the rest says something of a machine, nothing of the model."""
    return Path(name).expanduser().absolute().name if Path(name).expanduser().exists() else name


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _output(examples: Sequence[Mapping[str, Any]]) -> str:
    """What the model says to the snippet's text."""
    if not examples:
        return ""
    entities = "\n".join(f" {entity}," for entity in examples[0]["output"])
    return f"To the text alone this model answers:\n\n```text\n[\n{entities}\n]\n```"


def _results(folder: Path, prefix: str, table: Table, results: Mapping[str, Any]) -> str:
    """The table of a split and its plot, after what must be known before; of zeros there is no table."""
    split = {prefix: split for split, prefix in SPLITS.items()}[prefix]
    title = {"eval": "Dev set, on which the checkpoint was chosen", "test": "Test set, scored once"}[prefix]
    warning = results.get(f"{prefix}_caution")
    known = [f"**{warning}**", ""] if warning else []
    if is_all_zero(table):
        return "\n".join([f"{title}: every score is 0.", "", *known]).rstrip()
    lines = [
        f"{title}: entity-level F1 in percent, strict IOB2, micro-averaged. *Text only*: the same weights, pictures "
        "hidden. *Shuffled*: every picture swapped for another sentence's.",
        "",
        *known,
        f"| | {' | '.join(CONTROLS.values())} |",
        "|---|" + "---:|" * len(CONTROLS),
    ]
    for heading, name, values in table:
        cells = " | ".join("" if value is None else f"{100 * value:.2f}" for value in values)
        lines.append(f"| {f'{heading} {name}'.strip()} | {cells} |")
    return ("\n".join(lines) + "\n\n" + _plot(folder, f"f1_{split}.png", f"F1 on the {split} split")).rstrip()


def _plot(folder: Path, name: str, what: str) -> str:
    return f"![{what}]({name})\n\n" if (folder / name).is_file() else ""


def _facts(args: TrainingArguments, results: Mapping[str, Any]) -> dict[str, str]:
    """Seeds, duration, hardware and versions."""
    facts = {"seed": str(args.seed)}
    if args.data_seed is not None:
        facts["seed of the order of the data"] = str(args.data_seed)
    if "train_runtime" in results:
        facts["duration of the training"] = _duration(results["train_runtime"])
    if "total_runtime" in results:
        facts["duration of the whole run, scoring and controls included"] = _duration(results["total_runtime"])
    facts["hardware"] = f"{hardware()}; {args.world_size} process{'es' if args.world_size > 1 else ''}"
    facts["versions"] = (
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"datasets {datasets.__version__}, accelerate {accelerate.__version__}"
    )
    return facts


def hardware() -> str:
    """The accelerators of this machine, or its processor."""
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    information, model = Path("/proc/cpuinfo"), None
    if information.is_file():
        model = re.search(r"^model name\s*:\s*(.+)$", information.read_text(encoding="utf-8"), re.MULTILINE)
    return f"{model[1] if model else platform.machine()}, {cores} cores, no GPU"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min {rest} s" if hours else f"{minutes} min {rest} s"


def _data(data_args: DataArguments, results: Mapping[str, Any]) -> str:
    part = f", `{data_args.dataset_config}`" if data_args.dataset_config else ""
    title = "The synthetic probe" if data_args.dataset == "probe" else f"`{_short(data_args.dataset)}`"
    lines = [f"{title}{part}.", "", "| split | sentences | with a picture | picture missing |", "|---|---:|---:|---:|"]
    for split, prefix in SPLITS.items():
        if f"{prefix}_samples" in results:
            cells = (
                results.get(f"{prefix}_{name}", "") for name in ("samples", "samples_with_image", "missing_images")
            )
            lines.append(f"| {split} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _with_defaults(model_args: ModelArguments, config: TwoMNERConfig) -> ModelArguments:
    """The model's options, those that were not given as the model has them."""
    unset = [f.name for f in dataclasses.fields(model_args) if getattr(model_args, f.name) is None]
    of_config = {f.name for f in dataclasses.fields(TwoMNERConfig)}
    return dataclasses.replace(model_args, **{name: getattr(config, name) for name in unset if name in of_config})


def _recipe(arguments: Arguments, full: bool = False) -> str:
    """The recipe, without what says something of the machine alone."""
    text = recipe_text(*arguments, full=full)
    model_args, data_args, _ = arguments
    folders = (data_args.dataset, data_args.image_folder, data_args.captions, data_args.image_feature_store)
    for value in (*_towers(model_args).values(), *folders):
        if value is not None:
            text = text.replace(f": {value}\n", f": {_short(value)}\n")
    return "\n".join(line for line in text.splitlines() if not line.startswith(("output_dir:", "logging_dir:")))


def _eval_results(data_args: DataArguments, results: Mapping[str, Any], table: Table) -> list[EvalResult]:
    """The `model-index`: precision and recall over all, F1 over all and by language, type and image, with controls;
    nothing where all F1 are 0."""
    if is_all_zero(table):
        return []
    named = {"precision": ("precision", "Precision"), "recall": ("recall", "Recall")}
    for heading, name, _ in table:
        for control, shown in CONTROLS.items():
            title = "F1" if not control else f"F1, {shown}"
            key = f"{control}f1" + (f"_{name}" if heading else "")
            named[key] = ("f1", f"{title} ({heading} {name})" if heading else title)
    return [
        EvalResult(
            task_type="token-classification",
            task_name="Named entity recognition",
            dataset_type=_short(data_args.dataset).lower(),
            dataset_name=_short(data_args.dataset),
            dataset_config=data_args.dataset_config,
            dataset_split="test",
            metric_type=metric,
            metric_name=title,
            metric_value=round(results[f"test_{key}"], 4),
        )
        for key, (metric, title) in named.items()
        if f"test_{key}" in results
    ]


__all__ = ["hardware", "write_model_card"]
