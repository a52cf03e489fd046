"""The numbers of docs/results.md are those of the JSON, and each command in the JSON names a script of its own."""

import json
import re

import pytest

from benchmarks import results_page
from benchmarks.measuring import RESULTS, ROOT

PAGE = results_page.PAGE.read_text(encoding="utf-8")
TABLE = """<!-- toy.json/runs/system={} | a; b | f1::.1% ±; difference::+.2%; seeds::#; range/*::.0f to | .1% -->
| system | f1 | difference | seeds | range |
|---|---|---|---|---|
| a | 0 | 0 | 0 | 0 |
| b | 0 | 0 | 0 |  |
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setattr(results_page, "RESULTS", tmp_path)
    runs = [{"system": name, "f1": f1, "seeds": [1, 2]} for name, f1 in [("a", 0.5), ("b", 0.25), ("a", 0.7)]]
    for run, difference, p in zip(runs, (0.1, -0.00125, 0.1), (0.04, 0.5, 0.04), strict=True):
        run |= {"difference": difference, "p": p, "range": {"low": 3, "high": 12}}
    runs.append({"system": "b", "f1": 0.25})
    (tmp_path / "toy.json").write_text(json.dumps({"runs": runs}), encoding="utf-8")


def test_the_numbers_on_the_page_are_those_of_the_json():
    assert results_page.filled(PAGE) == PAGE, "run: python benchmarks/results_page.py"
    assert PAGE.count("\n|---") == len(results_page.TABLE.findall(PAGE)), "a table has no comment before it"
    prose = re.sub(r"^\|.*|<!--.*?-->|`.*?`", "", PAGE, flags=re.MULTILINE)
    assert re.findall(r"\d\.\d+", prose.replace("p < 0.05", "")) == [], "a number that is not in a table"


def test_cells_by_hand(toy):
    assert results_page.filled(TABLE).splitlines()[3:] == [
        "| a | 60.0 ± 14.1 | **+10.00** | 4 | 3 to 12 |",
        "| b | 25.0 ± 0.0 | -0.12 | 2 |  |",
    ]


@pytest.mark.parametrize("wrong", [TABLE.replace("a; b", "a; c"), TABLE.replace("a; b", "a")])
def test_a_wrong_comment_is_refused(toy, wrong):
    with pytest.raises(ValueError, match="There is nothing at toy.json/runs/system=c|does not have 1 rows"):
        results_page.filled(wrong)


def test_every_result_is_linked_and_its_script_is_there_or_named_as_retired():
    readme = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for path in RESULTS.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert path.name in PAGE + (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8"), path.name
        for script in set(re.findall(r'"command": "python (\S+\.py)', text)):
            assert (ROOT / script).exists() or f"`{script.removeprefix('benchmarks/')}`" in readme, (path.name, script)
