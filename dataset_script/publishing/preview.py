"""A page of sampled rows to look at before training: sentences with their entities marked, beside their pictures.

The page is one file and asks nothing of any server.
"""

import argparse
import base64
import heapq
import io
import json
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from ..auditing.rows import AuditedFolder, AuditRow
from ..building.draws import uniform
from ..images import open_image
from ..rows import LANGUAGES, SPLIT_FILES, iob2_spans
from .highlight import STYLE, colours, entity_html, legend_html

THUMBNAIL_PX = 320
PICTURES_FILE = "pictures.jsonl"
TEMPLATE = Path(__file__).with_name("preview.html")
FILTERS = {"lang": "language", "split": "split", "relation": "picture", "types": "entity type"}


def preview(
    folder: str | Path,
    output: str | Path,
    rows: int = 60,
    lang: str | None = None,
    split: str | None = None,
    seed: int = 0,
    tag_column: int | None = None,
) -> Path:
    """Write a page of rows drawn at random, each as likely as any other.

    Args:
        folder: a dataset in any format that the readers know.
        output: the HTML file; replaced if it is there.
        rows: how many at most.
        lang, split: of which language or split alone.
        seed: of the draw; the same rows and seed give the same bytes.
        tag_column: of files in columns, as that of ``dataset_script.load``.

    Returns:
        The file.

    Raises:
        FileNotFoundError: the folder is not there, or holds no dataset.
        ValueError: no row is left, or an option makes no sense.
    """
    if rows < 1:
        raise ValueError(f"rows is {rows}; expected 1 or more.")
    if lang not in (None, *LANGUAGES):
        raise ValueError(f"lang is {lang!r}; expected one of {', '.join(LANGUAGES)}.")
    audited = AuditedFolder(Path(folder), Path(folder).expanduser().resolve().name, tag_column=tag_column)
    drawn, counts, malformed = _draw(audited, rows, lang, split, seed)
    if not drawn:
        found = ", ".join(f"{key}: {number}" for key, number in sorted(counts.items())) or "none"
        raise ValueError(f"{folder} has no rows in {lang or 'any language'}, {split or 'any split'}; it has {found}.")
    facts = _facts(audited.folder / PICTURES_FILE, {row.image for row in drawn if row.image})
    colour_of = colours(kind for row in drawn for _, _, kind in iob2_spans(row.tags))
    summary = f"{len(drawn)} of {counts.total()} rows, drawn with seed {seed}."
    if malformed:
        reasons = ", ".join(f"{reason} {number}" for reason, number in malformed.most_common())
        summary += f" {malformed.total()} malformed rows were left out: {reasons}."
    page = string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"Preview of {audited.name}"),
        style=STYLE,
        summary=escape(summary),
        legend="Entities: " + legend_html(colour_of),
        filters=" ".join(_filter(name, title, drawn) for name, title in FILTERS.items()),
        articles="\n".join(_article(row, colour_of, facts.get(row.image or "")) for row in drawn),
    )
    output = Path(output).expanduser()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, encoding="utf-8")
    return output


def _draw(
    audited: AuditedFolder, size: int, lang: str | None, split: str | None, seed: int
) -> tuple[list[AuditRow], Counter[str], Counter[str]]:
    """The rows of the least draws, in the order of the folder; rows by part; malformed ones by reason."""
    heap: list[tuple[float, int, AuditRow]] = []
    counts: Counter[str] = Counter()
    malformed: Counter[str] = Counter()
    for number, row in enumerate(audited.rows()):
        if row.problem is not None:
            malformed[row.problem] += 1
            continue
        counts[f"{row.split} {row.lang}"] += 1
        if lang not in (None, row.lang) or split not in (None, row.split):
            continue
        item = (-uniform(seed, "preview", number), -number, row)
        if len(heap) < size:
            heapq.heappush(heap, item)
        elif item > heap[0]:
            heapq.heapreplace(heap, item)
    return [row for _, _, row in sorted(heap, key=lambda item: -item[1])], counts, malformed


