"""Batches of the pipeline: every window once, in a bounded look-ahead; every picture once; and whatever the order in
which windows are read, the results of one text after another."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_pipeline_2mner import TEXTS, limited, make_pipeline, make_towers, picture, same

import batching_2mner
import pipeline_2mner
from batching_2mner import LookAhead, PreparedText, packed

COLORS = ["red", "green", "blue", "white"]


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return make_towers(tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="module")
def ner(towers):
    return make_pipeline(towers)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for color in COLORS:
        picture(color).save(folder / f"{color}.png")
    return [str(folder / f"{color}.png") for color in COLORS]


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of 64 pieces: a few dozen texts fill several stretches and look-aheads."""
    monkeypatch.setattr(pipeline_2mner, "CPU_BATCH_PIECES", 64)
    monkeypatch.setattr(batching_2mner, "LOOK_AHEAD_WORDS", 256)
    monkeypatch.setattr(batching_2mner, "STRETCH_BATCHES", 2)


def mixed(count, images, seed=0):
    """Texts of one to forty words, two thirds of them with one of the images."""
    generator = np.random.default_rng(seed)
    words = " ".join(TEXTS).split()
    items = []
    for _ in range(count):
        text = " ".join(generator.choice(words, generator.integers(0, 40)))
        image = images[generator.integers(len(images))] if generator.random() < 0.67 else None
        items.append({"text": text, "image": image})
    return items


