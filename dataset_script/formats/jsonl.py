"""Readers of JSON: an object a line, as this project and most tools write, and a file that is one array or object."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..rows import MalformedRow, Row
from .lines import numbered_lines
from .records import RecordReader


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
    """One JSON array of records, of spaCy's pairs or of WikiDiverse's items, or an object that holds one; the line of
    an error is the number of the item, from 1. Of spaCy's ``paragraphs``, each sentence is a record.
    """
    try:
        content = _parsed(path, 1, path.read_bytes().decode("utf-8-sig"), "one JSON array or object")
    except UnicodeDecodeError as error:
        yield MalformedRow(path, 1, "not UTF-8", f"{error}; expected one JSON array in UTF-8")
        return
    except MalformedRow as problem:
        yield problem
        return
    if isinstance(content, dict):
        lists = [value for key in ("annotations", "data") if isinstance(value := content.get(key), list)]
        content = lists[0] if lists and "paragraphs" not in content else [content]
    records = [sentence for item in content for sentence in _sentences(item)]
    reader, cutting = RecordReader(path, **columns), RecordReader(path, cut=True)
    for number, record in enumerate(records, 1):
        try:
            if isinstance(record, list) and len(record) == 4:
                yield _wikidiverse(cutting, number, *record)
            elif record is not None:  # null stands for a text that was not annotated
                pair = isinstance(record, list) and len(record) == 2 and isinstance(record[1], dict)
                yield reader.row(number, {"text": record[0]} | record[1] if pair else record)
        except MalformedRow as problem:
            yield problem


def looks_jsonl(lines: Sequence[str]) -> bool:
    """Whether the first line is an object."""
    return _first(lines).startswith("{") and not looks_json(lines)


def looks_json(lines: Sequence[str]) -> bool:
    """Whether an array begins, or an object that goes on in other lines or holds an array of records."""
    return re.match(r'\[|\{\s*($|"(classes|annotations|paragraphs)")', _first(lines)) is not None


def _first(lines: Sequence[str]) -> str:
    return next((line for line in lines if line.strip()), "").lstrip()


def _parsed(path: Path, number: int, text: str, expected: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedRow(path, number, "bad JSON", f"{error}; expected {expected}") from None


def _sentences(item: Any) -> Iterator[Any]:
    """The record; of one of spaCy's documents, each sentence as one."""
    if not (isinstance(item, dict) and isinstance(item.get("paragraphs"), list)):
        yield item
        return
    for sentence in (one for paragraph in item["paragraphs"] for one in paragraph.get("sentences", [])):
        tokens = sentence.get("tokens", [])
        tags = [token.get("ner") for token in tokens]
        tags = [None if tag in ("-", "") else tag for tag in tags]
        yield {"tokens": [token.get("orth") for token in tokens], "ner_tags": tags}


def _wikidiverse(reader: RecordReader, number: int, text: Any, url: Any, topic: Any, mentions: Any) -> Row:
    """An item of WikiDiverse (Wang et al., ACL 2022): ``[sentence, image_url, topic, mentions]``, a mention being
    ``[text, type, start, end, url]``. A word that a mention ends within is cut there.

    The image is named by its URL, and by the name that it has in the images released with the set: the MD5 of the
    URL's last part.
    """
    keys = ("text", "label", "start", "end")
    if isinstance(mentions, list):
        mentions = [dict(zip(keys, one, strict=False)) if isinstance(one, list) else one for one in mentions]
    record = {"text": text, "image_url": url, "topic": topic, "spans": mentions}
    row = reader.row(number, record)
    row.lang, row.ignored_keys = "en", ("topic", "entity url")
    if row.image_url:
        row.image = f"{hashlib.md5(row.image_url.rsplit('/', 1)[-1].encode('utf-8', 'replace')).hexdigest()}.*"
    return row
