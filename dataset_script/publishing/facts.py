"""What a finished dataset folder holds, counted from its Parquet files: all the numbers of the dataset card.

Columns are read batch by batch, and what must be told apart (sentences, entities, pictures) is kept in a file on disk:
memory does not grow with the rows.
"""

import hashlib
import heapq
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ..building.providers.folder import name_key
from ..report import LoadReport
from ..rows import LANGUAGES, TagError, iob2_spans, is_unlabelled, tag_names

SPLITS = ("train", "validation", "test")
NOT_STATED = "not stated"
_BATCH_ROWS = 512
_EXAMPLES_PER_LANGUAGE = 2
_EXAMPLE_TOKENS = range(6, 31)
_SHARD = re.compile(r"(?P<split>.+)-\d{5}\.parquet")


@dataclass
class Part:
    """Counts over the rows of one language in one split.

    Attributes:
        sentences, tokens: of them.
        entities: type -> mentions.
        pictures: rows with a picture.
        distinct_pictures: of them, by content.
        relations: ``image_relation`` -> rows; empty where the dataset has no such column.
        files: of this part, relative to the folder.
        file_bytes, memory_bytes: as they are on disk, and uncompressed.
    """

    sentences: int = 0
    tokens: int = 0
    entities: Counter[str] = field(default_factory=Counter)
    pictures: int = 0
    distinct_pictures: int = 0
    relations: Counter[str] = field(default_factory=Counter)
    files: list[str] = field(default_factory=list)
    file_bytes: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True)
class Overlap:
    """What a split shares with the training split.

    Attributes:
        distinct, uses: how many different ones the split has, and in how many places (rows, mentions).
        distinct_in_train, uses_in_train: of both, those that the training split has too.
    """

    distinct: int
    uses: int
    distinct_in_train: int
    uses_in_train: int


@dataclass(frozen=True, order=True)
class Example:
    """A row to show: those of least ``rank``, which depends on the row alone, pictures with a licence first."""

    rank: tuple[Any, ...]
    lang: str
    split: str
    id: str
    tokens: list[str] = field(compare=False)
    spans: list[tuple[int, int, str]] = field(compare=False)
    relation: str | None = field(compare=False)
    name: str | None = field(compare=False)
    place: tuple[str, int, int] = field(compare=False)
    """File, row group, row in it."""


@dataclass
class Facts:
    """All that the card says of a folder.

    Attributes:
        features: the columns.
        parts: (language, split) -> its counts, in the order in which they are shown.
        overlaps: (what, split) -> what it shares with ``train``; what is ``sentences``, ``entities`` or ``pictures``.
        distinct_pictures: over the whole dataset, by content.
        picture_files: lines of ``pictures.jsonl``; 0 where there is none.
        licences, origins: as the pictures state them -> pictures.
        without_author, without_source: pictures that state none.
        examples: by language.
        credits: picture name -> its line, for the pictures of the examples.
        build: ``build.json``, or nothing.
        report: ``load_report.json``, or nothing.
    """

    features: datasets.Features
    parts: dict[tuple[str, str], Part] = field(default_factory=dict)
    overlaps: dict[tuple[str, str], Overlap] = field(default_factory=dict)
    distinct_pictures: int = 0
    picture_files: int = 0
    licences: Counter[str] = field(default_factory=Counter)
    without_author: int = 0
    without_source: int = 0
    examples: list[Example] = field(default_factory=list)
    credits: dict[str, dict[str, Any]] = field(default_factory=dict)
    build: dict[str, Any] = field(default_factory=dict)
    report: LoadReport | None = None

    @property
    def languages(self) -> list[str]:
        """Those that have rows."""
        return list(dict.fromkeys(lang for lang, _ in self.parts))

    @property
    def splits(self) -> list[str]:
        """Those that have rows, train first."""
        return [split for split in _split_order({split for _, split in self.parts})]

    @property
    def types(self) -> list[str]:
        """The entity types of the tags."""
        names = self.features["ner_tags"].feature.names
        return list(dict.fromkeys(name[2:] for name in names if name != "O"))

    def total(self, lang: str | None = None, split: str | None = None) -> Part:
        """The sum over a language, a split, or everything; distinct pictures do not add up and are left at 0."""
        total = Part()
        for (part_lang, part_split), part in self.parts.items():
            if lang in (None, part_lang) and split in (None, part_split):
                for name in ("sentences", "tokens", "pictures", "file_bytes", "memory_bytes"):
                    setattr(total, name, getattr(total, name) + getattr(part, name))
                total.entities += part.entities
                total.relations += part.relations
                total.files += part.files
        return total


