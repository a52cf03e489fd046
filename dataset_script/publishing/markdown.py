"""Values as Markdown: tables, and text that is shown letter by letter instead of being read as markup."""

import re
from collections.abc import Iterable, Sequence
from typing import Any


def text(value: Any) -> str:
    """``value`` as Markdown that shows it letter by letter, also in a table."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]#|~$!" else letter for letter in text)


def code(value: Any) -> str:
    """``value`` as a code span; not for tables, where a ``|`` ends the cell."""
    text = " ".join(str(value).split())
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks} {text} {ticks}" if "`" in text else f"`{text}`"


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table. Strings must be Markdown already; a column of numbers is aligned to the right."""
    rows = [list(row) for row in rows]
    numeric = [all(isinstance(row[column], int | float) for row in rows) for column in range(len(heads))]
    lines = [list(heads), ["---:" if right else "---" for right in numeric]]
    lines += [[_cell(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def share(part: int, whole: int) -> str:
    """``3 of 4 (75.0 %)``."""
    return f"{part:,} of {whole:,} ({percent(part / whole)})" if whole else "0 of 0"


def percent(value: float) -> str:
    """``75.0 %``."""
    return f"{100 * value:.1f} %"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}" if isinstance(value, float) else str(value)
