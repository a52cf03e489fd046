"""Batches of the pipeline: every window once, in a bounded look-ahead; every image once; results in input order."""

import itertools

import numpy as np
import pytest
from tiny_pipelines import TEXTS, limited, make_pipeline, plain_image, same

import pipeline_2mner
from pipeline_2mner import SharedImage

COLORS = ["red", "green", "blue", "white"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for color in COLORS:
        plain_image(color).save(folder / f"{color}.png")
    return [str(folder / f"{color}.png") for color in COLORS]


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of 64 tokens, and a few dozen texts fill several look-aheads."""
    monkeypatch.setattr(pipeline_2mner, "CPU_BATCH_TOKENS", 64)
    monkeypatch.setattr(pipeline_2mner, "LOOK_AHEAD_WORDS", 256)
    monkeypatch.setattr(pipeline_2mner, "READ_TEXTS", 32)


def mixed(count, images, seed=0):
    """Texts of one to forty words, two thirds of them with one of the images."""
    generator = np.random.default_rng(seed)
    words, images = " ".join(TEXTS).split(), [*images, *[None] * (len(images) // 2)]
    texts = (" ".join(generator.choice(words, generator.integers(0, 40))) for _ in range(count))
    return [{"text": text, "image": images[generator.integers(len(images))]} for text in texts]


class TestLookAhead:
    @pytest.mark.parametrize("batch_size", [None, 1, 4])
    def test_a_stream_is_read_little_ahead_at_first_and_no_further_than_the_bound(
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
            assert ahead[0] < 8 and max(ahead) == 31

    def test_empty_texts_without_end_are_no_trap(self, ner, small_batches):
        results = ner(itertools.repeat(""))
        assert [next(results) for _ in range(100)] == [[]] * 100

    def test_batches_are_of_the_size_asked_for(self, ner, monkeypatch):
        sizes, emissions = [], ner.model.emissions
        monkeypatch.setattr(
            ner.model, "emissions", lambda **inputs: sizes.append(len(inputs["input_ids"])) or emissions(**inputs)
        )
        ner(["Paris"] * 10, batch_size=4)
        assert sizes == [4, 4, 2]


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
        same(together, alone)
        same(stream, alone)

    def test_a_second_tower(self, towers, files, small_batches):
        pipe = make_pipeline((towers[0], towers[1], towers[1]), collaboration="cross_attention")
        items = mixed(20, files)
        same(pipe(items), [pipe(item) for item in items])

    def test_pixels_that_change_after_they_were_given(self, ner):
        """As of a camera: one array, filled anew for each text."""
        frame = np.zeros((24, 40, 3), dtype=np.uint8)

        def frames():
            for level in (0, 120, 250):
                frame[:] = level
                yield {"text": TEXTS[0], "image": frame}

        expected = [ner(TEXTS[0], images=plain_image((level,) * 3)) for level in (0, 120, 250)]
        same(ner(frames(), batch_size=3), expected)


class TestImages:
    @pytest.fixture
    def encoded(self, ner, monkeypatch):
        """How many images each call of the towers gets."""
        sizes, encode = [], ner.model.model.encode_images
        monkeypatch.setattr(
            ner.model.model, "encode_images", lambda pixels: sizes.append(len(pixels)) or encode(pixels)
        )
        return sizes

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_each_is_opened_and_encoded_once(self, ner, files, small_batches, monkeypatch, encoded, num_workers):
        opened, load_image = [], pipeline_2mner.load_image
        monkeypatch.setattr(pipeline_2mner, "load_image", lambda image: opened.append(image) or load_image(image))
        monkeypatch.setattr(pipeline_2mner, "READ_TEXTS", 4)
        # Long and short texts, and one of several windows: in many batches, and none of them first in two.
        items = [{"text": "Paris " * (1 + number % 7), "image": files[number % 3]} for number in range(12)]
        items.append({"text": "Jordan was seen. " * 30, "image": files[3]})
        ner(items, num_workers=num_workers)
        assert sorted(opened) == sorted(files) and sum(encoded) == len(files)

    def test_nothing_is_kept_of_those_that_are_not_shown_again(self, ner, files, small_batches, monkeypatch):
        made, held, read = [], [], ner._read

        def recorded(source):
            made.append(SharedImage(source))
            return made[-1]

        def counted(rows):
            held.append(sum(image.states is not None or image.pixels is not None for image in made))
            return read(rows)

        monkeypatch.setattr(pipeline_2mner, "SharedImage", recorded)
        monkeypatch.setattr(pipeline_2mner, "READ_TEXTS", 2)
        monkeypatch.setattr(ner, "_read", counted)
        ner(mixed(60, [*files, plain_image("black")]))
        assert max(held) == 2
        assert all(image.states is image.pixels is image.source is None for image in made if image.image_id)


class TestErrors:
    @pytest.mark.parametrize("num_workers", [0, 2])
    @pytest.mark.parametrize(
        "wrong", [{"text": "Orange", "image": "no/such.png"}, {"text": 3}, {"text": "", "image": b"x"}]
    )
    def test_what_stands_before_is_answered_first(self, ner, files, wrong, num_workers):
        items = [*mixed(5, files), wrong, *mixed(5, files, seed=1)]
        results = ner(iter(items), num_workers=num_workers)
        same(itertools.islice(results, 5), map(ner, items[:5]))
        with pytest.raises((ValueError, TypeError), match=r"no/such\.png does not exist|type int|1 bytes"):
            next(results)

    def test_a_stream_that_breaks(self, ner):
        def texts():
            yield from TEXTS
            raise OSError("the line is dead")

        results = ner(texts())
        same(itertools.islice(results, len(TEXTS)), ner(TEXTS))
        with pytest.raises(OSError, match="the line is dead"):
            next(results)
