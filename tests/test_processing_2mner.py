"""The processor: words and offsets, pieces and padding, windows, images of every kind, and what it refuses."""

import io
import json
import math
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizerFast, BitImageProcessorPil, CLIPImageProcessorPil, PreTrainedTokenizerFast

from processing_2mner import TwoMNERProcessor, Window, image_id, load_image

SENTENCES = [
    ["Jordan", "met", "Anne-Marie", "in", "Paris", "."],
    ["Der", "FC", "Bayern", "spielt", "."],
    ["L'", "Amazone", "coule"],
    ["Santiago", "de", "Chile", "!"],
]
LETTERS = sorted(set("".join(map("".join, SENTENCES))) | set("abcdefghijklmnopqrstuvwxyz"))


def wordpiece() -> PreTrainedTokenizerFast:
    """As BERT's: special tokens around, control characters dropped by the normalizer."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return BertTokenizerFast(
        vocab={piece: index for index, piece in enumerate(vocabulary)}, do_lower_case=False, model_max_length=64
    )


def unigram() -> PreTrainedTokenizerFast:
    """As XLM-R's: SentencePiece Unigram, `<s> ... </s>`."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=special, unk_token="<unk>", initial_alphabet=LETTERS
    )
    tokenizer.train_from_iterator([" ".join(words) for words in SENTENCES], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=64,
    )


IMAGE_PROCESSOR = {
    "size": {"height": 32, "width": 32},
    "crop_size": {"height": 32, "width": 32},
    "do_convert_rgb": True,
}


def make_processor(tokenizer=wordpiece, **options) -> TwoMNERProcessor:
    tokenizer = tokenizer()
    for name, value in options.items():
        setattr(tokenizer, name, value)
    image_processor = BitImageProcessorPil(**IMAGE_PROCESSOR, do_center_crop=False)
    return TwoMNERProcessor(image_processor, tokenizer)


@pytest.fixture(params=[wordpiece, unigram], ids=["wordpiece", "unigram"])
def processor(request):
    return make_processor(request.param)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(mode: str = "RGB", size=(40, 24), seed: int = 0) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    shape = (size[1], size[0], bands) if bands > 1 else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode)


# Words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("   \n\t", []),
        ("Jordan", ["Jordan"]),
        ("John's car isn't here.", ["John", "'s", "car", "isn", "'t", "here", "."]),
        ("L'école d’Anne, aujourd'hui", ["L'", "école", "d’", "Anne", ",", "aujourd'hui"]),
        ("Jean-Claude O'Brien", ["Jean-Claude", "O'Brien"]),
        ("der U.S. Präsident, z.B.", ["der", "U.S.", "Präsident", ",", "z.B."]),
        ("3,000.50 $ um 12:30", ["3,000.50", "$", "um", "12:30"]),
        ("¿Qué? ¡Sí!", ["¿", "Qué", "?", "¡", "Sí", "!"]),
        ("siehe https://x.org/a-b?c=1, ok", ["siehe", "https://x.org/a-b?c=1", ",", "ok"]),
        ("#NBA @me 👨‍👩‍👧🇩🇪", ["#", "NBA", "@", "me", "👨‍👩‍👧", "🇩🇪"]),
        ("Cafe\u0301 X", ["Cafe\u0301", "X"]),
    ],
)
def test_words_of_a_string(text, words):
    found, offsets = make_processor().split_words(text)
    assert found == words
    assert [text[start:end] for start, end in offsets] == words


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_words_of_any_string_are_in_order_and_leave_only_white_space(text):
    words, offsets = make_processor().split_words(text)
    end = 0
    for word, (start, stop) in zip(words, offsets, strict=True):
        assert word and text[start:stop] == word and start >= end
        assert not text[end:start].strip()
        end = stop
    assert not text[end:].strip()


# Pieces


def test_word_starts_point_at_the_first_piece_of_each_word(processor):
    batch = processor(SENTENCES)
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["word_starts"].shape == (4, 6)
    for row, words in enumerate(SENTENCES):
        reference = processor.tokenizer(words, is_split_into_words=True)
        assert batch["input_ids"][row][: len(reference["input_ids"])].tolist() == reference["input_ids"]
        ids = reference.word_ids()
        assert batch["word_starts"][row].tolist() == [ids.index(k) for k in range(len(words))] + [-1] * (
            6 - len(words)
        )
        assert batch["attention_mask"][row].sum() == len(ids)
    assert set(batch) == {"input_ids", "attention_mask", "word_starts"}


