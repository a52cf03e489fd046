"""Reader of this project's own format: a JSON object a line."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..rows import IMAGE_RELATIONS, MalformedRow, Row, is_unlabelled
from .lines import numbered_lines

REQUIRED_KEYS = ("id", "tokens", "ner_tags")
OPTIONAL_KEYS = ("lang", "image", "caption", "image_relation", "image_url", "known_types")


def read_jsonl(path: Path) -> Iterator[Row | MalformedRow]:
    """A JSON object a line: ``id``, ``tokens``, ``ner_tags`` (null in a row that has no gold labels), and optionally
    ``lang``, ``image``, ``caption``, ``image_relation``, ``image_url``, ``known_types`` (a list). Blank
    lines are passed over."""
    for number, line in numbered_lines(path):
        if isinstance(line, MalformedRow):
            yield line
        elif line.strip():
            try:
                yield _json_row(path, number, line)
            except MalformedRow as problem:
                yield problem


def looks_jsonl(lines: Sequence[str]) -> bool:
    """Whether the first line is an object."""
    return next((line for line in lines if line.strip()), "").lstrip().startswith("{")


def wrong_value(path: Path, number: int, key: str, value: Any, expected: str) -> MalformedRow:
    """The error for a value of JSON that is not as expected; a long one is cut."""
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
    return MalformedRow(path, number, "wrong value", f"{key} is {shown}; expected {expected}")


def _json_row(path: Path, number: int, line: str) -> Row:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MalformedRow(path, number, "bad JSON", f"{error}; expected one JSON object a line") from None
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise MalformedRow(path, number, "bad JSON", f"a {kind} came; expected one JSON object a line")
    missing = [key for key in REQUIRED_KEYS if key not in record]
    if missing:
        came = ", ".join(record) or "none"
        expected = ", ".join(REQUIRED_KEYS)
        raise MalformedRow(path, number, "missing key", f"no {', '.join(missing)} (keys: {came}); expected {expected}")

    def require(key: str, is_valid: bool, expected: str) -> None:
        if not is_valid:
            raise wrong_value(path, number, key, record[key], expected)

    tokens, tags = record["tokens"], record["ner_tags"]
    if tags is None and isinstance(tokens, list):
        tags = [None] * len(tokens)
    for key, values in (("tokens", tokens), ("ner_tags", tags)):
        require(key, isinstance(values, list), "a list of strings")
        strange = [item for item in values if not isinstance(item, str)]
        if strange and not (key == "ner_tags" and is_unlabelled(values)):
            raise wrong_value(path, number, f"an item of {key}", strange[0], "a string")
    row_id = str(record["id"]) if type(record["id"]) is int else record["id"]
    require("id", isinstance(row_id, str) and row_id != "", "a string that is not empty")
    for key in OPTIONAL_KEYS[:-1]:
        require(key, isinstance(record.get(key), str | None), "a string or null")
    known = record.get("known_types")
    is_list = isinstance(known, list) and all(isinstance(kind, str) for kind in known)
    require("known_types", known is None or is_list, "a list of strings or null")
    require("image", record.get("image") != "", "a file name or null")
    expected = f"{', '.join(IMAGE_RELATIONS)} or null"
    require("image_relation", record.get("image_relation") in (None, *IMAGE_RELATIONS), expected)
    values = {key: record.get(key) for key in OPTIONAL_KEYS} | {"image_url": record.get("image_url") or None}
    ignored = tuple(key for key in record if key not in REQUIRED_KEYS + OPTIONAL_KEYS)
    return Row(path, number, row_id, tokens=tokens, tags=tags, ignored_keys=ignored, **values)
