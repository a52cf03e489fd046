"""A split in Parquet files that stays where it is: found, counted by the files' footers, read a few row groups at a
time."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.table import InMemoryTable, table_cast
from datasets.utils.file_utils import xopen

READ_COLUMNS = ("id", "tokens", "ner_tags", "image")
"""What training reads of a row."""
FOOTERS_AT_ONCE = 16
SAMPLE_ROWS = 20_000


def find_shards(dataset: str, config: str | None) -> tuple[dict[str, list[str]], datasets.Features | None]:
    """
    The Parquet files of each split of a set, by the rules of `datasets` (its card's, else the names of the files):
    paths or `hf://` addresses, and the columns where the card tells them. `config` is one of the card.

    Raises:
        ValueError: the set is not in Parquet.
    """
    path = Path(dataset).expanduser()
    builder = None
    if not path.is_dir() or next(path.rglob("*.parquet"), None) is not None:
        builder = datasets.load_dataset_builder(str(path) if path.is_dir() else dataset, config)
    if builder is None or builder.name != "parquet":
        raise ValueError(
            f"--streaming reads Parquet files, and {dataset} holds none. Write them once, by "
            "dataset_script.publishing.parquet.write_parquet, and give that folder; or leave --streaming out."
        )
    return {str(split): list(files) for split, files in builder.config.data_files.items()}, builder.info.features


class ParquetShards:
    """
    The rows of a split in Parquet files, none of them in memory.

    Only the files' footers are read at first, on threads. They tell how many rows each row group has: a row group is
    what `read` takes, so files may be few and large; `dataset_script.publishing.parquet.write_parquet` makes groups of
    100 rows. `files` are paths or addresses (`hf://...`), in order; `features` the columns, where a card tells them.

    Attributes:
        group_rows: `(G,)` the rows of each row group, files in order; groups without rows are left out.

    Raises:
        ValueError: a file is not Parquet, or its columns or tags are not those of the first; or there are no rows.
    """

    def __init__(self, files: Iterable[str], features: datasets.Features | None = None):
        self.files = [str(file) for file in files]
        if not self.files:
            raise ValueError("No Parquet files were given; expected one or more.")
        self.features = _opened(self.files[0], _features) if features is None else features
        with ThreadPoolExecutor(FOOTERS_AT_ONCE) as threads:
            footers = list(threads.map(self._footer, self.files))
        rows = np.array([count for counts in footers for count in counts], dtype=np.int64)
        sizes = [len(counts) for counts in footers]
        kept = rows > 0
        self.group_rows = rows[kept]
        self._group_file = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[kept]
        self._group_number = np.array([number for size in sizes for number in range(size)], dtype=np.int32)[kept]
        if not kept.any():
            raise ValueError(f"The {len(self.files)} Parquet files ({self.files[0]}, ...) hold no rows.")

    def _footer(self, file: str) -> list[int]:
        """The rows of each row group of a file."""
        metadata, features = _opened(file, lambda shard: (shard.metadata, _features(shard)))
        if missing := [name for name in READ_COLUMNS if name in self.features and name not in features]:
            raise ValueError(
                f"{file} has no column {' or '.join(missing)}, which others have; expected the same columns in all "
                f"files. It has {', '.join(features)}."
            )
        own, names = _tag_names(features), _tag_names(self.features)
        # Files written without `datasets` hold bare numbers, whose names only a card can tell.
        if names is not None and own not in (None, names):
            raise ValueError(
                f"{file} has the tags {', '.join(own)}, where others have {', '.join(names)}; expected the same in "
                "the same order, because the files hold their numbers."
            )
        return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]

    @property
    def column_names(self) -> list[str]:
        return list(self.features)

    def __len__(self) -> int:
        return int(self.group_rows.sum())

    @property
    def fingerprint(self) -> str:
        """A name of files and row groups: equal for the same files in another place."""
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files:
            digest.update("/".join(file.split("/")[-2:]).encode() + b"\0")
        for numbers in (self._group_file, self._group_number, self.group_rows):
            digest.update(numbers.tobytes())
        return digest.hexdigest()

    def files_of(self, groups: Sequence[int]) -> list[str]:
        """The files in which these row groups lie."""
        return [self.files[number] for number in dict.fromkeys(self._group_file[groups].tolist())]

    def read(self, groups: Sequence[int], columns: Collection[str] = READ_COLUMNS) -> datasets.Dataset:
        """The rows of some row groups, in memory; of these columns those that there are."""
        features = datasets.Features({name: kind for name, kind in self.features.items() if name in columns})
        by_file: dict[int, list[int]] = {}
        for group in groups:
            by_file.setdefault(int(self._group_file[group]), []).append(int(group))
        tables = [self._table(file, own, features) for file, own in by_file.items()]
        # A fingerprint of its own: `datasets` would hash every image to find one.
        return datasets.Dataset(
            InMemoryTable(pa.concat_tables(tables)),
            info=datasets.DatasetInfo(features=features),
            fingerprint="parquet-shards",
        )

    def _table(self, file: int, groups: list[int], features: datasets.Features) -> pa.Table:
        numbers = self._group_number[groups].tolist()
        table = _opened(self.files[file], lambda shard: shard.read_row_groups(numbers, list(features)))
        return table_cast(table.select(list(features)), features.arrow_schema)

    def first_tokens(self) -> list[list[str]]:
        """The words of the first `SAMPLE_ROWS` rows or so: what a tokenizer may be made from."""
        groups = int(np.searchsorted(np.cumsum(self.group_rows), SAMPLE_ROWS)) + 1
        return self.read(range(min(groups, len(self.group_rows))), ("tokens",))["tokens"][:]


def _features(shard: pq.ParquetFile) -> datasets.Features:
    return datasets.Features.from_arrow_schema(shard.schema_arrow)


def _tag_names(features: datasets.Features) -> list[str] | None:
    return getattr(getattr(features.get("ner_tags"), "feature", None), "names", None)


def _opened(file: str, read: Callable[[pq.ParquetFile], Any]) -> Any:
    try:
        # Of `datasets`, which tries again where a server fails.
        with xopen(file, "rb") as opened, pq.ParquetFile(opened, pre_buffer=True) as shard:
            return read(shard)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{file} cannot be read as Parquet ({type(error).__name__}: {error}). Is it whole, and still the file "
            "that it was when training began?"
        ) from error
