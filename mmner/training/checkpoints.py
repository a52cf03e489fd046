"""
Checkpoints and files that are whole or not there: written aside, brought to the disk, and renamed into place.

What is being written lies in `_saving/` of the output folder. A process that is killed leaves its remnants there, and
nowhere else; `tidy` removes them at the next start.
"""

import contextlib
import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from dataset_script.files import claim

logger = logging.getLogger(__name__)

SAVING = "_saving"
LOCK = ".lock"
PATIENCE_S = 15  # the data loader's workers of a killed run, which hold its lock, notice within five
PROGRESS = "progress.json"
"""Of a checkpoint: how manieth it is of its folder (`order`), which `run` saved it, and what `ResumableTrainer` goes
on counting from."""
WEIGHTS = re.compile(r"(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?")

# In the words of those libraries that have no number for it: Rust's (safetensors, tokenizers) and torch's own writer.
NO_ROOM = {errno.ENOSPC: "No space left", errno.EDQUOT: "Disk quota", errno.EFBIG: "File too large"}
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
TORCH_WRITER = ("PytorchStreamWriter failed", "unexpected pos", "iostream error")


@contextlib.contextmanager
def sole_use(folder: str | Path) -> Iterator[None]:
    """
    No other run writes to the folder as long as this lasts. The kernel holds the lock: one that is killed leaves none.

    Raises:
        FileExistsError: the folder holds files, and is not that of a run.
        RuntimeError: another run does.
    """
    folder = Path(folder)
    claim(folder, "run")
    lock = FileLock(folder / LOCK, timeout=PATIENCE_S)
    try:
        lock.acquire()
    except Timeout:
        raise RuntimeError(
            f"Another run writes to {folder}, and two would overwrite each other's checkpoints and results. Wait for "
            "it or end it, or give this one another --output_dir."
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        logger.warning(f"{folder} is on a file system without locks: that no other run writes there is up to you.")
    try:
        yield
    finally:
        lock.release()


def is_complete(checkpoint: Path) -> bool:
    """Whether a folder has what a save writes last: the state of the training, readable."""
    try:
        return isinstance(json.loads((checkpoint / TRAINER_STATE_NAME).read_bytes()), dict)
    except (OSError, ValueError):
        return False


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was saved; -1 if it has not the name of one."""
    found = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", checkpoint.name)
    return int(found[1]) if found else -1


def complete_checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints of a run in the order in which they were saved, those that are not whole left out."""
    found = [path for path in _checkpoints(folder) if is_complete(path)]
    return sorted(found, key=lambda path: (_order(path), step_of(path)))


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The checkpoint saved last, of those that are whole; `None` if there is none."""
    return next(reversed(complete_checkpoints(folder)), None)


def next_order(folder: str | Path) -> int:
    """The number of the save to come: a time would be wrong wherever a clock is, a step where a run went back."""
    return 1 + max(map(_order, _checkpoints(folder)), default=0)


def _checkpoints(folder: str | Path) -> list[Path]:
    return [path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir() and step_of(path) >= 0]


def run_of(checkpoint: Path) -> str | None:
    """The name that the run which saved a checkpoint has given itself; `None` if it has none (the plain Trainer's)."""
    return _progress(checkpoint).get("run")


def _order(checkpoint: Path) -> int:
    """0 for a checkpoint that the plain Trainer saved."""
    try:
        return int(_progress(checkpoint)["order"])
    except (ValueError, KeyError, TypeError):
        return 0


def _progress(checkpoint: Path) -> dict[str, Any]:
    try:
        progress = json.loads((checkpoint / PROGRESS).read_bytes())
    except (OSError, ValueError):
        return {}
    return progress if isinstance(progress, dict) else {}


def tidy(folder: str | Path) -> None:
    """
    Removes what a killed process was writing, and says so; a checkpoint that it was about to replace is put back.
    Checkpoints that are not whole are named, and left alone: nothing here goes on from them.
    """
    folder = Path(folder)
    saving = folder / SAVING
    if saving.is_dir():
        for replaced in saving.glob("replaced-*"):
            place = folder / replaced.name.removeprefix("replaced-")
            if not place.exists():
                replaced.rename(place)
        if remnants := sorted(path.name for path in saving.iterdir()):
            logger.warning(f"A process was ended while it wrote to {folder}; removed: {', '.join(remnants)}.")
        shutil.rmtree(saving)
    if broken := sorted(str(path) for path in _checkpoints(folder) if not is_complete(path)):
        logger.warning(f"Not whole, and left alone: {', '.join(broken)}; they may be deleted.")


def commit(staged: Path, place: Path) -> None:
    """
    Brings a folder in `_saving/` to the disk, and then to its place; the checkpoint that was there goes when it is.

    Raises:
        FileExistsError: what is there is no checkpoint of this program's.
    """
    if place.exists() and not (place / PROGRESS).is_file():
        raise FileExistsError(f"{place} has no {PROGRESS}, so it is not replaced: move it, or delete it by hand.")
    _sync_tree(staged)
    replaced = staged.parent / f"replaced-{place.name}"
    if place.exists():
        place.rename(replaced)
    staged.rename(place)
    _sync(place.parent)
    if replaced.exists():
        shutil.rmtree(replaced)
    _remove_if_empty(staged.parent)


def commit_files(staged: Path, folder: Path) -> None:
    """Brings the files of a model in `_saving/` into its folder, each at once; weights of the model before go."""
    _sync_tree(staged)
    names = {path.name for path in staged.iterdir()}
    for path in sorted(staged.iterdir()):
        place = folder / path.name
        if path.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        path.replace(place)
    for path in folder.iterdir():
        if WEIGHTS.fullmatch(path.name) and path.name not in names:
            path.unlink()
    _sync(folder)
    shutil.rmtree(staged)
    _remove_if_empty(staged.parent)


def rotate(folder: str | Path, limit: int | None, kept: Path | None) -> None:
    """
    Deletes the checkpoints saved first, but never the last one, nor those that the plain Trainer saved.

    Args:
        folder: of the run.
        limit: how many stay; `None` or 0: all.
        kept: one that stays whatever its age (the best); it counts.
    """
    if not limit or limit < 1:
        return
    checkpoints = [path for path in complete_checkpoints(folder) if (path / PROGRESS).is_file()]
    protected = {path for path in checkpoints[-1:] + [kept] if path is not None and path in checkpoints}
    excess = len(checkpoints) - max(limit, len(protected))
    for path in [path for path in checkpoints if path not in protected][: max(excess, 0)]:
        logger.info(f"{path} is deleted: save_total_limit is {limit}.")
        aside = Path(folder) / SAVING / f"deleted-{path.name}"
        aside.parent.mkdir(exist_ok=True)
        path.rename(aside)  # at once: half a checkpoint is never seen under its name
        _delete(aside)
    _remove_if_empty(Path(folder) / SAVING)


def _delete(folder: Path) -> None:
    shutil.rmtree(folder)


def discard(staged: Path) -> None:
    """Deletes what was being written to `_saving/`."""
    shutil.rmtree(staged, ignore_errors=True)
    _remove_if_empty(staged.parent)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """
    A path of the same name to write a file to, which is then renamed to `path`: others see the old one or the new.

    Raises:
        OSError: the disk is full; what was at `path` is as it was.
    """
    path = Path(path)
    aside = path.parent / SAVING / path.name
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        with explained_disk_errors(path):
            yield aside
            _sync(aside)
            aside.replace(path)
            _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)
        _remove_if_empty(aside.parent)


@contextlib.contextmanager
def explained_disk_errors(
    place: Path, needed_bytes: Callable[[], int] | None = None, consequence: Callable[[], str] = str
) -> Iterator[None]:
    """
    Args:
        place: what is written.
        needed_bytes: gives, for a message, about how much that is.
        consequence: gives, for a message, what is left.

    Raises:
        OSError: in place of any error that says the disk, a quota or a limit on files leaves no room.
    """
    free_bytes = shutil.disk_usage(_existing(place)).free  # before part of it was taken in vain
    try:
        yield
    except Exception as error:
        number = no_room(error)
        if number is None:
            raise
        needed = "" if needed_bytes is None else f"about {needed_bytes():,} bytes are needed and "
        raise OSError(
            number,
            f"{os.strerror(number)} while writing {place}: {needed}{free_bytes:,} were free there. {consequence()}"
            "Make room on that disk, or raise its quota.",
        ) from error


def no_room(error: BaseException | None) -> int | None:
    """The `errno` of an error that says there is no room for a file (its causes count too), or `None`."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return error.errno
        text = str(error)
        for number, words in NO_ROOM.items():
            if words in text or f"os error {number})" in text:
                return number
        if isinstance(error, RuntimeError) and any(words in text for words in TORCH_WRITER):
            return errno.ENOSPC
        error = error.__cause__ or error.__context__
    return None


def _existing(path: Path) -> Path:
    path = path.absolute()
    return path if path.exists() else _existing(path.parent)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            _sync(Path(root) / name)
        _sync(Path(root))


def _sync(path: Path) -> None:
    """On the disk, not only on its way there: it outlives a power cut, too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = [
    "PROGRESS",
    "SAVING",
    "commit",
    "commit_files",
    "complete_checkpoints",
    "discard",
    "explained_disk_errors",
    "is_complete",
    "newest_checkpoint",
    "next_order",
    "no_room",
    "replacing",
    "rotate",
    "run_of",
    "step_of",
    "tidy",
]
