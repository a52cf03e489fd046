"""Hostile inputs: few of each kind are answered rightly, and a wrong answer of any kind is found."""

import socket

import pytest
from PIL import ImageOps

from benchmarks.reliability import hostile
from handler import EndpointHandler
from mmner.data.collator import DataCollatorForMultimodalTokenClassification
from pipeline_2mner import TwoMNERPipeline

FEW = ["--strings", "80", "--images", "36", "--bodies", "18"]


def test_few_of_each_kind(tmp_path, capsys):
    assert hostile.main([*FEW, "--failures", str(tmp_path)]) == 0
    totals = [line.split() for line in capsys.readouterr().out.splitlines() if " ALL " in line]
    assert [(line[0], int(line[2])) for line in totals] == [("strings", 80), ("images", 36), ("requests", 24)]
    assert all(int(line[4]) > 4 for line in totals) and not list(tmp_path.iterdir())


def shift(items):
    return [{**item, "start": item["start"] + 1} for item in items]


def turn(image):
    return image and ImageOps.flip(image)


def drop(answer):
    return answer[:-1] if isinstance(answer, list) else answer


def look_up(answer):
    socket.getaddrinfo("localhost", 80)
    return answer


@pytest.mark.parametrize(
    ("kind", "name", "change", "wrong"),
    [
        (TwoMNERPipeline, "postprocess", shift, "strings"),
        (DataCollatorForMultimodalTokenClassification, "open", turn, "images"),
        (EndpointHandler, "__call__", drop, "requests"),
        (EndpointHandler, "__call__", look_up, "requests"),
    ],
)
def test_a_wrong_answer_is_found(kind, name, change, wrong, tmp_path, monkeypatch):
    right = getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda *args, **options: change(right(*args, **options)))
    few = ["--strings", "40", "--images", "7", "--bodies", "9", "--failures", str(tmp_path)]
    assert hostile.main(few) == 1
    assert list(tmp_path.glob(f"{wrong}-*.input")) and list(tmp_path.glob(f"{wrong}-*.faults"))
