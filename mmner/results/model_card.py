"""The model card of a run: a README.md with metadata that the Hub reads, and both controls beside every score."""

import json
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import accelerate
import datasets
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from configuration_2mner import TwoMNERConfig
from dataset_script.publishing.markdown import code, text
from mmner import MODEL
from mmner.data.splits import SPLITS
from mmner.options import DataArguments, ModelArguments, TrainingArguments, is_local, recipe_text
from mmner.results.publish import LOCATION, NAME
from mmner.results.report import CONTROLS, Table
from mmner.training.checkpoints import replacing

TEMPLATE = Path(__file__).with_suffix(".md")
TITLES = {"eval": "Dev set, on which the checkpoint was chosen", "test": "Test set, scored once"}

Arguments = tuple[ModelArguments, DataArguments, TrainingArguments]


def write_model_card(
    folder: str | Path,
    arguments: Arguments,
    config: TwoMNERConfig,
    results: Mapping[str, Any],
    tables: Mapping[str, Table],
    examples: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """
    Writes `README.md`, in which `LOCATION` stands for the repository until `publish` names it, and `recipe.yaml` with
    the options of the run that apply to any dataset. Neither holds a path of this machine.

    Args:
        arguments: of the run.
        results: what `all_results.json` holds.
        tables: by prefix (`"eval"`, `"test"`), the lines of `score_table`.
        examples: of `widget_examples`.
    """
    folder = Path(folder)
    model_args, data_args, training_args = arguments
    dataset, sees_images = data_args.dataset or "", config.collaboration != "none"
    is_probe = dataset == "probe"
    types = sorted({label[2:] for label in config.labels if label != "O"})
    languages = sorted({name for table in tables.values() for heading, name, _ in table if heading == "language"})
    towers = _towers(model_args, config)
    licence = _licence(model_args.model_name_or_path)
    tags = ["2m-ner", "named-entity-recognition", "multilingual", "multimodal" if sees_images else "text-only"]
    metadata = ModelCardData(
        language=[name for name in languages if re.fullmatch("[a-z]{2,3}", name)] or None,
        license="apache-2.0" if is_probe else licence or "other",
        library_name="transformers",
        pipeline_tag="token-classification",
        tags=[*tags, *(["synthetic"] if is_probe else [])],
        base_model=[name for _, name, _ in towers if name != "tiny" and not is_local(name)] or None,
        datasets=None if is_probe or is_local(dataset) else [dataset],
        metrics=["f1", "precision", "recall"],
        widget=list(examples) or None,
        model_name=NAME,
        eval_results=_eval_results(data_args, results, tables.get("test", ())) or None,
    )
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        name=NAME,
        location=LOCATION,
        is_probe=is_probe,
        sees_images=sees_images,
        base_licence=licence,
        languages=text(", ".join(languages)),
        types=text(", ".join(types)),
        example=json.dumps(examples[0]["text"] if examples else "Jordan was seen in Paris.", ensure_ascii=False),
        tag=json.dumps(f"B-{'PER' if 'PER' in types else types[0]}", ensure_ascii=False),
        controls=list(CONTROLS.values()),
        splits=[_split(folder, prefix, table, results) for prefix, table in tables.items()],
        dataset=", ".join([_dataset_name(dataset, code), *map(code, filter(None, [data_args.dataset_config]))]),
        counts=_counts(results),
        towers=[(part, f"a local {kind}" if is_local(name) else code(name)) for part, name, kind in towers],
        facts=_facts(training_args, results),
        curve=[path.name for path in folder.glob("training_curve.png")],
        recipe=recipe_text(*arguments),
    )
    with replacing(folder / "recipe.yaml") as recipe:
        recipe.write_text(
            "# The options that made this model and are not the defaults, for use with any dataset: without paths,\n"
            "# and without the choice of rows of its own dataset.\n" + recipe_text(*arguments, for_another_set=True),
            encoding="utf-8",
        )
    path = folder / "README.md"
    with replacing(path) as aside:
        card.save(aside)
    return path