def _facts(path: Path, names: set[str]) -> dict[str, dict[str, Any]]:
    """What ``pictures.jsonl`` says of the pictures of these names."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as file:
        records = (json.loads(line) for line in file if line.strip())
        return {record["name"]: record for record in records if record["name"] in names}


def _article(row: AuditRow, colour_of: dict[str, int], facts: dict[str, Any] | None) -> str:
    spans = list(iob2_spans(row.tags))
    values = {name: _values(name, row) for name in FILTERS}
    data = " ".join(f'data-{name}="{escape(json.dumps(value))}"' for name, value in values.items())
    details: dict[str, str | None] = {
        "row": escape(f"{row.id} ({row.lang}, {row.split})"),
        "picture": escape(" ".join(filter(None, [row.relation, row.image]))) or None,
        "caption": escape(row.caption) if row.caption else None,
    }
    if row.slips:
        details["tags"] = f"{row.slips} I-X began an entity and are shown as B-X"
    if facts is not None:
        for key in ("licence", "author", "source"):
            details[key] = _linked(facts.get(key)) if facts.get(key) else "not stated"
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in details.items() if value is not None)
    sentence = entity_html(row.tokens, spans, colour_of) or "(a sentence of no tokens)"
    return (
        f"<article {data}><figure>{_picture(row)}</figure>"
        f'<div><p class="sentence" lang="{escape(row.lang)}">{sentence}</p><dl>{listed}</dl></div></article>'
    )


def _picture(row: AuditRow) -> str:
    if row.image is None:
        return '<span class="none">no picture</span>'
    if row.picture is None:
        return '<span class="none">its file is not here</span>'
    try:
        image = open_image(row.picture)
    except OSError as error:
        return f'<span class="none">does not open: {escape(str(error))}</span>'
    alternative = escape(f"The picture of row {row.id}")
    return f'<img alt="{alternative}" src="{_data_uri(image)}">'


def _data_uri(image: Image.Image) -> str:
    """A thumbnail as a JPEG; what is transparent becomes white."""
    image = image.convert("RGBA")
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _linked(text: object) -> str:
    shown = escape(str(text))
    is_url = str(text).startswith(("https://", "http://"))
    return f'<a href="{shown}" rel="noreferrer">{shown}</a>' if is_url else shown


def _values(name: str, row: AuditRow) -> list[str]:
    """What a row has for a filter; never nothing, so that each row can be found."""
    if name == "types":
        return sorted({kind for _, _, kind in iob2_spans(row.tags)}) or ["no entity"]
    if name == "relation":
        return [row.relation or ("not stated" if row.image else "none")]
    return [getattr(row, name)]


def _filter(name: str, title: str, rows: Sequence[AuditRow]) -> str:
    order = {value: number for number, value in enumerate((*LANGUAGES, *SPLIT_FILES))}
    found = Counter(value for row in rows for value in _values(name, row))
    options = _options(sorted(found, key=lambda value: (order.get(value, len(order)), value)), found)
    return f'<label>{title} <select name="{name}"><option value="">all</option>{options}</select></label>'


def _options(values: Iterable[str], found: Counter[str]) -> str:
    return "".join(f'<option value="{escape(value)}">{escape(value)} ({found[value]})</option>' for value in values)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m dataset_script preview``."""
    parser.add_argument("folder", metavar="FOLDER", help="folder of a dataset")
    parser.add_argument("--output", type=Path, default=Path("preview.html"), help="the page (%(default)s)")
    parser.add_argument("--rows", type=int, default=60, help="how many at most (%(default)s)")
    parser.add_argument("--lang", choices=LANGUAGES, help="of this language alone")
    parser.add_argument("--split", choices=tuple(SPLIT_FILES), help="of this split alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tag_column", type=int, metavar="N", help="of files in columns: that of the tags (-1: last)")


def run(arguments: argparse.Namespace) -> int:
    """Write the page, and say where."""
    chosen = arguments.rows, arguments.lang, arguments.split, arguments.seed, arguments.tag_column
    print(preview(arguments.folder, arguments.output, *chosen).as_posix())
    return 0
