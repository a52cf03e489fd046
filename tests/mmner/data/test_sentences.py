"""Windows and images of a run: nothing is dropped, decoded early, or left as it was by a shuffle."""

import copy
import itertools
import math
from collections import Counter
from functools import partial

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets.table import InMemoryTable
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sharded_rows import FEATURES, LABELS, png, random_rows, rows_of

from mmner.data.collator import DataCollatorForMultimodalTokenClassification
from mmner.data.sentences import WindowedSentences, derangement, repeats, training_windows
from mmner.data.splits import count_images
from mmner.probe.tiny_towers import make_tiny_towers
from processing_2mner import TwoMNERProcessor

LABEL2ID = {label: index for index, label in enumerate(LABELS)}
WORDS = ["Jordan", "won", "in", "Paris", "Donaudampfschifffahrt", "."]


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    towers = make_tiny_towers(tmp_path_factory.mktemp("towers"), [WORDS], vocab_size=300, max_length_tokens=64)
    return TwoMNERProcessor.from_towers(*towers)


make_rows = partial(random_rows, WORDS)


def items_of(sentences: WindowedSentences) -> list[dict]:
    return [sentences[index] for index in range(len(sentences))]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("max_length", [None, 24])
def test_no_word_is_dropped_and_each_window_fits(processor, training, max_length):
    rows = make_rows([0, 1, 5, 90, 17, 200, 3])
    sentences = WindowedSentences(rows, processor, LABEL2ID, training=training, stride=8, max_length=max_length)
    assert len(sentences) > len(rows)
    assert (sentences.lengths == sorted(sentences.lengths, reverse=True)) != training  # evaluation: long ones first
    kept = {row: [] for row in range(len(rows))}
    for index, (row, window) in enumerate(zip(sentences.row_of, sentences.windows, strict=True)):
        item = sentences[index]
        assert item["tokens"] == rows[row]["tokens"][window.start : window.stop]
        pairs = itertools.pairwise([0, *item["labels"]])
        assert all(tag in (0, 1, 3) or before in (tag - 1, tag) for before, tag in pairs)
        assert sentences.lengths[index] == sum(processor.token_counts(item["tokens"]))
        assert sentences.lengths[index] <= (max_length or 64) - 2
        kept[row] += range(window.keep_start, window.keep_stop)
    for row, words in kept.items():
        assert sorted(words) == list(range(len(rows[row]["tokens"])))


