"""Texts to annotate, with their images: from lines, JSONL, CSV, Parquet, or a folder of images with captions."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from dataset_script.formats.lines import head
from dataset_script.formats.tables import dialect
from dataset_script.images import IMAGE_SUFFIXES

TEXTS, WORDS, IMAGES = ("text", "caption"), ("tokens", "words"), ("image", "file_name", "image_path")
SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
CAPTION_FILES = ("metadata.csv", "metadata.jsonl", "captions.csv", "captions.jsonl")


@dataclass
class Item:
    """A text to annotate: as a string or as words. `error` says why there is none."""

    id: str
    text: str | None = None
    tokens: list[str] | None = None
    image: Any = None  # of any kind that `load_image` takes
    error: str | None = None


@dataclass(frozen=True)
class Columns:
    """The columns of text and image that were asked for; `None`: the first of the usual names that is there."""

    text: str | None = None
    image: str | None = None


def read_items(source: str, columns: Columns) -> Iterator[Item]:
    """
    The texts of a file or folder, or of standard input (`-`: a text a line), in order; lines without a text are passed
    over. A row that cannot be read is there with its error.

    Raises:
        ValueError: there is no such file, its kind is not known, or no row has such a column.
    """
    if source == "-":
        return _lines(sys.stdin)
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path, columns)
    if not path.is_file():
        raise ValueError(
            f"There is no file or folder {source}; expected {', '.join(SUFFIXES)}, a folder of images, or - for "
            "standard input. To read one text: echo 'text' | mmner predict -"
        )
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(f"{source} is an image; give a folder of images, or: mmner explain TEXT --image {source}")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{source} has the suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}.")
    if path.suffix == ".txt":
        return _lines(path.open(encoding="utf-8-sig"))
    return _rows(path, columns)


def _lines(file: TextIO) -> Iterator[Item]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield Item(str(number), line.rstrip("\r\n"))


def _folder(folder: Path, columns: Columns) -> Iterator[Item]:
    """Images with their texts in `NAME.txt` beside each or in one of `CAPTION_FILES`; other texts are read alone."""
    table = next((folder / name for name in CAPTION_FILES if (folder / name).is_file()), None)
    if table is not None:
        yield from _rows(table, columns)
        return
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise ValueError(
            f"{folder} holds no images; expected images with their captions in NAME.txt beside each or in one of "
            f"{', '.join(CAPTION_FILES)}. Of a dataset, give one file: {folder}/test.jsonl"
        )
    captions = {image.with_suffix(".txt") for image in images}
    for path in sorted([*images, *(path for path in folder.rglob("*.txt") if path not in captions)]):
        name, caption = path.relative_to(folder).as_posix(), path.with_suffix(".txt")
        if caption.is_file():
            try:
                text = caption.read_text(encoding="utf-8-sig").strip()
            except UnicodeDecodeError as error:
                yield Item(name, error=f"{caption.name} is not UTF-8 ({error}); save it as UTF-8.")
                continue
            image = None if path == caption else str(path)
            yield Item(name, text, image=image, error=None if text else f"The caption {caption.name} is empty.")
        else:
            yield Item(name, error=f"There is no caption {caption.name} beside {path.name}.")


def _rows(path: Path, columns: Columns) -> Iterator[Item]:
    """The rows of a table. Images are named from its folder, or from `images/` in it."""
    rows = {".jsonl": _json_rows, ".parquet": _parquet_rows}.get(path.suffix, _csv_rows)(path)
    seen: dict[str, None] = {}
    for number, row in enumerate(rows, 1):
        if isinstance(row, str):
            yield Item(str(number), error=row)
            continue
        if not seen and path.suffix != ".jsonl":  # there, each row has its own
            _check_columns(path, row, columns)
        seen |= dict.fromkeys(row)
        yield _item(path, number, row, columns)
    if seen:
        _check_columns(path, seen, columns)


def _item(path: Path, number: int, row: dict[str, Any], columns: Columns) -> Item:
    text, tokens, image = (
        next((row[name] for name in names if row.get(name) is not None), None)
        for names in (_names(columns.text, TEXTS), WORDS, _names(columns.image, IMAGES))
    )
    row_id = number if row.get("id") in (None, "") else row["id"]
    item = Item(str(row_id), image=_image(path.parent, image))
    if isinstance(text, str):
        item.text = text
    elif text is None and isinstance(tokens, list) and all(isinstance(word, str) for word in tokens):
        item.tokens = tokens
    else:
        item.error = f"The text is {str(tokens if text is None else text)[:80]!r}; expected a string."
    return item


def _names(asked: str | None, usual: Sequence[str]) -> Sequence[str]:
    return usual if asked is None else (asked,)


def _check_columns(path: Path, found: Iterable[str], columns: Columns) -> None:
    for asked, option in ((columns.text, "--text_column"), (columns.image, "--image_column")):
        if asked is not None and asked not in found:
            raise ValueError(f"{path} has no column {asked} ({option}); its columns are {', '.join(found)}.")
    if not {*_names(columns.text, TEXTS), *WORDS} & {*found}:
        expected = " or ".join((*TEXTS, *WORDS))
        raise ValueError(f"{path} has the columns {', '.join(found)}; expected {expected}, or --text_column.")


def _image(folder: Path, image: Any) -> Any:
    if isinstance(image, dict):  # as `datasets` stores it
        image = image.get("bytes") or image.get("path")
    if not isinstance(image, str):
        return image
    places = (folder / image, folder / "images" / image)
    return next((str(place) for place in places if len(image) < 1000 and place.is_file()), image or None)


def _json_rows(path: Path) -> Iterator[dict[str, Any] | str]:
    with path.open(encoding="utf-8-sig") as file:
        for line in filter(str.strip, file):
            try:
                row = json.loads(line)
                json.dumps(row, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                yield r"The line has half of a pair such as \ud83d\ude42, which is no character; write the whole pair."
                continue
            except ValueError as error:
                yield f"The line is no JSON: {error}."
                continue
            yield row if isinstance(row, dict) else f"The line is {line.strip()[:80]!r}; expected an object."


def _csv_rows(path: Path) -> Iterator[dict[str, Any] | str]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, **dialect(head(path), "\t" if path.suffix == ".tsv" else ",\t;"))
        try:
            for row in reader:
                if None in row:  # cells beyond the header, such as those after a comma that is not in quotes
                    size = len(row) - 1
                    yield f"The row has {size + len(row[None])} cells; expected {size}, as the header. Quote the text."
                else:
                    yield {name: value or None for name, value in row.items()}
        except csv.Error as error:  # where the row ends is not known
            raise ValueError(
                f"{path}:{reader.reader.line_num}: {error}; correct the quotes there or before."
            ) from None


def _parquet_rows(path: Path) -> Iterator[dict[str, Any] | str]:
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=64):
        yield from batch.to_pylist()
