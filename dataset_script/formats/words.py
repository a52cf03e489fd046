"""The words of a text with marked names, for formats that hold text instead of words."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import regex

from ..rows import TagError

WORD = regex.compile(
    r"""
      https?://\S* [^\s"'’.,;:!?)\]}…]
    | (?<! \w ) [@#] \w+                                  # a handle, a hashtag
    | (?: [^\W\d_] \. ){2,}                               # U.S.
    | ['’] (?: s | re | ve | ll | d | m | t ) \b          # John|'s
    | (?<! \w ) (?: [cdjlmnst] | qu | jusqu | lorsqu | puisqu ) ['’] (?= \w )     # l'|eau
    | \w+ (?: [-‐‑] \w+                                   # Jean-Paul
            | (?<= \d ) [.,:] (?= \d ) \w+                # 1,500
            | ['’] (?! (?: s | re | ve | ll | d | m | t ) \b ) \w+ )*      # O'Neill
    | \.{2,}
    | (?! \s ) \X                                         # any other character, with what combines with it
    """,
    regex.VERBOSE | regex.IGNORECASE,
)
"""Punctuation and clitics stand apart; hyphenated words, handles and hashtags are whole."""


class Span(NamedTuple):
    """A mention: its type and its characters, ``start`` to ``end`` exclusive."""

    start: int
    end: int
    kind: str


def tag_words(text: str, spans: Sequence[Span]) -> tuple[list[str], list[str]]:
    """The words of ``text`` and their IOB2 tags; ``spans`` do not overlap, and hold more than white space."""
    borders = {border for span in spans for border in (span.start, span.end)}
    begins = {span.start: span for span in spans}
    words, tags = [], []
    inside: Span | None = None
    for match in WORD.finditer(text):
        cuts = [match.start(), *sorted(cut for cut in borders if match.start() < cut < match.end()), match.end()]
        for start, end in pairwise(cuts):
            inside = begins.get(start) or (inside if inside and start < inside.end else None)
            words.append(text[start:end])
            tags.append("O" if inside is None else f"{'B' if start == inside.start else 'I'}-{inside.kind}")
    return words, tags


def tag_spans(text: str, spans: Sequence[Span], cut: bool = False) -> tuple[list[str], list[str]]:
    """As ``tag_words``, of spans that a person marked: white space at their ends is left out, one given twice counts
    once. With ``cut``, a word that a span begins or ends within is cut there.

    Raises:
        TagError: a span is outside the text or holds no word, begins or ends within a word, or overlaps another.
    """
    words = [match.span() for match in WORD.finditer(text)]
    inner = set()
    for span in spans:
        there = text[span.start : span.end] if 0 <= span.start < span.end <= len(text) else ""
        if not there.strip():
            place = f"{span.kind} at {span.start}:{span.end} came; expected a span that holds a word"
            raise TagError("misplaced span", f"{place}, in a text of {len(text)} characters")
        start = span.start + len(there) - len(there.lstrip())
        end = start + len(there.strip())
        within = [text[one:last] for one, last in words if one < start < last or one < end < last]
        if within and not cut:
            came = f"{text[start:end]!r} ({span.kind}, {start}:{end}) came, which begins or ends within {within[0]!r}"
            raise TagError("span within a word", f"{came}; expected whole words")
        inner.add(Span(start, end, span.kind))
    check_apart(text, sorted(inner))
    return tag_words(text, sorted(inner))


def check_apart(text: Sequence[str], spans: Sequence[Span]) -> None:
    """Raise a ``TagError`` that shows both if two of the sorted ``spans`` of a text, or of tokens, overlap."""
    for one, other in pairwise(spans):
        if other.start < one.end:
            shown = " and ".join(
                f"{''.join(text[span.start : span.end]).strip()!r} ({span.kind})" for span in (one, other)
            )
            raise TagError("overlapping spans", f"{shown} overlap; expected spans apart, none inside another")
