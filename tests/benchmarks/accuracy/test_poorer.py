"""Poorer text: what is cut away, and that tags still belong to their words."""

from benchmarks.accuracy.poorer import AROUND, poorer

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
TOKENS = ["Then", ",", "in", "New", "York", ",", "Ann", "Lee", "of", "Rome", "sang", "."]
TAGS = [0, 0, 0, 1, 2, 0, 3, 4, 0, 1, 0, 0]


def made(way: str, relation: str = "depicts", name: str | None = "lee.jpg", row_id: str = "1") -> tuple:
    row = {"id": row_id, "tokens": TOKENS, "ner_tags": TAGS, "image_relation": relation, "image_name": name}
    found = poorer(row, {"lee.jpg": ["ann lee"], "york.jpg": ["New York"]}, LABELS, way)
    assert len(found["tokens"]) == len(found["ner_tags"])
    return found["tokens"], [LABELS[tag] for tag in found["ner_tags"]]


def test_letters_and_punctuation():
    assert made("lower") == ([token.lower() for token in TOKENS], [LABELS[tag] for tag in TAGS])
    tokens, tags = made("no_punctuation")
    assert tokens == ["Then", "in", "New", "York", "Ann", "Lee", "of", "Rome", "sang"]
    assert tags == ["O", "O", "B-LOC", "I-LOC", "B-PER", "I-PER", "O", "B-LOC", "O"]


def test_a_cut_keeps_the_entity_shown_and_its_surroundings():
    # The window begins inside New York: what is left of it is an entity of its own.
    assert made("cut") == (["York", ",", "Ann", "Lee", "of", "Rome"], ["B-LOC", "O", "B-PER", "I-PER", "O", "B-LOC"])
    assert made("cut", name="york.jpg")[0] == [",", "in", "New", "York", ",", "Ann"]
    assert made("all") == (
        ["new", "york", "ann", "lee", "of", "rome"],
        ["B-LOC", "I-LOC", "B-PER", "I-PER", "O", "B-LOC"],
    )


def test_the_entity_of_a_cut_is_drawn_where_none_is_shown():
    windows = {tuple(made("cut", relation="unrelated", row_id=str(number))[0]) for number in range(30)}
    assert len(windows) == 3  # one for each entity
    assert made("cut", relation="none", name=None, row_id="7") == made("cut", relation="unrelated", row_id="7")


def test_a_row_without_an_entity_keeps_its_first_words():
    row = {"id": "1", "tokens": list("abcdefgh"), "ner_tags": [0] * 8, "image_relation": "none", "image_name": None}
    assert poorer(row, {}, LABELS, "cut")["tokens"] == list("abcdefgh")[: 2 * AROUND + 1]
