"""The rows of any dataset folder as an audit sees them: before anything is mended or left out, pictures undecoded."""

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
from ..parquet import ROWS_PER_GROUP, is_parquet
from ..rows import LANGUAGES, SPLIT_FILES, MalformedRow, Row, TagError, check, iob2_problems, tag_names

logger = logging.getLogger(__name__)

UNKNOWN_LANGUAGE = "?"
_NAME_COLUMN = "image_name"


@dataclass(frozen=True)
class AuditRow:
    """A row, well-formed or not.

    Attributes:
        problem: why it is malformed, in a few words, or ``None``; slips of IOB2 that can be mended do not count.
        tags: after mending.
        slips: tags that were mended, each an I-X that began an entity.
        image: the name of its picture, or ``None``.
        picture: the file of the picture, or its bytes, or ``None`` where there is neither.
    """

    split: str
    lang: str
    id: str
    tokens: list[str]
    tags: list[str]
    relation: str | None = None
    image: str | None = None
    picture: Path | bytes | None = None
    caption: str | None = None
    slips: int = 0
    problem: str | None = None


@dataclass
class AuditedFolder:
    """A dataset folder in any format that is known; ``rows`` may be called again.

    Args:
        folder: the folder.
        name: what the report calls it.
        lang: the language of rows that do not say theirs.
        image_folder: where the pictures are, if not where the readers look.
        tag_column: as that of ``dataset_script.load``.

    Raises:
        FileNotFoundError: the folder is not there, or holds no dataset.
    """

    folder: Path
    name: str
    lang: str | None = None
    image_folder: Path | None = None
    tag_column: int | None = None

    def __post_init__(self) -> None:
        self.folder = Path(self.folder).expanduser().absolute()
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder} is not a folder: expected the folder of a dataset.")
        if self.image_folder is not None and not Path(self.image_folder).expanduser().is_dir():
            raise FileNotFoundError(f"{self.image_folder} is not a folder: expected that of the pictures.")
        self._parquet = is_parquet(self.folder)
        self._sources = [] if self._parquet else discover(self.folder, self.tag_column)

    def rows(self, pictures: bool = True) -> Iterator[AuditRow]:
        """The rows, split by split as the files are; without their pictures if those are not wanted."""
        return self._parquet_rows(pictures) if self._parquet else self._source_rows(pictures)

    def _source_rows(self, pictures: bool) -> Iterator[AuditRow]:
        root = Path(self.image_folder).expanduser() if self.image_folder else find_image_root(self.folder)
        found: dict[str, Path | None] = {}
        for source in self._sources:
            for item in source.reader.read(source.path):
                if isinstance(item, MalformedRow):
                    lang = source.lang or self.lang or source.reader.default_lang or UNKNOWN_LANGUAGE
                    yield AuditRow(source.split, lang, f"line {item.line}", [], [], problem=item.reason)
                    continue
                lang = item.lang or source.lang or self.lang or source.reader.default_lang or UNKNOWN_LANGUAGE
                row = _checked(item, source.split, lang)
                if pictures and row.image is not None and row.problem is None:
                    if row.image not in found:
                        found[row.image] = _find(root, row.image)
                    row = replace(row, picture=found[row.image])
                yield row

    def _parquet_rows(self, pictures: bool) -> Iterator[AuditRow]:
        files = [path for path in self.folder.glob("*/*.parquet") if path.is_file()]
        files.sort(key=lambda path: (_rank(path), path.parent.name, path.name))
        for path in files:
            parquet = pq.ParquetFile(path)
            features = datasets.Features.from_arrow_schema(parquet.schema_arrow)
            names = features["ner_tags"].feature.names
            wanted = [name for name in _COLUMNS if name in features]
            if pictures:
                wanted.append("image")
            elif "image" in features and _NAME_COLUMN not in features:
                wanted.append("image.path")
            for batch in parquet.iter_batches(ROWS_PER_GROUP, columns=wanted):
                for number, record in enumerate(batch.to_pylist()):
                    yield _parquet_row(path, number, record, names)


_COLUMNS = ("id", "lang", "tokens", "ner_tags", "caption", "image_relation", _NAME_COLUMN)


def _parquet_row(path: Path, number: int, record: dict[str, Any], names: list[str]) -> AuditRow:
    image = record.get("image") or {}
    name = record.get(_NAME_COLUMN) or image.get("path")
    split, relation = path.name.split("-")[0], record.get("image_relation")
    try:
        tags = tag_names(record["tokens"], record["ner_tags"], names)
    except TagError as error:
        return AuditRow(split, record["lang"], record["id"], [], [], problem=error.reason)
    row = Row(
        path, number, record["id"], record["lang"], record["tokens"], tags, name, record.get("caption"), relation
    )
    checked = _checked(row, split, record["lang"])
    if checked.image is None and image.get("bytes"):
        checked = replace(checked, image="unnamed")
    return replace(checked, picture=image.get("bytes")) if checked.image is not None else checked


def _checked(row: Row, split: str, lang: str) -> AuditRow:
    # Rows that do not say their language are as good as others here.
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
    for candidate in candidates(name) if root else ():
        # os.path.isfile, unlike Path.is_file, answers False for a name that no file can have.
        path = os.path.join(root, candidate)
        if os.path.isfile(path):
            if is_inside(path, root):
                return Path(path)
            logger.warning("%s is %s.", path, LINK)
    return None


def _rank(path: Path) -> int:
    split = path.name.split("-")[0]
    return list(SPLIT_FILES).index(split) if split in SPLIT_FILES else len(SPLIT_FILES)
