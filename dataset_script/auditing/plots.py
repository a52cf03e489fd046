"""Plots of an audit report: labels by part, what parts share, kinds of picture against labels."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from .report import AuditReport

DPI = 120
# Okabe and Ito: distinct to colour-blind readers too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#777777")


def plot(report: AuditReport, folder: Path) -> list[str]:
    """Write the plots that the report has numbers for.

    Returns:
        The names of the PNG files in ``folder``.
    """
    with matplotlib.rc_context({"text.parse_math": False}):  # a $ in the name of a type is a $
        figures = {"labels.png": _labels(report), "overlap.png": _overlap(report), "kinds.png": _kinds(report)}
    for name, figure in figures.items():
        if figure is not None:
            # No date and no version of the library: the same report gives the same bytes.
            figure.savefig(folder / name, dpi=DPI, metadata={"Software": None})
    return [name for name, figure in figures.items() if figure is not None]


def _labels(report: AuditReport) -> Figure | None:
    """The share of each entity type, a bar for each part and language."""
    counts = [part for part in report.counts if part.entities.total()]
    if not counts:
        return None
    counts.sort(key=lambda part: report.parts.index(part.part))
    types = sorted({kind for part in counts for kind in part.entities})
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(counts)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(counts))
    for position, kind in enumerate(types):
        share = np.array([part.entities[kind] / part.entities.total() for part in counts])
        colour = COLOURS[position % len(COLOURS)]
        hatch = "//" if position >= len(COLOURS) else None
        axes.barh(range(len(counts)), share, left=left, label=kind, color=colour, hatch=hatch)
        left += share
    names = [f"{part.part} {part.lang} ({part.entities.total():,})" for part in counts]
    axes.set_yticks(range(len(counts)), names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the entities")
    figure.legend(loc="outside upper center", ncols=min(len(types), 8), frameon=False)
    return figure


def _overlap(report: AuditReport) -> Figure:
    """Of the rows of each part, the share whose sentence or picture another part has."""
    size = len(report.parts)
    figure = Figure(figsize=(3 + 1.1 * size, 1.8 + 0.45 * size), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), ("sentences", "pictures"), strict=True):
        share = np.zeros((size, size))
        for found in report.overlaps:
            if found.kind == kind:
                at = report.parts.index(found.part), report.parts.index(found.other)
                share[at] = found.shared / found.rows
        _heat(axes, share, report.parts, report.parts, "{:.1%}")
        axes.set(title=f"{kind} of the row ...", xlabel="... also in")
    return figure


def _kinds(report: AuditReport) -> Figure | None:
    """Of the labels beside each kind of picture, the share of each."""
    told = [one for one in report.predictability if one.contingency]
    if not told:
        return None
    figure = Figure(figsize=(4.5 * len(told), 4), layout="constrained")
    for axes, one in zip(figure.subplots(1, len(told), squeeze=False)[0], told, strict=True):
        table = np.array(one.contingency, float)
        rows = [f"kind {number + 1} ({int(total):,})" for number, total in enumerate(table.sum(1))]
        _heat(axes, table / np.maximum(table.sum(1, keepdims=True), 1), rows, one.classes, "{:.0%}")
        axes.set_title(f"{one.target}, {one.where}\ninformation {one.information:.3f}", fontsize="medium")
    return figure


def _heat(axes: Any, values: np.ndarray, rows: list[str], columns: list[str], form: str) -> None:
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    for (row, column), value in np.ndenumerate(values):
        if value:
            colour = "white" if value > 0.5 else "black"
            axes.text(column, row, form.format(value), ha="center", va="center", color=colour, fontsize="small")
