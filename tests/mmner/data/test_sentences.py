"""Rows, windows and images of a run: nothing is dropped, decoded early, or left as it was by a shuffle."""

import copy
import io
import json
import logging
import random

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from datasets.table import InMemoryTable
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmner.data.collator import MultimodalCollator
from mmner.data.sentences import (
    WindowedSentences,
    count_images,
    derangement,
    label_names,
    load_splits,
    training_windows,
)
from mmner.options import DataArguments
from mmner.probe.tiny_towers import make_tiny_towers
from processing_2mner import TwoMNERProcessor

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
LABEL2ID = {label: index for index, label in enumerate(LABELS)}
WORDS = ["Jordan", "won", "in", "Paris", "Donaudampfschifffahrt", "."]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    towers = make_tiny_towers(tmp_path_factory.mktemp("towers"), [WORDS], vocab_size=300, max_length_tokens=64)
    return TwoMNERProcessor.from_towers(*towers)


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def random_tags(rng: random.Random, length: int) -> list[int]:
    tags: list[int] = []
    for _ in range(length):
        inside = [tags[-1] + tags[-1] % 2] * 4 if tags and tags[-1] else []  # B-X (odd) or I-X goes on as I-X
        tags.append(rng.choice([0, 0, 1, 3, *inside]))
    return tags


def make_rows(lengths, images=None, seed=0, **columns) -> datasets.Dataset:
    """Rows of random words and tags; `images`: bytes or None."""
    rng = random.Random(seed)
    data = {
        "tokens": [[rng.choice(WORDS) for _ in range(length)] for length in lengths],
        "ner_tags": [random_tags(rng, length) for length in lengths],
        **columns,
    }
    features = {
        "tokens": datasets.List(datasets.Value("string")),
        "ner_tags": datasets.List(datasets.ClassLabel(names=LABELS)),
        **{name: datasets.Value("string") for name in columns},
    }
    if images is not None:
        data["image"] = [None if image is None else {"bytes": image, "path": None} for image in images]
        features["image"] = datasets.Image()
    return datasets.Dataset.from_dict(data, features=datasets.Features(features))


