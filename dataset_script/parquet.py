"""MMNER as a folder of Parquet files, images inside: ``datasets.load_dataset`` reads it with no code of ours."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.table import embed_table_storage, table_cast

from .files import replacing
from .publishing.card import KIND, write_card
from .report import LoadReport, load_report
from .rows import LANGUAGES

logger = logging.getLogger(__name__)

ROWS_PER_GROUP = 100
"""Rows that a reader must hold at once: few, since each may have an image."""
MAX_FILE_BYTES = 500_000_000

REPORT_FILE = "load_report.json"
_COLUMNS = ("id", "lang", "tokens", "ner_tags", "image")


def write_parquet(dataset: datasets.DatasetDict, folder: str | Path) -> Path:
    """Write ``dataset`` as ``{lang}/{split}-{number}.parquet``, image bytes embedded, and the dataset card.

    ``datasets.load_dataset(folder, "de")``, or ``"all"``, the default, reads it back, streaming too. The same dataset
    gives the same bytes.

    Args:
        dataset: from ``dataset_script.load``, changed or not.
        folder: new, empty, or a dataset that this package wrote and nobody added to: then it is replaced.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds something else.
        ValueError: the dataset lacks columns, or has no rows.
    """
    folder = Path(folder).expanduser().absolute()
    _check_columns(dataset, "The dataset")
    if not any(len(split) for split in dataset.values()):
        raise ValueError("The dataset has no rows to write.")
    with replacing(folder, KIND) as written:
        for split, rows in dataset.items():
            positions: dict[str, list[int]] = {}
            for position, lang in enumerate(rows["lang"]):
                positions.setdefault(lang, []).append(position)
            for lang in sorted(positions, key=LANGUAGES.index):
                _write_split(rows.select(positions[lang]), written / lang, split)
        (written / REPORT_FILE).write_text(_report(dataset).to_json() + "\n", encoding="utf-8")
        write_card(written)
    return folder


def is_parquet(folder: Path) -> bool:
    """Whether ``folder`` can be read as a Parquet dataset: a ``README.md`` beside folders of ``.parquet`` files."""
    return (folder / "README.md").is_file() and any(path.is_file() for path in folder.glob("*/*.parquet"))


def read_parquet(folder: Path, config: str = "all", cache_dir: str | Path | None = None) -> datasets.DatasetDict:
    """Read what ``write_parquet`` wrote, or another such folder, as ``dataset_script.load`` returns it.

    Raises:
        ValueError: the folder has no such config, or its columns are not those of MMNER.
    """
    cache = str(cache_dir) if cache_dir is not None else None
    dataset = datasets.load_dataset(str(folder), config, cache_dir=cache)
    _check_columns(dataset, f"{folder} ({config})")
    attach_report(dataset, folder, config)
    return dataset


def attach_report(dataset: Mapping[str, datasets.Dataset], folder: Path, config: str = "all") -> None:
    """Log the report of the folder that these splits were read from, and let ``load_report`` find it."""
    report_file = folder / REPORT_FILE
    if report_file.is_file():
        report = LoadReport.from_json(report_file.read_text(encoding="utf-8"))
        report = report if config == "all" else report.only([config])
    else:
        report = _count(dataset)
    for split in dataset.values():
        split.info.description = report.describe()
    report.log()


class ShardWriter:
    """The Parquet files of a split of a language: ``{split}-{number}.parquet``, as few as ``MAX_FILE_BYTES`` allows.

    Args:
        folder: that of the language; made if it is not there.
        split: the name of the split.
        features: the columns; image bytes must be in the tables that ``write`` is given.
    """

    def __init__(self, folder: Path, split: str, features: datasets.Features):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.split, self.schema = folder, split, features.arrow_schema
        leaves = _leaves(self.schema)
        # The bytes of an image are compressed already, and a dictionary of them would only fill memory.
        self._options: dict[str, Any] = {
            "compression": {name: "snappy" for name in leaves if name != "image.bytes"} | {"image.bytes": "none"},
            "use_dictionary": [name for name in leaves if name != "image.bytes"],
        }
        self._number, self._size, self._writer = 0, 0, None

    def write(self, table: pa.Table) -> None:
        """Write ``table`` as one row group: give it about ``ROWS_PER_GROUP`` rows."""
        if self._writer is None or self._size > MAX_FILE_BYTES:
            self.close()
            path = self.folder / f"{self.split}-{self._number:05d}.parquet"
            self._writer = pq.ParquetWriter(path, self.schema, **self._options)
            self._number, self._size = self._number + 1, 0
        self._writer.write_table(table)
        self._size += table.nbytes

    def close(self) -> None:
        """Finish the file that is being written."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write_split(rows: datasets.Dataset, folder: Path, split: str) -> None:
    with ShardWriter(folder, split, rows.features) as writer:
        for table in rows.with_format("arrow").iter(ROWS_PER_GROUP):
            writer.write(embed_table_storage(table_cast(table, writer.schema)))


def _leaves(schema: pa.Schema) -> list[str]:
    # pyarrow names compression by the paths of Parquet columns; an empty file is the one place that lists them all.
    with tempfile.TemporaryFile() as file:
        pq.write_table(schema.empty_table(), file)
        file.seek(0)
        parquet = pq.ParquetFile(file).schema
        return [parquet.column(number).path for number in range(len(parquet))]


def _check_columns(dataset: datasets.DatasetDict, what: str) -> None:
    for split, rows in dataset.items():
        missing = [name for name in _COLUMNS if name not in rows.column_names]
        if missing:
            raise ValueError(
                f"{what} has no {', '.join(missing)} in {split} (columns: {', '.join(rows.column_names)}); expected "
                f"{', '.join(_COLUMNS)}."
            )
        tags = rows.features["ner_tags"]
        if not isinstance(getattr(tags, "feature", None), datasets.ClassLabel):
            raise ValueError(f"{what} has ner_tags of {tags} in {split}; expected List(ClassLabel(names=[...])).")
        if not isinstance(rows.features["image"], datasets.Image):
            raise ValueError(f"{what} has an image of {rows.features['image']} in {split}; expected datasets.Image.")


def _count(dataset: Mapping[str, datasets.Dataset]) -> LoadReport:
    report = LoadReport()
    for split, rows in dataset.items():
        columns = rows.select_columns(["lang", "image"]).with_format("arrow")
        for table in columns.iter(ROWS_PER_GROUP):
            for lang, empty in zip(table["lang"].to_pylist(), table["image"].is_null().to_pylist(), strict=True):
                part = report.part(split, lang)
                part.rows += 1
                part.without_image += empty
                part.images += not empty
    return report


def _report(dataset: datasets.DatasetDict) -> LoadReport:
    """The report of loading if it still tells of these rows, else one that counts them."""
    counted = _count(dataset)
    try:
        report = load_report(dataset)
    except ValueError:
        return counted
    if _rows(report) == _rows(counted):
        return report
    logger.warning("The rows are not those that were loaded: the names of missing images are not written with them.")
    return counted


def _rows(report: LoadReport) -> dict[tuple[str, str], int]:
    parts = {(split, lang): part.rows for split in report.parts for lang, part in report.parts[split].items()}
    return {key: rows for key, rows in parts.items() if rows}
