"""Parquet files that stay where they are: found, checked by their footers, read a few row groups at a time."""

from pathlib import Path

import datasets
import own_process
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sharded_rows import FEATURES, LABELS, make_rows, write

from mmner.data.shards import ParquetShards, find_shards
from mmner.data.splits import label_names, load_splits
from mmner.options import DataArguments


def test_files_that_do_not_go_together_are_refused(parquet_folder, tmp_path):
    files = find_shards(str(parquet_folder), None)[0]["train"]
    table = pq.read_table(files[0])
    other = tmp_path / "other.parquet"
    pq.write_table(table.drop_columns("image"), other)
    with pytest.raises(ValueError, match=r"other.parquet has no column image, which others have"):
        ParquetShards([*files, str(other)])
    swapped = FEATURES | {"ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER", "B-LOC"]))}
    pq.write_table(table.replace_schema_metadata(datasets.Features(swapped).arrow_schema.metadata), other)
    with pytest.raises(ValueError, match=r"other.parquet has the tags O, B-PER, B-LOC, where others have O, B-L"):
        ParquetShards([*files, str(other)])
    other.write_bytes(Path(files[0]).read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"other.parquet cannot be read as Parquet"):
        ParquetShards([*files, str(other)])
    pq.write_table(table.slice(0, 0), other)
    with pytest.raises(ValueError, match="hold no rows"):
        ParquetShards([str(other)])
    assert len(ParquetShards([files[0], str(other), files[1]])) == 67 + 67
    with pytest.raises(ValueError, match="No Parquet files"):
        ParquetShards([])


def test_files_without_names_of_tags_take_them_from_the_card(tmp_path):
    write(make_rows(30), tmp_path)
    for path in tmp_path.glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata(None).cast(pa.schema(list(table.schema))), path)
    files = sorted(map(str, tmp_path.glob("*.parquet")))
    with pytest.raises(ValueError, match="expected a list of class labels"):
        label_names(ParquetShards(files))
    shards = ParquetShards(files, FEATURES)
    assert label_names(shards) == LABELS and shards.read([0])["ner_tags"][0] == make_rows(30)["ner_tags"][0]


def test_the_name_of_the_shards_is_that_of_their_rows(parquet_folder, shards, tmp_path):
    write(make_rows(200), tmp_path / parquet_folder.name)
    files = find_shards(str(tmp_path / parquet_folder.name), None)[0]["train"]
    assert ParquetShards(files).fingerprint == shards.fingerprint
    write(make_rows(200), tmp_path / parquet_folder.name, group=11)
    assert ParquetShards(files).fingerprint != shards.fingerprint


def test_only_what_is_needed_of_a_set_is_loaded(parquet_folder, tmp_path, monkeypatch):
    loaded = []
    whole = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: loaded.append(k["data_files"]) or whole(*a, **k))
    args = DataArguments(dataset=str(parquet_folder), streaming=True, max_eval_samples=5)
    splits = load_splits(args, ["train", "validation"], tmp_path)
    assert isinstance(splits["train"], ParquetShards) and len(splits["validation"]) == 5
    assert [list(files) for files in loaded] == [["validation"]]
    assert list(load_splits(args, ["train"], tmp_path)) == ["train"] and len(loaded) == 1
    with pytest.raises(ValueError, match="has the splits train, validation, but test would be needed"):
        load_splits(args, ["test"], tmp_path)


def test_a_set_that_is_not_parquet_is_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}\n")
    for dataset, message in ((str(tmp_path), "holds none. Write them once"), ("probe", "the dataset is probe")):
        with pytest.raises(ValueError, match=message):
            load_splits(DataArguments(dataset=dataset, streaming=True), ["train"], tmp_path)
    with pytest.raises(ValueError, match="--captions do not apply: leave them out"):
        load_splits(DataArguments(dataset=str(tmp_path), streaming=True, captions="x"), ["train"], tmp_path)


def test_a_set_on_the_hub_is_read_where_it_lies(parquet_folder, tmp_path):
    from hub_server import HubServer

    code = """
import sys
from huggingface_hub import HfApi
from mmner.data.shards import ParquetShards, find_shards
HfApi().create_repo("org/set", repo_type="dataset")
HfApi().upload_folder(repo_id="org/set", repo_type="dataset", folder_path=sys.argv[1], allow_patterns="*.parquet")
files, features = find_shards("org/set", None)
assert list(files) == ["train", "validation"], files
assert all(file.startswith("hf://datasets/org/set@") for file in files["train"]), files
shards = ParquetShards(files["train"], features)
print(len(shards))
print([row for group in (0, 20) for row in shards.read([group])["id"]])
"""
    with HubServer(tmp_path / "hub") as hub:
        said = own_process.run("-c", code, parquet_folder, env=hub.environment(tmp_path / "home"))
    counts, ids = said.splitlines()[-2:]
    assert counts == "200"
    ids = eval(ids, {})
    assert ids[:10] == [f"r{n}" for n in range(10)] and ids[10:] == [f"r{n}" for n in range(194, 200)]
    assert not list((tmp_path / "home").rglob("*.parquet"))  # nothing was downloaded whole
