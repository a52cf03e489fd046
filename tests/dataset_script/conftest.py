"""No progress bars of `datasets` between the lines of the tests."""

import datasets
import pytest


@pytest.fixture(autouse=True, scope="session")
def no_progress_bars():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
