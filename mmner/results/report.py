"""The results of a run: scores, predictions, plots, and a table for the terminal."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmner.data.sentences import WindowedSentences
from mmner.data.splits import SPLITS
from mmner.entity_f1 import find_entities
from mmner.training.checkpoints import replacing

logger = logging.getLogger(__name__)

RESULTS_FILE = "all_results.json"
PREDICTIONS, SCORES_PLOT = "predictions_{split}.jsonl", "f1_{split}.png"

Table = Sequence[tuple[str, str, Sequence[float | None]]]
"""Of each line: a heading, a name, and the F1 in each column of `CONTROLS`."""
CONTROLS = {"": "own images", "text_only_": "text only", "shuffled_image_": "shuffled"}
"""The three ways to show images: the prefix of their scores, and what they are called."""
COLOURS = ("#2f6db3", "#9aa5b1", "#d9822b")


def write_results(folder: str | Path, results: Mapping[str, Any], update: bool = False) -> Path:
    """Writes `all_results.json`. `update` keeps what an earlier run wrote, except of a split that has results now."""
    path = Path(folder) / RESULTS_FILE
    if update and path.is_file():
        prefixes = tuple(f"{prefix}_" for prefix in SPLITS.values())
        new = tuple(prefix for prefix in prefixes if any(name.startswith(prefix) for name in results))
        earlier = json.loads(path.read_text(encoding="utf-8"))
        results = {name: value for name, value in earlier.items() if not name.startswith(new)} | dict(results)
    with replacing(path) as file:
        file.write_text(json.dumps(dict(sorted(results.items())), indent=2) + "\n", encoding="utf-8")
    return path


def prediction_rows(
    sentences: WindowedSentences,
    predictions: np.ndarray,
    scores: np.ndarray,
    controls: Mapping[str, np.ndarray] | None = None,
) -> list[dict[str, Any]]:
    """
    The predictions for each sentence, in the order of the dataset.

    Args:
        predictions: tag ids `(num_windows, num_words)`; `controls` has those with images hidden or shuffled, by name.
        scores: the posterior of each predicted entity at its first word, same shape.

    Returns:
        Of each sentence `id`, `lang`, `text` (the words joined by spaces), `tokens`, `ner_tags` (gold; `None` where
        there are none), `predicted_tags`, `entities` (`entity_group`, `score`, `word`, `start`, `end`, in characters
        of `text`), `{name}_tags` of each control, and `image_relation` if the dataset has it.
    """
    tags, posteriors = sentences.predicted_tags(predictions), sentences.stitch(scores)
    of_controls = {name: sentences.predicted_tags(found) for name, found in (controls or {}).items()}
    rows = []
    for row, spans in enumerate(find_entities(tags)):
        tokens = sentences.tokens[row]
        text = " ".join(tokens)
        starts = np.cumsum([0] + [len(token) + 1 for token in tokens]).tolist()
        entities = []
        for kind, first, stop in spans:
            start, end = starts[first], starts[stop] - 1
            entity = {"entity_group": kind, "score": posteriors[row][first], "word": text[start:end]}
            entities.append({**entity, "start": start, "end": end})
        rows.append(
            {
                "id": sentences.ids[row],
                "lang": sentences.languages[row],
                "text": text,
                "tokens": tokens,
                "ner_tags": None if sentences.tags is None else sentences.tags[row],
                "predicted_tags": tags[row],
                "entities": entities,
                **{f"{name}_tags": found[row] for name, found in of_controls.items()},
            }
        )
        if sentences.relations[row] is not None:
            rows[-1]["image_relation"] = sentences.relations[row]
    return rows


def write_predictions(folder: str | Path, split: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes `predictions_{split}.jsonl`: a line of JSON per sentence."""
    path = Path(folder) / PREDICTIONS.format(split=split)
    with replacing(path) as aside, aside.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def caution(rows: Sequence[Mapping[str, Any]]) -> str:
    """A warning about types that are in the gold tags and are never predicted; or empty."""
    gold, predicted = (
        Counter(tag[2:] for row in rows for tag in row[name] if tag.startswith("B-"))
        for name in ("ner_tags", "predicted_tags")
    )
    never = {kind: count for kind, count in sorted(gold.items()) if kind not in predicted}
    where = f"these {len(rows):,} sentences"
    if not predicted:
        return f"The model predicts no entity at all in {where}, which have {gold.total():,}."
    if never:
        return f"The model never predicts {' or '.join(never)}; {where} have {sum(never.values()):,}."
    return ""


