"""Fills the tables of ``docs/results.md`` from ``benchmarks/results/*.json``: ``python benchmarks/results_page.py``.

The page is written by hand, except for the numbers in its tables. The comment before a table says where they are::

    <!-- FILE.json/data=disjoint/runs | text_crf; evidence | system={}/scores/test_f1; system={}/seed | .2% -->

These are a path, the rows (a row stands for ``{}``), the columns below the path, and a format. A step of a path is a
key, or ``key=value``, which chooses items of a list, or ``*`` for all values. Of several values the mean is shown;
``.2% ±`` adds the standard deviation, ``.1f to`` shows the lowest and the highest, ``#`` counts them. A column may end
in a format of its own: ``p::.3f``. Percentages have no sign, and a ``difference`` with p < 0.05 is bold.
"""

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import RESULTS  # noqa: E402

PAGE = ROOT / "docs" / "results.md"
TABLE = re.compile(r"<!-- (.*?) \| (.*?) \| (.*?) \| (.*?) -->\n((?:\|.*\n)+)")


def values_at(path: str) -> list[Any]:
    """
    The values at a path.

    Raises:
        ValueError: there are none.
    """
    file, *steps = path.split("/")
    found: list[Any] = [json.loads((RESULTS / file).read_text(encoding="utf-8"))]
    for step in steps:
        found = [item for value in found for item in (value if isinstance(value, list) else [value])]
        key, equals, wanted = step.partition("=")
        if step == "*":
            found = [value for item in found for value in item.values()]
        elif equals:
            found = [item for item in found if str(item.get(key)) == wanted]
        else:
            found = [item[key] for item in found if key in item]
    if not found:
        raise ValueError(f"There is nothing at {path} in {RESULTS}.")
    return [item for value in found for item in (value if isinstance(value, list) else [value])]


def cell(path: str, form: str) -> str:
    """The number at a path as it stands in a table."""
    values = values_at(path)
    spec, _, more = form.partition(" ")
    if spec == "#":
        return str(len(values))
    shown = [min(values), max(values)] if more == "to" else [statistics.mean(values)]
    if more == "±":
        shown.append(statistics.stdev(values))
    text = f" {more} ".join(
        format(value, spec if place == 0 else spec.lstrip("+")) for place, value in enumerate(shown)
    )
    text = text.replace("%", "")
    significant = path.endswith("/difference") and values_at(path.removesuffix("difference") + "p")[0] < 0.05
    return f"**{text}**" if significant else text


def filled(page: str) -> str:
    """
    The page with all numbers of its tables from the JSON. An empty cell stays empty.

    Raises:
        ValueError: a table has another number of rows or columns than its comment, or a number is not in the JSON.
    """

    def fill(match: re.Match[str]) -> str:
        path, *lists, form, table = match.groups()
        rows, columns = ([one.strip() for one in part.split(";")] for part in lists)
        head, rule, *lines = [line.strip().strip("|").split("|") for line in table.splitlines()]
        if len(lines) != len(rows) or any(len(line) != len(columns) + 1 for line in (head, rule, *lines)):
            raise ValueError(f"The table {head} does not have {len(rows)} rows and {len(columns)} columns of numbers.")
        for row, line in zip(rows, lines, strict=True):
            for place, column in enumerate(columns, start=1):
                if line[place].strip():
                    below, _, own_form = column.partition("::")
                    number = cell(f"{path}/{below}".replace("{}", row), own_form or form)
                    line[place] = f" {number} "
        comment = match.group(0)[: -len(table)]
        return comment + "".join(f"|{'|'.join(line)}|\n" for line in (head, rule, *lines))

    return TABLE.sub(fill, page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
