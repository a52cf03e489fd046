"""The processor: words and offsets, tokens and padding, windows, images, and what it refuses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_pipelines import noise
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertTokenizerFast,
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    PreTrainedTokenizerFast,
    Siglip2ImageProcessorPil,
)

from processing_2mner import TwoMNERProcessor, Window

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
        vocab={token: index for index, token in enumerate(vocabulary)}, do_lower_case=False, model_max_length=64
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


def generic(kind: str) -> PreTrainedTokenizerFast:
    """
    A tokenizer of the generic class whose words begin with a mark of the space before them: `bpe` (byte-level BPE, as
    ModernBERT's) or `replaced` (as Gemma's).
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    if kind == "bpe":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<pad>"], initial_alphabet=[*LETTERS, "Ġ", "▁"]
    )
    tokenizer.train_from_iterator([" ".join(words) for words in SENTENCES] * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", model_max_length=64
    )


SIZE = {"height": 32, "width": 32}
IMAGE_PROCESSOR = {"size": SIZE, "crop_size": SIZE, "do_convert_rgb": True}


def make_processor(tokenizer=wordpiece) -> TwoMNERProcessor:
    return TwoMNERProcessor(BitImageProcessorPil(**IMAGE_PROCESSOR, do_center_crop=False), tokenizer())


@pytest.fixture(params=[wordpiece, unigram], ids=["wordpiece", "unigram"])
def processor(request):
    return make_processor(request.param)


# Words


# Words as the training data has them, by language: one ends at a space, and at a bar, which is not in the text itself.
WORDS = {
    "en": [
        "John|'s car is|n't here|.",
        "The Braves|' pitcher|, James|’s brother",
        "They do|n’t say|: we|'ll|, I|'m|, you|'ve",
        "O'Brien and Xi'an at five o'clock",
        "a two-year deal with Al-Gharafa|, Franco-Monégasque",
        "the U.S. and Washington D.C.|, Ph.D. in 1957",
        "Lyndon B. Johnson|, J. K. Rowling|, J.K. Rowling|, St. Louis|, No. 1",
        "Dr. Dre vs. Mr. Cooper Jr.|, etc.|)",
        "Vitamin C|.",
        "R&B|, AT&T|, Texas A&M|; black|&|white|; fish & chips",
        "a 4|-|3|-|3 formation|, 2009|-|10|, 1|–|0|, and|/|or",
        "$|202,901,000|, 3.5|%|, 20th|, 12:30",
        "Amazon.com and Last.fm|.|Then|.",
    ],
    "de": [
        "Michael J. Fox|, z.B. in der U.S. Army|, bzw. Nr. 5",
        "der US-amerikanische Post-Doktorand|, 75-minütiges|, 400-Meter-Lauf",
        "beim 2:1|-|Sieg gegen den FC St. Pauli|, 4:4 im Derby",
        "Süd|- und Nordauswahl|, 2000|/|01|, 12.000.000 Dollar",
        "wie geht|'s|, Hans|' Auto|, Grimm'sche",
        "„|Electro-Metal Pop-Oper|“|, ‚|so|‘|, »|so|«",
        "1990er|, 590 km|²|, 192,5 kg",
    ],
    "fr": [
        "l'|Élysée et d'|Artagnan|, qu'|elle|, jusqu'|en|, s'|il|, C'|est l’|un d’|eux",
        "aujourd'hui|, aujourd’hui|, main-d'œuvre",
        "Jean-Luc Nancy|, lui-même|, Île-de-France|, Aix-en-Provence",
        "celui|-ci|, cette ville|-là",
        'l\'|"|asado|"|, « guerre »|…|, et|...',
        "M. Dupont|, J. Searle Dawley|, etc.|)",
        "6|-|4|, 3|-|6|; 0,5 km",
    ],
    "es": [
        "¿|Qué|? ¡|Sí|! ¿|¡|Cómo|!|?",
        "Moravia-Silesia|, centro-este|, 2:0|, 9,500 copias|, 5,2",
        "la A-League 2009|-|10|, Cray-2|, el 18º equipo",
        "«|Evita|»|, J. K. Rowling|, John F. Kennedy",
    ],
    "everywhere": [
        "",
        "Jordan",
        "we are #|1",
        "#NepalQuake|, #BlackLivesMatter|! #1984Book|, #été|-|x C|# no|#|b|",
        "@me|, @Real_Me2|: hi",
        "👨‍👩‍👧|🇩🇪|🇫🇷|👍🏽 1️⃣ 🏳️‍🌈",
        "siehe https://x.org/a-b?c=1|, (|www.x.org/page|)|.",
        "mail to a.b-c@mail.example.org|, now",
        " \n\t\u00a0\u3000",
        "Cafe\u0301 Mün\u00adchen",
        "\"|a|\" '|b|' “|c|” ‘|e|’ (|f|) [|g|]",
    ],
}


