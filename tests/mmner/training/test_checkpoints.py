"""Files that are whole or not there, whatever happens while they are written."""

import contextlib
import errno
import json
import logging
import os
import random
import resource
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from mmner.training import checkpoints
from mmner.training.checkpoints import complete_checkpoints, newest_checkpoint, replacing, rotate, sole_use, tidy


def make_checkpoint(folder, step, order=None, whole=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights %d" % step)
    (path / "trainer_state.json").write_text("{}" if whole else '{"global_step": 1')
    if order is not None:
        (path / "progress.json").write_text(json.dumps({"order": order}))
    return path


@contextlib.contextmanager
def file_limit(size):
    """How many bytes a file of this process may have: the system itself refuses to write more. Not a fixture: pytest
    writes, perhaps into a file, before it ends one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_newest_is_the_whole_one_that_was_saved_last(tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere") is None
    make_checkpoint(tmp_path, 9)
    make_checkpoint(tmp_path, 10)
    assert newest_checkpoint(tmp_path).name == "checkpoint-10"  # of the plain Trainer: by step
    make_checkpoint(tmp_path, 11, whole=False)
    (tmp_path / "checkpoint-12").mkdir()
    make_checkpoint(tmp_path / "checkpoint-13x", 13)
    assert newest_checkpoint(tmp_path).name == "checkpoint-10"
    assert checkpoints.next_order(tmp_path) == 1
    make_checkpoint(tmp_path, 4, order=1)  # of a run that went back
    assert newest_checkpoint(tmp_path).name == "checkpoint-4"
    assert checkpoints.next_order(tmp_path) == 2


def test_what_a_killed_process_left_is_removed_and_said(tmp_path, caplog):
    make_checkpoint(tmp_path, 5, order=1)
    make_checkpoint(tmp_path, 7, whole=False)
    make_checkpoint(tmp_path / "_saving", 8)
    make_checkpoint(tmp_path / "_saving", 6).rename(tmp_path / "_saving" / "replaced-checkpoint-6")
    make_checkpoint(tmp_path / "_saving", 5).rename(tmp_path / "_saving" / "replaced-checkpoint-5")
    with caplog.at_level(logging.WARNING):
        tidy(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-5", "checkpoint-6", "checkpoint-7"]
    assert newest_checkpoint(tmp_path).name == "checkpoint-5"
    assert "removed: checkpoint-8, replaced-checkpoint-5." in caplog.text
    assert f"Not whole, and left alone: {tmp_path / 'checkpoint-7'}" in caplog.text
    caplog.clear()
    (tmp_path / "checkpoint-7" / "trainer_state.json").write_text("{}")
    tidy(tmp_path)
    tidy(tmp_path / "nowhere")
    assert not caplog.text


@pytest.mark.parametrize("seed", range(20))
def test_rotation_keeps_the_last_the_best_and_as_many_as_are_asked_for(tmp_path, seed):
    rng = random.Random(seed)
    steps = rng.sample(range(1, 100), rng.randint(1, 6))  # in the order of their saves
    for order, step in enumerate(steps, start=1):
        make_checkpoint(tmp_path, step, order)
    best, limit = rng.choice([None, *steps]), rng.choice([None, 1, 2, 3])
    rotate(tmp_path, limit, None if best is None else tmp_path / f"checkpoint-{best}")
    kept = [checkpoints.step_of(path) for path in complete_checkpoints(tmp_path)]
    protected = {steps[-1], best} - {None}
    assert protected <= set(kept)
    assert len(kept) == (len(steps) if limit is None else min(len(steps), max(limit, len(protected))))
    others = [step for step in steps if step not in protected]
    gone = [step for step in others if step not in kept]
    assert others[: len(gone)] == gone  # the oldest of them
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"checkpoint-{step}" for step in kept)


def test_a_checkpoint_takes_the_place_of_an_older_one_of_its_step(tmp_path):
    old = make_checkpoint(tmp_path, 5, order=1)
    (old / "more").write_text("old")
    new = make_checkpoint(tmp_path / "_saving", 5, order=2)
    checkpoints.commit(new, old)
    assert json.loads((old / "progress.json").read_text()) == {"order": 2} and not (old / "more").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_a_model_takes_the_place_of_one_in_shards(tmp_path):
    others = ("README.md", "model_of_last_week.safetensors", "model.onnx", "pytorch_model-best.bin")
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json", *others):
        (tmp_path / name).write_text("old")
    staged = tmp_path / "_saving" / "model"
    staged.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        (staged / name).write_text("new")
    checkpoints.commit_files(staged, tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "config.json": "new",
        "model.safetensors": "new",
    } | dict.fromkeys(others, "old")


def test_nothing_is_deleted_that_another_program_wrote(tmp_path):
    """A folder with files is not taken for that of a run; nor are the plain Trainer's checkpoints for a run's."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.safetensors").write_text("mine")
    with (
        pytest.raises(FileExistsError, match="mine is not empty.*name a new or an empty folder"),
        sole_use(tmp_path / "mine"),
    ):
        pass
    run = tmp_path / "run"
    with sole_use(run), sole_use(tmp_path / "other"):
        pass
    with sole_use(run):  # again: it is that of a run now
        plain = [make_checkpoint(run, step) for step in (1, 2, 3)]
        ours = [make_checkpoint(run, step, order=step) for step in (4, 5, 6)]
        rotate(run, 1, None)
        assert complete_checkpoints(run) == [*plain, ours[-1]]
        with pytest.raises(FileExistsError, match=r"checkpoint-3 has no progress.json, so it is not replaced"):
            checkpoints.commit(make_checkpoint(run / "_saving", 3, order=7), plain[-1])
        (run / "_saving" / "notes").write_text("mine")
        checkpoints.discard(run / "_saving" / "checkpoint-3")
        assert [path.name for path in (run / "_saving").iterdir()] == ["notes"]


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as aside:
        aside.write_text("ne")
        assert path.read_text() == "old"
        raise KeyError
    assert path.read_text() == "old"
    with replacing(path) as aside:
        aside.write_text("new")
    assert path.read_text() == "new" and [entry.name for entry in tmp_path.iterdir()] == ["scores.json"]