def test_padding_on_the_left_moves_the_word_starts(processor):
    right = processor(SENTENCES)
    processor.tokenizer.padding_side = "left"
    left = processor(SENTENCES)
    for row, words in enumerate(SENTENCES):
        for word in range(len(words)):
            first = [batch["input_ids"][row, batch["word_starts"][row, word]] for batch in (left, right)]
            assert first[0] == first[1]
    assert left["attention_mask"][1, 0] == 0


def test_padding_options(processor):
    assert processor(SENTENCES, pad_to_multiple_of=16)["input_ids"].shape[1] % 16 == 0
    assert processor(SENTENCES, padding="max_length", max_length=50)["input_ids"].shape[1] == 50


def test_labels_stand_at_their_words(processor):
    labels = [[1, 0, 1, 0, 2, 0], [0, 3, 4, 0, 0], [0, 1, 0], [3, 4, 4, 0]]
    batch = processor(SENTENCES, word_labels=labels)
    for row, values in enumerate(labels):
        assert batch["labels"][row].tolist() == values + [-100] * (6 - len(values))
    assert processor("Jordan met Anne", word_labels=[1, 0, 1])["labels"].tolist() == [[1, 0, 1]]


def test_a_string_and_its_words_give_the_same(processor):
    text = "Jordan met Anne-Marie in Paris."
    for name, value in processor(text).items():
        assert torch.equal(value, processor([SENTENCES[0]])[name])
        assert torch.equal(value, processor([text])[name])


@pytest.mark.parametrize("word", ["\u200b", "\ufe0f", "\x01", "\u00ad"])
def test_a_word_without_pieces_becomes_the_unknown_piece(word):
    processor = make_processor()
    batch = processor([["in", word, "Paris"]], word_labels=[[0, 1, 2]])
    assert processor.tokenizer([["in", word, "Paris"]], is_split_into_words=True).word_ids(0).count(1) <= 1
    assert (batch["word_starts"][0] >= 0).all() and batch["labels"].tolist() == [[0, 1, 2]]
    assert processor.piece_counts(["in", word, "Paris"])[1] == 1
    if not processor.tokenizer([[word]], is_split_into_words=True, add_special_tokens=False)["input_ids"][0]:
        assert batch["input_ids"][0, batch["word_starts"][0, 1]] == processor.tokenizer.unk_token_id


def test_empty_sentences_have_no_words(processor):
    batch = processor(["", "Paris", []], word_labels=[[], [1], []])
    assert (batch["word_starts"] >= 0).sum(1).tolist() == [0, 1, 0]
    assert (batch["labels"] != -100).sum(1).tolist() == [0, 1, 0]
    assert processor("")["word_starts"].shape == (1, 1)
    assert processor.piece_counts([]) == []


# Length


def test_a_sentence_that_is_too_long_is_an_error_with_a_way_out(processor):
    with pytest.raises(
        ValueError, match=r"Sentence 1 has \d+ pieces in 100 words; the limit is 62.*processor.windows"
    ):
        processor([["Paris"], ["Paris"] * 100])


def test_truncation_is_counted_and_said(processor, caplog):
    words = ["Paris"] * 100
    fits = processor.max_pieces // processor.piece_counts(["Paris"])[0]
    batch = processor([words], word_labels=[[0] * 100], truncation=True)
    assert (batch["word_starts"] >= 0).sum() == fits == (batch["labels"] != -100).sum()
    assert batch["input_ids"].shape[1] <= 64
    assert processor.truncated_words == 100 - fits
    assert f"cut from 100 to {fits} words" in caplog.text


def test_one_word_longer_than_the_tower_takes_is_read_by_its_beginning(caplog):
    batch = make_processor(unigram)(["xyz" * 100])
    assert batch["input_ids"].shape == (1, 64) and batch["word_starts"].tolist() == [[1]]
    assert "its first 62 are read" in caplog.text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=80), st.integers(0, 11), st.integers(14, 40))
def test_windows_partition_the_sentence_and_fit(counts, stride, max_length):
    processor = make_processor()
    windows = processor.windows_of(counts, stride, max_length)
    assert [keep for window in windows for keep in range(window.keep_start, window.keep_stop)] == list(
        range(len(counts))
    )
    for window in windows:
        assert window.start <= window.keep_start <= window.keep_stop <= window.stop
        assert sum(counts[window.start : window.stop]) <= max_length - 2
    for left, right in zip(windows, windows[1:], strict=False):
        shared = sum(counts[right.start : left.stop])
        assert shared <= stride and left.start < right.start and left.stop < right.stop
        # as much context as whole words allow, and the next word has room
        more = shared + counts[right.start - 1]
        assert right.start == left.start + 1 or more > stride or more + counts[left.stop] > max_length - 2


