"""Bring several sources together as one dataset in JSONL, by a YAML file that names them."""

import argparse
import json
import logging
import os
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ..files import replacing
from ..formats.readers import read_source
from ..images import ImageFolder, find_image_root
from ..rows import Row, check, mended_tags

logger = logging.getLogger(__name__)

KIND = "mixture"
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Part:
    """A source of a mixture."""

    path: str  # a folder, in which $NAME stands for a variable of the environment
    weight: float = 1.0  # how often its training rows are repeated; a random part of them for a fraction
    label_map: Any = None  # as of ``dataset_script.load``
    known_types: tuple[str, ...] | None = None  # the entity types (after the map) that were tagged; all if left out
    handles: str = "keep"  # "join": ``@`` and the word after it become one word that is no entity
    lang: str | None = None

    def __post_init__(self) -> None:
        if self.handles not in ("keep", "join") or not self.weight >= 0:
            raise ValueError(
                f"{self.path}: handles is {self.handles!r} and weight {self.weight}; expected keep or join, and a "
                "number of at least 0."
            )

    @property
    def folder(self) -> Path:
        """Where it is."""
        folder = Path(os.path.expandvars(self.path)).expanduser()
        if "$" in str(folder):
            raise ValueError(f"{self.path} names a variable that is not set: write NAME=FOLDER before the command.")
        return folder

    def rows(self, split: str) -> Iterator[Row]:
        """Its rows of a split, with unique ids."""
        rows = read_source(self.folder, lang=self.lang, label_map=self.label_map)
        for number, (part, row) in enumerate(rows):
            if part == split:
                known = None if self.known_types is None else list(self.known_types)
                row = replace(row, id=f"{self.folder.name}-{row.lang}-{number}", known_types=known or row.known_types)
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
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = [field.name for field in fields(Part)]
    if not isinstance(content, list) or not all(isinstance(entry, Mapping) and "path" in entry for entry in content):
        raise ValueError(f"{path}: expected a list of sources, each with 'path' and any of {', '.join(names[1:])}.")
    if unknown := sorted({str(name) for entry in content for name in entry} - set(names)):
        raise ValueError(f"{path}: {', '.join(unknown)} came; expected {', '.join(names)}.")
    return [Part(**entry) for entry in content]


def mix(parts: list[Part], output_dir: str | Path, seed: int = 0) -> Path:
    """Write the mixture: ``train.jsonl`` (shuffled), ``validation.jsonl`` and the images of both.

    Args:
        parts: the sources; only their splits ``train`` and ``validation`` are read.
        output_dir: new, empty, or of an earlier mixture, which is replaced when this one is complete.
        seed: of the random parts and of the order.

    Raises:
        FileExistsError: the folder holds something else.
        ValueError: a source cannot be read, or its label map gives a type that ``known_types`` leaves out.
    """
    rng = random.Random(seed)
    with replacing(output_dir, KIND) as folder:
        (folder / "images").mkdir()
        for split in SPLITS:
            lines: list[str] = []
            for part in parts:
                images = ImageFolder(find_image_root(part.folder))
                rows = [_record(row, images, folder / "images") for row in part.rows(split)]
                whole, rest = divmod(part.weight if split == "train" else 1, 1)
                for number in range(int(whole)):
                    lines += [_line(row, number) for row in rows]
                lines += [_line(row, int(whole)) for row in rng.sample(rows, round(rest * len(rows)))]
                logger.info("%s: %d rows of %s, weight %g", split, len(rows), part.path, part.weight)
            if split == "train":
                rng.shuffle(lines)
            (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return Path(output_dir)


def _record(row: Row, images: Any, target: Path) -> dict[str, Any]:
    image = images.find(row.image).path if row.image else None
    if image is not None and not (target / image.name).exists():
        shutil.copyfile(image, target / image.name)
    record = {"id": row.id, "lang": row.lang, "tokens": row.tokens, "ner_tags": row.tags}
    return record | {"image": image and image.name, "known_types": row.known_types}


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
