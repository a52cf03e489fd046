"""Readers of JSON: an object a line, as this project and most tools write, and a file that is one array or object."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..rows import MalformedRow, Row
from .lines import numbered_lines
from .records import RecordReader

_ARRAY = re.compile(r"""\s*\[\s*(\{ | \[\s*"(?:[^"\\]|\\.)*"\s*,\s*(\{|$))""", re.VERBOSE)
"""An array of objects, or of spaCy's pairs: text and ``{"entities": [[start, end, type], ...]}``."""


def read_jsonl(path: Path, **columns: Any) -> Iterator[Row | MalformedRow]:
    """A JSON object a line, as of ``RecordReader``; in our own format ``tokens``, ``ner_tags`` (null in a row that has
    no gold labels), and optionally ``id``, ``lang``, ``image``, ``caption``, ``image_relation``, ``image_url``,
    ``known_types`` (a list). Blank lines are passed over."""
    reader = RecordReader(path, **columns)
    for number, line in numbered_lines(path):
        if isinstance(line, MalformedRow):
            yield line
        elif line.strip():
            try:
                yield reader.row(number, _parsed(path, number, line, "one JSON object a line"))
            except MalformedRow as problem:
                yield problem


def read_json(path: Path, **columns: Any) -> Iterator[Row | MalformedRow]:
    """One JSON array of records or of spaCy's pairs, or an object that holds one; the line of an error is the number
    of the item, from 1. spaCy's ``paragraphs`` are read too, with the BILOU tags of their tokens.
    """
    reader = RecordReader(path, **columns)
    try:
        content = _parsed(path, 1, path.read_bytes().decode("utf-8-sig"), "one JSON array or object")
    except UnicodeDecodeError as error:
        yield MalformedRow(path, 1, "not UTF-8", f"{error}; expected one JSON array in UTF-8")
        return
    except MalformedRow as problem:
        yield problem
        return
    if isinstance(content, dict):
        lists = [value for key in ("annotations", "data", "paragraphs") if isinstance(value := content.get(key), list)]
        content = [content] if "paragraphs" in content or not lists else lists[0]
    for number, record in enumerate(_sentences(content), 1):
        if record is None:
            continue  # the tool that writes "annotations" leaves null where a text was not annotated
        pair = isinstance(record, list) and len(record) == 2 and isinstance(record[1], dict)
        try:
            yield reader.row(number, {"text": record[0]} | record[1] if pair else record)
        except MalformedRow as problem:
            yield problem


def looks_jsonl(lines: Sequence[str]) -> bool:
    """Whether the first line is an object."""
    return next((line for line in lines if line.strip()), "").lstrip().startswith("{") and not looks_json(lines)


def looks_json(lines: Sequence[str]) -> bool:
    """Whether an array of objects or of spaCy's pairs begins, or an object that goes on in other lines or that holds
    an array of records."""
    text = "\n".join(lines[:100])
    first = next((line for line in lines if line.strip()), "").strip()
    if first == "{" or re.match(r'\{\s*"(classes|annotations|paragraphs)"', first):
        return True
    return _ARRAY.match(text) is not None


def _parsed(path: Path, number: int, text: str, expected: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedRow(path, number, "bad JSON", f"{error}; expected {expected}") from None


def _sentences(items: list[Any]) -> Iterator[Any]:
    """The records; of spaCy's documents, each sentence as one."""
    for item in items:
        if not (isinstance(item, dict) and isinstance(item.get("paragraphs"), list)):
            yield item
            continue
        for paragraph in item["paragraphs"]:
            for sentence in paragraph.get("sentences", []):
                tokens = sentence.get("tokens", [])
                tags = [token.get("ner") for token in tokens]
                yield {
                    "tokens": [token.get("orth") for token in tokens],
                    "ner_tags": [None if tag in (None, "-", "") else tag for tag in tags],
                }
