"""What this program wrote is replaced, whole; what others wrote never is; and only their regular files are opened."""

import os
import sys
from itertools import count

import pytest
from written_files import write_file

from dataset_script import files
from dataset_script.files import MARKER, claim, is_inside, mark, refuse_unlisted, regular, replacing, scratch


def contents(folder):
    paths = (path for path in folder.rglob("*") if not path.is_dir() and path.name != MARKER)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def write(folder, names, kind="dataset"):
    with replacing(folder, kind) as new:
        for name in names:
            write_file(new / name, name)
    return {name: name for name in names}


OLD, NEW = ("a/1", "README.md", "b/2"), ("README.md", "c/3")


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "deep" / "out"
    assert contents(folder) == {} != write(folder, OLD) == contents(folder)
    with pytest.raises(KeyError), replacing(folder, "dataset") as new:
        (new / "half").write_text("x")
        raise KeyError
    assert contents(folder) == {name: name for name in OLD}
    assert write(folder, NEW) == contents(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["out"], "nothing stays beside it"
    (tmp_path / "empty").mkdir()
    assert write(tmp_path / "empty", OLD) == contents(tmp_path / "empty")
    (tmp_path / "link").symlink_to(folder)
    assert write(tmp_path / "link", OLD) == contents(folder) and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("is_ours", [True, False])
@pytest.mark.parametrize("name", ["notes.txt", ".git/HEAD", "a/raw"])
def test_what_others_put_there_is_named_and_stays(tmp_path, is_ours, name):
    folder = tmp_path / "out"
    write(folder, OLD)
    if not is_ours:
        (folder / MARKER).unlink()  # as those of an earlier version, and clones of what was pushed
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(tmp_path) if name == "a/raw" else (folder / name).write_text("mine")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    shown = name if is_ours else "(README.md|a/1|b/2)"
    with pytest.raises(FileExistsError, match=rf"{folder} holds .*{shown}.*name a new or an empty folder"):
        write(folder, NEW)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_what_is_put_there_while_the_new_one_is_written_stays(tmp_path):
    folder = tmp_path / "out"
    write(folder, OLD)
    with pytest.raises(FileExistsError, match="notes.txt"), replacing(folder, "dataset"):
        (folder / "notes.txt").write_text("mine")
    assert contents(folder).keys() == {*OLD, "notes.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_and_a_folder_of_another_kind_are_not_replaced(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="file is a file, and is not replaced"):
        write(tmp_path / "file", NEW)
    write(tmp_path / "probe", OLD, "probe")
    with pytest.raises(FileExistsError, match="probe holds"):
        write(tmp_path / "probe", NEW)
    claim(tmp_path / "run", "run")
    (tmp_path / "run" / "model").write_text("trained")
    with pytest.raises(FileExistsError, match="run holds model"):
        write(tmp_path / "run", NEW, "run")


def test_killed_at_any_moment_the_old_or_the_new_one_is_there(tmp_path, caplog):
    """The process ends, without another word, before its first file operation, its second, and so on."""
    seen = set()
    for moment in count():
        folder = tmp_path / str(moment) / "out"
        old = write(folder, OLD)
        if (child := os.fork()) == 0:
            left = moment

            def hook(event, args):
                nonlocal left
                if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.scandir"):
                    left -= 1
                    if left < 0:
                        os._exit(9)

            sys.addaudithook(hook)
            write(folder, NEW)
            os._exit(0)
        was_killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        found = contents(folder)
        if not found:  # between two renames: the next call puts the old one back
            with pytest.raises(KeyError), replacing(folder, "dataset"):
                raise KeyError
            found = contents(folder)
            assert "is the old one again" in caplog.text
            seen.add("between")
        assert found in (old, {name: name for name in NEW})
        seen.add("old" if found == old else "new")
        assert write(folder, NEW) == contents(folder)
        left = {path.name for path in folder.parent.iterdir()} - {"out"}
        # One that was not marked yet is empty, but for its lock.
        assert all({path.name for path in (folder.parent / name).iterdir()} <= {"lock", MARKER} for name in left)
        if not was_killed:
            break
    assert seen == {"old", "new", "between"} and moment > 10


def test_scratch_of_a_process_at_work_and_the_folders_of_others_stay(tmp_path):
    for name in (".out-mine", ".out-other"):
        (tmp_path / name).mkdir()
    (tmp_path / ".out-mine" / "x").write_text("mine")
    mark(tmp_path / ".out-other", "scratch of out-other")
    with scratch(tmp_path, "out") as one:
        (one / "x").write_text("at work")
        with scratch(tmp_path, "out") as other:
            assert other != one and (one / "x").read_text() == "at work"
        assert not other.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out-mine", ".out-other"]
    assert (tmp_path / ".out-mine" / "x").read_text() == "mine"


def test_a_folder_to_work_in_is_new_empty_or_marked(tmp_path):
    for _ in range(2):
        claim(tmp_path / "run", "run")
        (tmp_path / "run" / "x").write_text("ours")
    with pytest.raises(FileExistsError, match="says that it is a feature store"):
        claim(tmp_path / "run", "feature store")
    write_file(tmp_path / "my work" / "x", "mine")
    with pytest.raises(FileExistsError, match=r"my work is not empty.* touch '.*my work/\.2m-ner'"):
        claim(tmp_path / "my work", "run")
    (tmp_path / "my work" / MARKER).touch()
    claim(tmp_path / "my work", "run")
    assert (tmp_path / "my work" / MARKER).read_text() == "run\n"


def test_single_files_are_replaced_if_they_are_listed(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    refuse_unlisted(tmp_path, ["LICENSE.md"])
    with pytest.raises(FileExistsError, match="holds README.md"):
        refuse_unlisted(tmp_path, ["LICENSE.md", "README.md"])
    mark(tmp_path, "dataset", {"README.md": tmp_path / "README.md"}, alone=True)
    refuse_unlisted(tmp_path, ["LICENSE.md", "README.md"])
    with pytest.raises(FileExistsError, match="holds README.md"):  # it is no part of the dataset
        write(tmp_path, NEW)
    (tmp_path / "README.md").write_text("changed by hand")
    with pytest.raises(FileExistsError, match="README.md, which this program did not write there or which was chang"):
        refuse_unlisted(tmp_path, ["README.md"])
    (tmp_path / MARKER).write_text("dataset\nREADME.md\n")  # an earlier version listed names alone
    refuse_unlisted(tmp_path, ["README.md"])


def test_what_was_changed_by_hand_stays(tmp_path):
    folder = tmp_path / "out"
    write(folder, OLD)
    (folder / "README.md").write_text("corrected by hand")
    with pytest.raises(FileExistsError, match="holds README.md, which"):
        write(folder, NEW)
    (folder / "README.md").write_text("README.md")
    (folder / "link").symlink_to("README.md")
    with pytest.raises(FileExistsError, match="holds link"):
        write(folder, NEW)
    (folder / "link").unlink()
    assert write(folder, NEW) == contents(folder)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    assert regular(tmp_path / "file").read_text() == "x"
    for path in (tmp_path / "pipe", tmp_path, files.Path("/dev/zero")):
        with pytest.raises(OSError, match=f"{path} is a folder, a pipe or a device"):
            regular(path)
    with pytest.raises(FileNotFoundError):
        regular(tmp_path / "none")


def test_links_are_followed_within_their_folder(tmp_path):
    for name in ("set/images", "set/more", "outside"):
        write_file(tmp_path / name / "x", "x")
    images = tmp_path / "set" / "images"
    (images / "same").symlink_to("x")
    (images / "out").symlink_to(tmp_path / "outside" / "x")
    (images / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "set" / "linked").symlink_to(images)
    assert is_inside(images / "x", images) and is_inside(images / "same", images)
    assert is_inside(tmp_path / "set" / "linked" / "x", tmp_path / "set" / "linked")
    assert not is_inside(images / "out", images) and not is_inside(images / "folder" / "x", images)
    # In the Hub's cache each file of a snapshot is a link to the file's content.
    cache = tmp_path / "datasets--org--name"
    write_file(cache / "blobs" / "0a1b", "x")
    snapshot = cache / "snapshots" / "c0ffee" / "images"
    snapshot.mkdir(parents=True)
    (snapshot / "x").symlink_to("../../../blobs/0a1b")
    (snapshot / "out").symlink_to(tmp_path / "outside" / "x")
    assert is_inside(snapshot / "x", snapshot) and not is_inside(snapshot / "out", snapshot)


def test_a_line_of_an_earlier_version_becomes_that_of_the_file_that_is_there(tmp_path):
    (tmp_path / MARKER).write_text("dataset\nREADME.md\n")
    (tmp_path / "README.md").write_text("old")
    (tmp_path / "new").write_text("new")
    mark(tmp_path, "dataset", {"README.md": tmp_path / "new"})
    for content in ("old", "new"):
        (tmp_path / "README.md").write_text(content)
        refuse_unlisted(tmp_path, ["README.md"])
    (tmp_path / "README.md").write_text("by hand")
    with pytest.raises(FileExistsError):
        refuse_unlisted(tmp_path, ["README.md"])
