"""Near-duplicates against comparing all pairs, on sentences and pictures made for it."""

import random
from itertools import combinations

import networkx
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from test_load_image import encoded

from dataset_script.building.similarity import (
    IMAGE_DISTANCE,
    NEAR_DUPLICATE,
    groups,
    image_hash,
    near_duplicate_images,
    near_duplicate_sentences,
)

VOCABULARY = [f"{first}{second}" for first in "kmnprst" for second in ("a", "ena", "ilo", "oru", "uva", "ey")]


def _words_of(tokens):
    """What the similarity is defined on, written anew: words without case, those with a letter or digit."""
    return [token.lower() for token in tokens if any(character.isalnum() for character in token)]


def _similarity(first, second):
    first, second = _words_of(first), _words_of(second)
    if len(first) < 5 or len(second) < 5:
        return float(first == second)
    one, other = ({(words[i], words[i + 1]) for i in range(len(words) - 1)} for words in (first, second))
    return len(one & other) / len(one | other)


@pytest.fixture(scope="module")
def sentences():
    """Sentences, and copies of some with words changed, dropped and added, in a shuffled order."""
    draw = random.Random(3)
    made = [draw.choices(VOCABULARY, k=draw.randint(1, 30)) for _ in range(250)]
    for sentence in draw.choices(made, k=250):
        copy = list(sentence)
        for _ in range(draw.randint(0, 3)):
            where = draw.randrange(len(copy))
            copy[where : where + draw.randint(0, 1)] = draw.choices(VOCABULARY, k=draw.randint(1, 2))
        made.append([word.upper() for word in copy] + ["!"])
    draw.shuffle(made)
    return made


def test_sentences_agree_with_comparing_all_pairs(sentences):
    found = {
        (first, second): similarity for first, second, similarity in near_duplicate_sentences(enumerate(sentences))
    }
    for (first, second), similarity in found.items():
        assert first < second
        assert similarity == pytest.approx(_similarity(sentences[first], sentences[second]))
        assert similarity >= NEAR_DUPLICATE
    # Of sentences with the same words only the first is compared with others.
    first_of: dict[tuple, int] = {}
    for number, tokens in enumerate(sentences):
        first_of.setdefault(tuple(_words_of(tokens)), number)
    expected = {
        (first, second)
        for first, second in combinations(sorted(first_of.values()), 2)
        if _similarity(sentences[first], sentences[second]) >= NEAR_DUPLICATE
    }
    assert len(expected) >= 5
    assert len(expected - found.keys()) <= 0.02 * len(expected)
    equal = {
        (first_of[tuple(_words_of(tokens))], number)
        for number, tokens in enumerate(sentences)
        if first_of[tuple(_words_of(tokens))] != number
    }
    assert equal and {pair for pair, similarity in found.items() if pair in equal and similarity == 1} == equal


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a b c d", "a b c d", True),
        ("la la", "la la la la la", False),
        ("Der Kanzler besucht heute Paris .", "der kanzler besucht heute paris", True),
        ("Ann met Bo in Kiel http://t.co/a", "Ann met Bo in Kiel http://t.co/b", True),
        ("? !", "? !", True),
    ],
)
def test_short_sentences_must_be_equal(first, second, expected):
    pairs = list(near_duplicate_sentences([(7, first.split()), (4, second.split())]))
    assert pairs == ([(7, 4, 1.0)] if expected else [])


def test_empty_odd_and_equal_input():
    pairs = list(near_duplicate_sentences((number, "a b c d e f".split()) for number in range(1000)))
    assert pairs == [(0, number, 1.0) for number in range(1, 1000)]
    assert list(near_duplicate_images((name, 5) for name in "abcd")) == [("a", name, 0) for name in "bcd"]
    assert list(near_duplicate_images([])) == []
    assert list(near_duplicate_sentences([])) == []
    assert list(near_duplicate_sentences([(0, []), (1, ["\ud800"]), (2, [])])) == [(0, 2, 1.0)]


def test_image_hashes_agree_with_comparing_all_pairs():
    draw = random.Random(5)
    hashes = [draw.getrandbits(64) for _ in range(300)]
    for bits in list(hashes):
        for _ in range(draw.randint(0, 14)):
            bits ^= 1 << draw.randrange(64)
        hashes.append(bits)
    hashes = list(dict.fromkeys(hashes))
    found = list(near_duplicate_images(enumerate(hashes)))
    expected = {
        (first, second, (hashes[first] ^ hashes[second]).bit_count())
        for first, second in combinations(range(len(hashes)), 2)
        if (hashes[first] ^ hashes[second]).bit_count() <= IMAGE_DISTANCE
    }
    assert len(found) == len(set(found))
    assert {(*sorted((first, second)), bits) for first, second, bits in found} == expected
    assert len(expected) > 20


def _drawn(seed):
    draw = random.Random(seed)
    image = Image.new("RGB", (160, 120), tuple(draw.choices(range(256), k=3)))
    pen = ImageDraw.Draw(image)
    for _ in range(9):
        x, y = draw.randrange(120), draw.randrange(90)
        pen.ellipse(
            (x, y, x + draw.randint(15, 70), y + draw.randint(15, 70)), fill=tuple(draw.choices(range(256), k=3))
        )
    return image.filter(ImageFilter.GaussianBlur(1))


def test_copies_of_an_image_are_found_and_others_are_not():
    pictures = {}
    for seed in range(40):
        image = _drawn(seed)
        pictures[seed, "as it is"] = image
        pictures[seed, "small"] = image.resize((80, 60))
        pictures[seed, "jpeg"] = encoded(image, "JPEG", quality=60)
        pictures[seed, "brighter"] = ImageEnhance.Brightness(image).enhance(1.1)
    hashes = [(name, image_hash(picture)) for name, picture in pictures.items()]
    joined = groups(near_duplicate_images(hashes))
    assert {(name[0], group[0]) for name, group in joined.items()} == {(seed, seed) for seed in range(40)}
    assert len(joined) >= 0.95 * len(pictures)


def test_image_hash_of_file_bytes_and_transparency(tmp_path):
    image = _drawn(1)
    image.save(tmp_path / "a.png")
    assert image_hash(tmp_path / "a.png") == image_hash((tmp_path / "a.png").read_bytes()) == image_hash(image)
    hidden = image.convert("RGBA")
    hidden.putalpha(0)
    assert image_hash(hidden) == image_hash(Image.new("RGB", image.size, "white"))
    with pytest.raises(OSError):
        image_hash(b"no picture")


def test_groups_are_the_connected_components():
    assert groups([]) == {}
    assert groups([("d", "c"), ("b", "a", 0.9), ("c", "a"), ("x", "x")]) == {
        **dict.fromkeys("abcd", "a"),
        "x": "x",
    }
    draw = np.random.default_rng(0)
    pairs = draw.integers(0, 300, (200, 2)).tolist()
    joined = groups(pairs)
    for component in networkx.connected_components(networkx.Graph(pairs)):
        assert {joined[member] for member in component} == {min(component)}
