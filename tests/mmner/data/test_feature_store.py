"""The feature store: what is read is what was written, whoever was killed or wrote at the same time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmner.data.feature_store import FeatureStore


def features(number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return [torch.randn(3, 5, generator=generator), torch.randn(1, 7, generator=generator).to(torch.bfloat16)]


def assert_holds(store: FeatureStore, *numbers: int) -> None:
    for number in numbers:
        assert number in store
        for found, expected in zip(store[number], features(number), strict=True):
            assert found.dtype == expected.dtype and torch.equal(found, expected)


def start_process(folder: Path, first: int, stop: int) -> subprocess.Popen:
    """Adds the features of some numbers in another process."""
    code = "from test_feature_store import FeatureStore, features\nprint('go', flush=True)\n"
    code += f"for n in range({first}, {stop}): FeatureStore({str(folder)!r}, 'print').add(n, features(n))"
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[3])])
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    )


def test_what_is_read_is_what_was_written(tmp_path):
    store = FeatureStore(tmp_path / "new" / "store", "print")
    for number in (4, 2**63 - 1, 9):
        assert number not in store
        store.add(number, features(number))
    assert_holds(FeatureStore(tmp_path / "new" / "store", "print"), 4, 2**63 - 1, 9)
    assert 4 not in FeatureStore(tmp_path / "new" / "store", "other")
    with pytest.raises(KeyError, match="The image 5 is not in"):
        store[5]


def test_processes_write_at_once(tmp_path):
    """Three writers; each shares images with another."""
    store = FeatureStore(tmp_path, "print")
    jobs = [start_process(tmp_path, first, first + 60) for first in (1, 21, 41)]
    while any(job.poll() is None for job in jobs):
        assert_holds(store, *(number for number in range(1, 101) if number in store))
    assert [job.wait() for job in jobs] == [0, 0, 0]
    assert_holds(store, *range(1, 101))
    assert {file.suffix for file in store.folder.rglob("*.*")} == {".safetensors"}


@pytest.mark.parametrize("delay_s", [0.0, 0.003, 0.011])
def test_a_writer_killed_at_any_moment_leaves_nothing_wrong(tmp_path, delay_s):
    job = start_process(tmp_path, 1, 10**6)
    assert job.stdout.readline() == "go\n"
    with pytest.raises(subprocess.TimeoutExpired):
        job.wait(delay_s)
    job.kill()
    assert job.wait() == -signal.SIGKILL
    store = FeatureStore(tmp_path, "print")
    written = len(list(store.folder.rglob("*.safetensors")))
    store.add(written + 1, features(written + 1))
    assert_holds(store, *range(1, written + 2))


def test_a_damaged_file_is_named_and_a_failed_write_leaves_none(tmp_path, monkeypatch):
    store = FeatureStore(tmp_path, "print")
    store.add(1, features(1))
    (file,) = store.folder.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ValueError, match=f"{file} is damaged .*Delete it"):
        store[1]
    file.unlink()
    assert 1 not in store

    def fail(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmner.data.feature_store.save_file", fail)
    with pytest.raises(OSError, match="No space left on device"):
        store.add(1, features(1))
    assert 1 not in store and not list(store.folder.rglob("*.*"))


def test_a_folder_of_others_is_no_store(tmp_path):
    (tmp_path / "thesis.safetensors").write_text("mine")
    with pytest.raises(FileExistsError, match="says that it is a feature store.*name a new or an empty folder"):
        FeatureStore(tmp_path, "print")
