"""Pictures inside rows, written as files."""

import hashlib

import pytest

from dataset_script.building.row_images import PictureFiles


def digest(content):
    return hashlib.sha256(content).hexdigest()[:16]


def test_each_content_is_one_file_and_no_name_is_taken_twice(tmp_path):
    files = PictureFiles(tmp_path / "pictures")
    assert files.add({"bytes": b"one", "path": "a/1.jpg"}) == "1.jpg"
    assert files.add({"bytes": b"one", "path": "2.jpg"}, "3.jpg") == "1.jpg"
    assert files.add({"bytes": b"two", "path": "x.jpg"}, "../2.jpg") == "2.jpg"
    assert files.add({"bytes": b"three", "path": "1.jpg"}) == f"{digest(b'three')}-1.jpg"
    assert files.add({"bytes": b"four", "path": None}) == digest(b"four")
    assert files.add({"bytes": b"five", "path": "a/.."}) == digest(b"five")
    contents = {path.name: path.read_bytes() for path in files.folder.iterdir()}
    assert sorted(contents.values()) == [b"five", b"four", b"one", b"three", b"two"] and contents["2.jpg"] == b"two"
    (files.folder / "6.jpg").write_bytes(b"mine")
    assert files.add({"bytes": b"six", "path": "6.jpg"}) == f"{digest(b'six')}-6.jpg"
    assert (files.folder / "6.jpg").read_bytes() == b"mine"
    with pytest.raises(ValueError, match="the picture 'here.jpg' is named, but not in the row"):
        files.add({"bytes": None, "path": "here.jpg"})
