"""The builder and ``load``: rows, labels, missing images, the cache, the report, and Parquet without our code."""

import logging
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from written_files import contents_of, write_jsonl

from dataset_script import MMNER, load, load_report
from dataset_script.formats.corpus import Corpus
from dataset_script.publishing.parquet import write_parquet

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
COLUMNS = ["id", "lang", "tokens", "ner_tags", "image"]


def record(number: int, lang: str, **fields: object) -> dict:
    return {
        "id": f"{lang}-{number}",
        "lang": lang,
        "tokens": ["Anna", "Noether", "in", "Köln"],
        "ner_tags": ["B-PER", "I-PER", "O", "B-LOC"],
        "image": None,
        "image_relation": "none",
    } | fields


@pytest.fixture
def corpus_folder(tmp_path) -> Path:
    """Two languages, three splits; images good, absent, broken and not given."""
    folder = tmp_path / "corpus"
    images = folder / "images"
    images.mkdir(parents=True)
    for name, colour in (("red.png", (200, 0, 0)), ("blue.jpg", (0, 0, 200))):
        Image.new("RGB", (8, 6), colour).save(images / name)
    (images / "broken.jpg").write_bytes((images / "blue.jpg").read_bytes()[:100])
    names = ["red.png", "blue.jpg", "gone.jpg", "broken.jpg", None, "gone.jpg"]
    for lang in ("en", "de"):
        rows = [record(number, lang, image=name, image_relation="depicts") for number, name in enumerate(names)]
        write_jsonl(folder / lang / "train.jsonl", *rows)
        write_jsonl(folder / lang / "validation.jsonl", record(7, lang, ner_tags=["O", "B-ORG", "O", "O"]))
        write_jsonl(folder / lang / "test.jsonl", record(8, lang, image="red.png"))
    return folder


@pytest.fixture
def load_here(tmp_path):
    """``load`` with a cache of the test's own."""
    return lambda *args, **kwargs: load(*args, cache_dir=tmp_path / "cache", **kwargs)


def undecoded(dataset: datasets.Dataset) -> list[dict]:
    return list(dataset.cast_column("image", datasets.Image(decode=False)))


# Rows


def test_the_rows_are_the_contract(corpus_folder, load_here):
    dataset = load_here(corpus_folder)
    assert list(dataset) == ["train", "validation", "test"]
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 12, "validation": 2, "test": 2}
    labels = ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
    for rows in dataset.values():
        assert rows.column_names == [*COLUMNS, "image_relation"]
        assert rows.features["ner_tags"] == datasets.List(datasets.ClassLabel(names=labels))
        assert rows.features["image"] == datasets.Image()
    row = dataset["train"][0]
    assert (row["id"], row["lang"], row["ner_tags"], row["image_relation"]) == ("en-0", "en", [5, 6, 0, 1], "depicts")
    assert row["tokens"] == ["Anna", "Noether", "in", "Köln"]
    np.testing.assert_array_equal(np.asarray(row["image"]), np.full((6, 8, 3), (200, 0, 0)))
    assert dataset["train"]["lang"] == ["en"] * 6 + ["de"] * 6


def test_a_language_has_its_rows_and_the_labels_of_all(corpus_folder, load_here, caplog):
    write_jsonl(corpus_folder / "fr" / "test.jsonl", record(0, "fr", ner_tags=["B-ZOO", "O", "O", "O"]))
    german = load_here(corpus_folder, "de")
    caplog.clear()
    french = load_here(corpus_folder, "fr")
    assert set(german["train"]["lang"]) == {"de"} and len(german["train"]) == 6
    assert list(french) == ["test"]
    assert "train: no rows, so there is no such split" in caplog.messages
    assert "B-ZOO" in german["train"].features["ner_tags"].feature.names
    assert german["train"].features == french["test"].features == load_here(corpus_folder)["test"].features