@pytest.mark.parametrize("marked", [marked for language in WORDS.values() for marked in language])
def test_words_of_a_string(marked):
    text = marked.replace("|", "")
    words, offsets = make_processor().split_words(text)
    assert words == marked.replace("|", " ").split()
    assert [text[start:end] for start, end in offsets] == words


INSIDE = ["\u00ad", "\u200c", "\u200d", "\u2060"]  # a hyphen that may be shown, joiners: parts of a word they stand in
NOT_SHOWN = [
    *[" ", "\u00a0", "\u2028", "\u200b", "\ufeff", "\u200e", "\u061c", "\u202e", "\u2066"],  # spaces, directions
    *["\x00", "\x1c", "\x1f", "\x7f", "\x85"],  # control characters
    *["\u2061", "\u180e", "\U000e0041"],  # an invisible operator, a vowel separator, a tag
]


@pytest.mark.parametrize("character", NOT_SHOWN + INSIDE)
def test_what_is_not_shown_is_space_between_words(character):
    split = make_processor().split_words
    for text in ("Hermes# Bay", "Hermes #Bay", "#Hermes # Bay#", "Hermes ###\tBay"):
        text = text.replace("#", character)
        words, offsets = split(text)
        assert words == ["Hermes", "Bay"] and [text[start:end] for start, end in offsets] == words
    assert split(character) == split(3 * character) == ([], [])
    inside = [f"Hermes{character}Bay"]
    assert split(f"Hermes{character}Bay")[0] == (inside if character in INSIDE else ["Hermes", "Bay"])
    # Nor does it hide what comes before a word that reads it: J. Fox, vs. him, a link's end.
    for first, second in (("J.", "Fox"), ("vs.", "him"), ("http://x.org/a", "b")):
        assert split(f"{first}{character} {second}")[0] == [first, second]


@pytest.mark.parametrize("character", ["\ufe0f", "\u034f", "\u3164", "\u1160"])
def test_letters_and_marks_that_are_not_shown_are_no_words(character):
    split = make_processor().split_words
    assert split(character) == split(f" {character} ") == ([], [])
    assert split(f"Hermes {character} Bay")[0] == split(f"{character}Hermes Bay")[0] == ["Hermes", "Bay"]
    assert split(f"Her{character}mes")[0] == [f"Her{character}mes"]


def test_joiners_stay_inside_the_words_of_scripts_that_need_them():
    for word in ("می\u200cخواهم", "क्\u200dष", "Mün\u00adchen"):
        assert make_processor().split_words(f"{word} {word}\u200d {word}")[0] == [word] * 3


# Tokens


def test_word_starts_point_at_the_first_token_of_each_word(processor):
    batch = processor(SENTENCES)
    for row, words in enumerate(SENTENCES):
        reference = processor.tokenizer(words, is_split_into_words=True)
        assert batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist() == reference["input_ids"]
        starts = [reference.word_ids().index(word) for word in range(len(words))]
        assert batch["word_starts"][row].tolist() == starts + [-1] * (6 - len(words))
    assert set(batch) == {"input_ids", "attention_mask", "word_starts"}
    assert processor(SENTENCES, pad_to_multiple_of=16)["input_ids"].shape[1] % 16 == 0