@pytest.mark.parametrize(
    ("counts", "tags", "cuts"),
    [
        ([1] * 6, ["O", "O", "B-PER", "I-PER", "I-PER", "O"], [(0, 2), (2, 6)]),
        ([1] * 6, ["B-PER"] + ["I-PER"] * 5, [(0, 4), (4, 6)]),
        ([1, 9, 1], ["O"] * 3, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_a_cut_inside_an_entity_is_moved_before_it_where_that_is_possible(counts, tags, cuts):
    assert [(window.start, window.stop) for window in training_windows(counts, tags, budget=4)] == cuts


@pytest.mark.parametrize("max_length", [None, 20])
def test_stitching_undoes_the_cutting(processor, max_length):
    rows = make_rows([0, 70, 1, 130, 12], seed=5)
    sentences = WindowedSentences(rows, processor, LABEL2ID, stride=6, max_length=max_length)
    width = max(window.stop - window.start for window in sentences.windows) + 3
    positions = np.full((len(sentences), width), -100)
    for index, window in enumerate(sentences.windows):
        positions[index, : window.stop - window.start] = np.arange(window.start, window.stop)
    assert sentences.stitch(positions) == [list(range(length)) for length in (0, 70, 1, 130, 12)]


def test_labels_are_the_models_ids_by_name(processor):
    rows = make_rows([8], seed=1)
    other = {label: index for index, label in enumerate(["B-LOC", "I-LOC", "O", "I-PER", "B-PER", "B-X"])}
    sentences = WindowedSentences(rows, processor, other)
    assert sentences[0]["labels"] == [other[LABELS[tag]] for tag in rows[0]["ner_tags"]]
    with pytest.raises(ValueError, match="has the tags .*, which the model does not know; it knows O, B-X"):
        WindowedSentences(rows, processor, {"O": 0, "B-X": 1})


def raw_rows(tokens: list, tags: list) -> datasets.Dataset:
    """Rows whose tags are whatever they are: so `datasets` reads them from Parquet files."""
    features = datasets.Features({name: FEATURES[name] for name in ("tokens", "ner_tags", "id")})
    columns = {
        "tokens": pa.array(tokens, pa.list_(pa.string())),
        "ner_tags": pa.array(tags, pa.list_(pa.int64())),
        "id": pa.array([f"r{row}" for row in range(len(tokens))]),
    }
    return datasets.Dataset(InMemoryTable(pa.table(columns)), info=datasets.DatasetInfo(features=features))


TWO = ["in", "Paris"]


@pytest.mark.parametrize("options", [{}, {"training": True}, {"may_be_unlabelled": True}])
@pytest.mark.parametrize(
    ("tokens", "tags", "message", "remedy"),
    [
        (
            TWO,
            [0, -100],
            "-100 came as tag 2 (token 'Paris'), which is no gold label",
            "only a test split that",
        ),
        (TWO, None, "ner_tags is None; expected a tag for each token", "only a test split that"),
        (TWO, [0, 5], "5 came as tag 2 (token 'Paris'); expected a number from 0", "Correct the row"),
        (TWO, [0], "2 tokens and 1 ner_tags came; expected as many tags as tokens", "Correct the row"),
        (TWO, [1, 4], "'I-PER' came as tag 2 (token 'Paris') after 'B-LOC'; ", "--iob2 repair"),
        (None, [0, 3], "tokens is None; expected a list", "Correct the row"),
    ],
)
def test_a_row_of_bad_tokens_or_tags_is_named(processor, tokens, tags, message, remedy, options):
    rows = raw_rows([TWO, tokens], [[0, 3], tags])
    with pytest.raises(ValueError) as caught:
        WindowedSentences(rows, processor, LABEL2ID, name="org/set, test", **options)
    assert str(caught.value).startswith(f"org/set, test, row r1: {message}") and remedy in str(caught.value)


@pytest.mark.parametrize("hidden", [[-1, -1], [-100, None], None])
def test_rows_without_any_gold_label_are_predicted_and_not_scored(processor, caplog, hidden):
    rows = raw_rows([TWO, [], ["Jordan", "won"]], [hidden, [], hidden])
    sentences = WindowedSentences(rows, processor, LABEL2ID, name="org/set, test", may_be_unlabelled=True)
    assert "org/set, test: no gold labels: predicted, not scored." in caplog.messages
    assert sentences.tags is None and sentences.groups == {"language": [], "type": [], "image": []}
    assert [sentences[index]["tokens"] for index in range(3)] == [TWO, ["Jordan", "won"], []]
    assert all("labels" not in sentences[index] for index in range(3))
    batch = DataCollatorForMultimodalTokenClassification(processor)([sentences[0], sentences[1]])
    assert "labels" not in batch and batch["word_starts"].shape == (2, 2)
    with pytest.raises(ValueError, match="org/set, train, row r0: .* only a test split that has none at all"):
        WindowedSentences(rows, processor, LABEL2ID, name="org/set, train", training=True)
    with pytest.raises(ValueError, match="the set, row r1: token 2 is None"):
        rows = raw_rows([TWO, ["a", None]], [hidden, hidden])
        WindowedSentences(rows, processor, LABEL2ID, may_be_unlabelled=True)


def test_no_image_is_decoded(processor, monkeypatch):
    rows = make_rows([3, 4], images=[png(9, 9, 9), {"bytes": b"no image at all", "path": None}])

    monkeypatch.setattr(Image, "open", lambda *args, **options: pytest.fail("an image was opened"))
    sentences = WindowedSentences(rows, processor, LABEL2ID, training=True)
    assert count_images(rows)["samples_with_image"] == 2
    assert sentences[1]["image"]["bytes"] == b"no image at all"
    assert len(sentences.with_images("shuffled")) == 2


def test_own_hidden_and_shuffled_images(processor):
    contents = [png(shade, 0, 0) for shade in range(6)]
    images = [contents[0], None, contents[1], contents[1], None, contents[2], contents[3]]
    rows = make_rows([4] * 7, images=images)

    def shown(sentences):
        cells = {sentences.row_of[index]: sentences[index]["image"] for index in range(len(sentences))}
        return [cells[row] for row in range(len(rows))]

    own = WindowedSentences(rows, processor, LABEL2ID, seed=4)
    assert own.rows_with_image == [0, 2, 3, 5, 6]
    assert shown(own) == images
    assert shown(own.with_images("hidden")) == [None] * 7
    shuffled = shown(own.with_images("shuffled"))
    assert [image is None for image in shuffled] == [image is None for image in images]
    assert all(new != old for new, old in zip(shuffled, images, strict=True) if old is not None)
    assert sorted(map(str, shuffled)) == sorted(map(str, images))  # a permutation
    assert shown(own.with_images("shuffled")) == shuffled
    assert shown(WindowedSentences(rows, processor, LABEL2ID, images="shuffled", seed=4)) == shuffled
    assert shown(own) == images  # unchanged by the others


def test_augmented_text_is_that_of_training_alone_and_drawn_by_seed_and_epoch(processor):
    rows = make_rows([12] * 300)

    def read(probability, training=True, seed=0, epoch=0, max_length=None):
        options = {"training": training, "text_augmentation": probability, "seed": seed, "max_length": max_length}
        sentences = WindowedSentences(rows, processor, LABEL2ID, **options)
        sentences.set_epoch(epoch)
        return items_of(sentences)

    plain, found = read(0.0), read(0.4)
    assert sorted(read(0.9, training=False), key=str) == sorted(plain, key=str)
    assert found == read(0.4) != read(0.4, epoch=1) != read(0.4, seed=1)
    changed = [new["tokens"] != old["tokens"] for new, old in zip(found, plain, strict=True)]
    assert 0.3 < np.mean(changed) < 0.5
    # Capitals take more tokens here: a sentence that would no longer fit its window stays as it was.
    budget = max(sum(processor.token_counts(item["tokens"])) for item in plain)
    free, bound = read(1.0), read(1.0, max_length=budget + 2)
    fits = [sum(processor.token_counts(item["tokens"])) <= budget for item in free]
    assert {True, False} == set(fits)
    assert bound == [new if fit else old for new, old, fit in zip(free, plain, fits, strict=True)]
    with pytest.raises(ValueError, match="--text_augmentation is -0.1; expected a number"):
        read(-0.1)


def test_mentions_are_dropped_whole_in_training_rows_with_an_image_alone(processor):
    tokens, tags = ["Then", "New", "York", "Ann"], [0, 1, 2, 3]
    rows = rows_of([tokens] * 200, [tags] * 200, [png(row, 0, 0) if row % 2 else None for row in range(200)])
    with pytest.raises(ValueError, match="this one has none: set 0"):
        WindowedSentences(rows, processor, LABEL2ID, training=True, mention_dropout=0.1)
    processor = copy.deepcopy(processor)
    mask = processor.tokenizer.mask_token = processor.tokenizer.unk_token

    def read(dropout, training=True):
        sentences = WindowedSentences(rows, processor, LABEL2ID, training=training, mention_dropout=dropout)
        return items_of(sentences)

    found = Counter(tuple(item["tokens"]) for item in read(0.4) if item["image"] is not None)
    assert set(found) == {("Then", *loc, per) for loc in (("New", "York"), (mask, mask)) for per in ("Ann", mask)}
    assert 25 < sum(count for words, count in found.items() if words[3] == mask) < 55
    assert all(item["tokens"] == tokens for item in read(0.4) if item["image"] is None)
    assert all(item["tokens"] == tokens for item in read(0.0) + read(0.9, training=False))
    with pytest.raises(ValueError, match="--mention_dropout is 1.5; expected a number"):
        read(1.5)


def test_equal_files_under_other_names_are_one_image(processor, tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(png(*((1, 2, 3) if name != "c.png" else (4, 5, 6)))["bytes"])
    rows = make_rows([2] * 4, [{"path": str(tmp_path / f"{name}.png"), "bytes": None} for name in "abcc"])
    shuffled = WindowedSentences(rows, processor, LABEL2ID, images="shuffled")
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


def test_rare_types_come_as_often_as_the_root_of_how_rare_they_are():
    types = [{"PER"}] * 80 + [set()] * 18 + [{"PER", "DISH"}, {"TOOL"}]
    assert repeats(types, 0.16, seed=0) == [1] * 98 + [4, 4]  # sqrt(0.16 / 0.01)
    assert repeats(types, 0.001, seed=0) == [1] * 100
    drawn = [repeats(types, 0.05, seed)[-2:] for seed in range(2000)]
    assert {number for pair in drawn for number in pair} == {2, 3}
    assert np.mean(drawn) == pytest.approx(math.sqrt(5), abs=0.03)


def test_rare_types_are_repeated_in_training_alone_and_that_is_said(processor, caplog):
    caplog.set_level("INFO")
    rows = rows_of([["Jordan", "won"]] * 15 + [["Paris", "won"]], [[3, 0]] * 15 + [[1, 0]])
    options = {"repeat_rare_types": 0.5, "name": "posts, train"}
    train = WindowedSentences(rows, processor, LABEL2ID, training=True, **options)
    counts = Counter(item["tokens"][0] for item in train)
    assert counts["Jordan"] == 15 and counts["Paris"] in (2, 3)  # sqrt(0.5 * 16) = 2.83
    assert len(train) == len(train.lengths) == counts.total()
    told = f"{counts['Paris'] - 1} of 16 windows come again, for types in fewer than 50.0% of them: LOC (1)."
    assert f"posts, train: {told}" in caplog.text
    assert len(WindowedSentences(rows, processor, LABEL2ID, **options)) == 16
    with pytest.raises(ValueError, match="--repeat_rare_types is 2; expected a number between 0 and 1"):
        WindowedSentences(rows, processor, LABEL2ID, training=True, repeat_rare_types=2)