def test_missing_and_unreadable_images_are_null_counted_and_logged(corpus_folder, load_here, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = load_here(corpus_folder)
    assert [row["image"] is None for row in dataset["train"]] == [False, False, True, True, True, True] * 2
    part = load_report(dataset).total("train")
    assert (part.rows, part.images, part.without_image) == (12, 4, 2)
    assert part.missing == {"gone.jpg": 4} and part.unreadable == {"broken.jpg": 2}
    assert (part.missing.total(), part.unreadable.total()) == (4, 2)
    assert "runcated" in part.causes["broken.jpg"]
    assert load_report(dataset).total("train", "de").missing == {"gone.jpg": 2}
    assert "train: 1 images of 4 rows are missing: gone.jpg" in caplog.messages
    assert any(message.startswith("train: 1 images of 2 rows do not open") for message in caplog.messages)
    assert not any(message.startswith(("validation", "test")) for message in caplog.messages)


def test_wrong_calls_say_what_is_expected(corpus_folder, load_here, tmp_path):
    with pytest.raises(ValueError, match="config .* is 'italian'; expected all, or a language such as en"):
        load_here(corpus_folder, "italian")
    with pytest.raises(ValueError, match=r"has no rows in it .*rows in other languages: en \(8 rows\), de"):
        load_here(corpus_folder, "it")
    with pytest.raises(ValueError, match="no data_dir"):
        MMNER(config_name="de", cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="carries no load report"):
        load_report(datasets.Dataset.from_dict({"id": ["a"]}))


def test_the_builder_by_itself_streams_the_same_rows(corpus_folder, load_here, tmp_path):
    builder = MMNER(config_name="en", data_dir=str(corpus_folder), cache_dir=str(tmp_path / "other"))
    stream = builder.as_streaming_dataset()
    loaded = load_here(corpus_folder, "en")
    for split, rows in loaded.items():
        assert stream[split].features == rows.features
        assert list(stream[split].decode(False)) == undecoded(rows)
    assert load_report(stream) == load_report(loaded)
    assert MMNER(data_dir=str(corpus_folder), cache_dir=str(tmp_path / "other")).config.name == "all"


# Cache


def test_the_second_load_reads_nothing_and_reports_the_same(corpus_folder, load_here, monkeypatch, caplog):
    first = load_here(corpus_folder)

    def scan(*_):
        raise AssertionError("read again")

    monkeypatch.setattr(Corpus, "scan", scan)
    with caplog.at_level(logging.WARNING):
        second = load_here(corpus_folder)
    assert undecoded(first["train"]) == undecoded(second["train"])
    assert load_report(first) == load_report(second)
    assert any("gone.jpg" in message for message in caplog.messages)
    for options in ({"config": "de"}, {"errors": "skip"}, {"iob2": "strict"}, {"image_folder": corpus_folder}):
        with pytest.raises(AssertionError, match="read again"):
            load_here(corpus_folder, **options)


def test_a_change_of_text_of_the_same_size_and_time_is_seen(corpus_folder, load_here):
    path = corpus_folder / "de" / "test.jsonl"
    load_here(corpus_folder)
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"Anna", b"Emmy"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load_here(corpus_folder)["test"][1]["tokens"][0] == "Emmy"


def test_a_change_of_images_is_seen(corpus_folder, load_here, monkeypatch):
    assert load_report(load_here(corpus_folder)).total().missing.total() == 4
    Image.new("RGB", (8, 6)).save(corpus_folder / "images" / "gone.jpg")
    assert load_report(load_here(corpus_folder)).total().missing.total() == 0
    (corpus_folder / "images" / "red.png").write_bytes(b"no image")
    assert load_here(corpus_folder)["test"][0]["image"] is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8 * 6 - 1)
    assert load_report(load_here(corpus_folder)).total().images == 0


def test_the_report_survives_what_is_done_to_a_dataset(corpus_folder, load_here, tmp_path):
    dataset = load_here(corpus_folder)
    report = load_report(dataset)
    rows = dataset["train"].select([0, 1]).map(lambda row: {"length": len(row["tokens"])}).shuffle(seed=0)
    assert load_report(rows) == report
    rows.save_to_disk(tmp_path / "saved")
    assert load_report(datasets.load_from_disk(tmp_path / "saved")) == report


# Parquet


def test_load_reads_parquet_with_its_report(corpus_folder, load_here, tmp_path, caplog):
    dataset = load_here(corpus_folder)
    rows = list(dataset["train"])
    write_parquet(dataset, tmp_path / "parquet")
    corpus_folder.rename(tmp_path / "moved")  # so that no image can come from its old place
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        again = load_here(tmp_path / "parquet")
    assert list(again["train"]) == rows
    assert load_report(again) == load_report(dataset)
    assert any("gone.jpg" in message for message in caplog.messages)
    assert load_report(load_here(tmp_path / "parquet", "de")).total("train").missing == {"gone.jpg": 2}
    with pytest.raises(ValueError, match="is a Parquet dataset, where captions has no use"):
        load_here(tmp_path / "parquet", captions="captions.txt")


