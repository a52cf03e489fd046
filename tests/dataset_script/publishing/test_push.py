"""Push to a loopback Hub, broken off and repeated, and load back where none of our code is."""

import hashlib
import shutil
from pathlib import Path

import pytest
import stranger
from finished_dataset import make
from hub_server import HubServer
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from written_files import write_file

from dataset_script import load
from dataset_script.__main__ import main
from dataset_script.files import MARKER
from dataset_script.publishing.push import push


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that this process uses too: what the client took from the environment at import is put in its place."""
    with HubServer(tmp_path / "hub") as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "set", rows=12, shards=2)


def stored(hub: HubServer, name: str = "org/mmner", revision: str = "main") -> dict[str, bytes]:
    return {path: file.read_bytes() for path, file in hub.files("dataset", name, revision).items()}


def lfs(hub: HubServer) -> list[str]:
    return [request for request in hub.requests if request.startswith("PUT")]


def commits(hub: HubServer) -> int:
    return sum("/commit/" in request for request in hub.requests)


def test_load_back_and_stream_without_our_code(hub, folder, tmp_path, capsys):
    assert main(["push", str(folder), "org/mmner"]) == 0
    assert capsys.readouterr().out == f"{hub.url}/datasets/org/mmner\n"
    assert commits(hub) == 1
    (tmp_path / "empty").mkdir()
    code = """
import hashlib, io, sys
from datasets import load_dataset
from datasets.utils.logging import disable_progress_bar
disable_progress_bar()
for name in ("dataset_script", "hub_server", "modeling_2mner"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} can be imported here")

def show(kind, rows):
    images = [row["image"] for row in rows]
    print(kind, len(rows), sum(image is not None for image in images), {image.size for image in images if image},
          hashlib.sha256(repr([(row["id"], row["tokens"], row["ner_tags"]) for row in rows]).encode()).hexdigest())

german = load_dataset("org/mmner", "de")
for split in german:
    show("de " + split, list(german[split]))
