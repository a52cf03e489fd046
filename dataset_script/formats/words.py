"""The words of a text with marked names, for formats that hold text instead of words."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import regex

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
