"""Small random towers and a set in Parquet files, made once."""

from pathlib import Path

import pytest
from sharded_rows import WORDS, make_rows, write
from tiny_pipelines import make_pipeline, make_towers

from mmner.data.shards import ParquetShards, find_shards
from mmner.probe.tiny_towers import make_tiny_towers


@pytest.fixture(scope="session")
def towers(tmp_path_factory) -> Path:
    """A folder with `text/` (windows of 512 tokens) and `vision/`."""
    folder = tmp_path_factory.mktemp("towers")
    make_tiny_towers(folder, [WORDS], vocab_size=300, text_width=32, image_size_px=32, image_widths=(8, 16))
    return folder


@pytest.fixture(scope="module")
def ner(tmp_path_factory):
    """A pipeline over towers of its own, which spell words letter by letter."""
    return make_pipeline(make_towers(tmp_path_factory.mktemp("ner")))


@pytest.fixture(scope="session")
def parquet_folder(tmp_path_factory) -> Path:
    """200 training rows in 3 files of 7 row groups each, and 9 of dev."""
    folder = tmp_path_factory.mktemp("shards")
    write(make_rows(200), folder)
    write(make_rows(9, seed=1), folder, "validation", files=1)
    return folder


@pytest.fixture(scope="session")
def shards(parquet_folder) -> ParquetShards:
    files, features = find_shards(str(parquet_folder), None)
    return ParquetShards(files["train"], features)
