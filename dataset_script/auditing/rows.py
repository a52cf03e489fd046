"""The rows of any dataset folder as an audit sees them: nothing left out, images not decoded."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq

from ..files import is_inside
from ..formats.policy import repair_tags
from ..formats.registry import discover
from ..images import LINK, candidates, find_image_root
from ..parquet import is_parquet
from ..rows import LANGUAGES, SPLIT_FILES, MalformedRow, Row, TagError, check, iob2_problems, tag_names

logger = logging.getLogger(__name__)

UNKNOWN_LANGUAGE = "?"
_BATCH_ROWS = 100


@dataclass(frozen=True)
class AuditRow:
    """A row, well-formed or not.

    Attributes:
        problem: why it is malformed, in a few words, or ``None``; tags that can be repaired do not count.
        tags: after repair.
        slips: tags that were repaired, each an I-X that began an entity.
        image: the image file, or its bytes, or ``None`` where there is neither.
    """

    split: str
    lang: str
    id: str
    tokens: list[str]
    tags: list[str]
    relation: str | None = None
    image_name: str | None = None
    image: Path | bytes | None = None
    caption: str | None = None
    slips: int = 0
    problem: str | None = None


@dataclass
class AuditedFolder:
    """A dataset folder in any format that is known.

    Args:
        folder: the folder.
        name: what the report calls it; by default that of the folder.
        lang: the language of rows that do not say theirs.
        image_folder: where the images are, if not where the readers look.
        tag_column: as that of ``dataset_script.load``.

    Raises:
        FileNotFoundError: the folder is not there, or holds no dataset.
    """

    folder: Path
    name: str = ""
    lang: str | None = None
    image_folder: Path | None = None
    tag_column: int | None = None

    def __post_init__(self) -> None:
        self.folder = Path(self.folder).expanduser().absolute()
        self.name = self.name or self.folder.resolve().name
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder} is not a folder: expected the folder of a dataset.")
        if self.image_folder is not None:
            self.image_folder = Path(self.image_folder).expanduser()
            if not self.image_folder.is_dir():
                raise FileNotFoundError(f"--image_folder {self.image_folder} is not a folder: expected one of images.")
        self._parquet = is_parquet(self.folder)
        self._sources = [] if self._parquet else discover(self.folder, self.tag_column)

    def rows(self) -> Iterator[AuditRow]:
        """The rows, split by split as the files are."""
        return self._parquet_rows() if self._parquet else self._source_rows()

    def _source_rows(self) -> Iterator[AuditRow]:
        root = self.image_folder or find_image_root(self.folder)
        found: dict[str, Path | None] = {}
        for source in self._sources:
            default = source.lang or self.lang or source.reader.default_lang or UNKNOWN_LANGUAGE
            for item in source.reader.read(source.path):
                if isinstance(item, MalformedRow):
                    yield AuditRow(source.split, default, f"line {item.line}", [], [], problem=item.reason)
                    continue
                row = _checked(item, source.split, item.lang or default)
                if row.image_name is not None and row.problem is None:
                    if row.image_name not in found:
                        found[row.image_name] = _find(root, row.image_name)
                    row = replace(row, image=found[row.image_name])
                yield row

    def _parquet_rows(self) -> Iterator[AuditRow]:
        files = [path for path in self.folder.glob("*/*.parquet") if path.is_file()]
        splits = list(SPLIT_FILES)
        for path in sorted(files, key=lambda path: (*_split(path, splits), path.parent.name, path.name)):
            with pq.ParquetFile(path) as parquet:
                features = datasets.Features.from_arrow_schema(parquet.schema_arrow)
                names = features["ner_tags"].feature.names
                columns = [name for name in _COLUMNS if name in features]
                for batch in parquet.iter_batches(_BATCH_ROWS, columns=columns):
                    for number, record in enumerate(batch.to_pylist()):
                        yield _parquet_row(path, number, record, names)


_COLUMNS = ("id", "lang", "tokens", "ner_tags", "caption", "image_relation", "image_name", "image")


def _parquet_row(path: Path, number: int, record: dict[str, Any], names: list[str]) -> AuditRow:
    image = record.get("image") or {}
    name = record.get("image_name") or image.get("path") or ("unnamed" if image.get("bytes") else None)
    split, _, _ = path.name.partition("-")
    lang, row_id, tokens = record["lang"], record["id"], record["tokens"]
    try:
        tags = tag_names(tokens, record["ner_tags"], names)
    except TagError as error:
        return AuditRow(split, lang, row_id, [], [], problem=error.reason)
    row = Row(path, number, row_id, lang, tokens, tags, name, record.get("caption"), record.get("image_relation"))
    return replace(_checked(row, split, lang), image=image.get("bytes"))


def _checked(row: Row, split: str, lang: str) -> AuditRow:
    # A row that does not state its language is as good as others here.
    row = replace(row, lang=LANGUAGES[0] if lang == UNKNOWN_LANGUAGE else lang, tags=list(row.tags))
    slips = sum(mended is not None for _, _, mended in iob2_problems(row.tags))
    problem = None
    try:
        repair_tags(row)
        check(row)
    except MalformedRow as error:
        problem = error.reason
    found = row.image_relation, row.image, None, row.caption
    return AuditRow(split, lang, row.id, row.tokens, row.tags, *found, slips, problem)


def _find(root: Path | None, name: str) -> Path | None:
    if root is None:
        return None
    for candidate in candidates(name):
        # os.path.isfile, unlike Path.is_file, answers False for a name that no file can have.
        path = os.path.join(root, candidate)
        if os.path.isfile(path):
            if is_inside(path, root):
                return Path(path)
            logger.warning("%s is %s.", path, LINK)
    return None


def _split(path: Path, splits: list[str]) -> tuple[int, str]:
    split = path.name.partition("-")[0]
    return splits.index(split) if split in splits else len(splits), split
