"""Small random towers, made once."""

from pathlib import Path

import pytest
from sharded_rows import WORDS

from mmner.probe.tiny_towers import make_tiny_towers


@pytest.fixture(scope="session")
def towers(tmp_path_factory) -> Path:
    """A folder with `text/` (windows of 512 tokens) and `vision/`."""
    folder = tmp_path_factory.mktemp("towers")
    make_tiny_towers(folder, [WORDS], vocab_size=300, text_width=32, image_size_px=32, image_widths=(8, 16))
    return folder
