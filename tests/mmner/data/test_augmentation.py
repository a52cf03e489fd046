"""Sentences as they are typed in posts: which words and tags are left, how often, and what never changes."""

import random

from dataset_script.rows import iob2_problems
from mmner.data.augmentation import STYLES, augmented, lower, no_punctuation, posted, upper
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


def test_a_post_keeps_its_names_or_cuts_them_off_and_its_tags_are_iob2():
    name = {"LOC": "newyork", "PER": "annstraße"}
    seen = set()
    for seed in range(300):
        tokens, tags = posted(TOKENS, TAGS, random.Random(seed))
        assert len(tokens) == len(tags) and all(token.strip() for token in tokens) and not list(iob2_problems(tags))
        for kind, start, end in find_entities([tags])[0]:
            letters = "".join(filter(str.isalnum, "".join(tokens[start:end]))).lower()
            assert letters == name[kind], (tokens, tags)
        if tokens[:1] == ["RT"]:
            seen.add("RT")
        seen |= {kind for kind in ("http://t.co/", "#NewYork", "#newyork", "@", "…") if any(kind in w for w in tokens)}
    assert seen == {"RT", "http://t.co/", "#NewYork", "#newyork", "@", "…"}
