"""The store of picture vectors: what is read is what was written, whoever was killed, wrote beside, or wanted room."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmner.data import feature_store
from mmner.data.feature_store import FeatureStore, Layout

ROOT = Path(__file__).resolve().parents[3]
ROOM = 2**30


def content(number: int) -> bytes:
    return number.to_bytes(16, "little")


def vectors(number: int, rows: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return [
        torch.randn(rows, 5, generator=generator),
        torch.randn(1, 7, generator=generator).to(torch.bfloat16),
    ]


def add(store: FeatureStore, *numbers: int, rows: int = 3) -> None:
    for number in numbers:
        store.add(number, content(number), vectors(number, rows))
    store.refresh()


def assert_holds(store: FeatureStore, *numbers: int, rows: int = 3) -> None:
    for number in numbers:
        assert number in store and store.id_of(content(number)) == number
        for found, expected in zip(store[number], vectors(number, rows), strict=True):
            assert found.dtype == expected.dtype and torch.equal(found, expected)
    assert not store.check(numbers)


def in_a_process(folder: Path, body: str) -> subprocess.Popen:
    """Runs `body`, which has a `store` of this folder, `add` and `vectors`, elsewhere."""
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(Path(__file__).parent)]!r}\n"
    code += "import os, signal, test_feature_store as t\nfrom mmner import feature_store\n"
    code += f"store = feature_store.FeatureStore({str(folder)!r}, 'print', {ROOM})\n{body}"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_what_is_read_is_what_was_written(tmp_path):
    store = FeatureStore(tmp_path / "new" / "store", "print", ROOM)
    assert len(store) == 0 and store.id_of(content(4)) is None
    add(store, 4, 2**63 - 1, 9)
    assert len(store) == 3 and 5 not in store
    for known in (store, FeatureStore(tmp_path / "new" / "store", "print", ROOM), pickle.loads(pickle.dumps(store))):
        assert_holds(known, 4, 2**63 - 1, 9)
    store[4][0].zero_()  # a copy
    assert_holds(store, 4)
    assert len(FeatureStore(tmp_path / "new" / "store", "other", ROOM)) == 0
    with pytest.raises(KeyError, match="The picture 5 is not in .*, which holds 3 others"):
        store[5]
    with pytest.raises(ValueError, match="A store takes pictures of one size"):
        store.add(6, content(6), vectors(6, rows=4))
    with pytest.raises(ValueError, match="A content hash of 3 bytes; expected 16"):
        store.add(6, b"abc", vectors(6))


def test_segments_are_begun_anew_when_full(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_store, "SMALLEST_SEGMENT_BYTES", 4096 + 300)
    monkeypatch.setattr(feature_store, "MOST_SEGMENTS", ROOM)
    store = FeatureStore(tmp_path, "print", ROOM)
    add(store, *range(1, 11))
    assert len(list(store.folder.iterdir())) == 5  # 106 bytes a record: two fit
    assert_holds(FeatureStore(tmp_path, "print", ROOM), *range(1, 11))


def test_processes_write_at_once(tmp_path):
    """Three writers, sharing two thirds of their pictures with another each, and a reader that looks on."""
    jobs = [in_a_process(tmp_path, f"for n in range({s}, {s} + 300): t.add(store, n)") for s in (1, 101, 201)]
    reader = FeatureStore(tmp_path, "print", ROOM)
    while any(job.poll() is None for job in jobs):
        time.sleep(0.02)
        reader.refresh()
        seen = [number for number in range(1, 501) if number in reader]
        assert_holds(reader, *seen[-5:])
    assert [job.wait() for job in jobs] == [0, 0, 0], jobs[0].stderr.read()
    reader.refresh()
    assert len(reader) == 500
    assert_holds(reader, *range(1, 501))


CUTS = {
    "in the middle of the vectors": ("offset == place + 32", "content[: len(content) // 2]"),
    "between the vectors and the head": ("offset == place", "b''"),
    "in the middle of the preamble": ("offset == 0", "content[:100]"),
}


@pytest.mark.parametrize("cut", CUTS)
def test_what_was_cut_off_by_a_kill_is_never_read(tmp_path, cut):
    """The writer stops at that very byte; what it wrote before is kept, what it was at is written again."""
    condition, part = CUTS[cut]
    before = [] if "preamble" in cut else [1, 2]
    body = f"""
t.add(store, *{before})
plain, place = feature_store._write, store._writer.size if store._writer else None
def write(descriptor, content, offset):
    if {condition}:
        plain(descriptor, {part}, offset)
        os.kill(os.getpid(), signal.SIGKILL)
    plain(descriptor, content, offset)