def score_table(results: Mapping[str, Any], prefix: str, groups: Mapping[str, Sequence[str]]) -> Table:
    """The F1 of a split (`"eval"` or `"test"`) with its controls: over all, then of each group that has a score."""
    lines = [("", "all", "")] + [(heading, name, f"_{name}") for heading, names in groups.items() for name in names]
    table = [
        (heading, name, [results.get(f"{prefix}_{control}f1{suffix}") for control in CONTROLS])
        for heading, name, suffix in lines
    ]
    return [line for line in table if any(value is not None for value in line[2])]


def format_table(table: Table, title: str) -> str:
    """A `score_table` as text."""
    width = max([len(f"{heading} {name}") for heading, name, _ in table] + [len(title)])
    lines = [f"{title:<{width}}" + "".join(f"{name:>13}" for name in CONTROLS.values())]
    lines.append("-" * len(lines[0]))
    for heading, name, values in table:
        cells = "".join("            -" if value is None else f"{100 * value:13.2f}" for value in values)
        lines.append(f"{f'{heading} {name}'.strip():<{width}}{cells}")
    return "\n".join(lines)


def plot_scores(folder: str | Path, split: str, table: Table) -> Path:
    """Plots a `score_table` to `f1_{split}.png`."""
    figure, axes = _axes(width_in=2.0 + 0.75 * len(table))
    positions = np.arange(len(table))
    for column, (name, colour) in enumerate(zip(CONTROLS.values(), COLOURS, strict=True)):
        heights = [np.nan if values[column] is None else values[column] for _, _, values in table]
        axes.bar(positions + 0.27 * (column - 1), heights, width=0.25, label=name, color=colour)
    names = [name for _, name, _ in table]
    axes.set_xticks(positions, names, rotation=30, ha="right", parse_math=False)
    axes.set(ylim=(0, 1.02), ylabel="entity F1", title=f"{split}: F1 by language, type and image")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return _save(figure, Path(folder) / SCORES_PLOT.format(split=split))


def remove_scores(folder: str | Path, split: str) -> None:
    """Removes the predictions and the plot that an earlier run left of a split."""
    for name in (PREDICTIONS, SCORES_PLOT):
        path = Path(folder) / name.format(split=split)
        if path.is_file():
            logger.info(f"{path} is of an earlier run and is removed.")
            path.unlink()


def plot_training(folder: str | Path, log_history: Sequence[Mapping[str, float]]) -> Path | None:
    """Plots loss and dev F1 by step to `training_curve.png`; without a loss there is no plot, nor an earlier one."""
    path = Path(folder) / "training_curve.png"
    losses = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    scores = [(entry["step"], entry["eval_f1"]) for entry in log_history if "eval_f1" in entry]
    if not losses:
        path.unlink(missing_ok=True)
        return None
    figure, axes = _axes(width_in=7.0)
    axes.plot(*zip(*losses, strict=True), color="0.45", label="training loss")
    axes.set(xlabel="step", ylabel="training loss", title="Training")
    if scores:
        right = axes.twinx()
        right.plot(*zip(*scores, strict=True), color=COLOURS[0], marker="o", label="dev F1")
        right.set(ylabel="dev entity F1", ylim=(0, 1.02))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return _save(figure, path)


def _axes(width_in: float):
    # Not pyplot, which looks for a display and keeps every figure in memory.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure, path: Path) -> Path:
    with replacing(path) as file:
        figure.savefig(file, dpi=150)
    return path
