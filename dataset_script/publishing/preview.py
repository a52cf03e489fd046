"""A page of sampled rows to look at before training: sentences with their entities marked, beside their images.

The page is one file and asks nothing of any server.
"""

import argparse
import base64
import heapq
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from ..building.draws import uniform
from ..formats.readers import rows_with_images
from ..formats.registry import discover
from ..images import open_image
from ..parquet import is_parquet
from ..report import LoadReport
from ..rows import SPLIT_FILES, Row, iob2_spans

_Drawn = tuple[str, Row, Path | bytes | None]  # split, row, image
TITLE = "Preview of "
THUMBNAIL_PX = 320
TEMPLATE = Path(__file__).with_name("preview.html")
COLOURS = ("#c9f0d2", "#ecd5f5", "#ffe0b0", "#cfe3ff", "#f6d3ea", "#ffd5cf", "#c8f0f0", "#e6e6b8")
"""Behind entities, by type in alphabetical order; further types use them again. LOC, MISC, ORG and PER have those of
other pages."""


def preview(
    folder: str | Path,
    output: str | Path,
    rows: int = 60,
    lang: str | None = None,
    split: str | None = None,
    seed: int = 0,
    tags_column: int | str | None = None,
) -> Path:
    """Write a page of rows drawn at random, each as likely as any other, to the file ``output``.

    Args:
        folder: a dataset in any format that the readers know.
        rows: how many at most.
        lang: of which language alone; also that of rows that do not state theirs.
        split: of which split alone.
        seed: of the draw; the same rows and seed give the same bytes.
        tags_column: as that of ``dataset_script.load``.

    Raises:
        FileExistsError: ``output`` is there, and is no preview.
        FileNotFoundError: the folder is not there, or holds no dataset.
        ValueError: no row is left, or an option makes no sense.
    """
    if rows < 1:
        raise ValueError(f"--rows is {rows}; expected 1 or more.")
    folder, report = Path(folder).expanduser(), LoadReport()
    output = Path(output).expanduser()
    if output.is_dir() or (output.exists() and f"<title>{TITLE}".encode() not in output.read_bytes()):
        raise FileExistsError(f"{output} is there, and is no preview: name another file (--output).")
    has_files = folder.is_dir() and not is_parquet(folder)
    files = discover(folder.resolve(), {"tags_column": tags_column}) if has_files else []
    default = None if files and files[0].lang else lang

    def candidates() -> Iterator[tuple[float, int, _Drawn]]:
        for number, (place, row, image) in enumerate(
            rows_with_images(folder, report, default, tags_column=tags_column)
        ):
            if lang in (None, row.lang) and split in (None, place):
                yield uniform(seed, "preview", number), number, (place, row, image)

    drawn = [one for _, _, one in sorted(heapq.nsmallest(rows, candidates()), key=lambda item: item[1])]
    total = report.total(split, lang)
    if not drawn:
        found = ", ".join(f"{place} {one}" for place, parts in report.parts.items() for one in parts)
        raise ValueError(f"{folder} has no rows in {lang or 'any language'}, {split or 'any split'}; it has {found}.")
    types = sorted({kind for _, row, _ in drawn for _, _, kind in iob2_spans(row.tags)})
    summary = f"{len(drawn)} of {total.rows} rows, drawn with seed {seed}."
    if total.repaired_tags:
        summary += f" {total.repaired_tags} I-X began an entity and are shown as B-X."
    if total.skipped:
        reasons = ", ".join(f"{reason} {number}" for reason, number in total.skipped.most_common())
        summary += f" {total.skipped.total()} malformed rows were left out: {reasons}."
    template = jinja2.Template(
        TEMPLATE.read_text(encoding="utf-8"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = template.render(
        title=f"{TITLE}{folder.resolve().name}",
        summary=summary,
        grounds=COLOURS,
        colours={kind: number % len(COLOURS) for number, kind in enumerate(types)},
        rows=[_shown(*one) for one in drawn],
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, encoding="utf-8")
    return output


def _shown(split: str, row: Row, image: Path | bytes | None) -> dict[str, Any]:
    """What the template shows of a row, as plain text."""
    details = {
        "row": f"{row.id} ({row.lang}, {split})",
        "image": " ".join(filter(None, [row.image_relation, row.image])),
        "caption": row.caption or "",
    }
    thumbnail, problem = _thumbnail(row, image)
    return {
        "id": row.id,
        "lang": row.lang,
        "segments": _segments(row),
        "details": {name: value for name, value in details.items() if value},
        "thumbnail": thumbnail,
        "problem": problem,
    }


def _segments(row: Row) -> list[tuple[str, str | None]]:
    """The sentence in order: the words of an entity with its type, those between entities with ``None``."""
    segments: list[tuple[str, str | None]] = []
    before = 0
    for start, end, kind in [*iob2_spans(row.tags), (len(row.tokens), len(row.tokens), None)]:
        segments += [(" ".join(row.tokens[before:start]), None), (" ".join(row.tokens[start:end]), kind)]
        before = end
    return [segment for segment in segments if segment[0]]


def _thumbnail(row: Row, file: Path | bytes | None) -> tuple[str | None, str | None]:
    """A small JPEG as a ``data:`` URI, or why there is none. What is transparent becomes white."""
    if file is None:
        return None, "no image" if row.image is None else "its file is not here"
    try:
        image = open_image(file).convert("RGBA")
    except OSError as error:
        return None, f"does not open: {error}"
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode(), None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``mmner data preview``."""
    parser.add_argument("folder", metavar="FOLDER", help="folder of a dataset")
    parser.add_argument("--output", type=Path, default=Path("preview.html"), help="the page (%(default)s)")
    parser.add_argument("--rows", type=int, default=60, help="how many at most (%(default)s)")
    parser.add_argument(
        "--lang", metavar="CODE", help="of this language alone, which is also that of rows that do not state theirs"
    )
    parser.add_argument("--split", choices=tuple(SPLIT_FILES), help="of this split alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tags_column", metavar="COLUMN", help="that of the tags: a name or a number (-1: last)")


def run(arguments: argparse.Namespace) -> int:
    """Write the page, and say where."""
    chosen = arguments.rows, arguments.lang, arguments.split, arguments.seed, arguments.tags_column
    print(preview(arguments.folder, arguments.output, *chosen).as_posix())
    return 0
