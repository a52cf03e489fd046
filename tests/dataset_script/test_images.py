"""Which image files count as readable, and that datasets.Image then decodes each of them to the same pixels."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from datasets import Image as ImageFeature
from PIL import EpsImagePlugin, Image, PngImagePlugin
from test_load_image import encoded, encoded_size
from tiny_pipelines import noise
from written_files import write_file, write_jsonl

import processing_2mner
from dataset_script import images, load, load_report
from dataset_script.auditing import audit
from dataset_script.building.build import build
from dataset_script.building.plan import Plan
from dataset_script.building.providers.own import Own
from dataset_script.images import FORMATS, ImageFiles, ImageFolder, candidates, find_image_root, open_image
from dataset_script.publishing import preview
from dataset_script.publishing.card import write_card


def rotated_jpeg(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise().save(path, exif=exif)


READABLE = {
    "rgb.jpg": lambda path: noise().save(path),
    "cmyk.jpg": lambda path: noise().convert("CMYK").save(path),
    "rotated.jpg": rotated_jpeg,
    "palette.png": lambda path: noise().convert("P").save(path),
    "16-bit.png": lambda path: Image.fromarray(np.array(noise().convert("L")).astype(np.uint16) * 257).save(path),
    "animated.gif": lambda path: noise().save(path, save_all=True, append_images=[noise(seed=1)]),
    "animated.webp": lambda path: noise().save(path, save_all=True, append_images=[noise(seed=1)]),
    "png-named.jpg": lambda path: noise().save(path, format="PNG"),
}


@pytest.mark.parametrize("name", READABLE)
def test_readable_images_decode_in_datasets(tmp_path, name):
    path = tmp_path / name
    READABLE[name](path)
    found = ImageFolder(tmp_path).find(name)
    assert (found.path, found.cause) == (path, None)
    feature = ImageFeature()
    decoded = feature.decode_example(feature.encode_example(str(found.path)))
    with Image.open(path) as expected:
        pixels = np.asarray(expected)
    # Orientation 6: the camera was turned, and the image is shown a quarter turn clockwise.
    np.testing.assert_array_equal(np.asarray(decoded), np.rot90(pixels, -1) if name == "rotated.jpg" else pixels)


JPEG = encoded(noise(), "JPEG")


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


BROKEN = {
    "text.jpg": lambda: b"<html>404 Not Found</html>",
    "half.jpg": lambda: JPEG[: len(JPEG) // 2],
    "flipped-bit.png": lambda: flipped(encoded(noise()), 60),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_unreadable_with_a_cause(tmp_path, name):
    (tmp_path / name).write_bytes(BROKEN[name]())
    found = ImageFolder(tmp_path).find(name)
    assert (found.name, found.path) == (name, None)
    assert found.cause and str(tmp_path) not in found.cause


def test_files_that_are_no_regular_files_or_have_impossible_names_are_missing(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    folder = ImageFolder(tmp_path)
    with pytest.raises(OSError, match=r"^OSError: pipe.jpg is a folder, a pipe or a device; expected a regular file."):
        open_image(tmp_path / "pipe.jpg")
    names = ["pipe.jpg", "device.jpg", "folder.jpg", "dangling.jpg", "none.jpg", "x" * 5000, "nul\0.jpg"]
    for name in [*names, "https://example.org/a.jpg"]:
        found = folder.find(name)
        assert (found.name, found.path, found.cause) == (name, None, None)
    assert {name for name, _, _ in folder.signature()} == {"pipe.jpg", "device.jpg"}


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_decompression_bombs_are_refused_undecoded(tmp_path, side, monkeypatch):
    """Pillow warns of the smaller one (above MAX_IMAGE_PIXELS) and raises at the larger (above twice that)."""
    (tmp_path / "bomb.png").write_bytes(encoded_size(side, side))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(OSError, match=r"^too many pixels \(PIL.Image.MAX_IMAGE_PIXELS is 89478485\): "):
        open_image(tmp_path / "bomb.png")


def test_names_without_suffix_find_their_file(tmp_path):
    assert candidates("a.jpg") == ("a.jpg",)
    assert candidates("1.2.*")[:3] == ("1.2.jpg", "1.2.jpeg", "1.2.png")
    noise().save(tmp_path / "a.png")
    folder = ImageFolder(tmp_path)
    assert folder.find("a.*").path == tmp_path / "a.png"
    assert folder.find("a.jpg").path is None
    assert folder.find("b.*").name == "b.jpg"
    assert ImageFolder(None).find("a.*").name == "a.jpg"


def test_image_root(tmp_path):
    folder = tmp_path / "twitter2015"
    folder.mkdir()
    assert find_image_root(folder) is None
    for path in (tmp_path / "twitter2015_images", folder / "twitter2015_images", folder / "images"):
        path.mkdir()
        assert find_image_root(folder) == path


# Formats


def test_the_formats_are_the_models_own():
    assert FORMATS == processing_2mner.FORMATS


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A file that is there once a program called `gs` was run."""
    ran = tmp_path / "ran"
    write_file(tmp_path / "bin" / "gs", f"#!/bin/sh\ntouch {ran}\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return ran


@pytest.fixture
def hostile(tmp_path):
    """A dataset folder with an EPS under the name of a PNG, and a PNG."""
    folder = tmp_path / "hostile"
    (folder / "images").mkdir(parents=True)
    noise().save(folder / "images" / "x.png", "EPS")
    noise().save(folder / "images" / "good.png")
    for split in ("train", "validation", "test"):
        rows = [
            {"id": f"{split}-{name}", "lang": "en", "tokens": ["Anna", split, name], "ner_tags": ["B-PER", "O", "O"]}
            | {"image": f"{name}.png"}
            for name in ("x", "good")
        ]
        write_jsonl(folder / f"{split}.jsonl", *rows)
    return folder


def test_an_eps_of_a_dataset_folder_does_not_reach_ghostscript(hostile, ghostscript, tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # as Pillow has it
    loaded = load(hostile, cache_dir=tmp_path / "cache")
    assert load_report(loaded).total("train").unreadable.total() == 1
    assert [image and image.size for image in loaded["train"]["image"]] == [None, (40, 24)]
    report = audit.audit(hostile)
    assert [sorted(problems) for problems in report.unreadable.values()] == [["x.png"]]
    page = preview.preview(hostile, tmp_path / "preview.html").read_text(encoding="utf-8")
    assert "does not open: it is of no format of JPEG, PNG" in page
    own, plan = Own({"hostile": hostile / "images"}), Plan(splits="source", unseen="none")
    folder = build([hostile], tmp_path / "built", own, plan, write_card=write_card)
    built = load(folder, cache_dir=tmp_path / "cache")
    assert sorted(image is None for image in built["train"]["image"]) == [False, True]
    with pytest.raises(OSError, match="it is of no format of JPEG, PNG"):
        images.open_image((hostile / "images" / "x.png").read_bytes())
    assert not ghostscript.exists()
    with pytest.raises(OSError):  # what would have happened
        Image.open(hostile / "images" / "x.png").load()
    assert ghostscript.exists()


def test_images_in_rows_are_written_once_and_no_name_is_taken_twice(tmp_path):
    files = ImageFiles(tmp_path)
    assert [files.add(b"one", "1.jpg"), files.add(b"one", "3.jpg"), files.add(b"two", "2.jpg")] == [
        "1.jpg", "1.jpg", "2.jpg",
    ]  # fmt: skip
    other = f"{hashlib.sha256(b'three').hexdigest()[:16]}-1.jpg"
    assert files.add(b"three", "1.jpg") == other
    contents = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert contents == {"1.jpg": b"one", "2.jpg": b"two", other: b"three"}


def test_images_beside_a_folder_are_its_own_only_if_it_is_a_languages(tmp_path):
    for name in ("images", "de", "posts"):
        (tmp_path / name).mkdir()
    (tmp_path / "de" / "train.jsonl").touch()
    assert find_image_root(tmp_path / "de") == find_image_root(tmp_path / "de" / "train.jsonl") == tmp_path / "images"
    assert find_image_root(tmp_path / "posts") is None
