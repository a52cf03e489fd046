"""A row from a record, whatever the tool that wrote it: tokens with tags, or text with spans.

Our own JSONL and the columns of ``datasets`` have tokens and tags, as text or numbers. Doccano, Prodigy, Label Studio
and spaCy have text and spans of characters, GLiNER tokens and spans of tokens.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..rows import IMAGE_RELATIONS, NO_LABEL, Row, TagError, check_tokens, tag_names
from .words import Span, check_apart, tag_spans

TOKENS = ("tokens", "words", "tokenized_text")
TEXTS = ("text", "sentence", "content")
TAGS = ("ner_tags", "tags", "ner")
SPANS = ("spans", "entities", "ents", "label", "labels")
LANGS = ("lang", "language")
LABELS_FILE = "labels.txt"
OPTIONS = ("text_column", "tags_column", "image_column")
"""The options that name the columns of records."""
_TEXT_OR_NULL = ("lang", "caption", "image_relation", "image_url")


def labels_file(path: Path) -> Path | None:
    """The file of the tags that numbers stand for, one a line: in a folder of rows, or beside or above a file."""
    places = (folder / LABELS_FILE for folder in (path.absolute(), *path.absolute().parents[:2]))
    return next((place for place in places if place.is_file()), None)


def column_name(column: str | int | None, names: Sequence[str]) -> str | None:
    """The name of a column that was given by its name or its number, from 1 or from the end."""
    if isinstance(column, int) and -len(names) <= (place := column - (column > 0)) < len(names):
        return names[place]
    return None if column is None else str(column)


class RecordReader:
    """Makes rows of the records of one file.

    Args:
        path: the file.
        text_column, tags_column, image_column: the keys of the text or tokens, of the tags or spans, and of the image,
            where they are not those that the tools write.
        names: the tags that numbers stand for; those of ``labels.txt`` if left out.
        cut: whether words are cut where a span begins or ends within them; else that is an error.
    """

    def __init__(
        self,
        path: Path,
        text_column: str | None = None,
        tags_column: str | int | None = None,
        image_column: str | None = None,
        names: Sequence[str] = (),
        cut: bool = False,
    ):
        file = labels_file(path)
        lines = file.read_text(encoding="utf-8-sig").splitlines() if file and not names else []
        self.path, self.names, self.cut = path, names or [line.strip() for line in lines if line.strip()], cut
        self.text_column, self.tags_column, self.image_column = text_column, tags_column, image_column

    def row(self, number: int, record: Any) -> Row:
        """The row of a record; ``number`` is where it stands, from 1.

        Raises:
            MalformedRow: a value is missing or not as expected.
        """
        row = Row(self.path, number, str(number - 1), None, [], [])
        if not isinstance(record, Mapping):
            raise row.problem("bad JSON", f"a {type(record).__name__} came; expected one JSON object a line")
        if (answer := record.get("answer")) in ("reject", "ignore") and "text" in record:
            raise row.problem("not accepted", f"answer is {answer!r}; expected 'accept'")
        if isinstance(record.get("data"), Mapping):
            record = _label_studio(row, record, self.text_column)
        text_key, tags_key = self._keys(row, record)
        if tags_key not in record and {"answer", "annotation_id"} & {*record}:
            record = {**record, tags_key: []}  # Prodigy and Label Studio leave out the spans of a text that has none
        text, tags = record[text_key], record.get(tags_key)
        taken = {text_key, tags_key, *self._take_optional(row, record)}
        try:
            if text_key not in TOKENS and isinstance(text, str) and not _are_tags(tags):
                _need(row, tags_key, tags, isinstance(tags, list | None), "a list of spans, or a tag for each word")
                spans = [_span(row, text, one) for one in tags or ()]
                row.tokens, row.tags = tag_spans(text, spans, self.cut)
            else:
                row.tokens = text.split() if isinstance(text, str) and text_key not in TOKENS else text
                _need(row, text_key, text, isinstance(row.tokens, list), "a list of strings")
                row.tags = self._tags(row, tags_key, tags, text_key == "tokenized_text" or tags_key in SPANS)
        except TagError as error:
            raise row.problem(error.reason, str(error)) from None
        if tags is None:
            row.tags = [None] * len(row.tokens)  # type: ignore[list-item]
        if tags_key not in record:
            came, expected = f"no tags came (keys: {', '.join(record)})", ", ".join(TAGS + SPANS)
            row.missing_tags = (
                f"{came}; expected one of {expected}, or the name of theirs: tags_column (--tags_column)"
            )
        row.ignored_keys = tuple(key for key in record if key not in taken)
        return row

    def _keys(self, row: Row, record: Mapping[str, Any]) -> tuple[str, str]:
        """The keys of the text or tokens, and of the tags or spans."""
        came = f"(keys: {', '.join(record) or 'none'})"
        tags_key = column_name(self.tags_column, list(record))
        given = (self.text_column, tags_key, self.image_column)
        for option, key in zip(OPTIONS, given, strict=True):
            if key is not None and key not in record:
                raise row.problem("missing key", f"no {key} {came}, which {option} (--{option}) names")
        tokens = (key for key in TOKENS if key in record and not _are_objects(record[key]))
        texts = (key for key in TEXTS if isinstance(record.get(key), str))
        text_key = self.text_column or next(tokens, None) or next(texts, None)
        if text_key is None:
            expected = f"one of {', '.join(TOKENS)} or, for text, {', '.join(TEXTS)}"
            detail = f"no text came {came}; expected {expected}, or the name of theirs: text_column (--text_column)"
            raise row.problem("missing key", detail)
        known = TAGS + SPANS if isinstance(record[text_key], list) else SPANS + TAGS
        return text_key, tags_key or next((key for key in known if key in record), known[0])

    def _tags(self, row: Row, key: str, tags: Any, may_be_spans: bool) -> list[str]:
        """Tags by name; where a row has no gold label, the members of ``NO_LABEL`` as they came."""
        _need(row, key, tags, isinstance(tags, list | None), "a list of strings")
        if tags is None or (all(tag in NO_LABEL for tag in tags) and len(tags) == len(row.tokens) > 0):
            check_tokens(row.tokens)
            return tags or []
        if not any(map(_is_tag, tags)) and (tags or may_be_spans):
            return _tags_of_token_spans(row, tags)
        numbers = [tag for tag in tags if isinstance(tag, int) and tag not in NO_LABEL]
        if numbers and not self.names:
            remedy = f"Write these, one a line in their order, to {self.path.parent / LABELS_FILE}."
            detail = f"an item of {key} is {numbers[0]}; expected a string, or the names of the numbers"
            raise row.problem("wrong value", detail, None, remedy)
        return tag_names(row.tokens, tags, self.names) if numbers else tags

    def _take_optional(self, row: Row, record: Mapping[str, Any]) -> set[str]:
        """Fill in what a row may have beside tokens and tags; the keys that were read."""
        own_id = record.get("id", row.id)
        row.id = row.id if own_id is None else str(own_id) if type(own_id) is int else own_id
        _need(row, "id", own_id, isinstance(row.id, str) and row.id != "", "a string that is not empty")
        values = dict(record) | {"lang": next((record[key] for key in LANGS if record.get(key) is not None), None)}
        for key in _TEXT_OR_NULL:
            _need(row, key, values.get(key), isinstance(values.get(key), str | None), "a string or null")
            setattr(row, key, values.get(key))
        row.image_url = row.image_url or None
        relations = f"{', '.join(IMAGE_RELATIONS)} or null"
        _need(row, "image_relation", row.image_relation, row.image_relation in (None, *IMAGE_RELATIONS), relations)
        row.known_types = known = record.get("known_types")
        are_types = isinstance(known, list) and all(isinstance(kind, str) for kind in known)
        _need(row, "known_types", known, known is None or are_types, "a list of strings or null")
        key = self.image_column or "image"
        _take_image(row, key, record.get(key), record.get("image_name"))
        return {key, "id", "image_name", "known_types", *LANGS, *_TEXT_OR_NULL}


def _need(row: Row, key: str, value: Any, is_valid: bool, expected: str) -> None:
    """Raise the error for a value that is not as expected; a long one is cut."""
    if not is_valid:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
        raise row.problem("wrong value", f"{key} is {shown}; expected {expected}")


def _is_tag(value: Any) -> bool:
    return value is None or isinstance(value, str | int)


def _are_tags(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_tag, value))


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)


def _parts(row: Row, span: Any) -> tuple[int, int, str, Any]:
    """Start, end, type and, where it is stated, the text of a span: ``[start, end, type]`` or an object."""
    parts: Any = span
    if isinstance(span, Mapping):
        one = span.get("value", span)
        kinds = next((one[key] for key in ("label", "labels", "type", "tag", "entity_group") if one.get(key)), None)
        kinds = kinds[0] if isinstance(kinds, list) and len(kinds) == 1 else kinds
        parts = [one.get("start", one.get("start_offset")), one.get("end", one.get("end_offset")), kinds]
    is_span = isinstance(parts, list) and len(parts) == 3 and type(parts[0]) is type(parts[1]) is int
    is_span = is_span and isinstance(parts[2], str) and parts[2].strip() != ""
    _need(row, "a span", span, is_span, "start, end and one type: [0, 5, 'PER'], or an object with these")
    return parts[0], parts[1], " ".join(parts[2].split()), one.get("text") if isinstance(span, Mapping) else None


def _span(row: Row, text: str, span: Any) -> Span:
    start, end, kind, surface = _parts(row, span)
    there = text[max(start, 0) : max(end, 0)]
    if isinstance(surface, str) and there.strip() != surface.strip():
        # Tools that run in a browser count UTF-16 units: two for an emoji.
        units = text.encode("utf-16-le", "surrogatepass")
        if start < 0 or units[2 * start : 2 * end].decode("utf-16-le", "replace") != surface:
            detail = f"{surface!r} came, but {there!r} stands at {start}:{end}; expected the text of the span there"
            raise row.problem("misplaced span", detail)
        start = len(units[: 2 * start].decode("utf-16-le", "replace"))
        end = start + len(surface)
    return Span(start, end, kind)


def _tags_of_token_spans(row: Row, spans: list[Any]) -> list[str]:
    """IOB2 tags of GLiNER's spans: first token, last token, type."""
    check_tokens(row.tokens)
    tags = ["O"] * len(row.tokens)
    found = [Span(*one) for one in sorted({_parts(row, one)[:3] for one in spans})]
    for first, last, kind in found:
        expected = f"the first and the last token, from 0 to {len(tags) - 1}"
        _need(row, f"a span of {kind}", [first, last], 0 <= first <= last < len(tags), expected)
        tags[first : last + 1] = [f"B-{kind}", *[f"I-{kind}"] * (last - first)]
    check_apart([f"{token} " for token in row.tokens], [Span(first, last + 1, kind) for first, last, kind in found])
    return tags


