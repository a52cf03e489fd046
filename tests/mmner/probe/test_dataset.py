"""The probe: the same bytes each time, nothing shared between splits, and types that only the image tells."""

import hashlib
from collections import defaultdict

import pytest
from PIL import Image
from written_files import contents_of, read_jsonl

from dataset_script import load
from dataset_script.rows import iob2_problems
from mmner.entity_f1 import find_entities
from mmner.probe import dataset as probe

SPLITS = ("train", "validation", "test")
LANGUAGES = ("en", "de", "fr", "es")
TYPES = ("PER", "LOC", "ORG", "MISC")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return probe.build(tmp_path_factory.mktemp("probe") / "p", num_sentences=800)


@pytest.fixture(scope="module")
def rows(folder):
    return {(lang, split): read_jsonl(folder / lang / f"{split}.jsonl") for lang in LANGUAGES for split in SPLITS}


def split_rows(rows, split):
    return [row for (_, of), found in rows.items() if of == split for row in found]


def mentions(row):
    return [(kind, tuple(row["tokens"][start:end])) for kind, start, end in find_entities([row["ner_tags"]])[0]]


def test_same_seed_same_bytes_and_another_seed_others(tmp_path):
    folders = (probe.build(tmp_path / name, 120, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    first, second, other = map(contents_of, folders)
    assert first == second
    assert set(first.values()).isdisjoint(value for name, value in other.items() if name.startswith("images/"))


def test_sizes_ids_and_tags(rows):
    found = [row for of_file in rows.values() for row in of_file]
    assert len(found) == len({row["id"] for row in found}) == 800 and all(rows.values())
    assert len(split_rows(rows, "train")) > len(split_rows(rows, "test")) > len(split_rows(rows, "validation"))
    for row in found:
        assert len(row["tokens"]) == len(row["ner_tags"]) and all(row["tokens"])
        assert not list(iob2_problems(row["ner_tags"]))


def test_splits_share_no_image_and_no_sentence_and_test_has_names_of_its_own(folder, rows):
    images, texts, names = {}, {}, {}
    for split in SPLITS:
        found = split_rows(rows, split)
        files = {row["image"] for row in found if row["image"]}
        images[split] = {hashlib.sha256(Image.open(folder / "images" / f).tobytes()).hexdigest() for f in files}
        assert len(images[split]) == len(files)
        texts[split] = {(row["lang"], *row["tokens"]) for row in found}
        names[split] = {words[0] for row in found for _, words in mentions(row)}
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert images[one].isdisjoint(images[other])
        assert texts[one].isdisjoint(texts[other])
    assert len(names["test"] - names["train"]) > 20


def test_ambiguous_texts_come_once_with_each_type(rows):
    found = split_rows(rows, "test")
    by_text = defaultdict(list)
    for row in found:
        by_text[tuple(row["tokens"])].append(row)
    ambiguous = [same for same in by_text.values() if len({tuple(row["ner_tags"]) for row in same}) > 1]
    assert 0.4 < sum(map(len, ambiguous)) / len(found) < 0.6
    for same in ambiguous:
        assert all(row["image_relation"] == "depicts" and row["image"] for row in same)
        assert len(same) == len({row["image"] for row in same}) == 4
        assert {kind for row in same for kind, _ in mentions(row)} == set(TYPES)


def test_it_is_read_as_any_dataset_and_says_that_it_is_synthetic(folder, tmp_path):
    loaded = load(folder, cache_dir=tmp_path)
    assert sum(len(split) for split in loaded.values()) == 800
    assert "SYNTHETIC" in (folder / "README.txt").read_text()


def test_a_size_that_cannot_be_is_refused_and_nothing_but_a_probe_is_replaced(tmp_path):
    for size in (79, 20_001):
        with pytest.raises(ValueError, match=f"num_sentences is {size}: ask for 80 to 20000"):
            probe.build(tmp_path / "p", size)
    folder = probe.build(tmp_path / "p", 80)
    before = contents_of(folder)
    assert contents_of(probe.build(folder, 80)) == before
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="p holds notes.txt, which this program did not write"):
        probe.build(folder, 80)
    assert (folder / "notes.txt").read_text() == "mine"
