"""Offsets under any Unicode: what the pipeline calls an entity is a piece of the caller's own string."""

import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_pipeline_2mner import TEXTS, check_layout, make_pipeline, make_towers, picture

import pipeline_2mner
from processing_2mner import WORD_PATTERN

# What goes wrong elsewhere: case that changes length (İ, ß, ﬁ), marks that combine, joiners, flags, skin tones,
# keycaps, text from right to left and its controls, spaces that are not ASCII, characters of two UTF-16 units, quotes
# of each language, apostrophes of both kinds.
DIFFICULT = st.sampled_from(
    "İ ı ß ẞ ŉ ﬁ Ǆ ΐ é e\u0301 ñ n\u0303 q\u0307\u0323 ç Œ œ ¿ ¡ « » „ “ ” ‚ ‘ ’ ' ` ´ \" "
    "… – — - ‐ ‑ \u00ad \u200b \u200c \u200d \u2060 \ufeff \ufe0f \u20e3 \u0301 \u202e "
    "\u202d \u2066 \u2069 \u200f אב שלום مرحبا العربية हिन्दी ไทย 日本 한 𝔘 𐐀 😀 👍🏽 👨‍👩‍👧 "
    "🏳️‍🌈 🇩🇪 🇫 1️⃣ ² ½ Ⅻ ٣ § € % # @ & / \\ _ . : ; , ! ? ( ) [ ] { } < > \x00 \x01 \x1f "
    "\x7f \x85 \u00a0 \u2003 \u3000 \u2028 \t \n \r\n http:// www. U.S. z.B. J. n't 's l' "
    "d’ qu' A&M 1:0-Sieg 1985-86 celui-ci a.b@c.org \ud800 \udfff".split(" ")
)
WORDS = st.sampled_from(
    "Jordan Paris L'Élysée d’Artagnan München Königin José Peña Jean-Claude O'Brien FC St. Pauli aujourd'hui Ångström "
    "the la der el und et y #NBA @me https://x.org/a?b=1".split(" ")
)
TEXT = st.one_of(
    st.text(st.characters(), max_size=24),  # any Unicode, halves of surrogate pairs too
    st.lists(st.one_of(WORDS, DIFFICULT, DIFFICULT, st.characters(codec="utf-8")), max_size=9).map("".join),
    st.lists(st.one_of(WORDS, WORDS, DIFFICULT), max_size=9).map(" ".join),
)


@pytest.fixture(scope="module")
def ner(tmp_path_factory):
    return make_pipeline(make_towers(tmp_path_factory.mktemp("towers")))


@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=TEXT, tags=st.binary(min_size=1, max_size=16))
@example(text="", tags=b"\1")
@example(text="İİİ İstanbul", tags=b"\1\2")
@example(text="a\u200db 👨‍👩‍👧\u0301 \u202eש\u202c", tags=b"\1\3")
def test_ten_thousand_strings_under_any_tags(ner, text, tags):
    """The way from words and tags to entities, with tags drawn at random: every span that can be found is."""
    words, offsets = ner.processor.split_words(text)
    row = [tags[word % len(tags)] % 5 for word in range(len(words))]
    prepared = pipeline_2mner.PreparedText(text, words, offsets, [])
    spans = list(ner._spans_of(row))
    prepared.found = [pipeline_2mner.Span(start, end, ner._begins[begin][0], 0.0) for start, end, begin, _ in spans]
    check_layout(text, ner.postprocess(prepared))
    # Every character that is no white space is in exactly one word, so that nothing can be out of an entity's reach.
    covered = [index for start, end in offsets for index in range(start, end)]
    assert covered == sorted(set(covered))
    inside = set(covered)
    assert not "".join(text[index] for index in range(len(text)) if index not in inside).strip()
    assert [text[start:end] for start, end in offsets] == words


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(TEXT, min_size=4, max_size=8), seen=st.booleans())
def test_the_whole_pipeline(ner, texts, seen):
    images = [picture("red") if seen and number % 2 else None for number in range(len(texts))]
    for text, entities in zip(texts, ner(texts, images=images, batch_size=8), strict=True):
        check_layout(text, entities)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        "a@" + "a." * 500_000,
        "🇩🇪" * 250_000,
        "😀" + "\u0301" * 1_000_000,
        "http://" + "." * 1_000_000,
        "'" * 300_000,
        "a\u00ad" * 300_000 + "a",
        "1:1-" * 200_000,
    ],
    ids=["word", "mail", "flags", "marks", "url", "quotes", "soft-hyphens", "scores"],
)
def test_no_string_takes_more_than_linear_time(text):
    started = time.process_time()
    ends = [match.end() for match in WORD_PATTERN.finditer(text)]
    assert time.process_time() - started < 10 and ends[-1] == len(text)


def test_the_strings_above_have_entities(ner):
    """Else the whole pipeline would have been tested on empty lists."""
    assert sum(len(entities) for entities in ner(TEXTS)) >= 5
