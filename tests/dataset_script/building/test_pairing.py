"""Pairing: the shares that were asked for, nothing that contradicts a relation, and no hint in the picture."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dataset_script.building.pairing import draw_depicting, draw_unrelated, keep_to_own
from dataset_script.building.plan import DEPICTS, NONE, UNRELATED, Plan
from dataset_script.building.providers.base import ImageProvider, ProvidedImage
from dataset_script.building.stage import Mention, Stage
from dataset_script.rows import Row

ENTITIES = [f"E{number}" for number in range(30)]


class Gallery(ImageProvider):
    """Two images of each of the first twenty entities."""

    natural = False

    def __init__(self):
        super().__init__()
        for entity in ENTITIES[:20]:
            for name in (f"{entity}-a.jpg", f"{entity}-b.jpg"):
                self.images[name] = ProvidedImage(name, Path(name), entity, ("LOC",))

    def showing(self, mention):
        return [f"{mention.surface}-{copy}.jpg" for copy in "ab"] if mention.surface in ENTITIES[:20] else []

    def entity(self, mention):
        return mention.surface


@pytest.fixture
def stage(tmp_path):
    generator = np.random.default_rng(0)
    stage = Stage(tmp_path)

    def rows():
        for number in range(6000):
            chosen = generator.choice(30, size=2, replace=False)
            tokens = [ENTITIES[chosen[0]], "and", ENTITIES[chosen[1]]]
            tags = ["B-LOC", "O", "B-LOC"]
            yield "train", Row(Path("x"), number, str(number), "en", tokens, tags)

    stage.add(rows(), "source")
    return stage


def paired(stage, plan, split=None):
    gallery = Gallery()
    pairs = draw_depicting(stage, gallery, plan, [*gallery.images])
    split = np.zeros(len(stage.rows), np.int8) if split is None else split
    draw_unrelated(stage, gallery, plan.seed, pairs, split)
    return pairs


def test_shares_are_as_stated_and_relations_are_true(stage):
    pairs = paired(stage, Plan(0.25, 0.15))
    counts = np.bincount(pairs.relation, minlength=3) / len(stage.rows)
    # Of the pairs of 30 entities, 10 * 9 / (30 * 29) have no picture at all.
    without = 90 / 870
    assert abs(counts[DEPICTS] - 0.6 * (1 - without)) < 0.02
    assert abs(counts[UNRELATED] - (0.25 + 0.6 * without * 0.25 / 0.4)) < 0.02
    for row in stage.rows:
        picture = pairs.names[pairs.image[row.key]] if pairs.image[row.key] >= 0 else None
        shown = picture.split("-")[0] if picture else None
        relation = pairs.relation[row.key]
        assert (relation == NONE) == (picture is None)
        assert (relation == DEPICTS) == (shown in {mention.surface for mention in row.mentions})


def test_the_picture_does_not_tell_whether_it_depicts(stage):
    pairs = paired(stage, Plan(0.4, 0.1))
    used = {relation: Counter(pairs.image[pairs.relation == relation]) for relation in (DEPICTS, UNRELATED)}
    shares = {
        relation: np.array([counts[number] for number in range(40)]) / sum(counts[number] for number in range(40))
        for relation, counts in used.items()
    }
    assert np.abs(shares[DEPICTS] - shares[UNRELATED]).max() < 0.02


def test_unrelated_pictures_come_from_the_rows_own_split(stage):
    gallery, plan = Gallery(), Plan(0.3, 0.2)
    split = (np.arange(len(stage.rows)) % 2).astype(np.int8)
    pairs = draw_depicting(stage, gallery, plan, [*gallery.images])
    # Copy a of each picture belongs to split 0, copy b to split 1.
    keep_to_own(stage, gallery, plan, pairs, lambda row, picture: pairs.names[picture][-5] == "ab"[split[row]])
    draw_unrelated(stage, gallery, 0, pairs, split)
    for row, picture in enumerate(pairs.image):
        assert picture < 0 or pairs.names[picture][-5] == "ab"[split[row]]
    assert pairs.counts["images given up because another split has them"] > 500
    # A row whose copy is another split's has the other copy of the same entity: none need go without.
    assert (pairs.relation == DEPICTS).mean() == pytest.approx(0.5 * (1 - 90 / 870), abs=0.03)


def test_without_an_image_to_draw_rows_go_without_and_are_counted(stage):
    assert (paired(stage, Plan(1, 0), split=np.full(len(stage.rows), -1, np.int8)).image == -1).all(), "rows left out"
    pairs = paired(stage, Plan(1, 0))
    assert (pairs.relation == NONE).all(), "no image depicts"
    assert pairs.counts["rows left without an image since no unrelated one was found"] == len(stage.rows)


def test_stage_keeps_rows_counts_names_and_makes_ids_unique(tmp_path):
    stage = Stage(tmp_path)

    def row(row_id, tokens, tags, lang="de"):
        return "train", Row(Path("x"), 1, row_id, lang, tokens, tags)

    first = [row("1", ["Köln", "und", "Köln"], ["B-LOC", "O", "B-LOC"]), row("2", ["New", "York"], ["B-LOC", "I-LOC"])]
    stage.add(first, "a")
    counts = stage.add([row("1", ["Köln"], ["B-LOC"]), row("1", [], [], "fr")], "b")
    assert counts == {"de": 1, "fr": 1}
    assert [item.id for item in stage.rows] == ["1", "2", "b-de-train-1", "b-fr-train-1"]
    assert list(stage.mentions()) == [Mention("Köln", "LOC", "de"), Mention("New York", "LOC", "de")]
    names = stage.names()
    assert sorted((row, names[name].surface) for row, name in stage.mention_pairs()) == [
        (0, "Köln"), (1, "New York"), (2, "Köln"),
    ]  # fmt: skip
    assert stage.types() == ["LOC"]
