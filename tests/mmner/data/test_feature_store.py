"""The feature store: what is read is what was written, whoever was killed or wrote at the same time."""

import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmner.data.feature_store import FeatureStore

ROOT = Path(__file__).resolve().parents[3]


def features(number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return [torch.randn(3, 5, generator=generator), torch.randn(1, 7, generator=generator).to(torch.bfloat16)]


def assert_holds(store: FeatureStore, *numbers: int) -> None:
    for number in numbers:
        assert number in store
        for found, expected in zip(store[number], features(number), strict=True):
            assert found.dtype == expected.dtype and torch.equal(found, expected)


def start_process(folder: Path, body: str) -> subprocess.Popen:
    """Runs `body` in another process, with a `store` of this folder."""
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(Path(__file__).parent)]!r}\n"
    code += "from test_feature_store import FeatureStore, features\n"
    code += f"store = FeatureStore({str(folder)!r}, 'print')\n{body}"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_what_is_read_is_what_was_written(tmp_path):
    store = FeatureStore(tmp_path / "new" / "store", "print")
    for number in (4, 2**63 - 1, 9):
        assert number not in store
        store.add(number, features(number))
    for known in (store, FeatureStore(tmp_path / "new" / "store", "print"), pickle.loads(pickle.dumps(store))):
        assert_holds(known, 4, 2**63 - 1, 9)
    assert 4 not in FeatureStore(tmp_path / "new" / "store", "other")
    with pytest.raises(KeyError, match="The image 5 is not in"):
        store[5]


def test_processes_write_at_once(tmp_path):
    """Three writers; each shares images with another."""
    store = FeatureStore(tmp_path, "print")
    body = "for number in range({0}, {0} + 60): store.add(number, features(number))"
    jobs = [start_process(tmp_path, body.format(start)) for start in (1, 21, 41)]
    while any(job.poll() is None for job in jobs):
        assert_holds(store, *(number for number in range(1, 101) if number in store))
    assert [job.wait() for job in jobs] == [0, 0, 0], jobs[0].stderr.read()
    assert_holds(store, *range(1, 101))
    assert {file.suffix for file in store.folder.rglob("*.*")} == {".safetensors"}


@pytest.mark.parametrize("delay_s", [0.0, 0.003, 0.011])
def test_a_writer_killed_at_any_moment_leaves_nothing_wrong(tmp_path, delay_s):
    body = "print('go', flush=True)\nfor number in range(1, 10**6): store.add(number, features(number))"
    job = start_process(tmp_path, body)
    assert job.stdout.readline() == "go\n", job.stderr.read()
    try:
        job.wait(delay_s)
    except subprocess.TimeoutExpired:
        job.kill()
    assert job.wait() == -signal.SIGKILL
    store = FeatureStore(tmp_path, "print")
    written = len(list(store.folder.rglob("*.safetensors")))
    assert_holds(store, *range(1, written + 1))
    store.add(written + 1, features(written + 1))
    assert_holds(store, written + 1)


def test_a_damaged_file_is_named_and_computed_anew_once_deleted(tmp_path):
    store = FeatureStore(tmp_path, "print")
    store.add(1, features(1))
    (file,) = store.folder.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ValueError, match=f"{file} is damaged .*Delete it"):
        store[1]
    file.unlink()
    assert 1 not in store


def test_a_failed_write_leaves_no_file(tmp_path, monkeypatch):
    store = FeatureStore(tmp_path, "print")

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
    assert (tmp_path / "thesis.safetensors").read_text() == "mine"
