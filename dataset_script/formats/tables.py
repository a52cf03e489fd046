"""Readers of tables: Parquet, Arrow, folders of ``save_to_disk``, and CSV or TSV."""

import ast
import contextlib
import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import datasets

from ..rows import MalformedRow, Row
from .lines import head
from .records import SPANS, TAGS, TEXTS, TOKENS, RecordReader, column_name

SENTENCES = ("sentence_id", "sentence #", "sent_id", "sentence_idx", "sentence")
"""Columns that say, in lower case, to which sentence a token of a table belongs."""
DOCUMENTS = ("doc_id", "doc", "document_id", "document", "file")
"""Columns that say, in lower case, of which document a sentence is."""

_QUOTED_CELL = re.compile(r'(^|\t)"(\[|[^\t]+"(\t|$)|[^\t"]+$)')  # the last one goes on in the next line


def read_table(path: Path, **columns: Any) -> Iterator[Row | MalformedRow]:
    """The records of a Parquet or Arrow file or of a folder that ``Dataset.save_to_disk`` wrote, read by ``datasets``,
    as of ``RecordReader``. The line of an error is the number of the row, from 1.

    Raises:
        ValueError: the file is damaged, or none of its kind.
    """
    try:
        if path.is_dir():
            rows = datasets.load_from_disk(str(path)).to_iterable_dataset()
        else:
            kind = path.suffix.removeprefix(".")
            rows = datasets.load_dataset(kind, data_files=str(path), split="train", streaming=True)
        rows = rows.decode(False)  # no time is spent on decoding images
        records = iter(rows)
        first = next(records, None)
    except Exception as error:  # of pyarrow or datasets, of many classes
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error}); is it whole?") from error
    reader = RecordReader(path, **columns, names=class_names(rows.features or {}, columns.get("tags_column")))
    for number, record in enumerate(() if first is None else chain([first], records), 1):
        try:
            yield reader.row(number, record)
        except MalformedRow as problem:
            yield problem


def class_names(features: Mapping[str, Any], column: str | int | None = None) -> Sequence[str]:
    """The names of the ClassLabels of ``column``, or of the first column of tags that has them."""
    classes = {key: kind.feature for key, kind in features.items() if hasattr(kind, "feature")}
    names = {key: kind.names for key, kind in classes.items() if isinstance(kind, datasets.ClassLabel)}
    given = column_name(column, list(features))
    return next((names[key] for key in ((given,) if given else TAGS + SPANS) if key in names), ())


