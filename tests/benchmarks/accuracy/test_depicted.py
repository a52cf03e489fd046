"""What is wrong with the entity that a picture shows: counts and repairs, against hand-made ones."""

import pytest

from benchmarks.accuracy.depicted import WAYS, depicted_mentions, facts_of, put_right

MENTIONS = {"flag": {"Chile", "Republic of Chile"}, "face": {"Ann Lee"}}


def row(words, tags, picture="flag", relation="depicts"):
    return {"tokens": words.split(), "tags": tags.split(), "image_name": picture, "image_relation": relation}


def predicted(own, hidden):
    return {"predicted_tags": own.split(), "text_only_tags": hidden.split()}


def test_depicted_is_what_bears_a_name_of_the_own_picture():
    words, tags = "Republic of Chile beat Ann Lee", "B-LOC I-LOC I-LOC O B-PER I-PER"
    assert depicted_mentions(row(words, tags), MENTIONS) == {("LOC", 0, 3)}
    assert depicted_mentions(row(words, tags, "face"), MENTIONS) == {("PER", 4, 6)}
    assert depicted_mentions(row(words, tags, relation="unrelated"), MENTIONS) == set()
    assert depicted_mentions(row("Chile won", "O O"), MENTIONS) == set()


def test_only_what_is_shown_is_put_right_and_only_so_far():
    gold = "B-LOC I-LOC O B-PER I-PER O B-ORG".split()
    found = "B-LOC O O B-ORG I-ORG O B-LOC".split()  # a boundary and two types
    person, place = ("PER", 3, 5), ("LOC", 0, 2)
    assert put_right(gold, found, {person, place}, ()) == {("LOC", 0, 1), ("ORG", 3, 5), ("LOC", 6, 7)}
    assert put_right(gold, found, {person}, ("type",)) == {("LOC", 0, 1), person, ("LOC", 6, 7)}
    assert put_right(gold, found, {person, place}, ("type", "boundary")) == {place, person, ("LOC", 6, 7)}
    assert put_right(gold, ["O"] * 7, {place}, ("missed",)) == {place}


def test_a_run_is_counted_by_hand():
    rows = [
        row("Chile beat Peru", "B-LOC O B-LOC"),  # the depicted one has a wrong type, which its picture repairs
        row("Chile beat Peru", "B-LOC O B-LOC"),  # right, and broken by its picture
        row("in Chile", "O B-LOC"),  # missed
        row("Peru won", "B-LOC O", "face", "unrelated"),  # broken by a picture of something else
        row("Peru won", "B-LOC O", None, "none"),
    ]
    said = [
        predicted("B-LOC O B-ORG", "B-ORG O B-ORG"),
        predicted("B-ORG O B-LOC", "B-LOC O B-LOC"),
        predicted("O O", "O O"),
        predicted("B-PER O", "B-LOC O"),
        predicted("O O", "O O"),
    ]
    facts = facts_of(rows, said, MENTIONS)
    f1 = facts.pop("f1")
    assert facts == {
        "mentions": 3,
        "type": 1,
        "missed": 1,
        "boundary": 0,
        "repaired": 1,
        "broken": 1,
        "unrelated_repaired": 0,
        "unrelated_broken": 1,
    }
    # Of five entities in the first three sentences, four are predicted and two right; then three; then four of five.
    assert [f1[way] for way in WAYS] == pytest.approx([4 / 9, 6 / 9, 8 / 10, 8 / 10], abs=1e-5)