show("all", list(load_dataset("org/mmner")["train"]))
stream = load_dataset("org/mmner", "de", split="train", streaming=True)
assert stream.features == german["train"].features
show("stream", list(stream))
print(stream.features["ner_tags"].feature.names)
"""
    environment = hub.environment(tmp_path / "home2") | {"HF_TOKEN": ""}
    lines = [line for line in stranger.run(code, tmp_path / "empty", env=environment)[0].splitlines() if line]
    expected = []
    here = load(folder, "de")
    for kind, rows in [(f"de {split}", here[split]) for split in here] + [("stream", here["train"])]:
        images = sum(image is not None for image in rows["image"])
        key = repr([(row["id"], row["tokens"], row["ner_tags"]) for row in rows]).encode()
        expected.append(f"{kind} {len(rows)} {images} {{(300, 200)}} {hashlib.sha256(key).hexdigest()}")
    assert [line for line in lines if line.startswith(("de", "stream"))] == expected
    assert lines[3].startswith(f"all {2 * len(here['train'])} ")
    assert lines[-1] == str(here["train"].features["ner_tags"].feature.names)


def test_the_repository_is_the_folder_and_nothing_else(hub, folder, tmp_path):
    (folder / "mmner.py").write_text("code")
    write_file(folder / ".cache" / "x.parquet", "scratch")
    push(folder, "org/mmner", private=True)
    (folder / "mmner.py").unlink()
    shutil.rmtree(folder / ".cache")
    there = stored(hub)
    there.pop(".gitattributes")
    assert there.pop("README.md").decode() == (folder / "README.md").read_text().replace(
        "path/to/this/dataset", "org/mmner"
    )
    here = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    # The marker says that the program wrote this very folder; a clone is not one.
    assert here.pop("README.md") and here.pop(MARKER) and there == here
    assert hub.repo("dataset", "org/mmner").private


def test_the_next_push_replaces_the_first_in_one_commit(hub, folder, tmp_path):
    push(folder, "org/mmner")
    write_file(tmp_path / "other" / "notes.txt", "written by hand")
    old = hub.add("dataset", "org/mmner", tmp_path / "other")
    before = len(lfs(hub))
    smaller = make(tmp_path / "smaller", rows=12, languages=("en",), built=False)
    push(smaller, "org/mmner")
    assert commits(hub) == 2 and len(lfs(hub)) > before
    there = stored(hub)
    assert there["notes.txt"] == b"written by hand" and ".gitattributes" in there
    here = {path.relative_to(smaller).as_posix() for path in smaller.rglob("*") if path.is_file()} - {MARKER}
    assert set(there) == here | {"notes.txt", ".gitattributes"}
    assert "de/train-00001.parquet" in stored(hub, revision=old), "the old revision has lost its files"
    # Nothing is new: nothing is uploaded, nothing is committed.
    uploaded = len(lfs(hub))
    push(smaller, "org/mmner")
    assert (len(lfs(hub)), commits(hub)) == (uploaded, 2)


def test_cut_at_the_commit_and_repeated(hub, folder, tmp_path):
    hub.fail_next("POST .*/commit/", how="cut")
    with pytest.raises(ConnectionError, match="http.* repeat the push"):
        push(folder, "org/mmner")
    assert set(stored(hub)) == {".gitattributes"}, "half a push can be seen"
    uploaded = lfs(hub)
    assert len(uploaded) == len(list(folder.glob("*/*.parquet")))
    push(folder, "org/mmner")
    assert lfs(hub) == uploaded, "what the Hub had was uploaded again"
    assert "de/test-00000.parquet" in stored(hub)


def test_onto_a_branch_and_past_a_fault_that_passes(hub, folder, tmp_path):
    hub.fail_next("PUT /lfs", how=503)
    push(folder, "org/mmner", revision="v2")
    assert set(stored(hub)) == {".gitattributes"} and "README.md" in stored(hub, revision="v2")
    repo = hub.repo("dataset", "org/mmner")
    assert repo.titles[repo.sha("v2")] == "Push 84 rows"


@pytest.mark.parametrize(
    ("setting", "value", "error", "message"),
    [
        ("HF_TOKEN", "hf_wrong", HfHubHTTPError, "401"),
        ("HF_TOKEN", "hf_read", HfHubHTTPError, "403"),
        ("ENDPOINT", "http://127.0.0.1:9", ConnectionError, "http://127.0.0.1:9: .*repeat the push"),
        ("HF_HUB_OFFLINE", True, ConnectionError, "unset the `HF_HUB_OFFLINE`"),
    ],
)
def test_refusals_and_what_cannot_be_reached_are_named(hub, folder, monkeypatch, setting, value, error, message):
    if setting == "HF_TOKEN":
        monkeypatch.setenv(setting, value)
    else:
        monkeypatch.setattr(constants, setting, value)
    with pytest.raises(error, match=message):
        push(folder, "org/mmner")
    assert not any("PUT" in request for request in hub.requests)


def _half_a_shard(folder: Path) -> None:
    content = (folder / "de" / "train-00001.parquet").read_bytes()
    (folder / "de" / "train-00001.parquet").write_bytes(content[: len(content) // 2])


def _a_link_out(folder: Path) -> None:
    (folder.parent / "private.jpg").write_bytes(b"private")
    (folder / "build.json").unlink()
    (folder / "build.json").symlink_to(folder.parent / "private.jpg")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "is no finished dataset; expected README.md and"),
        (lambda folder: (folder / "README.md").unlink(), "is no finished dataset; expected README.md and"),
        (lambda folder: (folder / "de" / "train-00001.parquet").unlink(), "36, .*its card says {'train': 48"),
        (_half_a_shard, "train-00001.parquet is not a whole Parquet file"),
        (_a_link_out, r"build.json is a link out of .*set, and is not pushed"),
    ],
)
def test_an_unfinished_folder_is_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        push(folder, "org/mmner")