def read_csv(path: Path, **columns: Any) -> Iterator[Row | MalformedRow]:
    """A table with a header, separated by commas, semicolons or tabs: a sentence a line, with lists as JSON or Python
    writes them, or a token a line. Then a column of ``SENTENCES`` tells the sentences apart (a number in each line, or
    in the first of a sentence), or blank lines do.

    Raises:
        ValueError: the table cannot be parsed, or there is a token a line and nothing tells the sentences apart.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, **dialect(head(path)))
        try:
            header = [name.strip() for name in next(lines, [])]
            numbered = [(lines.line_num, cells) for cells in lines]
        except (csv.Error, UnicodeDecodeError) as error:
            # Where one row ends is not known: to leave it out would leave out all that follow.
            line = lines.line_num + isinstance(error, UnicodeDecodeError)  # which comes before its line is counted
            raise ValueError(f"{path}:{line}: {error}; expected a table in UTF-8: correct it.") from None
    text, tags = _columns(header, columns.get("text_column"), columns.get("tags_column"))
    reader = RecordReader(path, text or None, tags or None, columns.get("image_column"))
    records: list[tuple[int, dict[str, Any]]] = []
    for number, cells in numbered:
        if cells and len(cells) != len(header):
            detail = f"{len(cells)} cells came; expected {len(header)} ({', '.join(header)})"
            yield MalformedRow(path, number, "bad line", detail)
        else:
            records.append((number, dict(zip(header, cells, strict=False))))
    sentence, document = (
        next((name for name in header if name.lower() in names and name != text), "")
        for names in (SENTENCES, DOCUMENTS)
    )
    # With numbers of sentences, several tags in a cell say that a line is a sentence; without, several words.
    told = tags if sentence else text
    cells = [record[told].strip() for _, record in records if told in record]
    if tags in header and not any(cell.startswith("[") or re.search(r"\s", cell) for cell in cells):
        if not sentence and len(records) > 1 and all(record for _, record in records):
            raise ValueError(
                f"{path} has a token a line, and neither blank lines nor a column {', '.join(SENTENCES)} tell the "
                f"sentences apart (columns: {', '.join(header)}): add one."
            )
        records = list(_grouped(records, text, tags, (sentence, document)))
    for number, record in records:
        values = {key: _value(cell) if key in (text, tags, "known_types") else cell for key, cell in record.items()}
        if isinstance(values.get(tags), str) and re.fullmatch(r"\S+( \S+)*", values[tags]):
            values[tags] = values[tags].split(" ")
        try:
            if record:
                yield reader.row(number, {key: None if value == "" else value for key, value in values.items()})
        except MalformedRow as problem:
            yield problem


def looks_csv(lines: Sequence[str]) -> bool:
    """Whether the first line is a header that names a column of text and one of tags, and the next lines have lists or
    the numbers of sentences: a header over plain columns is one of CoNLL's.
    """
    header = next(csv.reader(lines[:1], **dialect(lines)), [])
    text, tags = _columns([name.strip() for name in header])
    has_lists = len(lines) > 1 and re.search(r"(^|[\t,;\"])\[", lines[1]) is not None
    return bool(text and tags) and (has_lists or any(name.strip().lower() in SENTENCES for name in header))


def dialect(lines: Sequence[str], delimiters: str = ",\t;") -> dict[str, Any]:
    """How a table is separated and quoted: by the first line (the first of ``delimiters`` if it has none), and tabs
    have quotes only around whole cells of the first lines: a word may be a quote.
    """
    delimiter = max(delimiters, key=lines[0].count) if lines else ","
    quoted = delimiter != "\t" or any(_QUOTED_CELL.search(line.rstrip("\r\n")) for line in lines[:2])
    return {"delimiter": delimiter, "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, "strict": quoted}


def _columns(header: list[str], text: str | None = None, tags: str | int | None = None) -> tuple[str, str]:
    """The columns of text and tags: those given, else those of known names; ``""`` where there is none."""
    lower = {name.lower(): name for name in reversed(header)}
    text = text or next((lower[name] for name in (*TOKENS, "token", "word", *TEXTS) if name in lower), "")
    names = (lower[name] for name in (*TAGS, "ner_tag", "tag", *SPANS) if name in lower and lower[name] != text)
    return text, column_name(tags, header) or next(names, "")


def _grouped(
    records: list[tuple[int, dict[str, Any]]], text: str, tags: str, places: tuple[str, str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The tokens of a table by sentence; a line without cells and another sentence or document begin one."""
    group: tuple[int, dict[str, Any]] | None = None
    current = dict.fromkeys(places, "")
    for number, record in records:
        stated = {name: record[name] for name in places if record.get(name)}
        if group and (not record or stated != {name: current[name] for name in stated}):
            yield group
            group = None
        current |= stated
        if record:
            group = group or (number, record | {text: [], tags: []})
            cell = record[tags].strip()
            group[1][text].append(record[text])
            group[1][tags].append(int(cell) if re.fullmatch(r"-?\d+", cell) else cell or None)
    if group:
        yield group


def _value(cell: Any) -> Any:
    """A list as JSON or Python writes it; other text as it is."""
    if not isinstance(cell, str) or not cell.lstrip().startswith("["):
        return cell
    for parse in (json.loads, ast.literal_eval):
        # Python joins strings that stand side by side, as NumPy writes them: that would be one token of two.
        if parse is json.loads or not re.search(r"""['"]\s+['"]""", cell):
            with contextlib.suppress(ValueError, SyntaxError, RecursionError):
                return parse(cell.strip())
    return cell
