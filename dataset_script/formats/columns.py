"""Readers of formats with a token a line: ``IMGID:`` CoNLL (UMT, GMNER, FMNERG, MMNERD), numbered tokens (WikiNEuRal,
MultiNERD, GermEval 2014, UNER), and columns (CoNLL-2002, CoNLL-2003, MultiCoNER, HIPE)."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ..images import IMAGE_SUFFIXES
from ..rows import MalformedRow, Row, entity_type
from .lines import column_encoding, head, numbered_lines

IMGID = "IMGID:"
DOCSTART = "-DOCSTART-"

_MOST = 0.9
"""Share of the lines that must agree with a format, since some may be malformed."""
_LOOKS_LIKE_A_TAG = re.compile(r"O|[BIESLUMW]-.+")
_LOOKS_LIKE_A_TYPE = re.compile(r"[^\W\d_][\w/&.-]*( [\w/&.-]+)*")
_NO_TAG = "_"
"""In a column of tags: no gold label."""
_COMMENT = re.compile(r"#([ \t]|$)")
_KEY_AND_VALUE = re.compile(r"#[ \t]*[\w:.]+([ \t]*=|[ \t]id[ \t])")
_HEADER = frozenset("token tokens word words form".split())
_HIPE = "NE-COARSE-LIT"
_NOT_A_WORD = re.compile(r"\d+[-.]\d+\t")
"""In CoNLL-U, the line of a multiword token or an empty node: its words have lines of their own."""
_CHUNKS = frozenset("ADJP ADVP CONJP INTJ LST NP PP PRT SBAR UCP VP NC PC VC".split())
"""The types of chunks of CoNLL-2003, English and German."""


def read_imgid(path: Path, tags_column: int | str | None = None) -> Iterator[Row | MalformedRow]:
    """Sentences of an ``IMGID:`` line and then ``token<TAB>tag`` lines, ended by a blank line or the next ``IMGID:``.

    The image of ``IMGID:17_06_12483`` is ``17_06_12483`` with one of ``IMAGE_SUFFIXES``. A token is what stands before
    the tab, white space included; a blank stands for the tab in files that have none. Of further columns, see
    ``Layout``: FMNERG has the fine type after the coarse one, others a part of speech before the tag.
    """
    layout = Layout.of_file(path, tags_column)
    return _read(numbered_lines(path), layout, lambda block, _: _imgid_row(path, block, layout))


def read_numbered(path: Path, tags_column: int | str | None = None) -> Iterator[Row | MalformedRow]:
    """Lines of ``number<TAB>token<TAB>tag``, a blank line after each sentence; numbers begin anew in each.

    WikiNEuRal has these three columns. MultiNERD may have more, about the entity: of these, the first URL of an image
    in a sentence is kept as the row's ``image_url``. Others may have a part of speech before the tag. GermEval 2014
    has the outer tags, which are read, before the nested ones. Comments begin with ``#``.
    """
    layout = Layout.of_file(path, tags_column, numbered=True)
    return _read(numbered_lines(path), layout, lambda block, number: _numbered_row(path, block, layout, number))


def read_conll(path: Path, tags_column: int | str | None = None) -> Iterator[Row | MalformedRow]:
    """The columns of CoNLL-2002 (token, perhaps part of speech, tag) and CoNLL-2003 (token, perhaps lemma, part of
    speech, chunk, tag), separated by blanks or tabs; ``-DOCSTART-`` lines and comments (``# ...``) are passed over.

    The first line may name the columns; of HIPE's, NE-COARSE-LIT has the tags.

    The encoding is UTF-8 or, as published, ISO-8859-1 (``lines.column_encoding``).
    """
    layout = Layout.of_file(path, tags_column)
    lines = numbered_lines(path, column_encoding(path, path.stat().st_mtime_ns))
    return _read(lines, layout, lambda block, number: _column_row(path, block, layout, str(number)))


def looks_imgid(lines: Sequence[str]) -> bool:
    """Whether a line names an image."""
    return any(line.startswith(IMGID) for line in lines)


def looks_numbered(lines: Sequence[str]) -> bool:
    """Whether the first column counts the tokens of each sentence, and a later one has the tags."""
    layout = Layout.of(lines, numbered=True)
    fitting = total = 0
    for block in _blocks(enumerate(lines, 1), layout):
        rows = [line.split("\t") for _, line in block.text()]
        first = rows[0][0] if rows else ""
        total += len(rows)
        if first in ("0", "1"):
            numbered = enumerate(rows, int(first))
            fitting += sum(columns[0] == str(number) and layout.fits(columns) for number, columns in numbered)
    return total > 0 and fitting >= _MOST * total and not looks_imgid(lines)


def looks_conll(lines: Sequence[str]) -> bool:
    """Whether most lines have as many columns, and one of these holds tags.

    Numbered tokens have such columns too. They differ in that the numbers continue within a sentence, so a file of
    nothing but sentences of one token may be either.
    """
    layout = Layout.of(lines)
    long_sentences = any(len(block.lines) > 1 for block in _blocks(enumerate(lines), layout))
    if looks_imgid(lines) or (looks_numbered(lines) and long_sentences):
        return False
    rows = [
        layout.split(line)
        for line in _content(lines)
        if not layout.is_header(line) and not layout.is_comment(line, begins=True)
    ]
    fitting = sum(len(columns) == layout.columns and layout.fits(columns) for columns in rows)
    return layout.columns >= 2 and fitting >= _MOST * len(rows) > 0


@dataclass(frozen=True)
class Layout:
    """How many columns most lines of a file have, and which of them are the tags, from 0.

    Where no column looks like tags, that is the last one. Several stand for a file of no known kind; known are
    CoNLL-2003, whose chunks come before the tag, and FMNERG, whose fine types come after the coarse ones.
    ``numbered``: a number comes before the token.
    """

    columns: int
    tags: tuple[int, ...]
    numbered: bool = False
    header: tuple[str, ...] = ()  # the names of the columns, where the first line has them
    tabs: bool = False
    bare: bool = False  # the tags have no prefixes

    @classmethod
    def of_file(cls, path: Path, tags_column: int | str | None, numbered: bool = False) -> "Layout":
        """The layout of a file, its tags in ``tags_column``, counted from 1 or, if negative, from the end.

        Raises:
            ValueError: the file has no such column after the token, or several that look like tags and none was given.
        """
        lines = head(path)
        layout = cls.of(lines, numbered)
        line = next((line[:80] for line in _content(lines)), None)
        if tags_column is None and len(layout.tags) > 1:
            columns = " and ".join(str(column + 1) for column in layout.tags)
            raise ValueError(
                f"{path}: the columns {columns} look like tags (the first line begins {line!r}): name the one to read "
                f"by tags_column (--tags_column), for example {layout.tags[-1] + 1}."
            )
        if tags_column is None or line is None:
            return layout
        if isinstance(tags_column, str):
            if tags_column not in layout.header:
                came = f"names ({', '.join(layout.header)})" if layout.header else f"no header (it begins {line!r})"
                raise ValueError(
                    f"tags_column (--tags_column) is {tags_column!r}, but {path} has {came}: expected one of its "
                    f"names, or a number from {numbered + 2} to {layout.columns}."
                )
            return replace(layout, tags=(layout.header.index(tags_column),))
        column = tags_column - 1 if tags_column > 0 else layout.columns + tags_column
        if not numbered < column < layout.columns:
            raise ValueError(
                f"tags_column (--tags_column) is {tags_column}, but {path} has {layout.columns} columns (the first "
                f"line begins {line!r}): expected a number from {numbered + 2} to {layout.columns}, or -1, the last."
            )
        return replace(layout, tags=(column,))

    @classmethod
    def of(cls, lines: Iterable[str], numbered: bool = False) -> "Layout":
        """The layout that most of ``lines`` have."""
        lines = list(lines)
        first_line = next(_content(lines), "")
        header = tuple(_split(first_line))
        if header[0].lower() not in _HEADER or any(map(_LOOKS_LIKE_A_TAG.fullmatch, header)):
            header = ()
        plain = [line for line in _content(lines) if not line.startswith("#") and line != (header and first_line)]
        rows = [line.split("\t") if numbered else _split(line) for line in plain or _content(lines)]
        tabs = sum("\t" in line for line in plain) > _MOST * len(plain) > 0
        counts = Counter(len(columns) for columns in rows)
        columns = counts.most_common(1)[0][0] if counts else 2 + numbered
        cells = {column: [row[column].strip() for row in rows if len(row) > column] for column in range(columns)}
        tags = [
            column
            for column in range(1 + numbered, columns)
            if 2 * sum(_LOOKS_LIKE_A_TAG.fullmatch(cell) is not None for cell in cells[column]) > len(rows)
        ] or [columns - 1]
        if len(tags) == 2:
            first, second = (cells[column] for column in tags)
            kinds = [cell[2:] for cell in first if cell != "O"]
            same_prefixes = all(one[:1] == other[:1] for one, other in zip(first, second, strict=False))
            has_chunks = sum(kind in _CHUNKS for kind in kinds) >= _MOST * len(kinds)
            if has_chunks and tags == [columns - 2, columns - 1] and columns >= 4 + numbered:
                tags = tags[1:]  # CoNLL-2003
            elif looks_imgid(lines) and not has_chunks and same_prefixes:
                tags = tags[:1]  # FMNERG
            elif numbered and columns == 4 and any(line.startswith("#\t") for line in lines):
                tags = tags[:1]  # GermEval 2014
        if _HIPE in header:
            tags = [header.index(_HIPE)]
        found = cells.get(tags[0], [])
        bare = "O" in found and not any(cell[1:2] == "-" and _LOOKS_LIKE_A_TAG.fullmatch(cell) for cell in found)
        return cls(columns, tuple(tags), numbered, header, tabs, bare)

    def fits(self, columns: Sequence[str]) -> bool:
        """Whether a line has a tag where it should be."""
        pattern = _LOOKS_LIKE_A_TYPE if self.bare else _LOOKS_LIKE_A_TAG
        cells = [columns[place].strip() if place < len(columns) else "" for place in self.tags]
        return all(cell == _NO_TAG or pattern.fullmatch(cell) for cell in cells)

    def split(self, line: str) -> list[str]:
        """The cells of a line. In a file without tabs, a label may have blanks: ``Solaris B-creative work``."""
        cells = line.split("\t") if self.tabs and "\t" not in line else _split(line)
        last = self.columns - 1
        if len(cells) > self.columns and self.tags[0] == last and "\t" not in line and entity_type(cells[last]):
            cells[last:] = [" ".join(cells[last:])]
        return cells

    def is_header(self, line: str) -> bool:
        """Whether a line names the columns."""
        return bool(self.header) and tuple(_split(line)) == self.header

    def is_comment(self, line: str, begins: bool) -> bool:
        """Whether a line is none of a token; ``begins``: no token of its sentence came before."""
        if self.numbered and _NOT_A_WORD.match(line):
            return True
        pattern = _COMMENT if begins else _KEY_AND_VALUE
        if not (pattern.match(line) or _KEY_AND_VALUE.match(line)):
            return False
        cells = line.split("\t") if self.numbered else self.split(line)
        return len(cells) != self.columns or not self.fits(cells)

    def __str__(self) -> str:
        names = ["number", "token"] if self.numbered else ["token"]
        numbers = range(len(names), self.tags[0] + 1 if self.numbered else self.columns)
        names += ["tag" if number == self.tags[0] else f"column {number + 1}" for number in numbers]
        return "<TAB>".join(names)


def read_captions(path: Path) -> Iterator[tuple[str, str] | MalformedRow]:
    """The lines ``file.jpg :caption`` as (file, caption); blank lines are passed over, and so are repetitions."""
    captions: dict[str, str] = {}
    for number, line in numbered_lines(path):
        if isinstance(line, MalformedRow):
            yield line
        elif line.strip():
            file, separator, caption = line.partition(" :")
            if not separator or not file.strip():
                yield MalformedRow(path, number, "bad caption", f"{line!r} came; expected 'file.jpg :caption'")
            elif captions.setdefault(file, caption) != caption:
                detail = f"a second, other caption of {file} came; expected one"
                yield MalformedRow(path, number, "duplicate caption", detail)
            else:
                yield file, caption


@dataclass
class _Block:
    """The lines of a sentence. ``imgid`` is ``None`` where no ``IMGID:`` line stands before them."""

    line: int
    imgid: str | None = None
    lines: list[tuple[int, str | MalformedRow]] = field(default_factory=list)
    comments: bool = False

    def text(self) -> Iterator[tuple[int, str]]:
        """The lines; raises the first problem among them."""
        for number, line in self.lines:
            if isinstance(line, MalformedRow):
                raise line
            yield number, line


def _blocks(lines: Iterable[tuple[int, str | MalformedRow]], layout: Layout) -> Iterator[_Block]:
    """The sentences of a file: what stands between blank lines, ``IMGID:`` lines and ``-DOCSTART-`` lines; in HIPE,
    the flag ``EndOfSentence`` ends one too.
    """
    block: _Block | None = None
    commented = False
    for number, line in lines:
        text = line if isinstance(line, str) else "?"
        if text.startswith(IMGID):
            if block:
                yield block
            block = _Block(number, text.removeprefix(IMGID).strip())
        elif not text.strip(" \t") or _is_docstart(text):
            # A -DOCSTART- line between IMGID: and the first token says nothing; elsewhere it ends a sentence.
            if block and (block.lines or not _is_docstart(text)):
                yield block
                block = None
        elif layout.is_comment(text, not (block and block.lines)):
            commented = True
        elif not layout.is_header(text):
            block = block or _Block(number)
            block.comments, commented = block.comments or commented, False
            block.lines.append((number, line))
            if layout.header and "EndOfSentence" in text.rpartition("\t")[2].split("|"):
                yield block
                block = None
    if block:
        yield block


def _read(
    lines: Iterable[tuple[int, str | MalformedRow]], layout: Layout, row_of: Callable[[_Block, int], Row]
) -> Iterator[Row | MalformedRow]:
    for number, block in enumerate(_blocks(lines, layout)):
        try:
            row = row_of(block, number)
        except MalformedRow as problem:
            yield problem
        else:
            row.tags = [None if tag == _NO_TAG else tag for tag in row.tags]  # type: ignore[misc]
            row.ignored_keys += ("comments",) if block.comments else ()
            yield row


def _content(lines: Iterable[str]) -> Iterator[str]:
    return (line for line in lines if line.strip(" \t") and not line.startswith(IMGID) and not _is_docstart(line))


def _is_docstart(line: str) -> bool:
    return line.startswith(DOCSTART) and line[len(DOCSTART) :][:1] in ("", " ", "\t")


def _split(line: str) -> list[str]:
    line = line.rstrip(" \t") if line.strip(" \t") else line
    return line.split("\t") if "\t" in line else re.split(" +", line)


def _imgid_row(path: Path, block: _Block, layout: Layout) -> Row:
    list(block.text())  # a line that is not text may be the IMGID: line
    if not block.imgid:
        came = "'IMGID:' came without an id" if block.imgid == "" else "a token came before any IMGID: line"
        raise MalformedRow(path, block.line, "no IMGID", f"{came}; expected 'IMGID:' and an id before each sentence")
    row = _column_row(path, block, layout, block.imgid)
    suffix = PurePosixPath(block.imgid).suffix.lower()
    row.image = block.imgid if suffix in IMAGE_SUFFIXES else f"{block.imgid}.*"
    return row


def _column_row(path: Path, block: _Block, layout: Layout, row_id: str) -> Row:
    tokens, tags = [], []
    for number, line in block.text():
        columns = layout.split(line)
        if len(columns) != layout.columns:
            raise MalformedRow(path, number, "bad line", f"{line!r} came; expected {layout}")
        tokens.append(columns[0])
        tags.append(columns[layout.tags[0]].strip())
    others = [number for number in range(1, layout.columns) if number != layout.tags[0]]
    extra = tuple(layout.header[number] if layout.header else f"column {number + 1}" for number in others)
    lines = [number for number, _ in block.lines]
    return Row(path, block.line, row_id, None, tokens, tags, ignored_keys=extra, token_lines=lines)


def _numbered_row(path: Path, block: _Block, layout: Layout, row_number: int) -> Row:
    lines = [number for number, _ in block.lines]
    row = Row(path, block.line, str(row_number), None, [], [], token_lines=lines)
    extra: set[str] = set()
    start: int | None = None
    for line_number, line in block.text():
        columns = line.split("\t")
        if len(columns) <= layout.tags[0] or not re.fullmatch(r"[0-9]+", columns[0]):
            raise MalformedRow(path, line_number, "bad line", f"{line!r} came; expected {layout}")
        start = int(columns[0]) if start is None else start
        if start > 1 or int(columns[0]) != start + len(row.tokens):
            expected = start + len(row.tokens) if start <= 1 else "0 or 1 at the start of a sentence"
            raise MalformedRow(path, line_number, "bad number", f"token {columns[0]} came; expected {expected}")
        row.tokens.append(columns[1])
        row.tags.append(columns[layout.tags[0]].strip())
        for position, value in enumerate(map(str.strip, columns)):
            if position > 1 and _is_image_url(value):
                row.image_url = row.image_url or value
            elif value and position not in (0, 1, layout.tags[0]):
                extra.add(f"column {position + 1}")
    row.ignored_keys = tuple(sorted(extra))
    return row


def _is_image_url(text: str) -> bool:
    if not text.startswith(("http://", "https://")):
        return False
    path = urlsplit(text).path
    return "Special:FilePath/" in path or PurePosixPath(path).suffix.lower() in (*IMAGE_SUFFIXES, ".svg")
