"""The posts of this repository: markup, duplicates, and how varied they are in each language."""

import re
from collections import Counter
from pathlib import Path

import pytest

from dataset_script.formats.markup import read_markup
from dataset_script.rows import Row, check, iob2_spans

POSTS = Path(__file__).resolve().parent.parent / "posts"
LANGUAGES = ("de", "en", "es", "fr")


@pytest.fixture(scope="module", params=LANGUAGES)
def rows(request):
    found = [row for name in ("train", "validation") for row in read_markup(POSTS / request.param / f"{name}.txt")]
    for row in found:
        assert isinstance(row, Row), row
        row.lang = request.param
        check(row)
    return found


def share(rows, is_one):
    return sum(map(is_one, rows)) / len(rows)


def test_there_are_enough_and_no_two_are_nearly_the_same(rows):
    assert len(rows) >= 2200
    words = [{*re.findall(r"\w+", re.sub(r"https?://\S+", "", " ".join(row.tokens).lower()))} for row in rows]
    posts_of: dict[str, list[int]] = {}
    for index, own in enumerate(words):
        common = Counter(other for word in own for other in posts_of.get(word, ()))
        for other, number in common.items():
            assert number <= 0.6 * len(own | words[other]), (rows[other].tokens, rows[index].tokens)
        for word in own:
            posts_of.setdefault(word, []).append(index)


def test_types_are_the_four_and_each_has_its_share(rows):
    entities = [kind for row in rows for _, _, kind in iob2_spans(row.tags)]
    shares = {kind: number / len(entities) for kind, number in Counter(entities).items()}
    assert set(shares) == {"PER", "LOC", "ORG", "MISC"} and len(entities) > 1.5 * len(rows)
    assert min(shares.values()) > 0.17 and max(shares.values()) < 0.42
    names = Counter(
        (" ".join(row.tokens[start:end]).lower(), kind) for row in rows for start, end, kind in iob2_spans(row.tags)
    )
    assert len(names) > 2000 and max(names.values()) <= 12
    assert 0.12 < share(rows, lambda row: set(row.tags) == {"O"}) < 0.25


def test_they_are_written_as_posts_are(rows):
    texts = [" ".join(row.tokens) for row in rows]
    hashtags = [
        tag != "O" for row in rows for word, tag in zip(row.tokens, row.tags, strict=True) if word.startswith("#")
    ]
    assert 0.3 < share(texts, lambda text: "#" in text) < 0.6 and 0.4 < sum(hashtags) / len(hashtags) < 0.85
    assert 0.1 < share(texts, lambda text: text.startswith("RT @")) < 0.25
    assert 0.25 < share(texts, lambda text: "http" in text) < 0.5
    assert 0.08 < share(texts, str.islower) < 0.25 and 0.01 < share(texts, str.isupper) < 0.06
    assert 0.03 < share(texts, lambda text: text.endswith("…")) < 0.12
    lengths = sorted(len(row.tokens) for row in rows)
    assert lengths[0] <= 3 and 12 <= lengths[len(lengths) // 2] <= 22 and lengths[-1] >= 30


def test_no_handle_and_no_url_is_a_name(rows):
    for row in rows:
        for word, tag in zip(row.tokens, row.tags, strict=True):
            assert tag == "O" or not re.match(r"@\w|https?://", word), row.tokens
