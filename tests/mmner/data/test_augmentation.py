"""Sentences as they are typed in posts: which words and tags are left, how often, and what never changes."""

import random

from mmner.data.augmentation import STYLES, augmented, lower, no_punctuation, upper
from mmner.entity_f1 import find_entities

TOKENS = ["Then", ",", "in", "New", "-", "York", ":", "Ann", "Straße", "...", "sang", "!"]
TAGS = ["O", "O", "O", "B-LOC", "I-LOC", "I-LOC", "O", "B-PER", "I-PER", "O", "O", "O"]


def test_each_style():
    assert lower(TOKENS, TAGS) == ([token.lower() for token in TOKENS], TAGS)
    assert upper(TOKENS, TAGS) == ([token.upper() for token in TOKENS], TAGS)
    tokens, tags = no_punctuation(TOKENS, TAGS)
    assert tokens == ["Then", "in", "New", "-", "York", "Ann", "Straße", "sang"]  # the hyphen is part of a name
    assert tags == ["O", "O", "B-LOC", "I-LOC", "I-LOC", "B-PER", "I-PER", "O"]
    assert no_punctuation(["?", "!"], ["O", "O"]) == (["?", "!"], ["O", "O"])
    assert no_punctuation([], []) == ([], [])


def test_every_style_is_drawn_and_keeps_the_entities():
    before = list(TOKENS)
    drawn = {tuple(augmented(TOKENS, TAGS, random.Random(seed))[0]) for seed in range(60)}
    assert len(drawn) == len(STYLES) and TOKENS == before
    for seed in range(20):
        tokens, tags = augmented(TOKENS, TAGS, random.Random(seed))
        names = [
            (kind, " ".join(tokens[start:end]).lower().replace("ß", "ss"))
            for kind, start, end in sorted(find_entities([tags])[0], key=lambda entity: entity[1])
        ]
        assert names == [("LOC", "new - york"), ("PER", "ann strasse")]
