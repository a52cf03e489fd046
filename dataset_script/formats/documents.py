"""Readers of annotated documents: spaCy's DocBin and BRAT's pairs of text and annotations."""

import re
from collections.abc import Iterator
from pathlib import Path

from ..rows import MalformedRow, Row, TagError
from .words import Span, tag_spans

_ENTITY = re.compile(r"(T\S+)\t(\S+) (\d+ \d+(?:;\d+ \d+)*)\t(.*)")


def read_spacy(path: Path) -> Iterator[Row | MalformedRow]:
    """The documents of a ``.spacy`` file, with spaCy's own tokens; the line of an error is the number of the document.

    Raises:
        ValueError: spaCy is not installed, or the file is damaged.
    """
    try:
        import spacy
    except ImportError:
        raise ValueError(f"{path} is a DocBin of spaCy, which is not installed: pip install spacy") from None
    try:
        docs = list(spacy.tokens.DocBin().from_disk(path).get_docs(spacy.blank("xx").vocab))
    except Exception as error:  # of zlib, msgpack or spaCy
        raise ValueError(f"{path} is no DocBin of spaCy ({type(error).__name__}: {error}).") from error
    for number, doc in enumerate(docs):
        words = [(token.text, token.ent_iob_, token.ent_type_) for token in doc if not token.is_space]
        tags: list = ["O" if not kind else f"{iob}-{kind}" for _, iob, kind in words]
        if not doc.has_annotation("ENT_IOB"):
            tags = [None] * len(words)
        yield Row(path, number + 1, str(number), None, [word for word, _, _ in words], tags)


def is_brat(folder: Path) -> bool:
    """Whether a folder holds texts with BRAT's annotations."""
    return any(path.with_suffix(".txt").is_file() for path in folder.glob("*.ann"))


def read_brat(folder: Path) -> Iterator[Row | MalformedRow]:
    """The lines of the texts of a folder in BRAT's format, ``a.txt`` and ``a.ann``; blank lines are passed over.

    Of the annotations, the entities (``T``) are read; others are counted as ignored keys. Errors name the line of the
    ``.ann`` file. A text without annotations beside it is malformed: BRAT writes an empty file.
    """
    for path in sorted(folder.glob("*.txt")):
        if not path.with_suffix(".ann").is_file():
            yield MalformedRow(path, 1, "no annotations", f"no {path.stem}.ann came; expected one beside each .txt")
            continue
        try:
            yield from _brat_rows(path)
        except MalformedRow as problem:
            yield problem


def _brat_rows(path: Path) -> Iterator[Row | MalformedRow]:
    annotations, text = path.with_suffix(".ann"), _text(path)
    spans: list[tuple[int, Span]] = []
    ignored: set[str] = set()
    for number, line in enumerate(_text(annotations).removeprefix("\ufeff").replace("\r\n", "\n").split("\n"), 1):
        if not line.startswith("T"):
            ignored.update({f"annotations {line[0]}"} if line.strip() else ())
            continue
        if (match := _ENTITY.fullmatch(line)) is None:
            detail = f"{line!r} came; expected an id, a tab, the type, start and end, a tab and the text"
            raise MalformedRow(annotations, number, "bad annotation", detail)
        edges = [int(edge) for edge in re.split("[ ;]", match[3])]
        there = text[edges[0] : edges[-1]]
        gaps = [text[end:start].strip(" ") for end, start in zip(edges[1:-1:2], edges[2::2], strict=True)]
        if "\n" in there or any(gaps) or there != match[4]:
            detail = (
                f"{match[4]!r} came, but {there!r} stands at {edges[0]}:{edges[-1]}; expected an entity in one part"
            )
            raise MalformedRow(annotations, number, "misplaced span", f"{detail} and line, and its text there")
        spans.append((number, Span(edges[0], edges[-1], match[2])))
    start = 0
    for number, line in enumerate(text.split("\n")):
        row = Row(path, number + 1, f"{path.stem}-{number}", None, [], [], ignored_keys=tuple(sorted(ignored)))
        inside = [(place, span) for place, span in spans if start <= span.start <= start + len(line)]
        moved = [Span(span.start - start, span.end - start, span.kind) for _, span in inside]
        start += len(line) + 1
        try:
            row.tokens, row.tags = tag_spans(line, moved)
            if row.tokens:
                yield row
        except TagError as error:
            shown = [
                place for (place, _), span in zip(inside, moved, strict=True) if line[slice(*span[:2])] in str(error)
            ]
            yield MalformedRow(annotations, shown[-1], error.reason, str(error))


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedRow(path, 1, "not UTF-8", f"{error}; expected UTF-8") from None
