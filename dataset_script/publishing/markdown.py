"""Values of a dataset card as Markdown: tables, numbers, shares, and text that must not be read as markup."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from .facts import NOT_STATED


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]], numbers: bool = True) -> list[str]:
    """A table, its cells Markdown already; ``numbers``: all but the names at the left stand at the right."""
    rows = list(rows)
    texts = 2 if len(heads) > 2 and heads[1] == "split" else 1
    rule = ["---"] * texts + ["---:" if numbers else "---"] * (len(heads) - texts)
    cells = [
        ["" if cell is None else number(cell) if isinstance(cell, int) else str(cell) for cell in row] for row in rows
    ]
    return [f"| {' | '.join(heads)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(row)} |" for row in cells)]


def words(value: Any) -> str:
    """A value of an option."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def listing(names: Iterable[str]) -> str:
    """``a, b and c``."""
    names = list(names)
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def number(value: int) -> str:
    """With commas between thousands."""
    return f"{value:,}"


def of(part: int, whole: int) -> str:
    """``3 of 4 (75.0 %)``."""
    return f"{number(part)} of {number(whole)} ({percent(part / whole)})" if whole else "0 of 0"


def percent(share: float | None) -> str:
    """``75.0 %``."""
    return NOT_STATED if share is None else f"{100 * share:.1f} %"


def text(value: Any) -> str:
    """``value`` as Markdown that shows it letter by letter, also in a table."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]#|~$!" else letter for letter in text)


def code(value: Any) -> str:
    """``value`` as a code span that shows it letter by letter; not for tables, where a ``|`` ends the cell."""
    text = " ".join(str(value).split())
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks} {text} {ticks}" if "`" in text else f"`{text}`"