@pytest.mark.parametrize("kind", ["bpe", "replaced"])
def test_words_keep_the_space_before_them(kind, tmp_path):
    generic(kind).save_pretrained(tmp_path / "text")
    BitImageProcessorPil(**IMAGE_PROCESSOR).save_pretrained(tmp_path / "vision")
    TwoMNERProcessor.from_towers(tmp_path / "text", tmp_path / "vision").save_pretrained(tmp_path / "saved")
    for processor in (
        TwoMNERProcessor.from_towers(tmp_path / "text", tmp_path / "vision"),
        TwoMNERProcessor.from_pretrained(tmp_path / "saved"),
    ):
        for words in SENTENCES:
            expected = generic(kind)(" " + " ".join(words))["input_ids"]
            batch = processor([words])
            assert batch["input_ids"][0].tolist() == expected
            tokens = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0, batch["word_starts"][0]].tolist())
            assert {token[0] for token in tokens} == {"Ġ" if kind == "bpe" else "▁"}


def test_padding_on_the_left_moves_the_word_starts(processor):
    right = processor(SENTENCES)
    processor.tokenizer.padding_side = "left"
    left = processor(SENTENCES)
    words = right["word_starts"] >= 0
    first = [batch["input_ids"].gather(1, batch["word_starts"].clamp(min=0))[words] for batch in (left, right)]
    assert first[0].equal(first[1]) and left["attention_mask"][1, 0] == 0


def test_labels_stand_at_their_words(processor):
    sentences, labels = [*SENTENCES, "", []], [[1, 0, 1, 0, 2, 0], [0, 3, 4, 0, 0], [0, 1, 0], [3, 4, 4, 0], [], []]
    batch = processor(sentences, word_labels=labels)
    for row, values in enumerate(labels):
        assert batch["labels"][row].tolist() == values + [-100] * (6 - len(values))
        assert (batch["word_starts"][row] >= 0).sum() == len(values)
    assert processor("Jordan met Anne", word_labels=[1, 0, 1])["labels"].tolist() == [[1, 0, 1]]
    assert processor("")["word_starts"].shape == (1, 1) and processor.token_counts([]) == []


def test_a_string_and_its_words_give_the_same(processor):
    expected, text = processor([SENTENCES[0]]), "Jordan met Anne-Marie in Paris."
    for one in (text, [text]):
        torch.testing.assert_close(dict(processor(one)), dict(expected), rtol=0, atol=0)


@pytest.mark.parametrize("word", ["\u200b", "\ufe0f", "\x01", "\u00ad", "\ud800"])
def test_a_word_that_the_tokenizer_drops_becomes_the_unknown_token(word):
    processor = make_processor()
    batch = processor([["in", word, "Paris"]], word_labels=[[0, 1, 2]])
    assert (batch["word_starts"][0] >= 0).all() and batch["labels"].tolist() == [[0, 1, 2]]
    assert batch["input_ids"][0, batch["word_starts"][0, 1]] == processor.tokenizer.unk_token_id
    assert processor.token_counts(["in", word, "Paris"])[1] == 1


# Length


def test_a_sentence_that_is_too_long_is_an_error_with_a_way_out(processor):
    message = r"Sentence 1 has \d+ tokens in 100 words; the limit is 62.*processor.windows"
    with pytest.raises(ValueError, match=message):
        processor([["Paris"], ["Paris"] * 100])


def test_one_word_longer_than_the_tower_takes_is_read_by_its_beginning(caplog):
    batch = make_processor(unigram)(["xyz" * 100])
    assert batch["input_ids"].shape == (1, 64) and batch["word_starts"].tolist() == [[1]]
    assert "its first 62 are read" in caplog.text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=80), st.integers(0, 11), st.integers(14, 40))
def test_windows_partition_the_sentence_and_fit(counts, stride, max_length):
    processor = make_processor()
    windows = processor.windows_of(counts, stride, max_length)
    kept = [word for window in windows for word in range(window.keep_start, window.keep_stop)]
    assert kept == list(range(len(counts)))
    for window in windows:
        assert window.start <= window.keep_start <= window.keep_stop <= window.stop
        assert sum(counts[window.start : window.stop]) <= max_length - 2
    for left, right in zip(windows, windows[1:], strict=False):
        shared = sum(counts[right.start : left.stop])
        assert shared <= stride and left.start < right.start and left.stop < right.stop
        # as much context as whole words allow, and the next word has room
        more = shared + counts[right.start - 1]
        assert right.start == left.start + 1 or more > stride or more + counts[left.stop] > max_length - 2


