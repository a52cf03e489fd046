"""An audit report as Markdown: what was found in words first, then the tables."""

from collections import Counter
from collections.abc import Iterable, Sequence

from ..rows import LANGUAGES
from .report import AuditReport


def markdown(report: AuditReport) -> str:
    """The whole report."""
    sections = [
        f"# Audit of {_escape(' and '.join(report.datasets))}",
        "\n".join(f"- **{verdict.level}** {_escape(verdict.text)}" for verdict in report.verdicts),
        _rows(report),
        _types(report),
        _overlaps(report),
        _predictability(report),
        _kinds(report),
        _unreadable(report),
        "Audited with " + ", ".join(f"`{name}` {value}" for name, value in report.options.items()) + ".",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; text to the left, numbers to the right."""
    rows = [list(row) for row in rows]
    numeric = [all(isinstance(row[column], int | float) for row in rows) for column in range(len(header))]
    lines = [[_escape(name) for name in header], ["---:" if right else "---" for right in numeric]]
    lines += [[_escape(f"{cell:.3f}" if isinstance(cell, float) else str(cell)) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rows(report: AuditReport) -> str:
    header = ["part", "language", "rows", "tokens", "entities", "without entity", "name a picture", "it opens"]
    header += ["I-X that begin an entity", "malformed"]
    rows = [
        [part.part, part.lang, part.rows, part.tokens, part.entities.total(), part.without_entity, part.named]
        + [part.opened, part.slips, part.malformed.total()]
        for part in _sorted(report)
    ]
    return "## Rows\n\n" + table(header, rows)


def _types(report: AuditReport) -> str:
    types = sorted(sum((part.entities for part in report.counts), Counter()))
    if not types:
        return ""
    rows = []
    for part in _sorted(report):
        total = max(1, part.entities.total())
        shares = [f"{part.entities[kind]} ({part.entities[kind] / total:.0%})" for kind in types]
        rows.append([part.part, part.lang, *shares])
    return "## Entities by type\n\n" + table(["part", "language", *types], rows)


def _overlaps(report: AuditReport) -> str:
    """What each part has of the parts before it, and what sentences it repeats; ``audit.json`` has all directions."""
    shown = [
        found
        for found in report.overlaps
        if report.parts.index(found.other) <= report.parts.index(found.part)
        and (found.kind, found.other) != ("pictures", found.part)
    ]
    if not shown:
        return ""
    header = ["kind", "of", "in", "different ones", "rows, exactly", "rows, nearly", "of rows", "examples"]
    rows = [
        [found.kind, found.part, found.other, found.things, found.exact, found.near, found.rows]
        + ["; ".join(found.examples)]
        for found in shown
    ]
    return "## Shared sentences and pictures\n\n" + table(header, rows)


def _predictability(report: AuditReport) -> str:
    if not report.predictability:
        return ""
    header = ["what is told", "by", "in", "labels", "pictures", "accuracy", "majority", "spread of the difference"]
    header += ["information of kinds"]
    rows = [
        [told.target, told.how, told.where, told.labels, told.pictures, told.accuracy, told.majority]
        + ["" if value is None else f"{value:.3f}" for value in (told.spread, told.information)]
        for told in report.predictability
    ]
    text = (
        "## What the picture alone tells\n\n`look`: a logistic regression of thumbnail, colours, edges and shape, "
        "cross-validated, with nearly equal pictures in one fold. `seen`: the most frequent label that the same "
        "picture, or nearly the same, has in training. A picture of what a sentence names rightly tells of types; one "
        "that tells whether it depicts anything at all is a fault of construction. Information: of the kinds that "
        "pictures fall into by their look, with the label, normalised to 1.\n\n"
    )
    return text + table(header, rows)


def _kinds(report: AuditReport) -> str:
    sections = []
    for told in report.predictability:
        if told.contingency:
            rows = [[f"kind {number + 1}", *row] for number, row in enumerate(told.contingency)]
            title = f"### Kinds of picture and {told.target}, {_escape(told.where)}"
            sections.append(f"{title}\n\n{table(['', *told.classes], rows)}")
    return "\n\n".join(sections)


def _unreadable(report: AuditReport) -> str:
    rows = [[name, picture, why] for name, problems in report.unreadable.items() for picture, why in problems.items()]
    return "## Pictures that do not open\n\n" + table(["dataset", "picture", "why"], rows) if rows else ""


def _sorted(report: AuditReport):
    languages = {lang: number for number, lang in enumerate(LANGUAGES)}
    return sorted(report.counts, key=lambda part: (report.parts.index(part.part), languages.get(part.lang, 9)))


def _escape(text: str) -> str:
    for character in "\\|<*_`[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
