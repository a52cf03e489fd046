"""Entities as spans of tokens."""

from collections.abc import Iterator, Sequence


def iob2_spans(tags: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """The entities of IOB2 ``tags``, in order: first token, token after the last, type."""
    start: int | None = None
    for position, tag in enumerate((*tags, "O")):
        if start is not None and not tag.startswith("I-"):
            yield start, position, tags[start][2:]
            start = None
        if tag.startswith("B-"):
            start = position
