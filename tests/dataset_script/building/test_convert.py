"""``convert``: any format as JSONL that reads back the same, and nothing of others is replaced."""

from pathlib import Path

import datasets
import pytest
from datasets import Dataset
from PIL import Image
from samples import SAMPLES
from written_files import read_jsonl, write_file, write_jsonl

from dataset_script import load
from dataset_script.__main__ import main


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def run(*words: object) -> int:
    return main(["convert", *map(str, words)])


def png(path: Path, colour: str) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    "name", ["doccano/labels.jsonl", "schemes/bioes.txt", "csv/kaggle.csv", "brat", "gliner/train.json"]
)
def test_what_is_written_reads_back_the_same(name, tmp_path):
    output = tmp_path / "out" / "rows.jsonl"
    assert run(SAMPLES / name, "--output", output, "--lang", "nl") == 0
    first, again = load(SAMPLES / name, lang="nl"), load(output)
    assert first["train"].features == again["train"].features and list(first["train"]) == list(again["train"])
    assert run(SAMPLES / name, "--output", output) == 0  # its own file is replaced
    assert {row["lang"] for row in read_jsonl(output)} == {"und"}
    assert sorted(path.name for path in output.parent.iterdir()) == [".2m-ner", "rows.jsonl"]


def test_splits_go_to_a_folder_or_one_to_a_file(tmp_path, capsys):
    assert run(SAMPLES / "multiconer", "--output", tmp_path / "folder") == 0
    assert read_jsonl(tmp_path / "folder" / "test.jsonl")[0]["ner_tags"] is None
    assert [row["lang"] for row in read_jsonl(tmp_path / "folder" / "train.jsonl")] == ["pt", "pt"]
    assert run(SAMPLES / "multiconer", "--output", tmp_path / "rows.jsonl") == 2
    assert "has the splits train, test, and rows.jsonl holds one: name it (--split train)" in capsys.readouterr().err
    assert run(SAMPLES / "multiconer", "--output", tmp_path / "rows.jsonl", "--split", "test") == 0
    assert len(read_jsonl(tmp_path / "rows.jsonl")) == 1


def test_ids_that_languages_share_stay_apart_and_a_run_stays_a_run(tmp_path):
    for lang in ("de", "en"):
        write_file(tmp_path / "set" / lang / "train.txt", "Anna B-PER\n\nRome B-LOC\n")
    write_file(tmp_path / "run" / ".2m-ner", "run\n")
    assert run(tmp_path / "set", "--output", tmp_path / "run" / "rows.jsonl") == 0
    assert len({row["id"] for row in read_jsonl(tmp_path / "run" / "rows.jsonl")}) == 4
    assert len(load(tmp_path / "run" / "rows.jsonl")["train"]) == 4
    run_of, listed = (tmp_path / "run" / ".2m-ner").read_text().splitlines()
    assert run_of == "run" and listed.endswith("*rows.jsonl")


def test_images_in_rows_are_written_beside_and_equal_ones_once(tmp_path):
    red, blue = png(tmp_path / "red.png", "red"), png(tmp_path / "blue.png", "blue")
    cells = [{"bytes": content, "path": name} for content, name in ((red, "a.png"), (blue, "a.png"), (red, "b.png"))]
    columns = {"tokens": [["a"]] * 4, "ner_tags": [["B-X"], ["O"], ["O"], ["O"]]}
    dataset = Dataset.from_dict(columns).add_column("image", [*cells, None], feature=datasets.Image())
    dataset.to_parquet(tmp_path / "set" / "train.parquet")
    assert run(tmp_path / "set", "--output", tmp_path / "out" / "rows.jsonl") == 0
    names = [row["image"] for row in read_jsonl(tmp_path / "out" / "rows.jsonl")]
    assert names[0] == names[2] == "a.png" and names[1].endswith("-a.png") and names[3] is None
    assert len(list((tmp_path / "out" / "rows_images").glob("*.png"))) == 2
    again = load(tmp_path / "out" / "rows.jsonl")["train"]
    assert [image and image.getpixel((0, 0)) for image in again["image"]] == [
        (255, 0, 0),
        (0, 0, 255),
        (255, 0, 0),
        None,
    ]


def test_images_that_the_file_finds_stay_where_they_are(tmp_path):
    png(tmp_path / "images" / "more" / "red.png", "red")
    write_jsonl(tmp_path / "export.jsonl", {"text": "Ada", "label": [[0, 3, "P"]], "image": "more/red.png"})
    assert run(tmp_path / "export.jsonl", "--output", tmp_path / "rows.jsonl") == 0
    assert read_jsonl(tmp_path / "rows.jsonl")[0]["image"] == "more/red.png"
    assert not (tmp_path / "rows_images").exists()
    assert load(tmp_path / "rows.jsonl")["train"][0]["image"].size == (4, 4)


def test_nothing_of_others_is_replaced_and_a_failure_leaves_nothing(tmp_path, capsys):
    output = tmp_path / "rows.jsonl"
    output.write_text("mine")
    assert run(SAMPLES / "brat", "--output", output) == 2
    assert "rows.jsonl, which this program did not write" in capsys.readouterr().err
    assert output.read_text() == "mine"
    bad = write_jsonl(tmp_path / "bad.jsonl", {"text": "Ada", "label": [[0, 2, "P"]]})
    assert run(bad, "--output", tmp_path / "new" / "rows.jsonl") == 2
    error = capsys.readouterr().err
    assert f"convert: {bad}:1: 'Ad' (P, 0:2) came" in error and "--errors skip" in error and error.count("\n") == 1
    assert not (tmp_path / "new" / "rows.jsonl").exists()
    assert run(tmp_path / "none", "--output", tmp_path / "x.jsonl") == 2
    assert "is neither a folder nor a file: expected a dataset" in capsys.readouterr().err


def test_ids_stay_apart_where_parts_of_a_split_count_anew_and_what_is_read_stays(tmp_path, capsys):
    for part in range(2):
        Dataset.from_dict({"tokens": [["a"]], "ner_tags": [["O"]]}).to_parquet(
            tmp_path / "set" / f"train-0000{part}-of-00002.parquet"
        )
    assert run(tmp_path / "set", "--output", tmp_path / "out") == 0
    assert [row["id"] for row in read_jsonl(tmp_path / "out" / "train.jsonl")] == ["und-0", "und-0-2"]
    assert run(tmp_path / "out", "--output", tmp_path / "out") == 2
    assert "holds what is read" in capsys.readouterr().err
    assert len(load(tmp_path / "out", cache_dir=tmp_path / "cache")["train"]) == 2


def test_a_file_is_not_written_over_itself(tmp_path, capsys):
    assert run(SAMPLES / "brat", "--output", tmp_path / "rows.jsonl") == 0
    before = (tmp_path / "rows.jsonl").read_bytes()
    assert run(tmp_path / "rows.jsonl", "--output", tmp_path / "rows.jsonl") == 2
    assert "is what is read" in capsys.readouterr().err and (tmp_path / "rows.jsonl").read_bytes() == before