def test_windows_of_ten_thousand_words_encode_without_loss(processor):
    words = [f"Paris{n % 7}" for n in range(10_000)]
    windows = processor.windows(words, stride=16)
    batch = processor([words[w.start : w.stop] for w in windows])
    assert int((batch["word_starts"] >= 0).sum()) == sum(w.stop - w.start for w in windows)
    assert sum(w.keep_stop - w.keep_start for w in windows) == 10_000


def test_a_short_sentence_is_one_window(processor):
    assert processor.windows(["Paris"], stride=8) == [Window(0, 1, 0, 1)]
    assert processor.windows([], stride=8) == [Window(0, 0, 0, 0)]


@pytest.mark.parametrize(
    ("stride", "max_length", "message"),
    [(62, None, "`stride` is 62"), (-1, None, "`stride` is -1"), (4, 500, "`max_length` is 500"), (0, 2, "no room")],
)
def test_windows_that_cannot_be_are_errors(processor, stride, max_length, message):
    with pytest.raises(ValueError, match=message):
        processor.windows(["Paris"] * 100, stride, max_length)


# Images


def test_equal_images_have_equal_ids_however_they_are_given(tmp_path):
    image = noise()
    image.save(tmp_path / "a.png")
    content = encoded(image)
    kinds = [
        image,
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        content,
        np.asarray(image),
        torch.from_numpy(np.asarray(image)).permute(2, 0, 1),
        np.asarray(image) / 255,
        {"bytes": content, "path": None},
        {"bytes": None, "path": str(tmp_path / "a.png")},
    ]
    processor = make_processor()
    batch = processor(["Paris"] * (len(kinds) + 2), images=[*kinds, None, noise(seed=1)])
    ids = batch["image_ids"].tolist()
    assert len(set(ids[: len(kinds)])) == 1 and ids[-2] == 0 and ids[-1] not in (0, ids[0])
    assert all(torch.equal(batch["pixel_values"][0], pixels) for pixels in batch["pixel_values"][: len(kinds)])
    assert not batch["pixel_values"][-2].any()
    assert batch["image_ids"].dtype == torch.int64 and min(ids) >= 0


def test_pixels_are_the_image_processors(tmp_path):
    processor, image = make_processor(), noise()
    expected = processor.image_processor(images=image, return_tensors="pt")["pixel_values"]
    assert torch.equal(processor("Paris", images=image)["pixel_values"], expected)


def test_no_image_at_all():
    processor = make_processor()
    batch = processor(["a", "b"], images=[None, None])
    assert batch["image_ids"].tolist() == [0, 0] and "pixel_values" not in batch
    assert "image_ids" not in processor(["a", "b"])


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA", "LA", "1", "I;16", "I", "F", "YCbCr"])
def test_every_mode_shows_what_it_holds(mode):
    grey = np.tile(np.linspace(0, 255, 40, dtype=np.uint8), (24, 1))
    base = Image.fromarray(grey)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "P":
        image = base.convert("RGB").quantize(64)
    elif mode in ("CMYK", "YCbCr"):
        image = base.convert("RGB").convert(mode)
    else:
        image = base.convert(mode)
    shown = load_image(image)
    assert shown.mode == "RGB" and shown.size == (40, 24)
    tolerance = 260 if mode == "1" else 8
    assert np.abs(np.asarray(shown, dtype=int)[..., 0] - grey).max() <= tolerance


def test_sixteen_bit_files_are_not_washed_out():
    grey = np.tile(np.linspace(0, 65535, 40).astype(np.uint16), (24, 1))
    shown = np.asarray(load_image(encoded(Image.fromarray(grey))))
    assert abs(int(shown[..., 0].mean()) - 127) < 3


def test_transparency_lies_on_white_and_turned_photographs_stand_upright():
    assert load_image(Image.new("RGBA", (4, 4), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert load_image(encoded(noise(), "JPEG", exif=exif)).size == (24, 40)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(content).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Image of 0 bytes cannot be read"),
        (b"no image at all", "cannot be read as an image"),
        (encoded(noise())[:300], "cannot be read as an image"),
        (encoded(noise(size=(400, 300)), "JPEG")[:2000], "cannot be read as an image"),
        (encoded(noise())[:40] + b"\0" * 500, "cannot be read as an image"),
    ],
    ids=["empty", "text", "truncated-png", "truncated-jpeg", "corrupt"],
)
def test_broken_images_are_errors_that_say_so(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_image(content)
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match="broken.png"):
        make_processor()("Paris", images=tmp_path / "broken.png")