def _licence(base: str | None) -> str | None:
    """The licence on the card of the model that was trained further, if it lies here and its card says one."""
    card = (MODEL if base == MODEL.name else Path(base or "")) / "README.md"
    return ModelCard.load(card).data.get("license") if base and card.is_file() else None


def _towers(model_args: ModelArguments, config: TwoMNERConfig) -> list[tuple[str, str, str]]:
    """What the model was made from: of each part what it is, its name or folder, and its model type."""
    towers = [
        ("text tower", model_args.text_model, config.text_config),
        ("image tower", model_args.vision_model, config.vision_config),
        ("second image tower", model_args.global_vision_model, config.global_vision_config),
    ]
    if model_args.model_name_or_path is not None:
        towers = [("trained further from", model_args.model_name_or_path, config)]
    return [(part, name, getattr(kind, "model_type", "model")) for part, name, kind in towers if name is not None]


def _dataset_name(dataset: str, shown: Callable[[str], str] = str) -> str:
    if dataset == "probe":
        return "The synthetic probe"
    return "A local dataset" if is_local(dataset) else shown(dataset)


def _split(folder: Path, prefix: str, table: Table, results: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a split, its plot, and its caution."""
    name = {prefix: split for split, prefix in SPLITS.items()}[prefix]
    rows = [
        (text(f"{heading} {group}"), ["" if value is None else f"{100 * value:.2f}" for value in values])
        for heading, group, values in table
    ]
    return {
        "name": name,
        "caution": results.get(f"{prefix}_caution"),
        "title": TITLES[prefix],
        "rows": rows,
        "plot": [path.name for path in folder.glob(f"f1_{name}.png")],
    }


def _counts(results: Mapping[str, Any]) -> list[list[Any]]:
    """Of each split its name, its sentences, those with an image, and those whose image is missing."""
    return [
        [split, *(results.get(f"{prefix}_{name}", "") for name in ("samples", "samples_with_image", "missing_images"))]
        for split, prefix in SPLITS.items()
        if f"{prefix}_samples" in results
    ]


def _facts(args: TrainingArguments, results: Mapping[str, Any]) -> dict[str, str]:
    """Seeds, duration, hardware and versions."""
    facts = {"seed": str(args.seed)}
    if args.data_seed is not None:
        facts["seed of the order of the data"] = str(args.data_seed)
    if "rehearsal_posts" in results:
        facts["posts of 2M-NER among the training sentences, tagged by the model itself"] = str(
            results["rehearsal_posts"]
        )
    for name, what in (("train_runtime", "training"), ("total_runtime", "whole run, scoring and controls included")):
        if name in results:
            facts[f"duration of the {what} (h:mm:ss)"] = str(timedelta(seconds=round(results[name])))
    facts["hardware"] = f"{hardware()}; {args.world_size} process{'es' if args.world_size > 1 else ''}"
    libraries = (torch, transformers, datasets, accelerate)
    versions = (f"{library.__name__} {library.__version__}" for library in libraries)
    facts["versions"] = ", ".join([f"Python {platform.python_version()}", *versions])
    return facts


def hardware() -> str:
    """The GPUs of this machine, or its processor."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{platform.machine()}, {os.cpu_count()} cores, no GPU"


def _eval_results(data_args: DataArguments, results: Mapping[str, Any], table: Table) -> list[EvalResult]:
    """The `model-index`: precision, recall and all F1 of the test set."""
    dataset = data_args.dataset or ""
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
            dataset_type="local" if is_local(dataset) else dataset,
            dataset_name=_dataset_name(dataset),
            dataset_config=data_args.dataset_config,
            dataset_split="test",
            metric_type=metric,
            metric_name=title,
            metric_value=round(results[f"test_{key}"], 4),
        )
        for key, (metric, title) in named.items()
        if f"test_{key}" in results
    ]
