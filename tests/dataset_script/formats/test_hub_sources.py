"""Sources on the Hub: the layouts of WikiNEuRal and MultiNERD, other datasets, and what they must have.

The Hub is the loopback one, asked from another process; layouts of other datasets are folders, which ``datasets``
reads as it reads a repository.
"""

import json
from collections import Counter
from pathlib import Path

import own_process
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, List, Value
from hub_server import HubServer
from written_files import write_jsonl

from dataset_script.formats.hub_sources import open_hub_source
from dataset_script.formats.readers import read_source
from dataset_script.report import LoadReport
from dataset_script.rows import MalformedRow, check

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def write_parquet_file(path: Path, records: list[dict], names: list[str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    types = {"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names) if names else Value("int64"))}
    features = {key: types.get(key, Value("string")) for key in records[0]}
    Dataset.from_list(records, features=Features(features)).to_parquet(path)


def shown(pairs) -> list[tuple]:
    return [(split, row.lang, row.id, row.tokens, row.tags) for split, row in pairs]


READ = """
import json, logging, sys
from dataset_script.formats.readers import read_source
from dataset_script.report import LoadReport
found = {}
for name, languages, label_map in json.loads(sys.argv[1]):
    report = LoadReport()
    rows = read_source(name, languages, label_map=label_map, report=report)
    rows = [(split, row.lang, row.id, row.tokens, row.tags) for split, row in rows]
    found[name] = {"rows": rows, "repaired": report.total().repaired_tags, "ignored": dict(report.ignored_keys)}
print(json.dumps(found))
"""


def test_wikineural_and_multinerd_are_streamed_by_name(tmp_path):
    # WikiNEuRal: a split a language, in Parquet. MultiNERD: folders of JSON lines. Tags are bare numbers in both.
    for lang in ("de", "en", "it"):
        for split in ("train", "val", "test"):
            row = {"tokens": [split, "Alra"], "ner_tags": [0, 5], "lang": lang}
            slip = {"tokens": ["Alra"], "ner_tags": [6], "lang": lang}
            rows = [row] * 19 + [slip] if split == "train" else [row]
            write_parquet_file(tmp_path / f"w/data/{split}_{lang}-00000-of-00001-0a1b2c3d.parquet", rows)
            row = {"tokens": [split, "Mars", "2001"], "ner_tags": [0, 11, 27], "lang": lang}
            write_jsonl(tmp_path / f"m/{split}/{split}_{lang}.jsonl", row, row)
    with HubServer(tmp_path / "hub") as hub:
        hub.add("dataset", "Babelscape/wikineural", tmp_path / "w")
        hub.add("dataset", "Babelscape/multinerd", tmp_path / "m")
        wanted = [["Babelscape/wikineural", ["de", "en"], None]]
        wanted.append(["Babelscape/multinerd", ["en"], "multinerd-to-four"])
        said = own_process.run("-c", READ, json.dumps(wanted), env=hub.environment(tmp_path / "home"))
        found = json.loads(said)
        gets = [request for request in hub.requests if request.startswith("GET") and "_" in request]
        fetched = {request.rsplit("/", 1)[-1] for request in gets}
    assert found["Babelscape/wikineural"]["repaired"] == 2
    rows = found["Babelscape/wikineural"]["rows"]
    sizes = {"train": 20, "validation": 1, "test": 1}
    assert Counter(tuple(row[:2]) for row in rows) == {(s, lang): n for s, n in sizes.items() for lang in ("de", "en")}
    assert rows[0] == ["train", "de", "0", ["train", "Alra"], ["O", "B-LOC"]]
    assert rows[19] == ["train", "de", "19", ["Alra"], ["B-LOC"]]
    name = {"train": "train", "validation": "val", "test": "test"}
    assert found["Babelscape/multinerd"]["rows"] == [
        [split, "en", number, [name[split], "Mars", "2001"], ["O", "B-LOC", "O"]]
        for split in ("train", "validation", "test")
        for number in ("0", "1")
    ]
    # Of languages that are not wanted, nothing is fetched.
    assert {"train_en.jsonl", "val_en.jsonl", "test_en.jsonl"} <= fetched
    assert not [file for file in fetched if "_it" in file] and not {"train_de.jsonl", "val_de.jsonl"} & fetched


ROW = {"tokens": ["In", "Alra"], "ner_tags": [0, 3]}


LAYOUTS = {
    "configs": {"de/train-00000.parquet": ROW, "it/train-00000.parquet": ROW},
    "splits": {"data/train_de-00000-of-00001.parquet": ROW, "data/train_it-00000-of-00001.parquet": ROW},
    "column": {"train.parquet": ROW | {"lang": "de"}, "test.parquet": ROW | {"lang": "it"}},
    "option": {"train.parquet": ROW | {"id": "own"}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_dataset_with_named_tags(tmp_path, layout):
    for file, record in LAYOUTS[layout].items():
        write_parquet_file(tmp_path / file, [record], TAGS)
    if layout == "configs":
        files = {lang: [{"split": "train", "path": f"{lang}/*.parquet"}] for lang in ("de", "it")}
        configs = [{"config_name": lang, "data_files": paths} for lang, paths in files.items()]
        (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    options, row_id = ({"lang": "de"}, "own") if layout == "option" else ({}, "0")
    expected = ("train", "de", row_id, ["In", "Alra"], ["O", "B-LOC"])
    assert shown(open_hub_source(str(tmp_path), **options)) == [expected]


def test_tags_as_text_and_other_columns(tmp_path):
    record = {"words": ["Alra"], "tags": ["B-LOC"], "language": "fr", "topic": "x"}
    record["image_url"] = "https://a.example/b.png"
    write_jsonl(tmp_path / "train.jsonl", record)
    ((split, row),) = open_hub_source(str(tmp_path))
    assert (split, row.lang, row.tags, row.image_url) == ("train", "fr", ["B-LOC"], "https://a.example/b.png")
    assert row.ignored_keys == ("topic",)
    assert row.path.name == "train" and row.line == 1


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"topic": "a", "lang": "de"}, r"no text came \(keys: topic, lang\); expected one of tokens, words"),
        ({"tokens": ["a"], "lang": "de"}, r"no tags came \(keys: tokens, lang\)"),
        (ROW, r"states no language, .*\(columns: tokens, ner_tags\): give lang="),
        (ROW | {"lang": "de"}, r"an item of ner_tags is 0; expected a string, or the names of the numbers"),
    ],
)
def test_datasets_that_are_no_source(tmp_path, record, message):
    write_jsonl(tmp_path / "train.jsonl", record)
    with pytest.raises(ValueError, match=message):
        for _, row in open_hub_source(str(tmp_path)):
            if isinstance(row, MalformedRow):
                raise row
            check(row)


def test_splits_and_configs_of_other_names(tmp_path):
    write_parquet_file(tmp_path / "data/unlabelled-00000-of-00001.parquet", [ROW], TAGS)
    with pytest.raises(ValueError, match="has a split 'unlabelled'; expected train, validation or test"):
        list(open_hub_source(str(tmp_path), lang="de"))
    configs = [{"config_name": name, "data_files": "data/*.parquet"} for name in ("it", "small")]
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    with pytest.raises(ValueError, match=r"has no config of en, de, fr, es \(configs: it, small\)"):
        list(open_hub_source(str(tmp_path), lang="de"))
    configs[0]["config_name"] = "de"
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    with pytest.raises(ValueError, match=r"has no config of fr \(configs: de, small\)"):
        list(open_hub_source(str(tmp_path), ["fr"]))


def finished(folder: Path, rows: list[list[str]]) -> Path:
    """A folder that ``read_source`` streams as it streams a dataset of the Hub."""
    records = [{"tokens": ["a"] * len(tags), "ner_tags": [TAGS.index(tag) for tag in tags]} for tags in rows]
    write_parquet_file(folder / "de" / "train-00000.parquet", records, TAGS)
    configs = [
        {"config_name": name, "data_files": [{"split": "train", "path": "de/*.parquet"}]} for name in ("all", "de")
    ]
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    return folder


def test_slips_are_mended_as_they_come_and_another_scheme_is_an_error_at_the_end(tmp_path):
    report = LoadReport()
    folder = finished(tmp_path / "few", [["B-PER"]] * 9 + [["O", "I-PER"]])
    rows = list(read_source(folder, report=report))
    assert len(rows) == 10 and rows[9][1].tags == ["O", "B-PER"]
    assert report.total("train", "de").repaired_tags == 1
    with pytest.raises(ValueError, match="train_de:10: 'I-PER' came as tag 2"):
        list(read_source(folder, iob2="strict"))
    folder = finished(tmp_path / "many", [["B-PER"]] * 8 + [["I-PER"]])
    with pytest.raises(ValueError, match=r"in 1 of 9 sentences an I- tag begins an entity.*iob2='repair'"):
        list(read_source(folder))
    assert len(list(read_source(folder, iob2="repair"))) == 9


def raw_folder(folder: Path, tokens: list, tags: list, kind: pa.DataType) -> Path:
    """As ``finished``, of a file whose tags are whatever they are: ``datasets`` reads them as they stand."""
    finished(folder, [["O"]])
    path = folder / "de" / "train-00000.parquet"
    columns = [pa.array(tokens, pa.list_(pa.string())), pa.array(tags, pa.list_(kind))]
    schema = pq.read_schema(path)
    pq.write_table(pa.table(columns, names=schema.names).replace_schema_metadata(schema.metadata), path)
    return folder


WORDS = ["In", "Alra"]


@pytest.mark.parametrize(
    ("tokens", "tags", "message"),
    [
        (WORDS, [0, -1], "-1 came as tag 2 (token 'Alra'), which is no gold label; expected a number from 0 (O) to 4"),
        (WORDS, None, "None came as tag 1 (token 'In'), which is no gold label; expected O, B-TYPE"),
        (WORDS, [0, 99], "99 came as tag 2 (token 'Alra'); expected a number from 0 (O) to 4 (I-LOC)"),
    ],
)
def test_a_row_of_bad_tokens_or_tags_is_named_or_left_out_and_counted(tmp_path, tokens, tags, message):
    folder = raw_folder(tmp_path / "set", [WORDS, tokens], [[0, 3], tags], pa.int64())
    with pytest.raises(MalformedRow) as caught:
        list(read_source(folder))
    assert str(caught.value).startswith(f"{folder}/train_de:2: {message}")
    report = LoadReport()
    rows = list(read_source(folder, errors="skip", report=report))
    assert [row.tags for _, row in rows] == [["O", "B-LOC"]] and report.total("train").skipped.total() == 1
