"""Two rules for files: only what this program wrote, by its marker, is replaced or deleted; and of what a dataset
names, only regular files inside its folder are opened."""

import contextlib
import functools
import glob
import hashlib
import logging
import os
import re
import shlex
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

MARKER = ".2m-ner"
"""In a folder of ours: in its first line what that is, then the files that this program wrote there, each after a
digest of its content and a blank, or a ``*`` if it is not part of what is replaced whole."""
_LISTED = re.compile(r"([0-9a-f]{16})([ *])(.*)", re.DOTALL)
DATASET = "dataset"
"""What the marker calls a finished dataset."""
_WORK = "work"
_SHOWN = 3


@contextlib.contextmanager
def replacing(folder: str | Path, kind: str, sources: Iterable[str | Path] = ()) -> Iterator[Path]:
    """Gives a folder to write to, which takes the place of ``folder`` at the end; after an error that stays as it was.

    If the process is killed between the two renames, the next call for ``folder`` puts the old one back. What
    ``check_replaceable`` refuses is not replaced.
    """
    folder = Path(folder).expanduser().resolve()
    check_replaceable(folder, kind, sources)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch(folder.parent, folder.name, folder) as aside:
        new = aside / "new"
        new.mkdir()
        yield new
        mark(new, kind, {name: new / name for name in _files(new)})
        check_replaceable(folder, kind)  # again, since writing may have taken hours
        if folder.exists():
            folder.rename(aside / "old")
        new.rename(folder)


def check_replaceable(folder: Path, kind: str, sources: Iterable[str | Path] = ()) -> None:
    """Raises ``FileExistsError`` unless a folder is not there, is empty, or holds only what ``replacing`` wrote to it,
    of the same ``kind``, unchanged; and if one of ``sources`` lies in it.
    """
    if inside := [source for source in sources if Path(source).expanduser().resolve().is_relative_to(folder)]:
        raise FileExistsError(f"{folder} holds what is read ({inside[0]}), and is not replaced: name another.")
    if folder.is_dir():
        found, *lines = _lines(folder) or [kind]
        listed = _listed(lines, whole=True) if found == kind else {}
        _refuse(folder, (name for name in _files(folder) if not _is_ours(folder / name, listed.get(name))))
    elif os.path.lexists(folder):
        raise FileExistsError(f"{folder} is a file, and is not replaced: name a new or an empty folder.")


@contextlib.contextmanager
def scratch(parent: Path, name: str, place: Path | None = None) -> Iterator[Path]:
    """Gives a new folder in ``parent`` that is deleted afterwards, as are those that killed processes left there.

    ``old`` in it is moved to ``place`` at the end, if nothing is there.
    """
    kind = f"scratch of {name}"
    for left in parent.glob(f".{glob.escape(name)}-*"):
        if _lines(left)[:1] == [kind] and (lock := _lock(left)).is_locked:  # its process has ended
            _remove(left, place)
            lock.release()
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=f".{name}-"))
    lock = _lock(folder)
    try:
        mark(folder, kind)
        (folder / _WORK).mkdir()
        yield folder / _WORK
    finally:
        _remove(folder, place)
        lock.release()


def claim(folder: str | Path, kind: str) -> None:
    """Makes a folder in which this program may replace and delete files of its own by their names.

    Raises:
        FileExistsError: it is there, not empty, and not one of this ``kind``.
    """
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    is_empty, lines = next(folder.iterdir(), None) is None, _lines(folder)
    # A marker without a line is one that a person or, just now, another process has made.
    if not is_empty and not ((folder / MARKER).is_file() and lines[:1] in ([], [kind])):
        raise FileExistsError(
            f"{folder} is not empty, and no {MARKER} in it says that it is a {kind}, in which files may be replaced: "
            f"name a new or an empty folder, or say so: touch {shlex.quote(str(folder / MARKER))}"
        )
    if not lines:
        mark(folder, kind)


def refuse_unlisted(folder: Path, names: Iterable[str]) -> None:
    """Raises ``FileExistsError`` if one of ``names`` is there, and this program did not write it so."""
    there, listed = [name for name in names if os.path.lexists(folder / name)], _listed(_lines(folder)[1:])
    _refuse(folder, (name for name in there if not _is_ours(folder / name, listed.get(name))))


