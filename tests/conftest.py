"""One thread a process: a test that forks would hang in the child of a parent whose OpenMP has started others."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def towers(tmp_path_factory):
    """The folders of a tiny text and a tiny image tower."""
    from tiny_pipelines import make_towers

    return make_towers(tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="session")
def ner(towers):
    """A pipeline over them. A test that changes it puts it back."""
    from tiny_pipelines import make_pipeline

    return make_pipeline(towers)
