"""A row from a record, whatever the tool that wrote it: tokens with tags, or text with spans.

Our own JSONL and the columns of ``datasets`` have tokens and tags, as text or numbers. Doccano, Prodigy, Label Studio
and spaCy have text and spans of characters, GLiNER tokens and spans of tokens.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..rows import IMAGE_RELATIONS, NO_LABEL, MalformedRow, Row, TagError, tag_names
from .words import Span, tag_spans

TOKENS = ("tokens", "words", "tokenized_text")
TEXTS = ("text", "sentence", "content")
TAGS = ("ner_tags", "tags", "ner")
SPANS = ("spans", "entities", "ents", "label", "labels")
LANGS = ("lang", "language")
LABELS_FILE = "labels.txt"
OPTIONS = ("text_column", "tags_column", "image_column")
"""The options that name the columns of records."""
_OPTIONAL = ("caption", "image_relation", "image_url")
_IGNORED_ANSWERS = ("reject", "ignore")


def wrong_value(path: Path, number: int, key: str, value: Any, expected: str) -> MalformedRow:
    """The error for a value that is not as expected; a long one is cut."""
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
    return MalformedRow(path, number, "wrong value", f"{key} is {shown}; expected {expected}")


def names_of_numbers(path: Path) -> list[str]:
    """The tags that numbers stand for, a line each, of the file ``labels.txt`` beside or above ``path``."""
    file = labels_file(path)
    return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()] if file else []


def labels_file(path: Path) -> Path | None:
    """The file ``labels.txt`` in a folder of rows, or beside or above a file."""
    places = (folder / LABELS_FILE for folder in (path.absolute(), *path.absolute().parents[:2]))
    return next((place for place in places if place.is_file()), None)


class RecordReader:
    """Makes rows of the records of one file.

    Args:
        path: the file.
        text_column, tags_column, image_column: the keys of the text or tokens, of the tags or spans, and of the image,
            where they are not those that the tools write.
        names: the tags that numbers stand for; those of ``labels.txt`` if left out.
    """

    def __init__(
        self,
        path: Path,
        text_column: str | None = None,
        tags_column: str | int | None = None,
        image_column: str | None = None,
        names: Sequence[str] = (),
    ):
        self.path, self.names = path, names or names_of_numbers(path)
        self.text_column, self.tags_column, self.image_column = text_column, tags_column, image_column

    def row(self, number: int, record: Any) -> Row:
        """The row of a record; ``number`` is where it stands, from 1.

        Raises:
            MalformedRow: a value is missing or not as expected.
        """
        if not isinstance(record, Mapping):
            kind = type(record).__name__
            raise MalformedRow(self.path, number, "bad JSON", f"a {kind} came; expected one JSON object a line")
        fail = _Failures(self.path, number)
        if (answer := record.get("answer")) in _IGNORED_ANSWERS and "text" in record:
            raise fail("not accepted", f"answer is {answer!r}; expected 'accept'")
        if isinstance(record.get("data"), Mapping):
            record = _label_studio(record, self.text_column, fail)
        text_key, tags_key = self._keys(record, fail)
        if tags_key not in record and {"answer", "annotation_id"} & {*record}:
            record = {**record, tags_key: []}  # Prodigy and Label Studio leave out the spans of a text that has none
        text, tags = record[text_key], record.get(tags_key)
        own_id = record.get("id")
        row_id = str(number - 1) if own_id is None else str(own_id) if type(own_id) is int else own_id
        row = Row(self.path, number, row_id, None, [], [])
        row.lang = next((record[key] for key in LANGS if record.get(key) is not None), None)
        if isinstance(text, str) and text_key not in TOKENS and _are_tags(tags):
            text = text.split()
        if text_key in TOKENS and not isinstance(text, list):
            raise fail.value(text_key, text, "a list of strings")
        try:
            if isinstance(text, str):
                spans = [_span(text, one, fail) for one in _list(tags_key, tags, fail)]
                row.tokens, row.tags = tag_spans(text, spans)
            elif isinstance(text, list) and isinstance(tags, list) and _are_spans(tags, text_key, tags_key):
                row.tokens, row.tags = text, _tags_of_token_spans(text, tags, fail)
            else:
                row.tokens, row.tags = self._tagged(text_key, text, tags_key, tags, fail)
        except TagError as error:
            raise fail(error.reason, str(error)) from None
        if tags_key not in record:
            came, expected = ", ".join(record), ", ".join(TAGS + SPANS)
            row.missing_tags = (
                f"no tags came (keys: {came}); expected one of {expected}, or the name of theirs: tags_column "
                "(--tags_column)"
            )
        if tags_key not in record or (tags is None and isinstance(text, str)):
            row.tags = [None] * len(row.tokens)  # type: ignore[list-item]
        taken = {text_key, tags_key, "id", *LANGS, *self._take_optional(row, record, fail)}
        row.ignored_keys = tuple(key for key in record if key not in taken)
        return row

    def _keys(self, record: Mapping[str, Any], fail: "_Failures") -> tuple[str, str]:
        """The keys of the text or tokens, and of the tags or spans."""
        columns = list(record)
        tags_key = self.tags_column
        if isinstance(tags_key, int):
            place = tags_key - 1 if tags_key > 0 else tags_key
            tags_key = columns[place] if -len(columns) <= place < len(columns) else str(tags_key)
        for option, key in (("text_column", self.text_column), ("tags_column", tags_key)):
            if key is not None and key not in record:
                came = ", ".join(columns)
                raise fail("missing key", f"no {key} (keys: {came}), which {option} (--{option}) names")
        has_tokens = (key for key in TOKENS if key in record and not _are_dicts(record[key]))
        text_key = self.text_column or next(has_tokens, None)
        text_key = text_key or next((key for key in TEXTS if isinstance(record.get(key), str)), None)
        if text_key is None:
            expected = f"one of {', '.join(TOKENS)} or, for text, {', '.join(TEXTS)}"
            detail = f"no text came (keys: {', '.join(columns) or 'none'}); expected {expected}"
            raise fail("missing key", f"{detail}, or the name of theirs: text_column (--text_column)")
        known = TAGS + SPANS if isinstance(record[text_key], list) else SPANS + TAGS
        return text_key, tags_key or next((key for key in known if key in record), known[0])

    def _tagged(self, text_key: str, tokens: Any, tags_key: str, tags: Any, fail: "_Failures") -> tuple[list, list]:
        """Tokens and tags by name; where a row has no gold label, the members of ``NO_LABEL`` as they came."""
        if not isinstance(tokens, list):
            raise fail.value(text_key, tokens, "a list of strings")
        if tags is None:
            tags = [None] * len(tokens)
        if not isinstance(tags, list):
            raise fail.value(tags_key, tags, "a list of strings")
        if all(tag in NO_LABEL for tag in tags) and len(tags) == len(tokens):
            tag_names(tokens, ["O"] * len(tokens))
            return tokens, tags
        strange = next((tag for tag in tags if isinstance(tag, int) and tag not in NO_LABEL), None)
        if strange is not None and not self.names:
            detail = f"an item of {tags_key} is {strange!r}; expected a string, or the names of the numbers"
            remedy = f"Write them, a line each and in their order, to {self.path.parent / LABELS_FILE}."
            raise MalformedRow(self.path, fail.number, "wrong value", detail, remedy)
        return tokens, tag_names(tokens, tags, self.names)

    def _take_optional(self, row: Row, record: Mapping[str, Any], fail: "_Failures") -> set[str]:
        """Fill in what a row may have beside tokens and tags; the keys that were read."""
        if not isinstance(row.id, str) or row.id == "":
            raise fail.value("id", record["id"], "a string that is not empty")
        if not isinstance(row.lang, str | None):
            raise fail.value("lang", row.lang, "a string or null")
        for key in _OPTIONAL:
            value = record.get(key)
            if not isinstance(value, str | None):
                raise fail.value(key, value, "a string or null")
            setattr(row, key, value)
        row.image_url = row.image_url or None
        if row.image_relation not in (None, *IMAGE_RELATIONS):
            raise fail.value("image_relation", row.image_relation, f"{', '.join(IMAGE_RELATIONS)} or null")
        known = record.get("known_types")
        if known is not None and not (isinstance(known, list) and all(isinstance(kind, str) for kind in known)):
            raise fail.value("known_types", known, "a list of strings or null")
        row.known_types = known
        key = self.image_column or "image"
        if self.image_column and self.image_column not in record:
            came = ", ".join(record)
            raise fail("missing key", f"no {key} (keys: {came}), which image_column (--image_column) names")
        _take_image(row, key, record.get(key), record.get("image_name"), fail)
        return {key, "image_name", "known_types", *_OPTIONAL}


class _Failures:
    """Makes the errors of one record."""

    def __init__(self, path: Path, number: int):
        self.path, self.number = path, number

    def __call__(self, reason: str, detail: str) -> MalformedRow:
        return MalformedRow(self.path, self.number, reason, detail)

    def value(self, key: str, value: Any, expected: str) -> MalformedRow:
        return wrong_value(self.path, self.number, key, value, expected)


def _is_tag(value: Any) -> bool:
    return value is None or isinstance(value, str | int)


def _are_tags(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_tag, value))


def _are_spans(tags: list[Any], text_key: str, tags_key: str) -> bool:
    """Whether the tags of tokens are spans: where there are none, by the names of the keys."""
    return not any(map(_is_tag, tags)) if tags else text_key == "tokenized_text" or tags_key in SPANS


def _are_dicts(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)


def _list(key: str, value: Any, fail: _Failures) -> list[Any]:
    if not isinstance(value, list | None):
        raise fail.value(key, value, "a list of spans, or as many tags as the text has words between blanks")
    return value or []


def _parts(span: Any, fail: _Failures) -> tuple[int, int, str, Any]:
    """Start, end, type and, where it is stated, the text of a span: ``[start, end, type]`` or an object."""
    if isinstance(span, Mapping):
        span = span.get("value", span)
        start, end = (span.get(key, span.get(f"{key}_offset")) for key in ("start", "end"))
        kinds = next((span[key] for key in ("label", "labels", "type", "tag", "entity_group") if span.get(key)), None)
        surface = span.get("text")
    else:
        start, end, kinds, surface = (*span, None) if isinstance(span, list | tuple) and len(span) == 3 else [None] * 4
    if isinstance(kinds, list) and len(kinds) == 1:
        kinds = kinds[0]
    if type(start) is not int or type(end) is not int or not isinstance(kinds, str) or not kinds.strip():
        raise fail.value("a span", span, "start, end and one type: [0, 5, 'PER'], or an object with these")
    return start, end, " ".join(kinds.split()), surface


def _span(text: str, one: Any, fail: _Failures) -> Span:
    start, end, kind, surface = _parts(one, fail)
    if isinstance(surface, str) and text[max(start, 0) : max(end, 0)] != surface:
        # Tools that run in a browser count UTF-16 units: two for an emoji.
        units = text.encode("utf-16-le")
        before, there = units[: 2 * start], units[2 * start : 2 * end]
        if start < 0 or there.decode("utf-16-le", "replace") != surface:
            detail = f"{surface!r} came, but {text[max(start, 0) : max(end, 0)]!r} stands at {start}:{end}"
            raise fail("misplaced span", f"{detail}; expected the text of the span there")
        start = len(before.decode("utf-16-le", "replace"))
        end = start + len(surface)
    return Span(start, end, kind)


def _tags_of_token_spans(tokens: list[str], spans: list[Any], fail: _Failures) -> list[str]:
    """IOB2 tags of GLiNER's spans: first token, last token, type."""
    tags = ["O"] * len(tokens)
    found = sorted({_parts(one, fail)[:3] for one in spans})
    for number, (first, last, kind) in enumerate(found):
        if not 0 <= first <= last < len(tokens):
            expected = f"the first and the last token, from 0 to {len(tokens) - 1}"
            raise fail.value(f"a span of {kind}", [first, last], expected)
        if number and first <= found[number - 1][1]:
            pair = (found[number - 1], found[number])
            shown = " and ".join(f"{' '.join(map(str, tokens[one : end + 1]))!r} ({name})" for one, end, name in pair)
            raise fail("overlapping spans", f"{shown} overlap; expected spans apart, none inside another")
        tags[first : last + 1] = [f"B-{kind}", *[f"I-{kind}"] * (last - first)]
    tag_names(tokens, tags)
    return tags


