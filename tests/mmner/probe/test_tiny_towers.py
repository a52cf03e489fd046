"""The tiny towers: a tokenizer without unknown words, and encoders that load as any others do."""

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from mmner.probe.tiny_towers import make_tiny_towers

SENTENCES = [["Jordan", "met", "Anne", "in", "Paris", "."], ["Der", "König", "spielt", "für", "Köln", "."]] * 20


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_tiny_towers(tmp_path_factory.mktemp("towers"), SENTENCES, vocab_size=400)


@pytest.mark.parametrize("word", ["Zürich", "北京", "👨‍👩‍👧", "a\u0301"])
def test_no_word_is_unknown(folders, word):
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    encoded = tokenizer([["Jordan", word, "."]], is_split_into_words=True)
    assert tokenizer.unk_token_id not in encoded["input_ids"][0]
    assert {1} <= set(encoded.word_ids(0))
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids).strip() == word


def test_towers_load_through_the_auto_classes_and_give_sequences(folders):
    tokenizer, text = AutoTokenizer.from_pretrained(folders[0]), AutoModel.from_pretrained(folders[0])
    states = text(**tokenizer("Jordan met Anne", return_tensors="pt", return_token_type_ids=False)).last_hidden_state
    assert states.shape[2] == text.config.hidden_size
    processor = AutoImageProcessor.from_pretrained(folders[1], backend="pil")
    pixels = processor(images=Image.new("L", (30, 90)), return_tensors="pt")["pixel_values"]
    grid = AutoModel.from_pretrained(folders[1])(pixel_values=pixels).last_hidden_state
    assert grid.shape[0] == 1 and grid[0].numel() > 0


def test_same_seed_same_weights_and_the_random_state_is_left_alone(tmp_path):
    before = torch.get_rng_state()
    first = make_tiny_towers(tmp_path / "a", SENTENCES, vocab_size=400)
    second = make_tiny_towers(tmp_path / "b", SENTENCES, vocab_size=400)
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(first, second, strict=True):
        weights = AutoModel.from_pretrained(one).state_dict(), AutoModel.from_pretrained(other).state_dict()
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