def count(folder: Path) -> Facts:
    """Count what ``folder`` holds.

    Raises:
        ValueError: there are no Parquet files as ``{lang}/{split}-00000.parquet``, they do not have the columns of the
            dataset, or not the same ones, or a picture has no line in ``pictures.jsonl``.
    """
    shards = find_shards(folder)
    if not shards:
        raise ValueError(
            f"{folder} has no Parquet files; expected a finished dataset, {{lang}}/{{split}}-00000.parquet."
        )
    first = next(iter(shards.values()))[0]
    facts = Facts(_features(first))
    facts.build = _read_json(folder / "build.json") or {}
    report = folder / "load_report.json"
    facts.report = LoadReport.from_json(report.read_text(encoding="utf-8")) if report.is_file() else None
    # A nameless SQLite database is a file that goes when it is closed.
    seen = sqlite3.connect("")
    try:
        seen.executescript(_TABLES)
        _read_pictures(folder, facts, seen)
        for (lang, split), paths in shards.items():
            part = facts.parts[lang, split] = Part()
            best: list[Example] = []
            for path in paths:
                if _features(path) != facts.features:
                    raise ValueError(f"{path} has other columns than {first}; expected the same in all files.")
                _count_file(folder, path, part, lang, split, seen, bool(facts.picture_files), best)
            facts.examples += best
        _count_distinct(facts, seen)
    finally:
        seen.close()
    facts.examples = _choose(facts)
    wanted = {example.name for example in facts.examples} - {None}
    facts.credits = {line["name"]: line for line in _pictures(folder) if line["name"] in wanted}
    return facts


def find_shards(folder: Path) -> dict[tuple[str, str], list[Path]]:
    """(language, split) -> its Parquet files, in the order in which they are shown."""
    found: dict[tuple[str, str], list[Path]] = {}
    for lang in LANGUAGES:
        for path in sorted((folder / lang).glob("*.parquet")):
            if path.is_file() and (match := _SHARD.fullmatch(path.name)):
                found.setdefault((lang, match["split"]), []).append(path)
    order = _split_order({split for _, split in found})
    return dict(sorted(found.items(), key=lambda item: (LANGUAGES.index(item[0][0]), order.index(item[0][1]))))


_TABLES = """
CREATE TABLE pictures (name TEXT PRIMARY KEY, key BLOB, licensed INTEGER) WITHOUT ROWID;
CREATE TABLE seen (what TEXT, key BLOB, split TEXT, lang TEXT, uses INTEGER, PRIMARY KEY (what, key, split, lang))
    WITHOUT ROWID;
"""


def _count_file(
    folder: Path, path: Path, part: Part, lang: str, split: str, seen: sqlite3.Connection, named: bool, best: list
) -> None:
    shown = path.relative_to(folder).as_posix()
    part.files.append(shown)
    part.file_bytes += path.stat().st_size
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        labels = _features(path)["ner_tags"].feature.names
        named = named and "image_name" in names
        # Without names, only its bytes tell one picture from another.
        columns = ["id", "tokens", "ner_tags", "image_name" if named else "image.bytes"]
        columns += ["image.path"] if named else []
        columns += ["image_relation"] if "image_relation" in names else []
        for group in range(file.num_row_groups):
            part.memory_bytes += file.metadata.row_group(group).total_byte_size
            position = 0
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                counts: Counter[tuple[str, bytes]] = Counter()
                for row in _rows(batch, labels, named, shown):
                    example = _count_row(row, part, lang, split, (shown, group, position), seen, counts)
                    position += 1
                    if example is not None and (len(best) < _EXAMPLES_PER_LANGUAGE or example < best[-1]):
                        best[:] = heapq.nsmallest(_EXAMPLES_PER_LANGUAGE, [*best, example])
                seen.executemany(
                    "INSERT INTO seen VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET uses = uses + excluded.uses",
                    [(what, key, split, lang, uses) for (what, key), uses in counts.items()],
                )


def _rows(batch: pa.RecordBatch, labels: list[str], named: bool, shown: str) -> Iterator[dict[str, Any]]:
    image = batch.column("image")
    present = image.is_valid().to_pylist()
    keys = batch.column("image_name").to_pylist() if named else image.field("bytes")
    relations = batch.column("image_relation").to_pylist() if "image_relation" in batch.schema.names else None
    columns = (batch.column(name).to_pylist() for name in ("id", "tokens", "ner_tags"))
    for number, (row_id, tokens, tags) in enumerate(zip(*columns, strict=True)):
        try:
            spans = [] if is_unlabelled(tags) else [*iob2_spans(tag_names(tokens, tags, labels))]
        except TagError as error:
            raise ValueError(f"{shown}, row {row_id}: {error}.") from None
        yield {
            "id": row_id,
            "tokens": tokens,
            "spans": spans,
            "picture": present[number],
            "name": keys[number] if named else None,
            "bytes": None if named or not present[number] else keys[number].as_py(),
            "relation": (relations[number] or NOT_STATED) if relations else None,
        }