def mark(folder: Path, kind: str, files: Mapping[str, Path] | None = None, alone: bool = False) -> None:
    """Marks a folder as ours, unless it is marked already, and adds files to those written to it before: by name, the
    file that has or will have that name; ``alone``, if they are not part of what is replaced whole.
    """
    own, *listed = _lines(folder) or [kind]
    files = files or {}
    # A line of an earlier version is the name alone: it stands for the file that is there now.
    old = {name: folder / name for name in listed if name in files and os.path.lexists(folder / name)}
    new = {f"{_digest(path)}{'*' if alone else ' '}{name}" for more in (old, files) for name, path in more.items()}
    lines = [own, *sorted({*listed, *new} - {*files})]
    (folder / MARKER).write_text("\n".join(lines) + "\n", encoding="utf-8")


def regular(path: Path) -> Path:
    """The path of a file that a dataset or an index names, to be opened: a pipe or a device might never end.

    Raises:
        OSError: it is not there, or no regular file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is a folder, a pipe or a device; expected a regular file.")
    return path


def is_inside(path: str | Path, folder: str | Path) -> bool:
    """Whether a file lies in a folder still when its links are followed."""
    return Path(os.path.realpath(path)).is_relative_to(_reach(str(folder)))


@functools.lru_cache(maxsize=64)
def _reach(folder: str) -> Path:
    """Where the files of a folder may lie: in it or, if it is a snapshot in the Hub's cache, in that repository's."""
    real = Path(os.path.realpath(folder))
    repositories = (above.parents[1] for above in (real, *real.parents) if above.parent.name == "snapshots")
    return next((repository for repository in repositories if (repository / "blobs").is_dir()), real)


def _lines(folder: Path) -> list[str]:
    if not os.path.isfile(folder / MARKER):  # False, too, where others' folders are closed
        return []
    text = (folder / MARKER).read_text(encoding="utf-8", errors="replace")
    return [line for line in text.split("\n") if line]


def _listed(lines: Iterable[str], whole: bool = False) -> dict[str, set[str]]:
    """By name, the digests that a file may have; ``""``, as earlier versions have it, for any. With ``whole``, only of
    what is replaced whole.
    """
    found: dict[str, set[str]] = {}
    for line in lines:
        digest, sign, name = match.groups() if (match := _LISTED.fullmatch(line)) else ("", " ", line)
        if not (whole and sign == "*"):
            found.setdefault(name, set()).add(digest)
    return found


def _is_ours(path: Path, digests: Collection[str] | None) -> bool:
    return digests is not None and ("" in digests or _digest(path) in digests)


def _digest(path: Path) -> str:
    """Of the content of a file, or of where a link leads to."""
    if path.is_symlink():
        return hashlib.sha256(os.fsencode(os.readlink(path))).hexdigest()[:16]
    with regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name != MARKER and (path.is_symlink() or not path.is_dir()):
            yield name


def _refuse(folder: Path, strangers: Iterable[str]) -> None:
    if shown := list(islice(strangers, _SHOWN)):
        more = ", ..." if len(shown) == _SHOWN else ""
        raise FileExistsError(
            f"{folder} holds {', '.join(shown)}{more}, which this program did not write there or which was changed "
            f"since (no {MARKER} lists it), so nothing in it is replaced: name a new or an empty folder, or move or "
            "delete it by hand."
        )


def _lock(folder: Path) -> FileLock:
    lock = FileLock(folder / "lock", timeout=0)
    # Where locks are not to be had, no scratch folder is taken for one that was left behind.
    with contextlib.suppress(Timeout, NotImplementedError, OSError):
        lock.acquire()
    return lock


def _remove(aside: Path, place: Path | None) -> None:
    old = aside / _WORK / "old"
    if place is not None and old.exists() and not place.exists():
        old.rename(place)
        logger.warning("%s is the old one again: what was to take its place is not complete.", place)
    if (aside / _WORK).exists():
        shutil.rmtree(aside / _WORK)
    shutil.rmtree(aside)  # with the marker, by which it is found again
