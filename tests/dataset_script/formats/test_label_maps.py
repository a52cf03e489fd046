"""Label maps: what the built-in ones hold, how they are applied, and what happens to a type that they do not name."""

import json

import pytest
from samples import SAMPLES

from dataset_script import load
from dataset_script.formats.label_maps import LabelMap
from dataset_script.formats.readers import read_source
from dataset_script.publishing.parquet import write_parquet
from dataset_script.report import LoadReport

FOUR = {"PER", "LOC", "ORG", "MISC"}
# The types of each set, from its paper.
SOURCES = {
    "other-to-misc": "PER LOC ORG OTHER MISC",
    "conll": "PER LOC ORG MISC",
    "multinerd-to-four": "PER LOC ORG ANIM BIO CEL DIS EVE FOOD INST MEDIA PLANT MYTH TIME VEHI",
    "wikidiverse-to-four": "Person Organization Location Country Event Works Misc",
    "fmnerg-to-four": "person location building organization product art event other",
    "germeval14-to-four": "PER LOC ORG OTH PERderiv LOCderiv ORGderiv OTHderiv PERpart LOCpart ORGpart OTHpart",
}


@pytest.mark.parametrize("name", SOURCES)
def test_built_in_maps_name_every_type_of_their_set_and_give_the_four(name):
    label_map = LabelMap.load(name).types
    assert set(label_map) == set(SOURCES[name].split())
    assert set(label_map.values()) - {""} == FOUR
    assert all(label_map.get(kind, kind) == kind for kind in FOUR)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- A\n", "a list came; expected a line 'TYPE: TYPE'"),
        ("NO: A\n", "'False: A' came; expected entity types, in quotes if need be"),
        ("{", "is no YAML file"),
        (None, "map.yaml', which is neither a file nor one of conll, fmnerg-to-four, germeval14-"),
    ],
)
def test_files_that_are_no_map(tmp_path, text, message):
    path = tmp_path / "map.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        LabelMap.load(path)


def test_load_maps_the_types_and_its_cache_knows_the_map(tmp_path):
    def tags(**options):
        rows = load(SAMPLES / "umt", cache_dir=tmp_path / "cache", **options)["validation"]
        return [rows.features["ner_tags"].feature.names[tag] for tag in rows[0]["ner_tags"]], rows.features

    assert tags()[0] == ["B-OTHER", "I-OTHER", "O"]
    mapped, features = tags(label_map="other-to-misc")
    assert mapped == ["B-MISC", "I-MISC", "O"]
    assert "B-OTHER" not in features["ner_tags"].feature.names
    own = {"PER": "PER", "LOC": "LOC", "OTHER": "O"}
    assert tags(label_map=own)[0] == ["O", "O", "O"]
    path = tmp_path / "map.yaml"
    for kind in ("X", "Y"):
        path.write_text(f"PER: PER\nLOC: LOC\nOTHER: {kind}\n")
        assert tags(label_map=path)[0] == [f"B-{kind}", f"I-{kind}", "O"]


@pytest.mark.parametrize("errors", ["raise", "skip"])
def test_a_type_that_the_map_does_not_name_is_an_error_whatever_the_policy(tmp_path, errors):
    message = r"valid\.txt:2: entity type 'OTHER' came, which the label map 'conll' does not name; expected one of PER"
    with pytest.raises(ValueError, match=message):
        list(read_source(SAMPLES / "umt", label_map="conll", errors=errors))
    with pytest.raises(ValueError, match=message):
        load(SAMPLES / "umt", label_map="conll", errors=errors, cache_dir=tmp_path)


def test_slips_are_mended_before_types_are_mapped(tmp_path):
    record = {"id": "a", "lang": "en", "tokens": ["a", "b", "c"], "ner_tags": ["B-CEL", "I-LOC", "I-LOC"]}
    (tmp_path / "train.jsonl").write_text(json.dumps(record))
    report = LoadReport()
    ((_, row),) = read_source(tmp_path, label_map={"CEL": "LOC", "LOC": "LOC"}, iob2="repair", report=report)
    # Two entities before the map are two after it.
    assert row.tags == ["B-LOC", "B-LOC", "I-LOC"] and report.total().repaired_tags == 1


def test_a_finished_dataset_takes_a_map_as_a_source_only(tmp_path):
    folder = write_parquet(load(SAMPLES / "umt", cache_dir=tmp_path / "cache"), tmp_path / "set")
    with pytest.raises(ValueError, match="is a Parquet dataset, where label_map has no use"):
        load(folder, label_map="other-to-misc")
    rows = list(read_source(folder, label_map="other-to-misc"))
    assert {tag[2:] for _, row in rows for tag in row.tags if tag != "O"} == {"PER", "LOC", "MISC"}
