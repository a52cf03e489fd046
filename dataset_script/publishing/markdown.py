"""Values as Markdown: shares, and text that is shown letter by letter instead of being read as markup."""

import re
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


def share(part: int, whole: int) -> str:
    """``3 of 4 (75.0 %)``."""
    return f"{part:,} of {whole:,} ({percent(part / whole)})" if whole else "0 of 0"


def percent(value: float) -> str:
    """``75.0 %``."""
    return f"{100 * value:.1f} %"
