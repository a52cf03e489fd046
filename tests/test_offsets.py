"""Offsets under any Unicode: what the pipeline calls an entity is a part of the caller's own string."""

import time
import unicodedata

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny_pipelines import check_layout, plain_image

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


# Not shown by Unicode's Default_Ignorable_Code_Point, though no control or format character: a joiner, fillers of
# Hangul and Khmer, variation selectors, and places kept free for more. And format characters that are shown.
NOT_SHOWN = {0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x2065, 0x3164, 0xFFA0} | {
    *range(0xFE00, 0xFE10),
    *range(0xFFF0, 0xFFF9),
    *range(0xE0000, 0xE1000),
}
SHOWN = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0xFFF9, 0xFFFC)} | {
    *range(0x13430, 0x13440)
}


def is_space(character: str) -> bool:
    """What may stand between words, by Python's own tables."""
    if ord(character) in NOT_SHOWN or character.isspace():
        return True
    return unicodedata.category(character) in ("Cc", "Cf") and ord(character) not in SHOWN


@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=TEXT, tags=st.binary(min_size=1, max_size=16))
@example(text="", tags=b"\1")
@example(text="İİİ İstanbul", tags=b"\1\2")
@example(text="a\u200db 👨‍👩‍👧\u0301 \u202eש\u202c", tags=b"\1\3")
def test_ten_thousand_strings_under_any_tags(ner, text, tags):
    """The way from words and tags to entities, with tags drawn at random: every span that can be found is."""
    words, offsets = ner.processor.split_words(text)
    row = [tags[word % len(tags)] % 5 for word in range(len(words))]
    prepared = pipeline_2mner.PreparedText(text, words, offsets)
    spans = list(ner._spans_of(row))
    prepared.found = [pipeline_2mner.Span(start, end, ner._labels[begin], 0.0) for start, end, begin, _ in spans]
    check_layout(text, ner.postprocess(prepared))
    # Every character that is no space is in exactly one word, so that nothing can be out of an entity's reach.
    covered = [index for start, end in offsets for index in range(start, end)]
    assert covered == sorted(set(covered))
    inside = set(covered)
    assert all(is_space(text[index]) for index in range(len(text)) if index not in inside)
    assert [text[start:end] for start, end in offsets] == words and not any(is_space(word[0]) for word in words)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(TEXT, min_size=4, max_size=8), seen=st.booleans())
def test_the_whole_pipeline(ner, texts, seen):
    images = [plain_image("red") if seen and number % 2 else None for number in range(len(texts))]
    for text, entities in zip(texts, ner(texts, images=images, batch_size=8), strict=True):
        check_layout(text, entities)


# Of every class of characters that the word pattern tells apart, and of every beginning of one of its alternatives.
UNITS = (
    "a|n|é|中|ก|가|\u0301|a\u0301|Ⅻ|²|½|1|_|-|--|'|''|n't|a'|a'b|l'|d'a|l'\"|jusqu'|'s|.|..|. .|1.|1:1-|a-|1-|a-1-|"
    "a-ci-|-ci|a.|ab.|A.|A. |A.  |A.\u200b|J.\u00ad|St. |usw.|A&|a.com|a.co|www.|http://|http:// |http://.|https://www.|"
    "@|@a|a@|a@b.|a@a.a@|a.b-c@d-e.f-|a%|a+|a_.|🇩🇪|🇩|😀|😀\u0301|😀\u200d|a\u00ad|\u00ad|a\u200c|a\u00ad\u200d|\u200b|"
    "\x1c|\x00| |\u2028|\ufeff|\u200e|\ufe0f|क्\u200d|\ud800|\U000e0041|\u0600|(| \u0301|\r\n|%|ß|İ"
).split("|")
SIZE = 100_000


@pytest.mark.parametrize("unit", [*UNITS, "a-b'c.d ", "A. J.  St. ", "a@1-http://www.", "\u00ad.'s-ci n't"])
def test_no_string_takes_more_than_linear_time(unit):
    """Some 2 µs a character; what takes quadratic time would take minutes."""
    for before, after in (("", ""), ("a", "!"), ("A.", " "), ("http://", "@b.cc")):
        text = before + unit * (SIZE // len(unit)) + after
        started = time.process_time()
        end = 0
        for match in WORD_PATTERN.finditer(text):
            assert match.start() >= end
            end = match.end()
        assert time.process_time() - started < 2
        assert all(map(is_space, text[end:]))


def test_five_million_characters_without_a_space(ner):
    """`regex` raises MemoryError where a group is repeated so often."""
    for text in ("a" * 5_000_000, "a-" * 2_500_000):
        words, offsets = ner.processor.split_words(text)
        assert "".join(words) == text and offsets[0][0] == 0 and offsets[-1][1] == len(text)
    check_layout("a" * 5_000_000, ner("a" * 5_000_000))
