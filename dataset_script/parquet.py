"""MMNER as a folder of Parquet files with the images inside: reading such a folder, and writing its files."""

from collections.abc import Mapping
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.fingerprint import Hasher

from .images import ImageFolder
from .report import LoadReport

ROWS_PER_GROUP = 100
"""Rows that a reader must hold at once: few, since each may have an image."""
MAX_FILE_BYTES = 500_000_000
REPORT_FILE = "load_report.json"
_REPEATED = ["lang", "tokens.list.element", "ner_tags.list.element", "image_relation"]
"""Columns of which Parquet keeps a dictionary; one of image bytes would only fill memory."""


def is_parquet(folder: Path) -> bool:
    """Whether ``folder`` is a finished dataset: ``README.md`` with a config ``all`` beside folders of ``.parquet``."""
    card = folder / "README.md"
    is_ours = card.is_file() and "config_name: all" in card.read_text(encoding="utf-8", errors="replace")
    return is_ours and any(path.is_file() for path in folder.glob("*/*.parquet"))


def read_parquet(folder: Path, config: str = "all", cache_dir: str | Path | None = None) -> datasets.DatasetDict:
    """Read a finished dataset as ``dataset_script.load`` returns it.

    Raises:
        ValueError: the folder has no such config, or its columns are not those of MMNER.
    """
    # datasets knows a folder by its name and its card alone: another with the same would give this one's rows.
    shards = [facts for facts in ImageFolder(folder).signature() if facts[0].endswith(".parquet")]
    content = Hasher.hash([str(folder), shards, (folder / "README.md").read_bytes()])
    cache = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / f"2m-ner-{content}"
    dataset = datasets.load_dataset(str(folder), config, cache_dir=str(cache))
    check_columns(next(iter(dataset.values())).features, f"{folder} ({config})")
    attach_report(dataset, folder, config)
    return dataset


def attach_report(dataset: Mapping[str, datasets.Dataset], folder: Path, config: str = "all") -> None:
    """Log the report of the folder that these splits were read from, and let ``load_report`` find it."""
    report_file = folder / REPORT_FILE
    if report_file.is_file():
        report = LoadReport.from_json(report_file.read_text(encoding="utf-8"))
        report = report if config == "all" else report.only([config])
    else:
        report = count_rows(dataset)
    for split in dataset.values():
        split.info.description = report.describe()
    report.log()


def check_columns(features: datasets.Features, what: str) -> None:
    """Raise a ``ValueError`` unless the columns are those of MMNER; ``what`` begins its message."""
    image, tags = features.get("image"), getattr(features.get("ner_tags"), "feature", None)
    is_typed = isinstance(image, datasets.Image) and isinstance(tags, datasets.ClassLabel)
    if not {"id", "lang", "tokens"} <= {*features} or not is_typed:
        raise ValueError(
            f"{what} has the columns {features}; expected id, lang, tokens, ner_tags as "
            "List(ClassLabel(names=[...])) and image as datasets.Image."
        )


def count_rows(dataset: Mapping[str, datasets.Dataset]) -> LoadReport:
    """A report of the rows at hand, by split and language."""
    report = LoadReport()
    for split, rows in dataset.items():
        for table in rows.select_columns(["lang", "image"]).with_format("arrow").iter(ROWS_PER_GROUP):
            for lang, empty in zip(table["lang"].to_pylist(), table["image"].is_null().to_pylist(), strict=True):
                part = report.part(split, lang)
                part.rows += 1
                part.without_image += empty
                part.images += not empty
    return report


class ShardWriter:
    """The Parquet files of a split in ``folder``: ``{split}-{number}.parquet``, as few as ``MAX_FILE_BYTES`` allows.
    Image bytes must be in the tables that ``write`` is given.
    """

    def __init__(self, folder: Path, split: str, features: datasets.Features):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.split, self.schema = folder, split, features.arrow_schema
        self._number, self._size = 0, 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Write ``table`` as one row group: give it about ``ROWS_PER_GROUP`` rows."""
        if self._writer is None or self._size > MAX_FILE_BYTES:
            self.close()
            path = self.folder / f"{self.split}-{self._number:05d}.parquet"
            self._writer = pq.ParquetWriter(path, self.schema, compression="snappy", use_dictionary=_REPEATED)
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
