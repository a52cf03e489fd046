"""Which rows a run gets of a dataset, and what is said where it cannot have them."""

import logging

import datasets
import own_process
import pytest
import yaml
from hub_server import HubServer
from sharded_rows import LABELS, png, rows_of
from written_files import read_jsonl, write_jsonl

from mmner.data.splits import count_images, label_names, load_splits
from mmner.options import DataArguments

ALL = ["train", "validation", "test"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """The splits of a small probe, and the folder they came from."""
    cache = tmp_path_factory.mktemp("cache")
    return load_splits(DataArguments(dataset="probe", probe_sentences=100), ALL, cache), cache / "probe-100"


def test_label_names_and_what_a_set_must_have():
    rows = rows_of([["Paris"]], [[1]])
    assert label_names(rows) == LABELS
    with pytest.raises(ValueError, match="no column ner_tags; it has tokens, image. Rename them: tokens .words., ner"):
        label_names(rows.remove_columns("ner_tags"))
    text = rows.cast_column("ner_tags", datasets.List(datasets.Value("string")))
    with pytest.raises(ValueError, match="expected a list of class labels .* cast it to List"):
        label_names(text)


def test_the_probe_is_built_and_said_to_be_synthetic(tmp_path, caplog):
    arguments = DataArguments(dataset="probe", probe_sentences=80, dataset_config="de")
    splits = load_splits(arguments, ["train", "test"], tmp_path)
    assert "The probe is SYNTHETIC" in caplog.text
    assert list(splits) == ["train", "test"] and set(splits["train"]["lang"]) == {"de"}
    again = load_splits(arguments, ["train"], tmp_path, build=False)  # on another process
    assert again["train"]["tokens"][:] == splits["train"]["tokens"][:]


def write_set(folder, images: dict[str, list[str | None]]) -> str:
    """Sentences in JSONL, by language the image that each names; those called `there...` are there."""
    (folder / "images").mkdir(parents=True)
    for lang, names in images.items():
        row = {"tokens": ["Paris"], "ner_tags": ["B-LOC"], "lang": lang}
        rows = [row | {"id": f"{lang}{number}", "image": name} for number, name in enumerate(names)]
        write_jsonl(folder / lang / "train.jsonl", *rows)
        for number, name in enumerate(names):
            if name is not None and name.startswith("there"):
                (folder / "images" / name).write_bytes(png(number, 0, 0)["bytes"])
    return str(folder)


def test_missing_images_are_those_of_the_rows_that_are_used_where_they_are_known(tmp_path):
    """The report of a set does not say which of the rows without an image named one."""

    def counted(folder, **options) -> list[int | None]:
        loaded = load_splits(DataArguments(dataset=folder, **options), ["train"], tmp_path / "cache")
        counts = count_images(loaded["train"])
        return [counts.get(name) for name in ("samples", "samples_with_image", "missing_images")]

    lost = write_set(tmp_path / "lost", {"en": ["lost.png"] * 6, "de": ["lost.png", "there.png", "there2.png"]})
    assert counted(lost) == [9, 2, 7]
    assert counted(lost, train_languages="de") == counted(lost, dataset_config="de") == [3, 2, 1]
    mixed = write_set(tmp_path / "mixed", {"en": ["lost.png", None, None], "de": ["there.png", None]})
    assert counted(mixed) == [5, 1, 1]
    assert counted(mixed, train_languages="en", max_train_samples=2) == [2, 0, None]
    assert counted(mixed, train_languages="de", max_train_samples=1)[2] == 0


@pytest.mark.parametrize(
    ("options", "needed", "error", "message"),
    [
        ({"dataset": None}, ["test"], ValueError, "There is no dataset: give --dataset a folder"),
        ({"dataset": "./nowhere/at/all"}, ["test"], FileNotFoundError, "There is no folder or file ./nowhere/at/all"),
        ({"dataset": "probe", "max_train_samples": 0}, ["train"], ValueError, "A subset of 0 rows"),
        ({"dataset": "probe"}, [], ValueError, "has the splits train, validation, test, but none would be needed"),
        (
            {"dataset": "probe", "train_languages": "en,it"},
            ["train"],
            ValueError,
            "names it, and .* have de, en, es",
        ),
    ],
)
def test_what_cannot_be_loaded_is_an_error(probe, options, needed, error, message):
    with pytest.raises(error, match=message):
        load_splits(DataArguments(probe_sentences=100, **options), needed, probe[1].parent, build=False)


HUB = """
import sys
from dataset_script.__main__ import main
from mmner.data.splits import label_names, load_splits
from mmner.options import DataArguments
arguments = DataArguments(dataset="org/set", text_column="mots", tags_column="etiquettes", dataset_lang="fr")
rows = load_splits(arguments, ["train"], sys.argv[1])["train"]
names = label_names(rows)
print([[rows[0]["lang"], rows[0]["tokens"], [names[tag] for tag in rows[0]["ner_tags"]]], len(rows)])
told = ["--text_column", "mots", "--tags_column", "etiquettes", "--lang", "fr"]
assert main(["convert", "org/set", "--output", sys.argv[1] + "/rows.jsonl", *told]) == 0
"""


def test_a_set_on_the_hub_with_other_columns_and_tags_is_read_as_a_folder_is(tmp_path):
    record = {"mots": ["Ada", "vit", "à", "Le", "Havre"], "etiquettes": ["S-PER", "O", "O", "B-LOC", "E-LOC"]}
    datasets.Dataset.from_list([record] * 3).to_parquet(tmp_path / "set/data/train-00000-of-00001.parquet")
    with HubServer(tmp_path / "hub") as hub:
        hub.add("dataset", "org/set", tmp_path / "set")
        said = own_process.run("-c", HUB, tmp_path / "cache", env=hub.environment(tmp_path / "home"))
    read = ["fr", record["mots"], ["B-PER", "O", "O", "B-LOC", "I-LOC"]]
    assert said.splitlines()[0] == str([read, 3])
    first = read_jsonl(tmp_path / "cache/rows.jsonl")[0]
    assert [first["lang"], first["tokens"], first["ner_tags"]] == read


def test_an_absent_train_split_is_an_error_and_another_a_warning(tmp_path, caplog):
    (tmp_path / "test.txt").write_text("IMGID:1\nParis\tB-LOC\n\n")
    arguments = DataArguments(dataset=str(tmp_path))
    assert list(load_splits(arguments, ["validation", "test"], tmp_path / "cache")) == ["test"]
    assert "has no validation split; its evaluation is skipped" in caplog.text
    with pytest.raises(ValueError, match="has the splits test, but train, test would be needed"):
        load_splits(arguments, ["train", "test"], tmp_path / "cache")


def parquet_set(folder, splits: dict[str, list[str]]) -> str:
    """A set in Parquet whose card gives its splits these names, each with one sentence of these words."""
    (folder / "data").mkdir(parents=True)
    for split, words in splits.items():
        rows_of([words], [[0] * len(words)], id=[split], lang=["en"]).to_parquet(folder / "data" / f"{split}.parquet")
    files = [{"split": split, "path": f"data/{split}.parquet"} for split in splits]
    configs = [{"config_name": "all", "data_files": files, "default": True}]
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    return str(folder)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_called_dev_is_the_validation_split(tmp_path, streaming, caplog):
    folder = parquet_set(tmp_path / "set", {"train": ["a"], "dev": ["b"], "testb": ["c"]})
    with caplog.at_level(logging.INFO):
        splits = load_splits(DataArguments(dataset=folder, streaming=streaming), ALL, tmp_path / "cache")
    assert list(splits) == ALL
    assert splits["validation"]["tokens"][:] == [["b"]] and splits["test"]["tokens"][:] == [["c"]]
    assert "The split dev is read as validation." in caplog.messages


def test_of_two_splits_for_one_the_one_of_that_name_is_read_and_two_others_are_an_error(tmp_path, caplog):
    folder = parquet_set(tmp_path / "one", {"train": ["a"], "dev": ["b"], "validation": ["c"]})
    splits = load_splits(DataArguments(dataset=folder), ["train", "validation"], tmp_path / "cache")
    assert splits["validation"]["tokens"][:] == [["c"]] and "The splits dev are not read" in caplog.text
    folder = parquet_set(tmp_path / "two", {"train": ["a"], "dev": ["b"], "val": ["c"]})
    with pytest.raises(ValueError, match="Of the splits train, dev, val, several stand for validation"):
        load_splits(DataArguments(dataset=folder), ["train", "validation"], tmp_path / "cache")


def test_subsets_are_random_in_order_and_only_that_of_training_follows_seed_and_languages(tmp_path, caplog):
    langs = ["en", "de", "fr", "es"] * 20
    for split in ALL:
        rows = [{"id": f"{i}", "tokens": [f"{i}"], "ner_tags": ["O"], "lang": lang} for i, lang in enumerate(langs)]
        write_jsonl(tmp_path / f"{split}.jsonl", *rows)
    sizes = {"max_train_samples": 20, "max_eval_samples": 20, "max_predict_samples": 20}
    args = DataArguments(dataset=str(tmp_path), train_languages="de,en", **sizes)

    def drawn(seed: int) -> dict[str, list[int]]:
        splits = load_splits(args, ALL, tmp_path / "cache", seed)
        return {name: [int(tokens[0]) for tokens in rows["tokens"][:]] for name, rows in splits.items()}

    with caplog.at_level(logging.INFO):
        first, again, other = drawn(1), drawn(1), drawn(2)
    assert "A random 20 of the 40 rows of train are used (seed 1)." in caplog.messages
    assert {langs[place] for place in first["train"]} == {"de", "en"}
    assert {langs[place] for place in first["test"]} == set(langs)
    assert all(len(places) == 20 and places == sorted(places) for places in first.values())
    assert first == again and first["train"] != other["train"]
    assert first["validation"] == other["validation"] and first["test"] == other["test"]


def test_a_validation_split_is_taken_of_train_where_there_is_none(tmp_path, caplog):
    rows = [{"id": str(n), "lang": "en", "tokens": ["a"], "ner_tags": ["O"]} for n in range(20)]
    folder = write_jsonl(tmp_path / "set" / "train.jsonl", *rows).parent
    arguments = DataArguments(dataset=str(folder), validation_share=0.2)
    first, second = (load_splits(arguments, ["train", "validation"], tmp_path, seed) for seed in (1, 2))
    assert len(first["validation"]) == 4 and "4 of 20 training rows are taken" in caplog.text
    assert sorted([*first["train"]["id"], *first["validation"]["id"]]) == sorted(row["id"] for row in rows)
    assert first["validation"]["id"][:] == second["validation"]["id"][:]
    write_jsonl(folder / "validation.jsonl", rows[0])
    own = load_splits(arguments, ["train", "validation"], tmp_path)
    assert (len(own["train"]), len(own["validation"])) == (20, 1)
    with pytest.raises(ValueError, match="--validation_share is 2; expected a share between 0 and 1"):
        (folder / "validation.jsonl").unlink()
        load_splits(DataArguments(dataset=str(folder), validation_share=2), ["train", "validation"], tmp_path)
