"""A page of sampled rows to look at before training: sentences with their entities marked, beside their images.

The page is one file and asks nothing of any server.
"""

import argparse
import base64
import heapq
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from ..auditing.rows import AuditedFolder, AuditRow
from ..building.draws import uniform
from ..images import open_image
from ..rows import LANGUAGES, SPLIT_FILES, iob2_spans

THUMBNAIL_PX = 320
TEMPLATE = Path(__file__).with_name("preview.html")
# Light and dark mode, with contrasts of the text above 7 : 1. Further types use the colours again.
GROUNDS = ("#cfe3ff", "#ffe0b0", "#c9f0d2", "#f6d3ea", "#e0d7ff", "#ffd5cf", "#c8f0f0", "#e6e6b8")
DARK_GROUNDS = ("#12406e", "#5c3d00", "#12502a", "#641f4e", "#43318a", "#6e2a1f", "#0b4d4d", "#4a4a12")
TEXT, DARK_TEXT = "#111111", "#f4f4f4"


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
        raise ValueError(f"--rows is {rows}; expected 1 or more.")
    if lang not in (None, *LANGUAGES):
        raise ValueError(f"--lang is {lang!r}; expected one of {', '.join(LANGUAGES)}.")
    audited = AuditedFolder(Path(folder), tag_column=tag_column)
    drawn, counts, malformed = _draw(audited, rows, lang, split, seed)
    if not drawn:
        found = ", ".join(f"{key}: {number}" for key, number in sorted(counts.items())) or "none"
        raise ValueError(f"{folder} has no rows in {lang or 'any language'}, {split or 'any split'}; it has {found}.")
    origins = _origins(audited.folder / "pictures.jsonl", {row.image_name for row in drawn if row.image_name})
    types = sorted({kind for row in drawn for _, _, kind in iob2_spans(row.tags)})
    summary = f"{len(drawn)} of {counts.total()} rows, drawn with seed {seed}."
    if malformed:
        reasons = ", ".join(f"{reason} {number}" for reason, number in malformed.most_common())
        summary += f" {malformed.total()} malformed rows were left out: {reasons}."
    template = jinja2.Template(
        TEMPLATE.read_text(encoding="utf-8"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = template.render(
        title=f"Preview of {audited.name}",
        summary=summary,
        grounds=list(zip(GROUNDS, DARK_GROUNDS, strict=True)),
        text=TEXT,
        dark_text=DARK_TEXT,
        colours={kind: number % len(GROUNDS) for number, kind in enumerate(types)},
        rows=[_shown(row, origins.get(row.image_name or "")) for row in drawn],
    )
    output = Path(output).expanduser()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, encoding="utf-8")
    return output


def _draw(
    audited: AuditedFolder, size: int, lang: str | None, split: str | None, seed: int
) -> tuple[list[AuditRow], Counter[str], Counter[str]]:
    """The rows drawn, in the order of the folder; rows by part; malformed ones by reason."""
    counts: Counter[str] = Counter()
    malformed: Counter[str] = Counter()

    def candidates() -> Iterator[tuple[float, int, AuditRow]]:
        for number, row in enumerate(audited.rows()):
            if row.problem is not None:
                malformed[row.problem] += 1
                continue
            counts[f"{row.split} {row.lang}"] += 1
            if lang in (None, row.lang) and split in (None, row.split):
                yield uniform(seed, "preview", number), number, row

    drawn = heapq.nsmallest(size, candidates())
    return [row for _, _, row in sorted(drawn, key=lambda item: item[1])], counts, malformed


def _origins(path: Path, names: set[str]) -> dict[str, dict[str, Any]]:
    """The lines of ``pictures.jsonl`` for the images of these names."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as file:
        records = (json.loads(line) for line in file if line.strip())
        return {record["name"]: record for record in records if record["name"] in names}


def _shown(row: AuditRow, origin: dict[str, Any] | None) -> dict[str, Any]:
    """What the template shows of a row, as plain text."""
    details = {
        "row": f"{row.id} ({row.lang}, {row.split})",
        "image": " ".join(filter(None, [row.relation, row.image_name])),
        "caption": row.caption or "",
        "tags": f"{row.slips} I-X began an entity and are shown as B-X" if row.slips else "",
    }
    if origin is not None:
        details |= {key: str(origin.get(key) or "not stated") for key in ("licence", "author", "source")}
    thumbnail, problem = _thumbnail(row)
    return {
        "id": row.id,
        "lang": row.lang,
        "segments": _segments(row),
        "details": {name: value for name, value in details.items() if value},
        "thumbnail": thumbnail,
        "problem": problem,
    }


def _segments(row: AuditRow) -> list[tuple[str, str | None]]:
    """The sentence in order: the words of an entity with its type, those between entities with ``None``."""
    segments: list[tuple[str, str | None]] = []
    before = 0
    for start, end, kind in [*iob2_spans(row.tags), (len(row.tokens), len(row.tokens), None)]:
        segments += [(" ".join(row.tokens[before:start]), None), (" ".join(row.tokens[start:end]), kind)]
        before = end
    return [segment for segment in segments if segment[0]]


def _thumbnail(row: AuditRow) -> tuple[str | None, str | None]:
    """A small JPEG as a ``data:`` URI, or why there is none. What is transparent becomes white."""
    if row.image is None:
        return None, "no image" if row.image_name is None else "its file is not here"
    try:
        image = open_image(row.image).convert("RGBA")
    except OSError as error:
        return None, f"does not open: {error}"
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode(), None


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