class TestPacked:
    @given(lengths=st.lists(st.integers(0, 60), max_size=80), budget=st.integers(1, 200), size=st.integers(0, 9))
    def test_every_row_once_within_the_budget_from_long_to_short(self, lengths, budget, size):
        batches = packed(lengths, budget, size)
        places = [place for batch in batches for place in batch]
        assert sorted(places) == list(range(len(lengths)))
        assert [lengths[place] for place in places] == sorted(lengths, reverse=True)
        for batch in batches:
            assert len(batch) <= size if size else len(batch) == 1 or len(batch) * lengths[batch[0]] <= budget
        if size:
            assert len(batches) == -(-len(lengths) // size)

    def test_little_of_a_batch_is_padding(self):
        lengths = np.random.default_rng(0).geometric(1 / 30, 2000).tolist()
        padded = sum(len(batch) * max(lengths[place] for place in batch) for batch in packed(lengths, 1024))
        as_they_come = sum(32 * max(lengths[start : start + 32]) for start in range(0, 2000, 32))
        assert padded < 1.05 * sum(lengths) < as_they_come / 3


class TestLookAhead:
    def test_a_stretch_is_every_text_once_those_of_a_picture_together(self):
        pictures = [batching_2mner.Picture(None) for _ in range(3)]
        texts = [
            PreparedText("", ["a"] * 5, [], picture=pictures[number % 4] if number % 4 < 3 else None)
            for number in range(40)
        ]
        stretches = list(LookAhead(0, 1, is_stream=False).stretches(texts))
        order = [text for stretch in stretches for text in stretch]
        assert len(stretches) > 3 and sorted(map(id, order)) == sorted(map(id, texts))
        for shown in pictures:
            places = [place for place, text in enumerate(order) if text.picture is shown]
            assert places == list(range(places[0], places[0] + 10))
        assert [text for text in order if text.picture is None] == texts[3::4]

    def test_texts_without_pictures_stay_in_order(self):
        texts = [PreparedText("", ["a"] * 5, []) for _ in range(40)]
        assert [text for stretch in LookAhead(0, 1, False).stretches(texts) for text in stretch] == texts

    @pytest.mark.parametrize("batch_size", [None, 1, 4])
    def test_a_stream_is_read_a_batch_ahead_at_first_and_no_further_than_the_bound(
        self, ner, small_batches, batch_size
    ):
        read, ahead = 0, []

        def texts():
            nonlocal read
            for text in itertools.cycle(["Jordan was seen in Paris"]):
                read += 1
                yield text

        for number, _ in zip(range(1, 200), ner(texts(), batch_size=batch_size), strict=False):
            ahead.append(read - number)
        if batch_size == 1:
            assert max(ahead) == 0
        else:
            # 64 pieces are 32 words or 5 texts, empty ones counted as a word; 256 words 43 of them.
            assert ahead[0] <= 5 and 20 < max(ahead) < 43

    def test_empty_texts_without_end_are_no_trap(self, ner, small_batches):
        results = ner(itertools.repeat(""))
        assert [next(results) for _ in range(100)] == [[]] * 100

    def test_pictures_that_are_read_ahead_are_few(self, ner, monkeypatch):
        monkeypatch.setattr(batching_2mner, "LOOK_AHEAD_PICTURE_BYTES", 3 * 32 * 32 * 3)
        read = []

        def items():
            for number in range(20):
                read.append(number)
                yield {"text": TEXTS[0], "image": picture((number, 0, 0))}

        results = ner(items())
        expected = [ner(TEXTS[0], images=picture((number, 0, 0))) for number in range(20)]
        for number, entities in enumerate(results, start=1):
            same(entities, expected[number - 1])
            assert len(read) <= number + 3


class TestResults:
    @pytest.mark.parametrize("batch_size", [None, 1, 3, 500])
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_those_of_one_after_another(self, ner, files, small_batches, batch_size, num_workers):
        pipe = limited(ner, 128)
        items = mixed(60, files)
        assert any(len(item["text"]) > 126 for item in items) and any(not item["text"] for item in items)
        alone = [pipe(item) for item in items]
        assert sum(map(len, alone)) > 100
        together = pipe(items, batch_size=batch_size, num_workers=num_workers)
        stream = list(pipe(iter(items), batch_size=batch_size, num_workers=num_workers))
        for found in (together, stream):
            for left, right in zip(found, alone, strict=True):
                same(left, right)

    def test_without_room_for_vectors_pictures_are_encoded_again(self, ner, files, small_batches, monkeypatch):
        items = mixed(40, files)
        expected = ner(items)
        monkeypatch.setattr(batching_2mner, "KEPT_STATES_BYTES", 0)
        for left, right in zip(ner(items), expected, strict=True):
            same(left, right)

    def test_a_second_tower(self, towers, files, small_batches):
        pipe = make_pipeline((towers[0], towers[1], towers[1]), collaboration="cross_attention")
        items = mixed(20, files)
        for left, right in zip(pipe(items), [pipe(item) for item in items], strict=True):
            same(left, right)

    def test_pixels_that_change_after_they_were_given(self, ner):
        """As of a camera: one array, filled anew for each text."""
        frame = np.zeros((24, 40, 3), dtype=np.uint8)

        def frames():
            for level in (0, 120, 250):
                frame[:] = level
                yield {"text": TEXTS[0], "image": frame}

        expected = [ner(TEXTS[0], images=picture((level,) * 3)) for level in (0, 120, 250)]
        for left, right in zip(ner(frames(), batch_size=3), expected, strict=True):
            same(left, right)

    def test_autocast(self, ner, files):
        items = mixed(12, files)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = ner(items)
        assert len(found) == 12 and all(0 < entity["score"] <= 1 for entities in found for entity in entities)


class TestPictures:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_each_is_opened_and_encoded_once(self, ner, files, small_batches, monkeypatch, num_workers):
        opened, encoded = [], 0
        load_image, encode = batching_2mner.load_image, ner.model.model.encode_images

        def counted_load(image):
            opened.append(image)
            return load_image(image)

        def counted_encode(pixels, ids):
            nonlocal encoded
            encoded += len(pixels)
            return encode(pixels, ids)

        monkeypatch.setattr(batching_2mner, "load_image", counted_load)
        monkeypatch.setattr(ner.model.model, "encode_images", counted_encode)
        # Long and short texts, and one of several windows: in many batches, and none of them first in two.
        items = [{"text": "Paris " * (1 + number % 7 * 4), "image": files[number % 3]} for number in range(12)]
        items.append({"text": "Jordan was seen. " * 200, "image": files[3]})
        ner(items, num_workers=num_workers)
        assert sorted(opened) == sorted(files) and encoded == len(files)

    def test_equal_ones_of_one_batch_are_encoded_once_however_they_are_given(self, ner, files, monkeypatch):
        encoded, encode = [], ner.model.model.encode_images
        monkeypatch.setattr(
            ner.model.model, "encode_images", lambda pixels, ids: encoded.append(len(pixels)) or encode(pixels, ids)
        )
        with open(files[0], "rb") as file:
            content = file.read()
        images = [files[0], content, {"bytes": content, "path": None}, picture("red"), np.asarray(picture("red"))]
        ner([TEXTS[0]] * 5, images=images)
        assert encoded == [1]

    def test_nothing_is_kept_of_those_that_are_not_shown_again(self, ner, files, small_batches, monkeypatch):
        made, held, release = [], [], batching_2mner.release

        class Recorded(batching_2mner.Picture):
            def __init__(self, source):
                super().__init__(source)
                made.append(self)

        def checked(rows, kept_bytes):
            kept_bytes = release(rows, kept_bytes)
            holding = [one for one in made if one.states is not None]
            assert all(one.num_unread for one in holding)
            kept = [one for one in holding if one.pixels is None]  # the others are encoded ahead, not read yet
            assert kept_bytes == sum(states.nbytes for one in kept for states in one.states)
            assert all(text.picture.pixels is None for text, _ in rows if text.picture is not None)
            held.append(len(holding))
            return kept_bytes

        monkeypatch.setattr(pipeline_2mner, "Picture", Recorded)
        monkeypatch.setattr(pipeline_2mner, "release", checked)
        ner(mixed(60, [*files, picture("black")]))
        assert max(held) and held[-1] == 0

    def test_columns_of_files_are_opened_when_they_are_needed(self, ner, files):
        datasets = pytest.importorskip("datasets")
        table = datasets.Dataset.from_dict({"text": TEXTS[:4], "image": files}).cast_column("image", datasets.Image())
        read = pipeline_2mner._text_columns(table)
        assert set(read[0]["image"]) == {"bytes", "path"}
        for left, right in zip(ner(table), ner(TEXTS[:4], images=files), strict=True):
            same(left, right)


class TestErrors:
    @pytest.mark.parametrize("num_workers", [0, 2])
    @pytest.mark.parametrize(
        "wrong", [{"text": "Orange", "image": "no/such.png"}, {"text": 3}, {"text": "", "image": b"x"}]
    )
    def test_what_stands_before_is_answered_first(self, ner, files, wrong, num_workers):
        items = [*mixed(5, files), wrong, *mixed(5, files, seed=1)]
        results = ner(iter(items), num_workers=num_workers)
        for item in items[:5]:
            same(next(results), ner(item))
        with pytest.raises((ValueError, TypeError), match=r"no/such\.png does not exist|type int|1 bytes"):
            next(results)

    def test_a_stream_that_breaks(self, ner):
        def texts():
            yield from TEXTS
            raise OSError("the line is dead")

        results = ner(texts())
        for text in TEXTS:
            same(next(results), ner(text))
        with pytest.raises(OSError, match="the line is dead"):
            next(results)

    def test_a_text_that_is_too_long(self, ner):
        texts = [TEXTS[0], TEXTS[0] * 40, TEXTS[4]]
        results = ner(iter(texts), long_text="error")
        same(next(results), ner(TEXTS[0]))
        with pytest.raises(ValueError, match="does not fit the encoder"):
            next(results)

    @pytest.mark.parametrize("batch_size", [0, -1, True])
    def test_a_batch_of_nothing(self, ner, batch_size):
        with pytest.raises(ValueError, match="`batch_size` is .*expected a whole number, 1 or more"):
            ner(TEXTS, batch_size=batch_size)
