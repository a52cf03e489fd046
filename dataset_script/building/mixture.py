"""Bring several sources together as one dataset in JSONL, by a YAML file that names them."""

import argparse
import json
import logging
import math
import os
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ..files import replacing
from ..formats.readers import read_source
from ..images import FoundImage, ImageFiles, ImageFolder, find_image_root
from ..report import LoadReport
from ..rows import Row, check, mended_tags
from .build import source_names

logger = logging.getLogger(__name__)

KIND = "mixture"
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Part:
    """A source of a mixture."""

    path: str  # a folder or a file, in which $NAME stands for a variable of the environment
    weight: float = 1.0  # how often its training rows are repeated; a random part of them for a fraction
    label_map: Any = None  # as of ``dataset_script.load``
    known_types: tuple[str, ...] | None = None  # the entity types (after the map) that were tagged; all if left out
    handles: str = "keep"  # "join": ``@`` and the word after it become one word that is no entity
    lang: str | None = None
    errors: str = "raise"  # as of ``dataset_script.load``
    iob2: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.weight, int | float) or not 0 <= self.weight < math.inf:
            raise ValueError(f"{self.path}: weight is {self.weight!r}; expected a number of at least 0.")
        if not isinstance(self.lang, str | None):  # YAML takes no, Norwegian, for false
            raise ValueError(f"{self.path}: lang is {self.lang!r}; expected a code such as 'de', in quotes.")
        if self.handles not in ("keep", "join"):
            raise ValueError(f"{self.path}: handles is {self.handles!r}; expected keep or join.")
        if self.known_types is not None and not (self.known_types and isinstance(self.known_types, list | tuple)):
            raise ValueError(f"{self.path}: known_types is {self.known_types!r}; expected a list such as [PER, LOC].")

    @property
    def folder(self) -> Path:
        """Where it is."""
        folder = Path(os.path.expandvars(self.path)).expanduser()
        if "$" in str(folder):
            raise ValueError(f"{self.path} names a variable that is not set: write NAME=FOLDER before the command.")
        return folder

    def rows(self, split: str, name: str | None = None, report: LoadReport | None = None) -> Iterator[Row]:
        """Its rows of a split, with unique ids that begin with the name (by default that of the folder); what is
        repaired or left out is counted in ``report``.
        """
        options = {option: getattr(self, option) for option in ("lang", "label_map", "errors", "iob2")}
        rows = read_source(self.folder, splits=SPLITS, with_images=True, report=report, **options)
        for number, (part, row) in enumerate(rows):
            if part == split:
                known = None if self.known_types is None else list(self.known_types)
                place = f"{name or self.folder.name}-{row.lang}-{number}"
                row = replace(row, id=place, known_types=known or row.known_types)
                check(row)
                yield joined_handles(row) if self.handles == "join" else row


def joined_handles(row: Row) -> Row:
    """The row with ``@`` and the word after it as one word without a tag."""
    tokens: list[str] = []
    tags: list[str] = []
    for token, tag in zip(row.tokens, row.tags, strict=True):
        if tokens and tokens[-1] == "@" and re.fullmatch(r"\w+", token):
            tokens[-1], tags[-1] = f"@{token}", "O"
        else:
            tokens.append(token)
            tags.append(tag)
    return replace(row, tokens=tokens, tags=mended_tags(tags))


def read_parts(path: Path) -> list[Part]:
    """The sources that a YAML file lists.

    Raises:
        ValueError: it is no such file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from None
    names = [field.name for field in fields(Part)]
    if not isinstance(content, list) or not content or not all(_names_a_path(entry) for entry in content):
        raise ValueError(f"{path}: expected a list of sources, each with 'path' and any of {', '.join(names[1:])}.")
    if unknown := sorted({str(name) for entry in content for name in entry} - set(names)):
        raise ValueError(f"{path}: {', '.join(unknown)} came; expected {', '.join(names)}.")
    return [Part(**entry) for entry in content]


def _names_a_path(entry: Any) -> bool:
    return isinstance(entry, Mapping) and isinstance(entry.get("path"), str)


def mix(parts: list[Part], output_dir: str | Path, seed: int = 0) -> Path:
    """Write the mixture: ``train.jsonl`` (shuffled), ``validation.jsonl`` and the images of both.

    Args:
        parts: the sources; only their splits ``train`` and ``validation`` are read.
        output_dir: new, empty, or of an earlier mixture, which is replaced when this one is complete.
        seed: of the random parts and of the order.

    Raises:
        FileExistsError: the folder holds something else.
        ValueError: a source cannot be read or lies in the folder, or its label map gives a type that ``known_types``
            leaves out.
    """
    rng = random.Random(seed)
    with replacing(output_dir, KIND, [part.folder for part in parts]) as folder:
        (folder / "images").mkdir()
        files = ImageFiles(folder / "images")
        for split in SPLITS:
            lines: list[str] = []
            for part, name in zip(parts, source_names([part.folder for part in parts]), strict=True):
                root = find_image_root(part.folder)
                images, missing, rows, report = ImageFolder(root), 0, [], LoadReport()
                for row in part.rows(split, name, report):
                    rows.append(_record(row, images, files))
                    missing += bool(row.image) and rows[-1]["image"] is None
                if split == SPLITS[0]:  # both are read each time
                    report.log()
                weight = part.weight if split == "train" else 1
                whole, rest = divmod(weight, 1)
                for number in range(int(whole)):
                    lines += [_line(row, number) for row in rows]
                lines += [_line(row, int(whole)) for row in rng.sample(rows, round(rest * len(rows)))]
                logger.info("%s: %d rows of %s, weight %g", split, len(rows), part.path, weight)
                if missing:
                    message = "%s: the images of %d rows of %s are missing or do not open (looked for in %s)."
                    logger.warning(message, split, missing, part.path, root or "images/")
            if split == "train":
                rng.shuffle(lines)
            (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return Path(output_dir)


def _record(row: Row, images: ImageFolder, files: ImageFiles) -> dict[str, Any]:
    found, content = FoundImage(""), row.image_bytes
    if content is not None:
        found = images.opened(content, str(row.image))
        content = None if found.cause else content
    elif row.image is not None:
        found = images.find(row.image)
        content = found.path.read_bytes() if found.path else None
    record = {"id": row.id, "lang": row.lang, "tokens": row.tokens, "ner_tags": row.tags}
    record["image"] = files.add(content, Path(found.name).name) if content else None
    optional = {name: getattr(row, name) for name in ("caption", "image_relation", "image_url")}
    return record | {"known_types": row.known_types} | {name: text for name, text in optional.items() if text}


def _line(record: dict[str, Any], number: int) -> str:
    return json.dumps(record | {"id": f"{record['id']}-{number}"}, ensure_ascii=False) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("mixture", type=Path, help="a YAML file: a list of sources")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> int:
    """The command ``mix``."""
    print(mix(read_parts(arguments.mixture), arguments.output_dir, arguments.seed))
    return 0