def _label_studio(record: Mapping[str, Any], text_column: str | None, fail: _Failures) -> dict[str, Any]:
    """A task of Label Studio's JSON as a flat record; only one annotation may differ from no other."""
    data = dict(record["data"])
    annotations = record.get("annotations", record.get("completions")) or []
    results = [one.get("result", []) for one in annotations if not one.get("was_cancelled")]
    spans = [
        [one for one in result if isinstance(one, Mapping) and "start" in one.get("value", {})] for result in results
    ]
    flat = [sorted(_parts(one, fail)[:3] for one in result) for result in spans]
    if any(one != flat[0] for one in flat):
        raise fail("several annotations", f"{len(flat)} annotations came, which differ; expected one")
    if isinstance(data.get("image"), str):
        data["image"] = PurePosixPath(re.split(r"[?&]d=", data["image"])[-1].partition("?")[0]).name or None
    texts = [key for key, value in data.items() if isinstance(value, str) and key != "image"]
    if text_column is None and not {*TEXTS} & {*data} and len(texts) == 1:
        data["text"] = data.pop(texts[0])
    return {"id": record.get("id")} | data | {"spans": spans[0] if spans else None}


def _take_image(row: Row, key: str, cell: Any, name: Any, fail: _Failures) -> None:
    """The image of a row: the name of a file, a ``data:`` URI, bytes, or a cell of ``datasets.Image``."""
    if isinstance(cell, Mapping):
        name, cell = name or cell.get("path"), cell.get("bytes") or cell.get("path")
    if isinstance(cell, str) and cell.startswith("data:"):
        try:
            name, cell = "image", base64.b64decode(cell.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise fail("bad image", f"a data: URI came that is no base64 ({error}); expected an image") from None
    if isinstance(cell, bytes):
        row.image_bytes, row.image = cell, PurePosixPath(name or "").name.strip(".") or "image"
    elif not isinstance(cell, str | None) or cell == "":
        raise fail.value(key, cell, "a file name or null")
    else:
        row.image = cell