def write_text(path):
    path.write_text("x" * 100_000)


def write_safetensors(path):
    save_file({"x": torch.zeros(100_000)}, path)


def write_pickle(path):
    torch.save({"x": torch.zeros(100_000)}, path)


@pytest.mark.parametrize("write", [write_text, write_safetensors, write_pickle])
def test_a_disk_without_room_is_told_in_the_words_of_every_writer(tmp_path, write):
    path = tmp_path / "file"
    path.write_text("old")
    with (
        file_limit(10_000),
        pytest.raises(OSError, match=r"while writing .*file: [\d,]+ were free there") as caught,
        replacing(path) as aside,
    ):
        write(aside)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC) and caught.value.__cause__ is not None
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_which_errors_say_that_there_is_no_room():
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert checkpoints.no_room(OSError(number, os.strerror(number))) == number
        assert checkpoints.no_room(ValueError(f"I/O error: {os.strerror(number)} (os error {number})")) == number
    caused = RuntimeError("saving failed")
    caused.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert checkpoints.no_room(caused) == errno.ENOSPC
    assert checkpoints.no_room(OSError(errno.EACCES, "Permission denied")) is None
    assert checkpoints.no_room(RuntimeError("The size of tensor a (3) must match")) is None


HOLDER = """
import sys, time
from mmner.training.checkpoints import sole_use
with sole_use(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_in_the_folder_is_refused_until_the_first_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "PATIENCE_S", 0.1)
    folder = tmp_path / "run"
    first = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match=r"Another run writes to .*run.*another --output_dir"), sole_use(folder):
            pass
        with sole_use(tmp_path / "other"):
            pass
    finally:
        first.kill()  # as a machine that goes down: nothing is cleaned up
        first.communicate()
    for _ in range(2):
        with sole_use(folder):
            pass
