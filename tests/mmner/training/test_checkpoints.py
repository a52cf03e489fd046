"""Checkpoints that are complete or absent, and an output folder that one run uses at a time."""

import subprocess
import sys

import pytest

from mmner.options import TrainingArguments
from mmner.training import checkpoints
from mmner.training.checkpoints import (
    checkpoint_to_resume,
    commit,
    lock_output_dir,
    replacing,
    rotate,
)


def make_checkpoint(folder, step, complete=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights %d" % step)
    (path / "trainer_state.json").write_text("{}" if complete else '{"global_step": 1')
    return path


def to_resume(folder, asked=None):
    return checkpoint_to_resume(
        TrainingArguments(output_dir=str(folder), resume_from_checkpoint=asked, use_cpu=True, report_to="none")
    )


def test_which_checkpoint_is_resumed(tmp_path):
    assert to_resume(tmp_path) is to_resume(tmp_path, "auto") is None
    with pytest.raises(ValueError, match="--resume_from_checkpoint last: there is no complete checkpoint .* in "):
        to_resume(tmp_path, "last")
    for step in (5, 10):
        make_checkpoint(tmp_path / "run", step)
    make_checkpoint(tmp_path / "run", 9)
    last = str(tmp_path / "run" / "checkpoint-10")
    assert to_resume(tmp_path / "run", "last") == to_resume(tmp_path / "run", "auto") == last
    assert to_resume(tmp_path / "other", last) == last
    with pytest.raises(ValueError, match="nowhere: there is no complete checkpoint"):
        to_resume(tmp_path, "nowhere")
    broken = make_checkpoint(tmp_path / "other", 3, complete=False)
    with pytest.raises(ValueError, match="checkpoint-3: there is no complete checkpoint"):
        to_resume(tmp_path / "other", str(broken))


@pytest.mark.parametrize("asked", [None, "auto", "checkpoint-5", "elsewhere/checkpoint-9"])
def test_checkpoints_of_two_runs_do_not_mix(tmp_path, asked):
    """Anew, or from an earlier one: what is there would be overwritten, or be taken for the newest."""
    make_checkpoint(tmp_path, 5)
    make_checkpoint(tmp_path, 10, complete=False)
    make_checkpoint(tmp_path / "elsewhere", 9)
    if asked not in (None, "auto"):
        asked = str(tmp_path / asked)
    with pytest.raises(ValueError, match="would overwrite: .*checkpoint-10.*--resume_from_checkpoint last"):
        to_resume(tmp_path, asked)


def test_what_a_killed_process_left_is_removed_and_logged(tmp_path, caplog):
    make_checkpoint(tmp_path, 5)
    make_checkpoint(tmp_path / "_saving", 8)
    assert to_resume(tmp_path, "last").endswith("checkpoint-5")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]
    assert "left unfinished files in" in caplog.text


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [(None, 2, [2, 5, 9, 14]), (1, 2, [2, 14]), (1, None, [14]), (2, 9, [9, 14]), (3, 2, [2, 9, 14]), (1, 14, [14])],
)
def test_rotation_keeps_the_last_the_best_and_as_many_as_are_asked_for(tmp_path, limit, best, kept):
    for step in (2, 5, 9, 14):
        commit(tmp_path / make_checkpoint(tmp_path / "_saving", step).name)
    rotate(tmp_path, limit, None if best is None else str(tmp_path / f"checkpoint-{best}"))
    assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{step}" for step in kept}


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


HOLDER = """
import sys, time
from mmner.training.checkpoints import lock_output_dir
with lock_output_dir(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_in_the_folder_is_refused_until_the_first_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "LOCK_TIMEOUT_S", 0.1)
    folder = tmp_path / "run"
    first = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match=r"Another run writes to .*another --output_dir"):
            lock_output_dir(folder).__enter__()
        with lock_output_dir(tmp_path / "other"):
            pass
    finally:
        first.kill()  # nothing is cleaned up
        first.communicate()
    for _ in range(2):
        with lock_output_dir(folder):
            pass


def test_a_folder_with_files_of_others_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty.*name a new or an empty folder"):
        lock_output_dir(tmp_path).__enter__()
