"""Reader of this project's own format: a JSON object a line."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..rows import IMAGE_RELATIONS, MalformedRow, Row, is_unlabelled
from .lines import numbered_lines

REQUIRED_KEYS = ("id", "tokens", "ner_tags")
OPTIONAL_KEYS = ("lang", "image", "caption", "image_relation", "image_url")


def read_jsonl(path: Path) -> Iterator[Row | MalformedRow]:
    """A JSON object a line: ``id``, ``tokens``, ``ner_tags`` (null in a row that has no gold labels), and optionally
    ``lang``, ``image``, ``caption``, ``image_relation``, ``image_url``. Blank lines are passed over."""
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

    def text(key: str) -> str | None:
        value = record.get(key)
        if value is not None and not isinstance(value, str):
            raise wrong_value(path, number, key, value, "a string or null")
        return value

    def texts(key: str) -> list[str]:
        value = record[key]
        if not isinstance(value, list):
            raise wrong_value(path, number, key, value, "a list of strings")
        for item in value:
            if not isinstance(item, str):
                raise wrong_value(path, number, f"an item of {key}", item, "a string")
        return value

    tokens, tags = texts("tokens"), record["ner_tags"]
    tags = [None] * len(tokens) if tags is None else tags
    tags = tags if isinstance(tags, list) and is_unlabelled(tags) else texts("ner_tags")
    row_id = record["id"]
    if isinstance(row_id, int) and not isinstance(row_id, bool):
        row_id = str(row_id)
    if not isinstance(row_id, str) or not row_id:
        raise wrong_value(path, number, "id", row_id, "a string that is not empty")
    image, relation = text("image"), text("image_relation")
    if image == "":
        raise wrong_value(path, number, "image", image, "a file name or null")
    if relation is not None and relation not in IMAGE_RELATIONS:
        raise wrong_value(path, number, "image_relation", relation, f"{', '.join(IMAGE_RELATIONS)} or null")
    return Row(
        path,
        number,
        row_id,
        text("lang"),
        tokens,
        tags,
        image,
        text("caption"),
        relation,
        tuple(key for key in record if key not in REQUIRED_KEYS + OPTIONAL_KEYS),
        image_url=text("image_url") or None,
    )
