"""The model card of a run: a README.md with metadata that the Hub reads, both controls beside every score."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import accelerate
import datasets
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mmner.arguments import DataArguments, ModelArguments, TrainingArguments, recipe_text
from mmner.data import SPLITS
from mmner.report import CONTROLS

PAPER = "https://arxiv.org/abs/2404.17122"
SYNTHETIC = (
    "> **Synthetic data.** This model was trained and scored on the probe: template sentences and drawn pictures,\n"
    "> made by code, in which only the picture tells the type of a name. It shows that the image is used; it is of\n"
    "> no use on natural text.\n\n"
)
MAX_WIDGET_WORDS = 25

TEMPLATE = """\
# {name}

Named entity recognition from a sentence and, where there is one, its picture: a
[2M-NER]({paper}) model for {languages}, with the entity types {types}.

{synthetic}## Use

```python
from transformers import pipeline

ner = pipeline("token-classification", model="{location}", trust_remote_code=True)
ner("{example}")  # text alone
ner("{example}", images="picture.jpg")  # with its picture: a path, URL, PIL image, bytes or array
```

Each entity has its type, words, character offsets and `score`: the exact posterior, under the CRF, that these words
and no more are an entity of this type. `trust_remote_code=True` runs the Python files of this folder.

## Results

{results}

## Data

{data}

## Training

{towers}

The options that differ from the defaults:

```yaml
{recipe}
```

{versions}

## Licence

{licence}
"""


def write_model_card(
    folder: str | Path,
    arguments: tuple[ModelArguments, DataArguments, TrainingArguments],
    labels: Sequence[str],
    results: Mapping[str, Any],
    tables: Mapping[str, Sequence[tuple[str, str, Sequence[float | None]]]],
    predictions: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """
    Writes `README.md`.

    Args:
        folder: of the run.
        arguments: of the run.
        labels: the tags of the model.
        results: what `all_results.json` holds.
        tables: by prefix (`"eval"`, `"test"`), the lines of `score_table`.
        predictions: rows of a predictions file; one a language becomes an example of the widget.
    """
    model_args, data_args, training_args = arguments
    location = training_args.hub_model_id or Path(training_args.output_dir).name
    name = location.rpartition("/")[2]
    is_probe = data_args.dataset == "probe"
    languages = sorted({name for table in tables.values() for heading, name, _ in table if heading == "language"})
    examples = _examples(predictions)
    on_hub = [tower for tower in _towers(model_args).values() if tower != "tiny" and not Path(tower).exists()]
    dataset_on_hub = not is_probe and not Path(data_args.dataset).expanduser().exists()

    metadata = ModelCardData(
        language=languages or None,
        license="apache-2.0" if is_probe else "other",
        library_name="transformers",
        pipeline_tag="token-classification",
        tags=[
            "2m-ner",
            "named-entity-recognition",
            "multimodal",
            "multilingual",
            *(["synthetic"] if is_probe else []),
        ],
        base_model=on_hub or None,
        datasets=[data_args.dataset] if dataset_on_hub else None,
        metrics=["f1", "precision", "recall"],
        widget=[{"text": row["text"], "output": row["entities"]} for row in examples] or None,
        model_name=name,
        eval_results=_eval_results(data_args, results) or None,
    )
    text = TEMPLATE.format(
        name=name,
        paper=PAPER,
        languages=", ".join(languages) or "text",
        types=", ".join(sorted({label[2:] for label in labels if label != "O"})),
        synthetic=SYNTHETIC if is_probe else "",
        location=location,
        example=_quoted(examples[0]["text"] if examples else "Jordan was seen in Paris ."),
        results="\n\n".join(_table(prefix, table) for prefix, table in tables.items()) or "Not scored.",
        data=_data(data_args, results),
        towers="\n".join(f"- {part}: `{_short(tower)}`" for part, tower in _towers(model_args).items()),
        recipe=_recipe(arguments),
        versions=(
            f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
            f"datasets {datasets.__version__}, accelerate {accelerate.__version__}."
        ),
        licence=(
            "Apache-2.0, code and weights."
            if is_probe
            else "The code is Apache-2.0. The weights come from the towers and the data above: their licences apply."
        ),
    )
    path = Path(folder) / "README.md"
    ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}").save(path)
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
    return Path(name).name if Path(name).expanduser().exists() else name


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _examples(predictions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first short sentence of each language in which the model found an entity."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in predictions:
        if row["entities"] and len(row["tokens"]) <= MAX_WIDGET_WORDS:
            found.setdefault(str(row["lang"]), row)
    return [found[lang] for lang in sorted(found)]


def _table(prefix: str, table: Sequence[tuple[str, str, Sequence[float | None]]]) -> str:
    title = {"eval": "Dev set, on which the checkpoint was chosen", "test": "Test set, scored once"}[prefix]
    lines = [
        f"{title}: entity-level F1 in percent, strict IOB2, micro-averaged. *Text only*: the same weights, pictures "
        "hidden. *Shuffled*: every picture swapped for another sentence's.",
        "",
        f"| | {' | '.join(CONTROLS.values())} |",
        "|---|" + "---:|" * len(CONTROLS),
    ]
    for heading, name, values in table:
        cells = " | ".join("" if value is None else f"{100 * value:.2f}" for value in values)
        lines.append(f"| {f'{heading} {name}'.strip()} | {cells} |")
    return "\n".join(lines)


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


def _recipe(arguments: tuple[ModelArguments, DataArguments, TrainingArguments]) -> str:
    text = recipe_text(*arguments)
    for value in (*_towers(arguments[0]).values(), arguments[1].dataset, arguments[1].image_folder):
        if value is not None:
            text = text.replace(f": {value}\n", f": {_short(value)}\n")
    return "\n".join(line for line in text.splitlines() if not line.startswith("output_dir:"))


def _eval_results(data_args: DataArguments, results: Mapping[str, Any]) -> list[EvalResult]:
    named = {
        "f1": ("f1", "F1"),
        "precision": ("precision", "Precision"),
        "recall": ("recall", "Recall"),
        "text_only_f1": ("f1", "F1, text only"),
        "shuffled_image_f1": ("f1", "F1, shuffled images"),
    }
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
