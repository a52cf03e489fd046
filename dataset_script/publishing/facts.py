"""Counts what a finished dataset folder holds: the numbers of the dataset card."""

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq

from ..parquet import check_columns
from ..report import LoadReport
from ..rows import LANGUAGE, TagError, iob2_spans, is_unlabelled, language_order, split_order, tag_names

NOT_STATED = "not stated"
_BATCH_ROWS = 100
_SHARD = re.compile(r"(?P<split>.+)-\d{5}\.parquet")


@dataclass
class Part:
    """Counts over the rows of one language in one split."""

    sentences: int = 0
    tokens: int = 0
    entities: Counter[str] = field(default_factory=Counter)  # type -> mentions
    images: Counter[bytes] = field(default_factory=Counter)  # digest -> rows with this image
    relations: Counter[str] = field(default_factory=Counter)  # ``image_relation`` -> rows; empty without this column
    files: list[str] = field(default_factory=list)  # relative to the folder

    def add(self, other: "Part") -> None:
        """Adds the counts of another part."""
        for name, more in vars(other).items():
            setattr(self, name, getattr(self, name) + more)


@dataclass
class Facts:
    """All that the card says of a folder."""

    features: datasets.Features
    parts: dict[tuple[str, str], Part]  # (language, split) -> its counts, in the order in which they are shown
    origins: list[dict[str, Any]]  # the lines of ``pictures.jsonl``
    build: dict[str, Any]  # ``build.json``, or nothing; ``sources`` and ``options`` are of it
    sources: list[dict[str, Any]]
    options: dict[str, Any]
    report: LoadReport  # ``load_report.json``, or an empty one

    @property
    def languages(self) -> list[str]:
        """Those that have rows."""
        return list(dict.fromkeys(lang for lang, _ in self.parts))

    @property
    def splits(self) -> list[str]:
        """Those that have rows, train first."""
        return sorted({split for _, split in self.parts}, key=split_order)

    @property
    def types(self) -> list[str]:
        """The entity types of the tags."""
        return list(dict.fromkeys(name[2:] for name in self.features["ner_tags"].feature.names if name != "O"))

    def total(self, lang: str | None = None, split: str | None = None) -> Part:
        """The sum over a language, a split, or everything."""
        total = Part()
        for (part_lang, part_split), part in self.parts.items():
            if lang in (None, part_lang) and split in (None, part_split):
                total.add(part)
        return total


def count(folder: Path) -> Facts:
    """Count what ``folder`` holds; ``ValueError`` for one without Parquet files, or with other columns than the
    dataset's, or an image without a line in ``pictures.jsonl``.
    """
    shards = find_shards(folder)
    if not shards:
        raise ValueError(
            f"{folder} has no Parquet files; expected a finished dataset, {{lang}}/{{split}}-00000.parquet."
        )
    first = next(iter(shards.values()))[0]
    features = _features(first)
    origins = [json.loads(line) for line in _read(folder / "pictures.jsonl").split("\n") if line]
    build = json.loads(_read(folder / "build.json") or "{}")
    report = _read(folder / "load_report.json")
    loaded = LoadReport.from_json(report) if report else LoadReport()
    facts = Facts(features, {}, origins, build, build.get("sources", []), build.get("options", {}), loaded)
    names = {origin["name"] for origin in origins}
    for key, paths in shards.items():
        part = facts.parts[key] = Part()
        for path in paths:
            if _features(path) != features:
                raise ValueError(f"{path} has other columns than {first}; expected the same in all files.")
            part.files.append(path.relative_to(folder).as_posix())
            _count_file(path, part, features["ner_tags"].feature.names, names)
    return facts


def find_shards(folder: Path) -> dict[tuple[str, str], list[Path]]:
    """(language, split) -> its Parquet files, in the order in which they are shown."""
    found: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(folder.glob("*/*.parquet")):
        lang = path.parent.name
        if LANGUAGE.fullmatch(lang) and path.is_file() and (match := _SHARD.fullmatch(path.name)):
            found.setdefault((lang, match["split"]), []).append(path)
    return dict(sorted(found.items(), key=lambda item: (language_order(item[0][0]), split_order(item[0][1]))))


def _count_file(path: Path, part: Part, labels: list[str], names: set[str]) -> None:
    with pq.ParquetFile(path) as file:
        there = file.schema_arrow.names
        columns = ["id", "tokens", "ner_tags", "image.bytes", "image_relation", "image_name"]
        columns = [name for name in columns if name.partition(".")[0] in there]
        for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
            for row in batch.to_pylist():
                try:
                    tags = [] if is_unlabelled(row["ner_tags"]) else tag_names(row["tokens"], row["ner_tags"], labels)
                except TagError as error:
                    raise ValueError(f"{path}, row {row['id']}: {error}.") from None
                name = row.get("image_name")
                if names and name is not None and name not in names:
                    raise ValueError(f"pictures.jsonl has no line for {name}, the image of row {row['id']} in {path}.")
                part.sentences += 1
                part.tokens += len(row["tokens"])
                part.entities.update(kind for _, _, kind in iob2_spans(tags))
                if row["image"] is not None:
                    part.images[hashlib.blake2b(row["image"]["bytes"], digest_size=16).digest()] += 1
                if "image_relation" in there:
                    part.relations[row["image_relation"] or NOT_STATED] += 1


def _features(path: Path) -> datasets.Features:
    features = datasets.Features.from_arrow_schema(pq.read_schema(path))
    check_columns(features, str(path))
    return features


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