def _count_row(
    row: dict[str, Any],
    part: Part,
    lang: str,
    split: str,
    place: tuple[str, int, int],
    seen: sqlite3.Connection,
    counts: Counter[tuple[str, bytes]],
) -> Example | None:
    """Adds a row to the counts; returns it if it is one that may be shown."""
    part.sentences += 1
    part.tokens += len(row["tokens"])
    counts["sentences", _digest("\0".join(row["tokens"]))] += 1
    for start, end, kind in row["spans"]:
        part.entities[kind] += 1
        counts["entities", _digest(f"{kind}\0{name_key(' '.join(row['tokens'][start:end]))}")] += 1
    if row["relation"] is not None:
        part.relations[row["relation"]] += 1
    licensed = False
    if row["picture"]:
        part.pictures += 1
        key = hashlib.sha256(row["bytes"]).digest() if row["bytes"] is not None else b""
        if row["bytes"] is None:
            found = seen.execute("SELECT key, licensed FROM pictures WHERE name = ?", (row["name"],)).fetchone()
            if found is None:
                raise ValueError(
                    f"pictures.jsonl has no line for {row['name']}, the picture of {place[0]}, {row['id']}."
                )
            key, licensed = found[0], bool(found[1])
        counts["pictures", key] += 1
    if not row["spans"] or len(row["tokens"]) not in _EXAMPLE_TOKENS:
        return None
    shows = row["picture"] and row["relation"] != "unrelated"
    rank = (not shows, not licensed, _digest(row["id"]))
    return Example(rank, lang, split, row["id"], row["tokens"], row["spans"], row["relation"], row["name"], place)


def _count_distinct(facts: Facts, seen: sqlite3.Connection) -> None:
    facts.distinct_pictures = seen.execute("SELECT count(DISTINCT key) FROM seen WHERE what = 'pictures'").fetchone()[
        0
    ]
    pairs = seen.execute("SELECT lang, split, count(*) FROM seen WHERE what = 'pictures' GROUP BY lang, split")
    for lang, split, number in pairs:
        facts.parts[lang, split].distinct_pictures = number
    query = """
        WITH mine AS (SELECT key, sum(uses) AS uses FROM seen WHERE what = :what AND split = :split GROUP BY key),
            train AS (SELECT DISTINCT key FROM seen WHERE what = :what AND split = 'train')
        SELECT count(*), ifnull(sum(mine.uses), 0), count(train.key),
            ifnull(sum(CASE WHEN train.key IS NULL THEN 0 ELSE mine.uses END), 0)
        FROM mine LEFT JOIN train ON train.key = mine.key
    """
    if "train" in facts.splits:
        for what in ("sentences", "entities", "pictures"):
            for split in facts.splits:
                if split != "train":
                    found = seen.execute(query, {"what": what, "split": split}).fetchone()
                    facts.overlaps[what, split] = Overlap(*found)


def _choose(facts: Facts) -> list[Example]:
    """The best of each language, of any split; the training split first, so that no test row is given away."""
    chosen = []
    for lang in facts.languages:
        mine = [example for example in facts.examples if example.lang == lang]
        mine.sort(key=lambda example: (_split_order({*facts.splits}).index(example.split), example.rank))
        chosen += mine[:_EXAMPLES_PER_LANGUAGE]
    return chosen


def _read_pictures(folder: Path, facts: Facts, seen: sqlite3.Connection) -> None:
    for line in _pictures(folder):
        facts.picture_files += 1
        facts.licences[line.get("licence") or NOT_STATED] += 1
        facts.without_author += not line.get("author")
        facts.without_source += not line.get("source")
        row = (line["name"], bytes.fromhex(line["sha256"]), bool(line.get("licence")))
        seen.execute("INSERT INTO pictures VALUES (?, ?, ?)", row)


def _pictures(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / "pictures.jsonl"
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def _features(path: Path) -> datasets.Features:
    features = datasets.Features.from_arrow_schema(pq.read_schema(path))
    tags = getattr(features.get("ner_tags"), "feature", None)
    missing = [name for name in ("id", "lang", "tokens", "ner_tags", "image") if name not in features]
    if missing or not isinstance(tags, datasets.ClassLabel):
        what = f"no {', '.join(missing)}" if missing else "ner_tags that are not a list of ClassLabel"
        raise ValueError(f"{path} has {what}; expected the columns of this dataset, as build writes them.")
    return features


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _split_order(splits: set[str]) -> list[str]:
    return [split for split in SPLITS if split in splits] + sorted(splits - {*SPLITS})


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