feature_store._write = write
t.add(store, 3)
"""
    job = in_a_process(tmp_path, body)
    assert job.wait() == -signal.SIGKILL, job.stderr.read()
    store = FeatureStore(tmp_path, "print", ROOM)
    assert len(store) == len(before) and 3 not in store and store.id_of(content(3)) is None
    assert_holds(store, *before)
    add(store, 3)
    assert_holds(store, *before, 3)
    assert_holds(FeatureStore(tmp_path, "print", ROOM), *before, 3)
    assert not list(tmp_path.glob("*/*.new"))


def test_a_writer_killed_at_any_moment_leaves_nothing_wrong(tmp_path):
    for delay_s in (0.0, 0.003, 0.011):
        job = in_a_process(tmp_path, "print('go', flush=True)\nfor n in range(1, 10**6): t.add(store, n)")
        job.stdout.readline()
        try:
            job.wait(delay_s)
        except subprocess.TimeoutExpired:
            job.kill()
        assert job.wait() == -signal.SIGKILL, job.stderr.read()
        store = FeatureStore(tmp_path, "print", ROOM)
        assert_holds(store, *(number for number in range(1, len(store) + 1)))
        store.close()


def test_a_damaged_record_is_found_erased_and_written_again(tmp_path, caplog):
    store = FeatureStore(tmp_path, "print", ROOM)
    add(store, 1, 2, 3)
    (path,) = store.folder.iterdir()
    with path.open("r+b") as file:
        file.seek(4096 + Layout.of(vectors(1)).record_bytes + 32 + 11)  # in the vectors of the second
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    assert store.check([1, 2, 3]) == [2] and "1 records of" in caplog.text
    for known in (store, FeatureStore(tmp_path, "print", ROOM)):
        assert 2 not in known and known.id_of(content(2)) is None
        assert_holds(known, 1, 3)
    add(store, 2)
    assert_holds(FeatureStore(tmp_path, "print", ROOM), 1, 2, 3)


def test_a_segment_of_another_format_is_named_and_left_alone(tmp_path, caplog):
    store = FeatureStore(tmp_path, "print", ROOM)
    for name, text in (("a", "no JSON"), ("b", json.dumps({"format": 99})), ("c", json.dumps([]))):
        (store.folder / f"{name}.segment").write_text(text.ljust(5000))
    add(store, 1)
    assert_holds(store, 1)
    assert all(f"{name}.segment is not read" in caplog.text for name in "abc")


def filled(folder: Path, name: str, age_s: int, limit_bytes: int = ROOM) -> FeatureStore:
    """A store of one segment of about 40 KB, last used so long ago."""
    store = FeatureStore(folder, name, limit_bytes)
    add(store, 1, rows=2000)
    (path,) = store.folder.iterdir()
    now = path.stat().st_mtime
    os.utime(path, (now - age_s, now - age_s))
    return store


def test_the_least_recently_used_goes_first_and_nothing_that_is_open(tmp_path):
    for name, age_s in (("old", 300), ("oldest", 400), ("young", 100)):
        filled(tmp_path, name, age_s).close()
    opened = filled(tmp_path, "oldest-but-open", 500)
    limit = 4 * 46_000
    store = FeatureStore(tmp_path, "print", limit)
    layout = Layout.of(vectors(1, rows=2000))
    store.reserve(1, layout)
    names = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert names == {"old", "young", "oldest-but-open", "print"}
    add(store, 1, rows=2000)
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= limit
    with pytest.raises(ValueError, match=r"need 0.000 GiB more in .*limit is 0.000 GiB. Raise --image_feature_store"):
        store.reserve(3, layout)  # the two that are open stay
    assert_holds(opened, 1, rows=2000)
    assert_holds(store, 1, rows=2000)
    opened.close()
    store.reserve(3, layout)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"print"}


def test_a_folder_of_others_is_no_store(tmp_path):
    mine = [tmp_path / "work" / name for name in ("thesis.new", "film.segment")]
    mine[0].parent.mkdir()
    for path in mine:
        path.write_text("mine")
    with pytest.raises(FileExistsError, match="says that it is a feature store.*name a new or an empty folder"):
        FeatureStore(tmp_path, "print", 2**30)
    assert [path.read_text() for path in mine] == ["mine", "mine"]


def test_a_store_that_a_killed_process_had_open_can_be_dropped(tmp_path):
    job = in_a_process(tmp_path, "t.add(store, 1, rows=2000)\nprint('go', flush=True)\nsignal.pause()")
    job.stdout.readline()
    other = FeatureStore(tmp_path, "other", 60_000)
    layout = Layout.of(vectors(1, rows=2000))
    with pytest.raises(ValueError, match="Raise --image_feature_store_gb"):
        other.reserve(1, layout)
    job.kill()
    job.wait()
    other.reserve(1, layout)
    assert not (tmp_path / "print").exists()


def test_what_a_run_does_not_need_is_released_and_what_it_needs_is_used_now(tmp_path):
    filled(tmp_path, "print", 500).close()
    store = FeatureStore(tmp_path, "print", ROOM)
    add(store, 2, rows=2000)
    fresh = FeatureStore(tmp_path, "print", 2 * 46_000)
    fresh.release_unused([1])
    assert 1 in fresh and 2 not in fresh and fresh.id_of(content(2)) is None
    store.close()
    fresh.reserve(1, Layout.of(vectors(1, rows=2000)))  # goes the younger, not the one in use
    assert_holds(FeatureStore(tmp_path, "print", ROOM), 1, rows=2000)
    assert 2 not in FeatureStore(tmp_path, "print", ROOM)


def test_a_full_disk_is_told_and_harms_nothing_that_is_written(tmp_path, monkeypatch):
    store = FeatureStore(tmp_path, "print", ROOM)
    add(store, 1)
    plain = os.pwrite

    def pwrite(descriptor, data, offset):
        if len(data) > 10:
            return plain(descriptor, data[:10], offset)  # a short write, then the end
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space left on device while writing picture vectors.*--image_feature_store"):
        store.add(2, content(2), vectors(2))
    monkeypatch.setattr(os, "pwrite", plain)
    add(store, 3)
    assert 2 not in store
    assert_holds(FeatureStore(tmp_path, "print", ROOM), 1, 3)
