"""Entities of a sentence as HTML: marked, coloured by type, with the type written beside, and safe to show."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

COLOURS = 8
"""Distinct colours; further types use them again, and still have their names beside."""

# Light mode: dark text on light grounds; dark mode: light text on dark grounds. Each pair has a contrast above 7 : 1.
GROUNDS = ("#cfe3ff", "#ffe0b0", "#c9f0d2", "#f6d3ea", "#e0d7ff", "#ffd5cf", "#c8f0f0", "#e6e6b8")
DARK_GROUNDS = ("#12406e", "#5c3d00", "#12502a", "#641f4e", "#43318a", "#6e2a1f", "#0b4d4d", "#4a4a12")
TEXT, DARK_TEXT = "#111111", "#f4f4f4"


def _rules(grounds: Sequence[str], text: str) -> str:
    return " ".join(
        f"mark.c{number} {{ background: {ground}; color: {text} }}" for number, ground in enumerate(grounds)
    )


STYLE = (
    "mark { padding: 0.1em 0.3em; border-radius: 0.3em; border: 1px solid currentcolor; "
    "-webkit-box-decoration-break: clone; box-decoration-break: clone } "
    "mark small { font-weight: 700; margin-left: 0.35em; letter-spacing: 0.03em } "
    f"{_rules(GROUNDS, TEXT)} @media (prefers-color-scheme: dark) {{ {_rules(DARK_GROUNDS, DARK_TEXT)} }}"
)
"""The style sheet of what ``entity_html`` makes."""


def colours(types: Iterable[str]) -> dict[str, int]:
    """The number of the colour of each type, in their sorted order."""
    return {kind: number % COLOURS for number, kind in enumerate(sorted(set(types)))}


def legend_html(colour_of: Mapping[str, int]) -> str:
    """The types in their colours."""
    return " ".join(f'<mark class="c{colour}">{escape(kind)}</mark>' for kind, colour in colour_of.items())


def entity_html(
    tokens_or_text: Sequence[str] | str,
    spans: Iterable[tuple[int, int, str]],
    colour_of: Mapping[str, int] | None = None,
) -> str:
    """Mark the entities of a sentence.

    Args:
        tokens_or_text: tokens, to be joined by blanks, or a text.
        spans: (start, end, type) of the entities, in tokens, or in characters of a text; ``end`` is exclusive.
        colour_of: the colours of types, from ``colours``; those of these spans if left out.

    Returns:
        HTML without any markup of the sentence's own: ``<`` is shown as such.

    Raises:
        ValueError: a span is empty, out of range, or overlaps another.
    """
    spans = sorted(spans)
    colour_of = colours(kind for _, _, kind in spans) if colour_of is None else colour_of
    is_text = isinstance(tokens_or_text, str)
    glue = "" if is_text else " "
    pieces, before = [], 0
    for start, end, kind in spans:
        if not before <= start < end <= len(tokens_or_text):
            unit = "characters" if is_text else "tokens"
            raise ValueError(
                f"The span ({start}, {end}, {kind!r}) came; expected one of 1 or more {unit} between {before} and "
                f"{len(tokens_or_text)}, that overlaps none."
            )
        pieces.append(escape(glue.join(tokens_or_text[before:start])))
        surface = escape(glue.join(tokens_or_text[start:end]))
        colour = colour_of.get(kind, 0)
        pieces.append(f'<mark class="c{colour}">{surface}<small>{escape(kind)}</small></mark>')
        before = end
    pieces.append(escape(glue.join(tokens_or_text[before:])))
    return glue.join(piece for piece in pieces if piece)