def test_decompression_bombs_are_refused_before_they_are_decoded(monkeypatch):
    decoded = []
    monkeypatch.setattr(Image.Image, "load", lambda self: decoded.append(self))
    header = encoded_size(20_000, 20_000)
    with pytest.raises(ValueError, match="decompression bomb.*MAX_IMAGE_PIXELS"):
        load_image(header)
    between = math.isqrt(Image.MAX_IMAGE_PIXELS) + 100  # where Pillow itself only warns
    with pytest.raises(ValueError, match="decompression bomb"):
        load_image(encoded_size(between, between))
    assert not decoded


def encoded_size(width: int, height: int) -> bytes:
    """A PNG whose header says so many pixels."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((3, 4, 5, 6), np.uint8), ValueError, r"shape \(3, 4, 5, 6\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "shape"),
        (np.full((4, 4, 3), 300), ValueError, "values 300..300; expected 0..255"),
        (np.full((4, 4, 3), 2.0), ValueError, "floats outside 0..1"),
        (np.full((4, 4, 3), np.nan), ValueError, "floats outside 0..1"),
        (17, TypeError, "type int; expected a PIL image, path, URL, bytes, array or None"),
        ("nowhere.jpg", ValueError, "Image nowhere.jpg does not exist"),
    ],
)
def test_what_is_no_image_is_an_error(image, error, message):
    with pytest.raises(error, match=message):
        load_image(image)


@pytest.fixture
def server():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/a.png":
                self.send_error(404)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(encoded(noise()))

        def log_message(self, *args):
            """Quiet."""

    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()


def test_images_by_url(server, monkeypatch):
    assert image_id(load_image(f"{server}/a.png")) == image_id(load_image(noise()))
    with pytest.raises(ValueError, match="could not be downloaded.*404"):
        load_image(f"{server}/b.png")
    monkeypatch.setattr("processing_2mner.URL_MAX_BYTES", 100)
    with pytest.raises(ValueError, match="more than"):
        load_image(f"{server}/a.png")


# The call


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"text": []}, ValueError, "`text` is an empty list"),
        ({"text": [17]}, TypeError, "Sentence 0 is of type int"),
        ({"text": [["a", None]]}, TypeError, "Sentence 0 is of type list; expected a string or a list of words"),
        ({"text": ["a", "b"], "images": [None]}, ValueError, "1 images for 2 sentences"),
        ({"text": ["a b"], "word_labels": [[0]]}, ValueError, "1 labels for the 2 words of sentence 0"),
        ({"text": ["a"], "return_tensors": "np"}, ValueError, "expected 'pt'"),
    ],
)
def test_a_wrong_call_is_an_error(arguments, error, message):
    with pytest.raises(error, match=message):
        make_processor()(**arguments)


def test_whole_images_are_resized_not_cropped(tmp_path):
    text, vision = tmp_path / "text", tmp_path / "vision"
    wordpiece().save_pretrained(text)
    CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 32, "width": 32}).save_pretrained(vision)
    picture = Image.new("RGB", (200, 50), "black")
    picture.paste("white", (0, 0, 60, 50))
    whole, cropped = (
        TwoMNERProcessor.from_towers(text, vision, whole_image=flag)("a", images=picture)["pixel_values"]
        for flag in (True, False)
    )
    assert whole.shape == cropped.shape == (1, 3, 32, 32)
    assert whole[0, 0, :, :8].min() > whole[0, 0, :, 12:].max()  # its left edge is seen
    assert cropped[0, 0].std() < 1e-3  # cut off


def test_a_saved_processor_works_alone_in_another_process(tmp_path):
    processor = make_processor(unigram)
    processor.save_pretrained(tmp_path / "saved")
    script = (
        "import json, sys; from transformers import AutoProcessor\n"
        "p = AutoProcessor.from_pretrained('saved', trust_remote_code=True)\n"
        "b = p(['Jordan met Anne', ''], images=['a.png', None])\n"
        "print(json.dumps({k: v.tolist() for k, v in b.items() if k != 'pixel_values'}), type(p).__name__)"
    )
    noise().save(tmp_path / "a.png")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    printed, name = done.stdout.rsplit(" ", 1)
    batch = processor(["Jordan met Anne", ""], images=[noise(), None])
    assert json.loads(printed) == {k: v.tolist() for k, v in batch.items() if k != "pixel_values"}
    assert name.strip() == "TwoMNERProcessor"
    assert Path(tmp_path / "saved" / "processing_2mner.py").is_file()


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises((ValueError, TypeError)):
        TwoMNERProcessor(BitImageProcessorPil(**IMAGE_PROCESSOR), Slow())
