"""The report of the benchmarks is what their results say."""

import json

import pytest

from benchmarks.accuracy.figures import draw, gain, learning, reliability
from benchmarks.accuracy.report import REPORT, RESULTS, SECTIONS, report


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


def test_figures_are_there_and_drawn_alike(tmp_path):
    sets = json.loads((RESULTS / "accuracy.json").read_text())
    for name in ("first", "second"):
        draw(sets, tmp_path / name)
    drawn = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert drawn and drawn == sorted(path.name for path in (REPORT.parent / "figures").iterdir())
    for name in drawn:
        assert f"(figures/{name})" in REPORT.read_text(encoding="utf-8")
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_curves_are_those_of_the_runs():
    calibrated = {"counts": [1, 3], "confidence": [0.25, 0.75], "precision": [0.0, 1.0]}
    half = {"counts": [1, 0], "confidence": [0.35, 0.0], "precision": [1.0, 0.0]}
    runs = [
        {"system": "evidence", "scores": {"test_f1_depicts": f1}, "train_samples": 50, "calibration": found}
        for f1, found in ((0.5, calibrated), (0.75, half))
    ]
    sets = [{"data": "disjoint", "runs": runs, "comparisons": []}]
    assert reliability(sets)["evidence"] == [(pytest.approx(0.3), 0.5, 0, 0), (0.75, 1.0, 0, 0)]
    sets.append({"data": "disjoint_20", "runs": [runs[0] | {"train_samples": 20}], "comparisons": []})
    low, high = learning(sets)["own images"]
    assert low == (20, 0.5, 0, 0)
    assert high[:2] == (50, 0.625) and high[2] == pytest.approx(0.125 * 2**0.5)


def test_gain_is_that_of_all_sets_cut_from_one():
    found = {"depicts": {"difference": 2.0, "interval": [1.0, 5.0]}}
    pairs = [
        {"system": "evidence", "against": "images hidden", "slices": found},
        {"system": "evidence", "against": "paper", "slices": found},
    ]
    names = ("disjoint", "as_is", "all_750", "all_1500_epochs4")
    sets = [
        {
            "data": name,
            "runs": [{"system": "evidence", "scores": {"test_text_only_f1_depicts": 0.9 - 0.1 * number}}],
            "comparisons": pairs,
        }
        for number, name in enumerate(names)
    ]
    points = gain(sets)
    assert list(points) == ["images hidden"]
    assert points["images hidden"] == [(pytest.approx(x), 2.0, 1.0, 3.0) for x in (0.6, 0.7, 0.9)]
