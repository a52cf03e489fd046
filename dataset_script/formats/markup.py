"""Reader of text with its names marked in place, one sentence or post a line: ``[Katrina|MISC] heads for [Cuba|LOC]``.

A name begins and ends where a word does. ``[``, ``]`` and ``|`` have no other use: a line that has one is malformed.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..rows import MalformedRow, Row
from .lines import numbered_lines
from .words import Span, tag_words

_NAME = re.compile(r"\[([^][|]+)\|([^][|\s](?:[^][|]*[^][|\s])?)\]")


def read_markup(path: Path) -> Iterator[Row | MalformedRow]:
    """A sentence a line; blank lines are passed over. The id is the number of the sentence in the file, from 0."""
    number = 0
    for line_number, line in numbered_lines(path):
        if isinstance(line, MalformedRow):
            yield line
        elif line.strip():
            try:
                yield _row(path, line_number, number, line)
            except MalformedRow as problem:
                yield problem
            number += 1


def looks_markup(lines: Sequence[str]) -> bool:
    """Whether a line has a marked name, and none has a tab."""
    return any(_NAME.search(line) for line in lines) and not any("\t" in line for line in lines)


def _row(path: Path, line_number: int, number: int, line: str) -> Row:
    text, spans, place = "", [], 0
    for match in _NAME.finditer(line):
        text += line[place : match.start()]
        name, kind = match.groups()
        spans.append(Span(len(text), len(text) + len(name), kind))
        text += name
        place = match.end()
    text += line[place:]
    if strange := re.search(r"[][|]", text):
        near = text[max(0, strange.start() - 20) : strange.end() + 20]
        detail = f"{strange[0]!r} came in {near!r}; expected brackets only around names: [name|TYPE]"
        raise MalformedRow(path, line_number, "bad markup", detail)
    for start, end, _ in spans:
        is_whole = not re.search(r"[\w#@]\Z", text[:start]) and not re.match(r"\w", text[end:])
        if not is_whole or text[start:end] != text[start:end].strip():
            detail = f"{text[start:end]!r} came; expected whole words, a hashtag with its sign: [#Cuba|LOC]"
            raise MalformedRow(path, line_number, "bad markup", detail)
    tokens, tags = tag_words(text, spans)
    return Row(path, line_number, str(number), None, tokens, tags)
