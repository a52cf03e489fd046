"""The load on `mmner serve`: what its benchmark recorded is without a fault, and each fault would be found."""

import json
from copy import deepcopy

import pytest

from benchmarks.measuring import RESULTS
from benchmarks.reliability.serving import faults_of, same

FOUND = [{"entity_group": "PER", "score": 0.5, "start": 0}]


def test_the_recorded_run_has_no_fault():
    results = json.loads((RESULTS / "serving.json").read_text(encoding="utf-8"))["results"]
    assert results["faults"] == [] == faults_of(results) and results["clients"] == 16


@pytest.mark.parametrize(
    ("part", "key", "value", "fault"),
    [
        (None, "lost", 1, "lost requests"),
        (None, "wrong", 1, "wrong answers"),
        (None, "stack_traces_in_log", 1, "stack traces"),
        ("good", "p99_ms", 1e6, "p99"),
        ("memory_mib", "last_quarter", 1e6, "memory grows"),
        ("stop", "exit_status", -15, "exit status"),
        ("stop", "answers_received", -1, "answers lost at the stop"),
    ],
)
def test_a_fault_is_found(part, key, value, fault):
    results = deepcopy(json.loads((RESULTS / "serving.json").read_text(encoding="utf-8"))["results"])
    (results[part] if part else results)[key] = value
    assert faults_of(results) == [fault]


def test_answers_are_equal_to_a_tolerance_and_in_nothing_else():
    assert same(FOUND, [{**FOUND[0], "score": 0.50009}]) and same([], [])
    for other in ({"score": 0.5002}, {"start": 1}, {"start": False}, {"entity_group": "LOC"}, {"more": 1}):
        assert not same([{**FOUND[0], **other}], FOUND)
    assert not same(FOUND, []) and not same({"error": {}}, FOUND)