def test_rows_changed_before_writing_are_counted_anew(corpus_folder, load_here, tmp_path, caplog):
    dataset = load_here(corpus_folder).filter(lambda row: row["lang"] == "de")
    with caplog.at_level(logging.WARNING):
        write_parquet(dataset, tmp_path / "parquet")
    assert any("not those that were loaded" in message for message in caplog.messages)
    total = load_report(load_here(tmp_path / "parquet")).total()
    assert (total.rows, total.images, total.without_image, total.missing.total()) == (8, 3, 5, 0)


def test_the_same_dataset_gives_the_same_bytes_and_replaces_its_own_folder_only(corpus_folder, load_here, tmp_path):
    dataset = load_here(corpus_folder)
    folder = write_parquet(dataset, tmp_path / "parquet")
    first = contents_of(folder)
    assert {"README.md", "load_report.json", "en/train-00000.parquet", "de/test-00000.parquet"} <= set(first)
    write_parquet(dataset, folder)
    assert contents_of(folder) == first
    write_parquet(load_here(corpus_folder, "de"), folder)
    assert not (folder / "en").exists()
    with pytest.raises(FileExistsError, match="which this program did not write"):
        write_parquet(dataset, corpus_folder)
    assert [path.name for path in tmp_path.glob("*parquet*")] == ["parquet"]


def test_large_splits_are_written_in_several_files(corpus_folder, load_here, tmp_path, monkeypatch):
    monkeypatch.setattr("dataset_script.publishing.parquet.ROWS_PER_GROUP", 2)
    monkeypatch.setattr("dataset_script.parquet.MAX_FILE_BYTES", 1)
    dataset = load_here(corpus_folder)
    folder = write_parquet(dataset, tmp_path / "parquet")
    assert len(list(folder.glob("en/train-*.parquet"))) == 3
    assert load_here(folder)["train"]["id"] == dataset["train"]["id"]


def test_parquet_needs_the_columns_and_rows(corpus_folder, load_here, tmp_path):
    dataset = load_here(corpus_folder)
    with pytest.raises(ValueError, match="The dataset has the columns .*; expected id, lang, tokens, ner_tags"):
        write_parquet(dataset.remove_columns("image"), tmp_path / "parquet")
    with pytest.raises(ValueError, match=r"ner_tags as List\(ClassLabel"):
        write_parquet(dataset.cast_column("ner_tags", datasets.List(datasets.Value("int64"))), tmp_path / "parquet")
    with pytest.raises(ValueError, match="no rows"):
        write_parquet(dataset.filter(lambda row: False), tmp_path / "parquet")
    assert not (tmp_path / "parquet").exists()


# Real input


@pytest.mark.skipif(not (SHARED / "twitter_text").is_dir(), reason="needs shared/data/twitter_text")
@pytest.mark.parametrize(
    ("year", "sizes", "types", "repaired"),
    [(15, (4000, 1000, 3257), "LOC ORG OTHER PER", 374), (17, (3373, 723, 723), "LOC MISC ORG PER", 0)],
)
def test_twitter(load_here, year, sizes, types, repaired):
    folder = SHARED / "twitter_text" / f"twitter20{year}"
    dataset = load_here(folder, captions=folder.parent / f"BLIP2_{year}.txt")
    assert tuple(len(rows) for rows in dataset.values()) == sizes
    names = dataset["train"].features["ner_tags"].feature.names
    assert names == ["O"] + [f"{prefix}-{kind}" for kind in types.split() for prefix in "BI"]
    total = load_report(dataset).total()
    assert (len(total.missing), total.missing.total(), total.images) == (sum(sizes), sum(sizes), 0)
    assert (total.repaired_tags, total.skipped.total(), total.without_caption) == (repaired, 0, 0)
    for split, rows in dataset.items():
        text = (folder / ("valid.txt" if split == "validation" else f"{split}.txt")).read_bytes().decode()
        lines = [line.split("\t")[0] for line in text.split("\n") if "\t" in line]
        assert [token for tokens in rows["tokens"] for token in tokens] == lines
        assert rows["id"] == [line[6:] for line in text.split("\n") if line.startswith("IMGID:")]
