"""Reader of WikiDiverse (Wang et al., ACL 2022): captions of Wikinews images with linked mentions, in JSON."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..rows import MalformedRow, Row, TagError
from .jsonl import looks_json
from .records import wrong_value
from .words import Span, check_apart, tag_words


def read_wikidiverse(path: Path) -> Iterator[Row | MalformedRow]:
    """One JSON array, of ``[sentence, image_url, topic, [[mention, type, start, end, url], ...]]``.

    Offsets count characters, the end exclusive. A word that a mention ends within is split there. A mention whose text
    is not what stands at its offsets, and mentions that overlap, make the row malformed; one given twice counts once.
    The image is named by its URL, and by the name that it has in the images released with the set: the MD5 of the
    URL's last part. The line of an error is the number of the item, from 1.
    """
    try:
        items = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "bad JSON"
        yield MalformedRow(path, 1, reason, f"{error}; expected one JSON array in UTF-8")
        return
    if not isinstance(items, list):
        yield MalformedRow(path, 1, "bad JSON", f"a {type(items).__name__} came; expected one JSON array")
        return
    for number, item in enumerate(items, 1):
        try:
            yield _row(path, number, *_fields(path, number, item))
        except MalformedRow as problem:
            yield problem


def looks_wikidiverse(lines: Sequence[str]) -> bool:
    """Whether an array begins."""
    return next((line for line in lines if line.strip()), "").lstrip().startswith("[") and not looks_json(lines)


def _fields(path: Path, number: int, item: Any) -> tuple[str, str | None, list[Any]]:
    if not isinstance(item, list) or len(item) != 4:
        came = f"a list of {len(item)}" if isinstance(item, list) else f"a {type(item).__name__}"
        expected = "[sentence, image_url, topic, mentions]"
        if isinstance(item, dict):
            expected += "; objects, as of tokens and ner_tags, stand one a line, without brackets around them"
        raise MalformedRow(path, number, "bad item", f"{came} came; expected {expected}")
    sentence, url, _, mentions = item
    if not isinstance(sentence, str):
        raise wrong_value(path, number, "sentence", sentence, "a string")
    if not isinstance(url, str | None):
        raise wrong_value(path, number, "image_url", url, "a string or null")
    if not isinstance(mentions, list):
        raise wrong_value(path, number, "mentions", mentions, "a list")
    return sentence, url, mentions


def _row(path: Path, number: int, text: str, url: str | None, mentions: list[Any]) -> Row:
    spans = sorted({_span(path, number, text, mention) for mention in mentions})
    try:
        check_apart(text, spans)
    except TagError as error:
        raise MalformedRow(path, number, "overlapping mentions", str(error)) from None
    tokens, tags = tag_words(text, spans)
    row = Row(path, number, str(number - 1), "en", tokens, tags, ignored_keys=("topic", "entity url"))
    if url:
        row.image_url = url
        row.image = f"{hashlib.md5(url.rsplit('/', 1)[-1].encode('utf-8', 'replace')).hexdigest()}.*"
    return row


def _span(path: Path, number: int, text: str, mention: Any) -> Span:
    if not isinstance(mention, list) or len(mention) < 4:
        raise wrong_value(path, number, "a mention", mention, "[mention, type, start, end, url]")
    surface, kind, start, end = mention[:4]
    if not isinstance(surface, str) or not isinstance(kind, str) or not kind.strip():
        raise wrong_value(path, number, "a mention", mention, "text and type as strings")
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        expected = f"offsets from 0 to {len(text)}, the end after the start"
        raise wrong_value(path, number, f"the place of {surface!r}", [start, end], expected)
    there = text[start:end]
    if there.strip() != surface.strip() or not there.strip():
        detail = f"{surface!r} came, but {there!r} stands at {start}:{end}; expected the mention there"
        raise MalformedRow(path, number, "misplaced mention", detail)
    start += len(there) - len(there.lstrip())
    return Span(start, start + len(there.strip()), "_".join(kind.split()))
