"""
The output folder of a run: locked by one run at a time, with checkpoints that are complete or absent.

The Trainer writes to `_saving/` in the output folder. A complete checkpoint is renamed into its place, and only then
are older ones deleted. What a killed process leaves in `_saving/` is removed at the next start.
"""

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from dataset_script.files import claim
from mmner.options import TrainingArguments

logger = logging.getLogger(__name__)

SAVING = "_saving"
LOCK_TIMEOUT_S = 15  # data loader workers of a killed run hold its lock until they notice, within five seconds


@contextlib.contextmanager
def lock_output_dir(folder: str | Path) -> Iterator[None]:
    """
    Keeps other runs out of a folder. The kernel holds the lock, so a killed run leaves none.

    Raises:
        FileExistsError: the folder holds files that are not those of a run.
        RuntimeError: another run holds the lock.
    """
    claim(folder, "run")
    lock = FileLock(Path(folder) / ".lock", timeout=LOCK_TIMEOUT_S)
    try:
        lock.acquire()
    except Timeout:
        raise RuntimeError(
            f"Another run writes to {folder}. Wait for it or end it, or give another --output_dir."
        ) from None
    try:
        yield
    finally:
        lock.release()


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name; -1 if it has not the name of one."""
    found = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", checkpoint.name)
    return int(found[1]) if found else -1


def is_complete(checkpoint: Path) -> bool:
    """Whether a folder has a readable trainer state, which a save writes last."""
    try:
        return isinstance(json.loads((checkpoint / TRAINER_STATE_NAME).read_bytes()), dict)
    except (OSError, ValueError):
        return False


def complete_checkpoints(folder: str | Path) -> list[Path]:
    """The complete checkpoints of a folder, in the order of their steps."""
    found = [path for path in Path(folder).glob("*") if step_of(path) >= 0 and is_complete(path)]
    return sorted(found, key=step_of)


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The last complete checkpoint of a folder, if any."""
    return next(reversed(complete_checkpoints(folder)), None)


def checkpoint_to_resume(args: TrainingArguments) -> str | None:
    """
    The checkpoint that `--resume_from_checkpoint` asks for, if any. What a killed process left is removed first.

    Raises:
        ValueError: there is no such checkpoint, it is incomplete, or later checkpoints lie in the output folder.
    """
    folder, asked = Path(args.output_dir), args.resume_from_checkpoint
    with args.main_process_first(desc="tidying the output folder"):
        if args.local_process_index == 0 and (folder / SAVING).is_dir():
            logger.warning(f"A killed process left unfinished files in {folder / SAVING}; they are removed.")
            shutil.rmtree(folder / SAVING)
    last = newest_checkpoint(folder)
    found = None if asked is None else last if asked in ("last", "auto") else Path(asked)
    if asked not in (None, "auto") and (found is None or not is_complete(found)):
        raise ValueError(
            f"--resume_from_checkpoint {asked}: there is no complete checkpoint "
            f"({TRAINER_STATE_NAME} missing or unreadable){f' in {folder}' if asked == 'last' else ''}. Give the "
            "folder of one, `last`, or nothing to start anew."
        )
    # Checkpoints are known by their steps, so those of two runs must not mix.
    resumed = step_of(found) if found is not None and found.absolute().parent == folder.absolute() else -1
    if later := sorted(str(path) for path in folder.glob("*") if step_of(path) > resumed):
        raise ValueError(
            f"{folder} holds checkpoints that this run would overwrite: {', '.join(later)}. Go on from the last one "
            "(--resume_from_checkpoint last), give another --output_dir, or delete them."
        )
    logger.info("Training starts anew." if found is None else f"Training goes on from {found}.")
    return None if found is None else str(found)


def commit(checkpoint: Path) -> None:
    """Moves a checkpoint from `_saving/` to its place."""
    staged = checkpoint.parent / SAVING / checkpoint.name
    if checkpoint.exists():  # a stop signal at the end of an epoch saves its last step twice
        shutil.rmtree(staged)
    else:
        for path in staged.rglob("*"):  # a power cut after the renaming must not leave an incomplete checkpoint
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        staged.rename(checkpoint)
    staged.parent.rmdir()


def rotate(folder: str | Path, limit: int | None, best: str | None) -> None:
    """Deletes the first checkpoints but `limit` (0 or `None`: none of them); never the last, nor the best."""
    found = complete_checkpoints(folder)
    others = [path for path in found[:-1] if str(path) != best]
    excess = len(found) - limit if limit else 0
    for path in others[: max(excess, 0)]:
        aside = path.parent / SAVING / path.name
        aside.parent.mkdir(exist_ok=True)
        path.rename(aside)  # a process killed here leaves no half checkpoint in its place
        shutil.rmtree(aside.parent)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a path to write to. It is renamed to `path` at the end, so others see the old file or the new one."""
    path = Path(path)
    aside = path.parent / SAVING / path.name
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others write there, too
            aside.parent.rmdir()


@contextlib.contextmanager
def noted_checkpoint(folder: str | Path) -> Iterator[None]:
    """Adds to an error the room on the disk (torch's writer does not say that it is full) and how to go on."""
    try:
        yield
    except Exception as error:
        newest = newest_checkpoint(folder)
        if newest is not None:
            error.add_note(
                f"{shutil.disk_usage(folder).free:,} bytes are free in {folder}. Last good checkpoint: {newest}; "
                "--resume_from_checkpoint last goes on from it."
            )
        raise