@pytest.mark.parametrize(
    ("stride", "max_length", "message"),
    [(62, None, "`stride` is 62"), (-1, None, "`stride` is -1"), (4, 500, "`max_length` is 500"), (0, 2, "no room")],
)
def test_windows_that_cannot_be_are_errors(processor, stride, max_length, message):
    assert processor.windows(["Paris"], stride=8) == [Window(0, 1, 0, 1)]
    assert processor.windows([], stride=8) == [Window(0, 0, 0, 0)]
    with pytest.raises(ValueError, match=message):
        processor.windows(["Paris"] * 100, stride, max_length)


# Images


def test_equal_images_are_one_however_they_are_given(tmp_path):
    image, path = noise(), tmp_path / "a.png"
    image.save(path)
    kinds = [
        *(image, str(path), path, path.read_bytes(), np.asarray(image), np.asarray(image) / 255),
        torch.from_numpy(np.array(image)).permute(2, 0, 1),
        *({"bytes": path.read_bytes(), "path": None}, {"bytes": None, "path": str(path)}),
    ]
    processor = make_processor()
    assert "image_index" not in processor(["a", "b"], images=[None, None])
    batch = processor(["Paris"] * (len(kinds) + 2), images=[*kinds, None, noise(seed=1)])
    assert batch["image_index"].tolist() == [0] * len(kinds) + [-1, 1]
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    ids = batch["image_ids"]
    assert ids.dtype == torch.int64 and len(set(ids.tolist())) == 2 and min(ids) > 0
    for row, shown in enumerate((image, noise(seed=1))):
        expected = processor.image_processor(images=shown, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(batch["pixel_values"][row], expected)


# The call


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"text": []}, ValueError, "`text` is an empty list"),
        *[
            ({"text": [words]}, TypeError, "Sentence 0 is of type .*; expected a string or a list of words")
            for words in (17, None, b"ab", {"a": "b"}, {"a", "b"}, ["a", None], ["a", b"b"], [["a"]], np.array([1, 2]))
        ],
        ({"text": ["a", "b"], "images": [None]}, ValueError, "1 images for 2 sentences"),
        ({"text": ["a b"], "word_labels": [[0]]}, ValueError, "1 labels for 2 words in sentence 0"),
        ({"text": ["a"], "return_tensors": "np"}, ValueError, "expected 'pt'"),
    ],
)
def test_a_wrong_call_is_an_error(arguments, error, message):
    with pytest.raises(error, match=message):
        make_processor()(**arguments)


@pytest.mark.parametrize(
    "image_processor",
    [
        CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size=SIZE),
        ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875),
    ],
    ids=["clip", "convnext"],
)
def test_whole_images_are_resized_not_cropped(image_processor, tmp_path):
    text, vision = tmp_path / "text", tmp_path / "vision"
    wordpiece().save_pretrained(text)
    image_processor.save_pretrained(vision)
    image = Image.new("RGB", (200, 50), "black")
    image.paste("white", (0, 0, 60, 50))
    readers = [TwoMNERProcessor.from_towers(text, vision, whole_image=whole) for whole in (True, False)]
    whole, cropped = (reader("a", images=image)["pixel_values"] for reader in readers)
    assert whole.shape == cropped.shape == (1, 3, 32, 32)
    assert whole[0, 0, :, :8].min() > whole[0, 0, :, 12:].max()  # its left edge is seen
    assert cropped[0, 0].std() < 1e-3  # cut off


def test_an_image_processor_without_a_size_is_refused(tmp_path):
    wordpiece().save_pretrained(tmp_path / "text")
    Siglip2ImageProcessorPil().save_pretrained(tmp_path / "vision")
    with pytest.raises(ValueError, match="resizes to no fixed size .* Pass whole_image=False"):
        TwoMNERProcessor.from_towers(tmp_path / "text", tmp_path / "vision")
