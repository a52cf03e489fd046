"""Write a dataset in any format that can be read as JSONL, with its images beside it."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import datasets

from ..files import mark, refuse_unlisted, replacing, scratch
from ..formats.readers import is_hub_name
from ..images import ImageFiles, find_image_root
from ..loading import load

KIND = "rows"
OPTIONS = {
    "lang": "language of rows that do not state theirs: en, it, pt-BR",
    "errors": "raise (default), or skip malformed rows and count them",
    "iob2": "what to do about tags that break their scheme: auto (default), repair or strict",
    "label_map": "a name such as multinerd-to-four, or a YAML file",
    "text_column": "the column of the tokens, or of text with spans",
    "tags_column": "the column of the tags or spans: a name or a number",
    "image_column": "the column of the image",
    "image_folder": "where the images are, if not in images/",
    "captions": "a file of captions",
}


def convert(source: str | Path, output: str | Path, split: str | None = None, **options: Any) -> Path:
    """Write ``source`` to ``output``: ``rows.jsonl``, one split with its images in ``rows_images/``; or a folder, with
    a file a split and the images in ``images/``. Images that the file finds where they lie are not copied.

    Args:
        source: as of ``dataset_script.load``, or the name of a set on the Hub.
        output: a new place, or one that an earlier call wrote, which is replaced when all is written.
        split: of several, the one to write.
        options: as those of ``dataset_script.load``.

    Raises:
        FileExistsError: something else is there, or what is read.
        ValueError: ``source`` cannot be read, or has several splits for one file.
    """
    output = Path(output).expanduser().absolute()
    dataset = _loaded(source, output, options)
    if split is not None and split not in dataset:
        raise ValueError(f"{source} has no split {split} (--split); it has {', '.join(dataset)}.")
    splits = {name: rows for name, rows in dataset.items() if split in (None, name)}
    if output.suffix != ".jsonl":
        with replacing(output, KIND, [source]) as folder:
            for name, rows in splits.items():
                _write(rows, folder / f"{name}.jsonl", folder / "images")
        return output
    if len(splits) > 1:
        raise ValueError(
            f"{source} has the splits {', '.join(splits)}, and {output.name} holds one: name it (--split "
            f"{next(iter(splits))}), or write a folder (--output {output.stem})."
        )
    if Path(source).expanduser().resolve() == output.resolve():
        raise FileExistsError(f"{output} is what is read, and is not replaced: name another file (--output).")
    output.parent.mkdir(parents=True, exist_ok=True)
    refuse_unlisted(output.parent, [output.name])
    images = output.with_name(f"{output.stem}_images")
    root = None if images.exists() else find_image_root(output.parent, output.stem)
    with scratch(output.parent, output.name) as aside:
        _write(next(iter(splits.values())), aside / output.name, aside / "images", root)
        if (aside / "images").is_dir():
            with replacing(images, KIND) as folder:
                for path in (aside / "images").iterdir():
                    path.rename(folder / path.name)
        refuse_unlisted(output.parent, [output.name])
        mark(output.parent, KIND, {output.name: aside / output.name}, alone=True)
        os.replace(aside / output.name, output)
    return output


def _loaded(source: str | Path, output: Path, options: dict[str, Any]) -> datasets.DatasetDict:
    if Path(source).expanduser().exists() or not is_hub_name(source):
        return load(source, **options)
    output.parent.mkdir(parents=True, exist_ok=True)
    with scratch(output.parent, f"{output.name}-hub") as aside:
        datasets.load_dataset(str(source)).save_to_disk(aside / "saved")
        return load(aside / "saved", **options)


def _write(rows: datasets.Dataset, path: Path, images: Path, root: Path | None = None) -> None:
    """Write the rows of a split; images in ``root``, where the file finds them, keep their place if all are there."""
    labels = [*rows.features["ner_tags"].feature.names, None]
    rows = rows.cast_column("image", datasets.Image(decode=False))
    places = (
        [Path(cell["path"]) if cell["bytes"] is None else Path() for cell in rows["image"] if cell] if root else []
    )
    root = root if root and all(place.is_relative_to(root) for place in places) else None
    files, ids = ImageFiles(images), rows["id"][:]
    is_unique = len({*ids}) == len(ids)  # not if files of several languages or parts count anew
    taken: set[str] = set()
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            tags = [labels[tag] for tag in row["ner_tags"]]
            row["ner_tags"] = None if tags and all(tag is None for tag in tags) else tags
            own, number = row["id"], 1
            while not is_unique and (number == 1 or row["id"] in taken):
                row["id"] = f"{row['lang']}-{own}" + (f"-{number}" if number > 1 else "")
                number += 1
            taken.add(row["id"])
            if cell := row["image"]:
                place = Path(cell["path"] or "image")
                content = None if root else cell["bytes"] or place.read_bytes()
                row["image"] = files.add(content, place.name) if content else place.relative_to(str(root)).as_posix()
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``mmner data convert``."""
    parser.add_argument(
        "source", metavar="DATASET", help="a folder or file of any format in docs/data.md, or org/name"
    )
    parser.add_argument("--output", required=True, help="rows.jsonl for one split, or a folder")
    parser.add_argument("--split", help="of several, the one to write")
    for name, text in OPTIONS.items():
        parser.add_argument(f"--{name}", metavar="COLUMN" if name.endswith("column") else None, help=text)


def run(arguments: argparse.Namespace) -> int:
    """The command ``convert``."""
    options = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    print(convert(arguments.source, arguments.output, arguments.split, **options))
    return 0
