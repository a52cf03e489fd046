"""Tag schemes: which one a file has, and its tags as IOB2."""

import re
from collections.abc import Sequence
from pathlib import Path

from ..rows import NO_LABEL, Row

IOB = "IOB"
"""IOB2 and IOB1, which ``policy`` tells apart: they have the same tags in other places."""
IO = "IO"
"""Types without a prefix."""
LETTERS = {IOB: "BI", "BIOES": "BIES", "BILOU": "BILU", "BMEWO": "BMEW", "BMES": "BMES"}
_PREFIXED = re.compile(r"([BIESLUMW])-(\S|\S.*\S)")
_BARE = re.compile(r"(?=.*[^\W\d_])(?![A-Z]-)\S(.*\S)?")
_INSIDE, _OPEN = "IEML", "BIM"
"""Prefixes of a word that goes on with an entity, and of one after which it must go on."""


def scheme_of(path: Path, rows: Sequence[Row], most_broken: float) -> str:
    """The scheme of a file: ``IO``, or one of ``LETTERS``; ``rows`` are its labelled ones.

    Args:
        most_broken: share of the rows that may break the scheme; above it, the file is of no scheme.

    Raises:
        ValueError: the tags contradict each other; the message names two of them and where they are.
    """
    seen: dict[str, tuple[Row, int]] = {}  # prefix, O, or what has neither -> the first tag of the kind
    for row in rows:
        for position, tag in enumerate(row.tags):
            match = _PREFIXED.fullmatch(str(tag))
            kind = match[1] if match else "O" if tag == "O" else "bare" if _BARE.fullmatch(str(tag)) else "?"
            seen.setdefault(kind, (row, position))
    if seen.keys() == {"bare", "O"}:
        return IO
    prefixes = seen.keys() - {"O", "bare", "?"}
    for scheme in (scheme for scheme, letters in LETTERS.items() if prefixes <= {*letters}):
        if scheme == IOB or sum(bool(to_iob2(row.tags, scheme)[1]) for row in rows) <= most_broken * len(rows):
            return scheme
    if sum(any(re.match("[ESLUMW]-", str(tag)) for tag in row.tags) for row in rows) <= most_broken * len(rows):
        return IOB  # slips, each an error of its row
    places = (seen[prefix] for prefix in sorted(prefixes))
    shown = ", ".join(f"{row.tags[place]!r} (line {row.problem('', '', place).line})" for row, place in places)
    raise ValueError(
        f"{path}: the tags {shown} came, which no one scheme explains; expected all tags to be IO, IOB1, IOB2, "
        f"{', '.join([*LETTERS][1:])}: correct them."
    )


def to_iob2(tags: Sequence[str], scheme: str) -> tuple[list[str], list[tuple[int, str, str]]]:
    """Tags of a scheme of ``LETTERS`` or ``IO`` as IOB2; and where they break the scheme, or in ``IOB`` are not IOB2:
    the position, the tag, and the IOB2 tag as which it is read.
    """
    if scheme == IO:
        return to_iob2([f"I-{tag}" if tag not in ("O", *NO_LABEL) else tag for tag in tags], IOB)[0], []
    read: list[str] = []
    wrong: dict[int, str] = {}
    unfinished: str | None = None  # the type of the entity that may go on, or must in schemes other than IOB
    for position, tag in enumerate((*tags, "O")):
        match = _PREFIXED.fullmatch(str(tag))
        letter, kind = (match[1], match[2]) if match and match[1] in LETTERS[scheme] else ("O", "")
        goes_on = letter in _INSIDE and kind == unfinished
        read.append(f"{'I' if goes_on else 'B'}-{kind}" if kind else tag)
        if unfinished is not None and not goes_on and scheme != IOB:
            wrong[position - 1] = read[position - 1]
        if letter in _INSIDE and not goes_on:
            wrong[position] = read[position]
        unfinished = kind if letter in _OPEN else None
    return read[:-1], [(position, tags[position], mended) for position, mended in sorted(wrong.items())]
