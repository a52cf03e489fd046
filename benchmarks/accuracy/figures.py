"""The report's figures, of `results/accuracy.json`."""

import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

Curves = dict[str, list[tuple[float, float, float, float]]]  # x, y, and how far it may be below and above

OURS = "evidence"  # with images hidden it is, tag by tag, the text-only CRF of the same seed
SET = "disjoint"
# It and its poorer copies, with whatever number of sentences and epochs.
POORER = re.compile(rf"({SET}|no_punctuation|lower|cut|all)(_\d+)?(_epochs\d+)?")
CONTROLS = ("images hidden", "images shuffled")
WAYS = {"own images": "test_f1_depicts", "images hidden": "test_text_only_f1_depicts"}


def _scores(facts: dict[str, Any], system: str, name: str) -> list[float]:
    return [run["scores"][name] for run in facts["runs"] if run["system"] == system and name in run["scores"]]


def gain(sets: Sequence[dict[str, Any]]) -> Curves:
    """F1 with own images less that with images hidden and shuffled, against that with images hidden: depicts rows."""
    curves: Curves = {}
    for facts in sets:
        text = _scores(facts, OURS, "test_text_only_f1_depicts")
        for pair in facts["comparisons"]:
            if POORER.fullmatch(facts["data"]) and text and pair["system"] == OURS and "depicts" in pair["slices"]:
                found, (low, high) = pair["slices"]["depicts"], pair["slices"]["depicts"]["interval"]
                if pair["against"] in CONTROLS:
                    middle = found["difference"]
                    point = (statistics.fmean(text), middle, middle - low, high - middle)
                    curves.setdefault(pair["against"], []).append(point)
    return {label: sorted(points) for label, points in curves.items() if len(points) > 1}


def reliability(sets: Sequence[dict[str, Any]]) -> Curves:
    """The share of right entities against their mean score, by bins of score, of all runs of a system together."""
    curves: Curves = {}
    for facts in sets:
        for run in facts["runs"] if facts["data"] == SET else ():
            curves.setdefault(run["system"], [])
        for system in curves if facts["data"] == SET else ():
            found = [run["calibration"] for run in facts["runs"] if run["system"] == system]
            bins = (zip(one["counts"], one["confidence"], one["precision"], strict=True) for one in found)
            for cells in zip(*bins, strict=True):
                if total := sum(count for count, *_ in cells):
                    sure = sum(count * confidence for count, confidence, _ in cells) / total
                    right = sum(count * precision for count, _, precision in cells) / total
                    curves[system].append((sure, right, 0, 0))
    return curves


def learning(sets: Sequence[dict[str, Any]]) -> Curves:
    """F1 against the number of sentences of training, depicts rows, mean and standard deviation over seeds."""
    curves: Curves = {}
    for facts in sets:
        for label, name in WAYS.items() if re.fullmatch(rf"{SET}(_\d+)?", facts["data"]) else ():
            if scores := _scores(facts, OURS, name):
                around = statistics.stdev(scores) if len(scores) > 1 else 0
                point = (facts["runs"][0]["train_samples"], statistics.fmean(scores), around, around)
                curves.setdefault(label, []).append(point)
    return {label: sorted(points) for label, points in curves.items() if len(points) > 1}


FIGURES: dict[str, tuple[str, Callable[[Sequence[dict[str, Any]]], Curves]]] = {
    "gain": ("What the picture is worth as the text tells less", gain),
    "reliability": ("Do scores mean what they say?", reliability),
    "learning": ("Learning curve", learning),
}
AXES = {
    "gain": ("F1 with images hidden, depicts rows", "F1 with own images, less"),
    "reliability": ("score of an entity", "share of right entities"),
    "learning": ("sentences of training", "F1, depicts rows"),
}


def draw(sets: Sequence[dict[str, Any]], folder: Path) -> None:
    """Writes each figure that there are results for, the same bytes each time."""
    folder.mkdir(exist_ok=True)
    for name, (_, points) in FIGURES.items():
        curves = points(sets)
        if not curves:
            continue
        with rc_context({"svg.hashsalt": name}):
            figure = Figure(figsize=(6, 4), layout="constrained")
            axes: Axes = figure.subplots()
            for label, found in curves.items():
                x, y, below, above = zip(*found, strict=True)
                axes.errorbar(x, y, yerr=(below, above), label=label, marker="o", markersize=4, capsize=3)
            if name == "reliability":
                axes.plot((0, 1), (0, 1), color="gray", linestyle=":")
            if name == "gain":
                axes.axhline(0, color="gray", linestyle=":")
            axes.set_xlabel(AXES[name][0])
            axes.set_ylabel(AXES[name][1])
            axes.legend()
            FigureCanvasSVG(figure).print_svg(folder / f"{name}.svg", metadata={"Date": None})
