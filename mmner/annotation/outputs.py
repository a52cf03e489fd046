"""Annotated texts as JSONL, CSV, CoNLL, spaCy's DocBin or an HTML page."""

import contextlib
import csv
import html
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from explain_2mner import figure, highlight, page_head
from processing_2mner import TwoMNERProcessor, load_image

Row = dict[str, Any]
"""`id`, `text`, the pipeline's `entities`, and where there are such `tokens`, `image` (by name) and `error`."""

STYLE = """article { border-top: 1px solid #ddd; padding: .6rem 0; overflow: hidden }
article img { float: right; max-width: 9rem; max-height: 9rem; margin-left: 1rem }
article p.id, article p.error { font-size: .8rem; color: #595959; margin: 0 } article p.error { color: #a40000 }
article .text { margin: .3rem 0 }"""


def write_jsonl(rows: Iterable[Row], path: Path, processor: TwoMNERProcessor) -> None:
    """A JSON object a text."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_csv(rows: Iterable[Row], path: Path, processor: TwoMNERProcessor) -> None:
    """A line an entity, for spreadsheets; a text without one has a line of its own."""
    names = ["id", "text", "image", "entity_group", "word", "start", "end", "score", "error"]
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # with the mark by which Excel knows UTF-8
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            for entity in row["entities"] or [{}]:
                writer.writerow({**row, **entity})


def write_conll(rows: Iterable[Row], path: Path, processor: TwoMNERProcessor) -> None:
    """A word and its IOB2 tag a line, and comments with the id of each text and its error."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(f"# id = {row['id']}\n")
            if "error" in row:
                file.write(f"# error = {' '.join(row['error'].split())}\n")
            words, offsets = _words(row, processor)
            for word, (start, _) in zip(words, offsets, strict=True):
                entity = next((item for item in row["entities"] if item["start"] <= start < item["end"]), None)
                tag = "O" if entity is None else f"{'B' if start == entity['start'] else 'I'}-{entity['entity_group']}"
                file.write(f"{word}\t{tag}\n")
            file.write("\n")


def write_spacy(rows: Iterable[Row], path: Path, processor: TwoMNERProcessor) -> None:
    """A DocBin of spaCy: a Doc a text, its id and error in `user_data`."""
    import spacy
    from spacy.tokens import Doc, DocBin

    vocab, store = spacy.blank("xx").vocab, DocBin(store_user_data=True)
    for row in rows:
        words, offsets = _words(row, processor)
        starts = [start for start, _ in offsets]
        spaces = [end < start for (_, end), start in zip(offsets, starts[1:], strict=False)] + [False] * bool(words)
        doc = Doc(vocab, words=words, spaces=spaces)
        places = {start: place for place, start in enumerate(starts)}
        ends = {end: place + 1 for place, (_, end) in enumerate(offsets)}
        spans = [(places[e["start"]], ends[e["end"]], e["entity_group"]) for e in row["entities"]]
        doc.set_ents([spacy.tokens.Span(doc, start, end, label=kind) for start, end, kind in spans])
        doc.user_data |= {name: row[name] for name in ("id", "error") if name in row}
        store.add(doc)
    store.to_disk(path)


def _words(row: Row, processor: TwoMNERProcessor) -> tuple[list[str], list[tuple[int, int]]]:
    words = row.get("tokens")
    return processor.split_words(row["text"] or "") if words is None else (words, processor.join_words(words)[1])


def write_html(rows: Iterable[Row], path: Path, processor: TwoMNERProcessor) -> None:
    """A page that needs nothing else: each text with its entities marked, and its image."""
    with path.open("w", encoding="utf-8") as file:
        file.write(page_head("Named entities", STYLE))
        for row in rows:
            file.writelines(_article(row))
        file.write("</body></html>\n")


def _article(row: Row) -> Iterator[str]:
    yield "<article>"
    if row.get("image"):
        with contextlib.suppress(TypeError, ValueError):  # its error is in the row
            yield figure(load_image(row["image"]))
    yield f'<p class="id">{html.escape(row["id"])}</p>'
    if "error" in row:
        yield f'<p class="error">{html.escape(row["error"])}</p>'
    yield f'<p class="text" dir="auto">{highlight(row["text"] or "", row["entities"])}</p></article>\n'


FORMATS: dict[str, Callable[[Iterable[Row], Path, TwoMNERProcessor], None]] = {
    ".jsonl": write_jsonl,
    ".csv": write_csv,
    ".conll": write_conll,
    ".spacy": write_spacy,
    ".html": write_html,
}
"""Suffix of the output -> what writes it."""