def _label_studio(row: Row, record: Mapping[str, Any], text_column: str | None) -> dict[str, Any]:
    """A task of Label Studio's JSON as a flat record."""
    data = dict(record["data"])
    results = [one.get("result", []) for one in record.get("annotations") or [] if not one.get("was_cancelled")]
    spans = [[one for one in result if "start" in one.get("value", {})] for result in results]
    if any(sorted(_parts(row, one)[:3] for one in more) != sorted(_parts(row, one)[:3] for one in spans[0])
           for more in spans[1:]):  # fmt: skip
        raise row.problem("several annotations", f"{len(spans)} annotations came, which differ; expected one")
    if isinstance(data.get("image"), str):
        data["image"] = PurePosixPath(re.split(r"[?&]d=", data["image"])[-1].partition("?")[0]).name or None
    texts = [key for key, value in data.items() if isinstance(value, str) and key != "image"]
    if text_column is None and not {*TEXTS} & {*data} and len(texts) == 1:
        data["text"] = data.pop(texts[0])
    return {"id": record.get("id")} | data | {"spans": spans[0] if spans else None}


def _take_image(row: Row, key: str, cell: Any, name: Any) -> None:
    """The image of a row: the name of a file, bytes, or a cell of ``datasets.Image``."""
    if isinstance(cell, Mapping):
        name, cell = name or cell.get("path"), cell.get("bytes") or cell.get("path")
    _need(row, key, cell, isinstance(cell, bytes | str | None) and cell != "", "a file name or null")
    if isinstance(cell, bytes):
        row.image_bytes, row.image = cell, PurePosixPath(name or "").name.strip(".") or "image"
    else:
        row.image = cell
