"""The report of the benchmarks is what their results say."""

import json

from benchmarks.report import REPORT, RESULTS, SECTIONS, report


def test_the_report_is_made_from_the_results():
    assert REPORT.read_text(encoding="utf-8") == report(), "run: make results"


def test_a_changed_number_changes_the_report(tmp_path):
    facts = json.loads((RESULTS / "dataset.json").read_text())
    facts["results"][0]["build_rows_per_s"] = 987654
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    made = report(tmp_path)
    assert "| 987654 |" in made and facts["command"] in made
    assert made.count("\n## ") == 1, "no section without results"


def test_every_result_has_its_section():
    known = {name for name, *_ in SECTIONS}
    # One cell more of a benchmark whose table would not hold it; docs/scaling.md names it.
    assert {path.stem for path in RESULTS.glob("*.json")} - known <= {"scaling_square"}
