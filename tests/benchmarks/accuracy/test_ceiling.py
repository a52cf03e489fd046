"""What pictures are said to show when a model is told: counts, against hand-made ones."""

import math

import pytest

from benchmarks.accuracy.ceiling import counted, repaired

TYPES = ("PER", "LOC")
KINDS = {"face": "PER", "map": "LOC", "flag": "LOC;PER", "wall": ""}


def row(tags, picture, relation="depicts"):
    return {"tags": tags.split(), "image_name": picture, "image_relation": relation}


def test_counts_are_ratios_of_shares():
    rows = [row("B-PER I-PER O", "face")] * 3 + [row("B-LOC B-PER", "flag")] + [row("B-LOC", "wall", "unrelated")] * 4
    told = counted(rows, KINDS, TYPES)
    # Half a picture is added to each of 4 x 3 cells; the flag shows one of two, half each.
    share = {"PER": (3 + 1 + 0.5) / 14, "LOC;PER": (1 + 1.5) / 14}
    assert told["PER"][0].item() == pytest.approx(math.log(3.5 / 5.5 / share["PER"]), abs=1e-6)
    assert told["LOC;PER"][1].item() == pytest.approx(math.log(1.0 / 2.5 / share["LOC;PER"]), abs=1e-6)
    assert told["PER"][2].item() == pytest.approx(math.log(0.5 / 6 / share["PER"]), abs=1e-6)


def test_only_wrong_types_that_a_picture_contradicts_are_put_right():
    one = row("B-PER I-PER O B-LOC O B-PER", "face")
    tags = "B-LOC I-LOC O B-PER O O".split()  # wrong type, wrong type that no picture shows, missed
    assert repaired(one, tags, "PER") == "B-PER I-PER O B-PER O O".split()
    assert repaired(one, tags, "PER;LOC") == "B-PER I-PER O B-LOC O O".split()
    assert repaired(one, tags, "") == tags