def is_iob2(tags: list[str]) -> bool:
    return all(
        not tag.startswith("I-") or (before != "O" and before[2:] == tag[2:])
        for before, tag in zip(["O", *tags], tags, strict=False)
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("max_length", [None, 24])
def test_no_word_is_dropped_and_each_window_fits(processor, training, max_length):
    rows = make_rows([0, 1, 5, 90, 17, 200, 3])
    sentences = WindowedSentences(rows, processor, LABEL2ID, training=training, stride=8, max_length=max_length)
    assert len(sentences) > len(rows)
    kept = {row: [] for row in range(len(rows))}
    for index, (row, window) in enumerate(zip(sentences.row_of, sentences.windows, strict=True)):
        item = sentences[index]
        assert item["tokens"] == rows[row]["tokens"][window.start : window.stop]
        assert is_iob2([LABELS[label] for label in item["labels"]])
        assert sentences.lengths[index] == sum(processor.token_counts(item["tokens"]))
        assert sentences.lengths[index] <= (max_length or 64) - 2
        kept[row] += range(window.keep_start, window.keep_stop)
    for row, words in kept.items():
        assert sorted(words) == list(range(len(rows[row]["tokens"])))


def test_training_windows_give_each_word_and_entity_once(processor):
    rows = make_rows([150, 80], seed=3)
    sentences = WindowedSentences(rows, processor, LABEL2ID, training=True, max_length=32)
    for row in range(2):
        items = [sentences[index] for index in range(len(sentences)) if sentences.row_of[index] == row]
        assert [word for item in items for word in item["tokens"]] == rows[row]["tokens"]
        # Not even the tags have changed: no entity was cut, so no I- had to become a B-.
        assert [label for item in items for label in item["labels"]] == rows[row]["ner_tags"]


def test_a_cut_inside_an_entity_is_moved_before_it_where_that_is_possible():
    tags = ["O", "O", "B-PER", "I-PER", "I-PER", "O"]
    windows = training_windows([1] * 6, tags, budget=4)
    assert [(window.start, window.stop) for window in windows] == [(0, 2), (2, 6)]
    endless = ["B-PER"] + ["I-PER"] * 5
    assert [(window.start, window.stop) for window in training_windows([1] * 6, endless, budget=4)] == [(0, 4), (4, 6)]
    assert [(window.start, window.stop) for window in training_windows([1, 9, 1], ["O"] * 3, budget=4)] == [
        (0, 1),
        (1, 2),
        (2, 3),
    ]


def test_an_entity_longer_than_a_window_goes_on_as_one_of_its_own(processor):
    words = ["Paris"] * 60
    rows = datasets.Dataset.from_dict(
        {"tokens": [words], "ner_tags": [[3] + [4] * 59]}, features=make_rows([1]).features
    )
    sentences = WindowedSentences(rows, processor, LABEL2ID, training=True, max_length=16)
    assert len(sentences) > 1
    assert all(sentences[index]["labels"][0] == LABEL2ID["B-LOC"] for index in range(len(sentences)))


@pytest.mark.parametrize("max_length", [None, 20])
def test_stitching_undoes_the_cutting(processor, max_length):
    rows = make_rows([0, 70, 1, 130, 12], seed=5)
    sentences = WindowedSentences(rows, processor, LABEL2ID, stride=6, max_length=max_length)
    width = max(window.stop - window.start for window in sentences.windows) + 3
    positions = np.full((len(sentences), width), -100)
    for index, window in enumerate(sentences.windows):
        positions[index, : window.stop - window.start] = np.arange(window.start, window.stop)
    assert sentences.stitch(positions) == [list(range(length)) for length in (0, 70, 1, 130, 12)]
    with pytest.raises(ValueError, match=f"Values of 1 windows; expected {len(sentences)}"):
        sentences.stitch(positions[:1])


def test_perfect_predictions_score_one_and_none_zero(processor):
    rows = make_rows([70, 9, 130, 12], seed=5, lang=["en", "de", "de", None], image_relation=["none"] * 4)
    sentences = WindowedSentences(rows, processor, LABEL2ID, stride=6, max_length=20)
    predictions = np.full((len(sentences), 30), -100)
    for index in range(len(sentences)):
        labels = sentences[index]["labels"]
        predictions[index, : len(labels)] = labels
    scores = sentences.compute_metrics(type("Prediction", (), {"predictions": predictions}))
    assert scores == dict.fromkeys(["f1", "precision", "recall", "f1_en", "f1_de", "f1_LOC", "f1_PER", "f1_none"], 1.0)
    nothing = np.where(predictions == -100, -100, 0)
    assert sentences.compute_metrics(type("Prediction", (), {"predictions": (nothing, None)}))["f1"] == 0.0


def test_evaluation_goes_from_long_to_short_and_training_keeps_the_order(processor):
    rows = make_rows([3, 9, 1, 7])
    lengths = WindowedSentences(rows, processor, LABEL2ID).lengths
    assert lengths == sorted(lengths, reverse=True)
    assert WindowedSentences(rows, processor, LABEL2ID, training=True).row_of == [0, 1, 2, 3]


def test_labels_are_the_models_ids_by_name(processor):
    rows = make_rows([8], seed=1)
    other = {label: index for index, label in enumerate(["B-LOC", "I-LOC", "O", "I-PER", "B-PER", "B-X"])}
    sentences = WindowedSentences(rows, processor, other)
    assert sentences[0]["labels"] == [other[LABELS[tag]] for tag in rows[0]["ner_tags"]]
    with pytest.raises(
        ValueError, match="The dataset has the tags .*B-LOC.*, which the model does not know; it knows O, B-X"
    ):
        WindowedSentences(rows, processor, {"O": 0, "B-X": 1})


def raw_rows(tokens: list, tags: list, kind: pa.DataType | None = None) -> datasets.Dataset:
    """Rows whose tags are whatever they are: so `datasets` reads them from Parquet files."""
    features = datasets.Features({**make_rows([1]).features, "id": datasets.Value("string")})
    columns = {
        "tokens": pa.array(tokens, pa.list_(pa.string())),
        "ner_tags": pa.array(tags, pa.list_(kind or pa.int64())),
        "id": pa.array([f"r{row}" for row in range(len(tokens))]),
    }
    return datasets.Dataset(InMemoryTable(pa.table(columns)), info=datasets.DatasetInfo(features=features))


TWO = ["in", "Paris"]
BAD_TAGS = [
    (
        TWO,
        [-1, -1],
        "-1 came as tag 1 (token 'in'), which is no gold label; expected a number from 0 (O) to 4",
    ),
    (TWO, [0, -100], "-100 came as tag 2 (token 'Paris'), which is no gold label"),
    (TWO, [0, None], "None came as tag 2 (token 'Paris'), which is no gold label"),
    (TWO, None, "ner_tags is None; expected a tag for each token"),
    (TWO, [0, 99], "99 came as tag 2 (token 'Paris'); expected a number from 0"),
    (TWO, [0, 5], "5 came as tag 2"),
    (TWO, [0, 3, 0], "2 tokens and 3 ner_tags came; expected as many tags as tokens"),
    (TWO, [0], "2 tokens and 1 ner_tags came"),
    (TWO, [1, 4], "'I-LOC' came as tag 2 (token 'Paris') after 'B-PER'; "),
    ([None, "Paris"], [0, 3], "token 1 is None; expected text"),
    (None, [0, 3], "tokens is None; expected a list"),
]


@pytest.mark.parametrize("options", [{}, {"training": True}, {"may_be_unlabelled": True}])
@pytest.mark.parametrize(("tokens", "tags", "message"), BAD_TAGS)
def test_a_row_of_bad_tokens_or_tags_is_named(processor, tokens, tags, message, options):
    rows = raw_rows([TWO, tokens], [[0, 3], tags])
    with pytest.raises(ValueError) as caught:
        WindowedSentences(rows, processor, LABEL2ID, name="org/set, test", **options)
    assert str(caught.value).startswith(f"org/set, test, row r1: {message}")
    is_label = "no gold label" in message or "ner_tags is None" in message
    assert ("only a test split that has none at all is predicted" in str(caught.value)) == is_label
    assert ("--iob2 repair" in str(caught.value)) == ("I-LOC" in message)


@pytest.mark.parametrize("hidden", [[-1, -1], [-100, -100], [None, None], [-1, None], None])
def test_rows_without_any_gold_label_are_predicted_and_not_scored(processor, caplog, hidden):
    rows = raw_rows([TWO, [], ["Jordan", "won"]], [hidden, [], hidden])
    sentences = WindowedSentences(rows, processor, LABEL2ID, name="org/set, test", may_be_unlabelled=True)
    assert "org/set, test: no gold labels: predicted, not scored." in caplog.messages
    assert sentences.tags is None and sentences.groups == {"language": [], "type": [], "image": []}
    assert [sentences[index]["tokens"] for index in range(3)] == [TWO, ["Jordan", "won"], []]
    assert all("labels" not in sentences[index] for index in range(3))
    batch = MultimodalCollator(processor)([sentences[0], sentences[1]])
    assert "labels" not in batch and batch["word_starts"].shape == (2, 2)
    with pytest.raises(ValueError, match="org/set, train, row r0: .* only a test split that has none at all"):
        WindowedSentences(rows, processor, LABEL2ID, name="org/set, train", training=True)
    with pytest.raises(ValueError, match="the set, row r1: token 2 is None"):
        rows = raw_rows([TWO, ["a", None]], [hidden, hidden])
        WindowedSentences(rows, processor, LABEL2ID, may_be_unlabelled=True)


def test_no_image_is_decoded(processor, monkeypatch):
    rows = make_rows([3, 4], images=[png((9, 9, 9)), b"no image at all"])

    def refuse(*args, **kwargs):
        raise RuntimeError("an image was opened")

    monkeypatch.setattr(Image, "open", refuse)
    sentences = WindowedSentences(rows, processor, LABEL2ID, training=True)
    assert count_images(rows)["samples_with_image"] == 2
    assert sentences[1]["image"]["bytes"] == b"no image at all"
    assert len(sentences.with_images("shuffled")) == 2


def test_own_hidden_and_shuffled_images(processor):
    contents = [png((shade, 0, 0)) for shade in range(6)]
    images = [contents[0], None, contents[1], contents[1], None, contents[2], contents[3]]
    rows = make_rows([4] * 7, images=images)

    def shown(sentences):
        cells = {sentences.row_of[index]: sentences[index]["image"] for index in range(len(sentences))}
        return [cells[row] and cells[row]["bytes"] for row in range(len(rows))]

    own = WindowedSentences(rows, processor, LABEL2ID, seed=4)
    assert own.rows_with_image == [0, 2, 3, 5, 6]
    assert shown(own) == images
    assert shown(own.with_images("hidden")) == [None] * 7
    shuffled = shown(own.with_images("shuffled"))
    assert [image is None for image in shuffled] == [image is None for image in images]
    assert all(new != old for new, old in zip(shuffled, images, strict=True) if old is not None)
    assert sorted(filter(None, shuffled)) == sorted(filter(None, images))  # a permutation
    assert shown(own.with_images("shuffled")) == shuffled
    assert shown(WindowedSentences(rows, processor, LABEL2ID, images="shuffled", seed=4)) == shuffled
    assert shown(own) == images  # unchanged by the others
    with pytest.raises(ValueError, match="`images` is 'none'; expected one of own, hidden, shuffled"):
        own.with_images("none")


def test_augmented_text_is_that_of_training_alone_and_drawn_by_seed_and_epoch(processor):
    rows = make_rows([12] * 300)

    def read(probability, training=True, seed=0, epoch=0, max_length=None):
        options = {"training": training, "text_augmentation": probability, "seed": seed, "max_length": max_length}
        sentences = WindowedSentences(rows, processor, LABEL2ID, **options)
        sentences.set_epoch(epoch)
        return [sentences[index] for index in range(len(sentences))]

    plain = read(0.0)
    assert sorted(read(0.9, training=False), key=str) == sorted(plain, key=str)
    found = read(0.4)
    assert found == read(0.4) != read(0.4, epoch=1) != read(0.4, seed=1)
    changed = [new["tokens"] != old["tokens"] for new, old in zip(found, plain, strict=True)]
    assert 0.3 < np.mean(changed) < 0.5
    for new, old in zip(found, plain, strict=True):
        assert len(new["labels"]) == len(new["tokens"])
        entities = [(token.lower(), tag) for token, tag in zip(old["tokens"], old["labels"], strict=True) if tag]
        assert entities == [
            (token.lower(), tag) for token, tag in zip(new["tokens"], new["labels"], strict=True) if tag
        ]
    # Capitals take more tokens here: a sentence that would no longer fit its window stays as it was.
    budget = max(sum(processor.token_counts(item["tokens"])) for item in plain)
    free, bound = read(1.0), read(1.0, max_length=budget + 2)
    fits = [sum(processor.token_counts(item["tokens"])) <= budget for item in free]
    assert {True, False} == set(fits)
    assert bound == [new if fit else old for new, old, fit in zip(free, plain, fits, strict=True)]
    with pytest.raises(ValueError, match="--text_augmentation is -0.1; expected a probability"):
        read(-0.1)


def test_mentions_are_dropped_whole_in_training_rows_with_an_image_alone(processor):
    rows = make_rows([30] * 40, images=[png((row, 0, 0)) if row % 2 else None for row in range(40)])
    with pytest.raises(ValueError, match="this one has none: set 0"):
        WindowedSentences(rows, processor, LABEL2ID, training=True, mention_dropout=0.1)
    processor = copy.deepcopy(processor)
    processor.tokenizer.mask_token = processor.tokenizer.unk_token
    mask = processor.tokenizer.mask_token

    def shown(dropout, training=True):
        sentences = WindowedSentences(rows, processor, LABEL2ID, training=training, mention_dropout=dropout)
        return sentences, [sentences[index] for index in range(len(sentences))]

    torch.manual_seed(0)
    sentences, items = shown(0.4)
    dropped = mentions = 0
    for row, item in zip(sentences.row_of, items, strict=True):
        words = sentences.tokens[row][: len(item["tokens"])]
        tags = [sentences.id2label[label] for label in item["labels"]]
        for start, tag in enumerate(tags):
            if tag == "O" or item["image"] is None:
                assert item["tokens"][start] == words[start]
            elif tag.startswith("B-"):
                stop = start + 1
                while stop < len(tags) and tags[stop].startswith("I-"):
                    stop += 1
                hidden = [token == mask for token in item["tokens"][start:stop]]
                assert all(hidden) or item["tokens"][start:stop] == words[start:stop]
                dropped, mentions = dropped + all(hidden), mentions + 1
    assert 0.25 < dropped / mentions < 0.55
    assert processor.token_counts([mask]) == [1]
    for arguments in ((0.0, True), (0.9, False)):
        sentences, items = shown(*arguments)
        assert not any(mask in item["tokens"] for item in items)
    with pytest.raises(ValueError, match="--mention_dropout is 1.5; expected a probability"):
        shown(1.5)


def test_equal_files_under_other_names_are_one_image(processor, tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(png((1, 2, 3) if name != "c.png" else (4, 5, 6)))
    rows = make_rows([2, 2, 2, 2]).add_column("image", [str(tmp_path / f"{name}.png") for name in "abcc"])
    shuffled = WindowedSentences(rows.cast_column("image", datasets.Image()), processor, LABEL2ID, images="shuffled")
    paths = {shuffled.row_of[index]: shuffled[index]["image"]["path"][-5] for index in range(4)}
    assert [paths[row] for row in range(4)] in ([*"cc", *"ab"], [*"cc", *"ba"])


@given(contents=st.lists(st.integers(0, 5), min_size=2, max_size=40), seed=st.integers(0, 3))
def test_a_derangement_shows_every_row_another_content(contents, seed):
    if len(set(contents)) < 2:
        with pytest.raises(ValueError, match=f"Cannot shuffle {len(contents)} images of 1 contents"):
            derangement(contents, seed)
        return
    order = derangement(contents, seed)
    assert all(contents[new] != contents[old] for old, new in enumerate(order))
    if 2 * max(map(contents.count, contents)) <= len(contents):
        assert sorted(order) == list(range(len(contents)))
    assert order == derangement(contents, seed)
    assert len({tuple(derangement(range(20), seed)) for seed in range(5)}) == 5


def test_label_names_and_what_a_set_must_have():
    rows = make_rows([1])
    assert label_names(rows) == LABELS
    with pytest.raises(ValueError, match="no column ner_tags; it has tokens. Rename them: tokens .words., ner_tags"):
        label_names(rows.remove_columns("ner_tags"))
    text = rows.cast_column("ner_tags", datasets.List(datasets.Value("string")))
    with pytest.raises(ValueError, match="expected a list of class labels .* cast it to List"):
        label_names(text)


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """The splits of a small probe, and the folder they came from."""
    cache = tmp_path_factory.mktemp("cache")
    splits = load_splits(DataArguments(dataset="probe", probe_sentences=100), ["train", "validation", "test"], cache)
    return splits, cache / "probe-100"


def test_the_probe_is_built_and_said_to_be_synthetic(tmp_path, caplog):
    arguments = DataArguments(dataset="probe", probe_sentences=80, dataset_config="de")
    with caplog.at_level(logging.WARNING):
        splits = load_splits(arguments, ["train", "test"], tmp_path)
    assert "The probe is SYNTHETIC" in caplog.text
    assert list(splits) == ["train", "test"] and set(splits["train"]["lang"]) == {"de"}
    again = load_splits(arguments, ["train"], tmp_path, build=False)  # on another process
    assert again["train"]["tokens"][:] == splits["train"]["tokens"][:]


def test_a_folder_is_read_as_dataset_script_reads_it(probe, tmp_path):
    splits, folder = probe
    (tmp_path / "set").mkdir()
    for part in ("en", "de", "fr", "es", "images"):
        (tmp_path / "set" / part).symlink_to(folder / part)
    loaded = load_splits(DataArguments(dataset=str(tmp_path / "set")), ["test"], tmp_path)
    assert loaded["test"]["tokens"][:] == splits["test"]["tokens"][:]
    assert count_images(loaded["test"])["missing_images"] == 0


def write_set(folder, images: dict[str, list[str | None]]) -> str:
    """Sentences in JSONL, by language the image that each names; those called `there...` are there."""
    (folder / "images").mkdir(parents=True)
    for lang, names in images.items():
        (folder / lang).mkdir()
        lines = []
        for number, name in enumerate(names):
            row = {"id": f"{lang}{number}", "tokens": ["Paris"], "ner_tags": ["B-LOC"], "image": name}
            lines.append(json.dumps({**row, "lang": lang}) + "\n")
            if name is not None and name.startswith("there"):
                Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / "images" / name)
        (folder / lang / "train.jsonl").write_text("".join(lines))
    return str(folder)


def counted(folder, tmp_path, **options) -> dict[str, int]:
    arguments = DataArguments(dataset=folder, **options)
    return count_images(load_splits(arguments, ["train"], tmp_path / "cache")["train"])


def test_missing_images_are_those_of_the_rows_that_are_used(tmp_path):
    lost = write_set(tmp_path / "lost", {"en": ["lost.png"] * 6, "de": ["lost.png", "there.png", "there2.png"]})
    assert counted(lost, tmp_path) == {"samples": 9, "samples_with_image": 2, "missing_images": 7}
    german = {"samples": 3, "samples_with_image": 2, "missing_images": 1}
    assert counted(lost, tmp_path, train_languages="de") == german
    assert counted(lost, tmp_path, dataset_config="de") == german


def test_missing_images_are_not_told_where_they_are_not_known(tmp_path):
    """The report of a set does not say which of the rows without an image named one."""
    mixed = write_set(tmp_path / "mixed", {"en": ["lost.png", None, None], "de": ["there.png", None]})
    assert counted(mixed, tmp_path) == {"samples": 5, "samples_with_image": 1, "missing_images": 1}
    assert "missing_images" not in counted(mixed, tmp_path, train_languages="en", max_train_samples=2)
    assert counted(mixed, tmp_path, train_languages="de", max_train_samples=1)["missing_images"] == 0
    assert counted(mixed, tmp_path, use_images=False) == {"samples": 5, "samples_with_image": 0}


def test_images_can_be_left_out(probe, caplog):
    arguments = DataArguments(dataset="probe", probe_sentences=100, use_images=False)
    with caplog.at_level(logging.INFO):
        splits = load_splits(arguments, ["test"], probe[1].parent, build=False)
    assert count_images(splits["test"])["samples_with_image"] == 0
    assert "the images of all rows are left out" in caplog.text


@pytest.mark.parametrize(
    ("options", "needed", "error", "message"),
    [
        ({"dataset": None}, ["test"], ValueError, "There is no dataset: give --dataset a folder"),
        ({"dataset": "./nowhere/at/all"}, ["test"], FileNotFoundError, "There is no folder ./nowhere/at/all"),
        (
            {"dataset": "some/set", "image_folder": "x", "dataset_errors": "skip"},
            ["test"],
            ValueError,
            "some/set comes from the Hub, where --dataset_errors, --image_folder do not apply",
        ),
        ({"dataset": "probe", "max_train_samples": 0}, ["train"], ValueError, "A subset of 0 rows"),
        ({"dataset": "probe"}, [], ValueError, "has the splits train, validation, test, but none would be needed"),
    ],
)
def test_what_cannot_be_loaded_is_an_error(probe, options, needed, error, message):
    with pytest.raises(error) as caught:
        load_splits(DataArguments(probe_sentences=100, **options), needed, probe[1].parent, build=False)
    assert message in str(caught.value)


def test_an_absent_train_split_is_an_error_and_another_a_warning(tmp_path, caplog):
    (tmp_path / "test.txt").write_text("IMGID:1\nParis\tB-LOC\n\n")
    arguments = DataArguments(dataset=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert list(load_splits(arguments, ["validation", "test"], tmp_path / "cache")) == ["test"]
    assert "has no validation split; its evaluation is skipped" in caplog.text
    with pytest.raises(ValueError, match="has the splits test, but train, test would be needed"):
        load_splits(arguments, ["train", "test"], tmp_path / "cache")


def parquet_set(folder, splits: dict[str, list[str]]) -> str:
    """A set in Parquet whose card gives its splits these names, each with one sentence of these words."""
    files = []
    for split, words in splits.items():
        row = {"id": split, "lang": "en", "tokens": words, "ner_tags": [0] * len(words), "image": None}
        features = {"id": datasets.Value("string"), "lang": datasets.Value("string"), **make_rows([1]).features}
        features = datasets.Features({**features, "image": datasets.Image()})
        (folder / "data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list([row], features=features).to_parquet(folder / "data" / f"{split}.parquet")
        files.append({"split": split, "path": f"data/{split}.parquet"})
    configs = [{"config_name": "all", "data_files": files, "default": True}]
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    return str(folder)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_called_dev_is_the_validation_split(tmp_path, streaming, caplog):
    folder = parquet_set(tmp_path / "set", {"train": ["a"], "dev": ["b"], "testb": ["c"]})
    args = DataArguments(dataset=folder, streaming=streaming)
    with caplog.at_level(logging.INFO):
        splits = load_splits(args, ["train", "validation", "test"], tmp_path / "cache")
    assert list(splits) == ["train", "validation", "test"]
    assert splits["validation"]["tokens"][:] == [["b"]] and splits["test"]["tokens"][:] == [["c"]]
    assert "The split dev is read as validation." in caplog.messages


def test_of_two_splits_for_one_the_one_of_that_name_is_read_and_two_others_are_an_error(tmp_path, caplog):
    folder = parquet_set(tmp_path / "one", {"train": ["a"], "dev": ["b"], "validation": ["c"]})
    splits = load_splits(DataArguments(dataset=folder), ["train", "validation"], tmp_path / "cache")
    assert splits["validation"]["tokens"][:] == [["c"]] and "The splits dev are not read" in caplog.text
    folder = parquet_set(tmp_path / "two", {"train": ["a"], "dev": ["b"], "val": ["c"]})
    with pytest.raises(ValueError, match="The splits dev, val all stand for validation: expected one of them"):
        load_splits(DataArguments(dataset=folder), ["train", "validation"], tmp_path / "cache")


def test_the_column_of_the_tags_of_a_folder(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("Anna B-NP B-PER\nsings B-VP O\n")
    with pytest.raises(ValueError, match="the columns 2 and 3 look like tags .*--tag_column"):
        load_splits(DataArguments(dataset=str(tmp_path), dataset_lang="en"), ["train"], tmp_path / "cache")
    args = DataArguments(dataset=str(tmp_path), dataset_lang="en", tag_column=-1)
    rows = load_splits(args, ["train"], tmp_path / "cache")["train"]
    assert label_names(rows) == ["O", "B-PER", "I-PER"] and rows["ner_tags"][:] == [[1, 0]]
    with pytest.raises(ValueError, match="comes from the Hub, where --tag_column do not apply"):
        load_splits(DataArguments(dataset="org/set", tag_column=3), ["train"], tmp_path)


def test_subsets_are_random_in_order_and_only_that_of_training_follows_the_seed(tmp_path, caplog):
    for split in ("train", "validation", "test"):
        rows = [{"id": f"{i}", "tokens": [f"{split}{i}"], "ner_tags": ["O"], "lang": "en"} for i in range(40)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    args = DataArguments(dataset=str(tmp_path), max_train_samples=20, max_eval_samples=20, max_predict_samples=20)

    def drawn(seed: int) -> dict[str, list[str]]:
        splits = load_splits(args, ["train", "validation", "test"], tmp_path / "cache", seed, True)
        return {name: [tokens[0] for tokens in rows["tokens"][:]] for name, rows in splits.items()}

    with caplog.at_level(logging.INFO):
        first, again, other = drawn(1), drawn(1), drawn(2)
    assert "A random 20 of the 40 rows of train are used (seed 1)." in caplog.messages
    places = [int(word.removeprefix("train")) for word in first["train"]]
    assert places == sorted(places) != list(range(20))
    assert first == again and {len(rows) for rows in first.values()} == {20}
    assert first["train"] != other["train"]
    assert first["validation"] == other["validation"] and first["test"] == other["test"]


def test_training_rows_of_some_languages(tmp_path):
    langs = ["en", "de", "fr", "de", "es", "en"]
    for split in ("train", "validation", "test"):
        rows = [{"id": str(i), "tokens": [str(i)], "ner_tags": ["O"], "lang": lang} for i, lang in enumerate(langs)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def loaded(languages: str):
        args = DataArguments(dataset=str(tmp_path), train_languages=languages)
        return load_splits(args, ["train", "validation", "test"], tmp_path / "cache", 0, True)

    splits = loaded("de,en")
    assert sorted(splits["train"]["lang"][:]) == ["de", "de", "en", "en"]
    assert sorted(splits["validation"]["lang"][:]) == sorted(splits["test"]["lang"][:]) == sorted(langs)
    with pytest.raises(ValueError, match="--train_languages names it, and the training rows have de, en, es, fr"):
        loaded("en,it")


def test_training_hides_half_of_the_captions_and_evaluation_none(processor):
    captions = [f"caption {row}" if row % 4 else None for row in range(400)]
    rows = make_rows([3] * 400, caption=captions)

    def read(training: bool, seed: int = 0, epoch: int = 0) -> list[str | None]:
        sentences = WindowedSentences(rows, processor, LABEL2ID, captions=True, training=training, seed=seed)
        sentences.set_epoch(epoch)
        found = sorted((sentences.row_of[index], index) for index in range(400))
        return [sentences[index]["caption"] for _, index in found]

    assert read(training=False) == captions
    seen = read(training=True)
    assert all(caption in (None, own) for caption, own in zip(seen, captions, strict=True))
    assert 0.4 < sum(caption is None for caption, own in zip(seen, captions, strict=True) if own) / 300 < 0.6
    assert seen == read(training=True) != read(training=True, epoch=1) != read(training=True, seed=1)
