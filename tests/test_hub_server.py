"""The loopback Hub, asked by the Hub's own client in other processes: what goes in comes out, old revisions stay."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer

BIG = os.urandom(3_000_000)
HEAD = """
import sys
from pathlib import Path
from huggingface_hub import HfApi, HfFileSystem, CommitOperationAdd, CommitOperationDelete, hf_hub_download, errors
from huggingface_hub import snapshot_download
api = HfApi()
here = Path(sys.argv[1])
"""


@pytest.fixture
def hub(tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        yield hub


def run(hub: HubServer, tmp_path: Path, code: str, **environment: str) -> list[str]:
    """Lines that ``code`` prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", HEAD + code, tmp_path],
        env=hub.environment(tmp_path / "home") | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_push_read_and_pin(hub, tmp_path):
    (tmp_path / "up" / "de").mkdir(parents=True)
    (tmp_path / "up" / "de" / "a b.parquet").write_bytes(BIG)
    (tmp_path / "up" / "README.md").write_text("---\nlanguage: [de]\n---\nOne\n")
    first, second, tree, whole = run(
        hub,
        tmp_path,
        """
for _ in range(2):
    url = api.create_repo("org/set", repo_type="dataset", exist_ok=True)
assert url.repo_id == "org/set" and url.repo_type == "dataset", url
first = api.upload_folder(repo_id="org/set", repo_type="dataset", folder_path=here / "up").oid
api.create_tag("org/set", repo_type="dataset", tag="v1")
(here / "up" / "README.md").write_text("---\\nlanguage: [de]\\n---\\nTwo\\n")
second = api.upload_folder(repo_id="org/set", repo_type="dataset", folder_path=here / "up").oid
print(first); print(second)
print(sorted(file.path for file in api.list_repo_tree("org/set", repo_type="dataset", recursive=True)))
for revision, text in ((first, "One"), ("v1", "One"), (second, "Two"), ("main", "Two"), (None, "Two")):
    path = hf_hub_download("org/set", "README.md", repo_type="dataset", revision=revision)
    assert text in Path(path).read_text(), (revision, path)
print(snapshot_download("org/set", repo_type="dataset", revision=first))
info = api.dataset_info("org/set", files_metadata=True)
assert info.sha == second and {f.rfilename: f.size for f in info.siblings}["de/a b.parquet"] == 3_000_000
assert [c.commit_id for c in api.list_repo_commits("org/set", repo_type="dataset")][:2] == [second, first]
found = api.get_paths_info("org/set", ["de", "nothing", "de/a b.parquet"], repo_type="dataset")
assert [type(f).__name__ for f in found] == ["RepoFolder", "RepoFile"], found
with HfFileSystem().open("datasets/org/set/de/a b.parquet") as file:  # by byte ranges
    file.seek(-10, 2)
    assert file.read() == (here / "up" / "de" / "a b.parquet").read_bytes()[-10:]
""",
    )
    assert first != second
    assert tree == "['.gitattributes', 'README.md', 'de', 'de/a b.parquet']"
    assert (Path(whole) / "de" / "a b.parquet").read_bytes() == BIG
    files = hub.files("dataset", "org/set", first)
    assert files["README.md"].read_text().endswith("One\n") and files["de/a b.parquet"].read_bytes() == BIG
    assert hub.files("dataset", "org/set")["README.md"].read_text().endswith("Two\n")
    # The large file went up once, by its sha256; the second commit found it there.
    assert [r for r in hub.requests if r.startswith("PUT")] == [f"PUT /lfs/{hashlib.sha256(BIG).hexdigest()}"]


def test_errors_are_those_the_client_knows(hub, tmp_path):
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "config.json").write_text("{}")
    hub.add("model", "org/model", tmp_path / "up")
    run(
        hub,
        tmp_path,
        """
def raised(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except Exception as error:
        return error
    raise SystemExit(f"{function} raised nothing")

assert type(raised(api.model_info, "org/nothing")) is errors.RepositoryNotFoundError
assert type(raised(api.model_info, "org/model", revision="v9")) is errors.RevisionNotFoundError
assert type(raised(hf_hub_download, "org/model", "x.json")) is errors.RemoteEntryNotFoundError
assert type(raised(hf_hub_download, "org/model", "config.json", repo_type="dataset")) is errors.RepositoryNotFoundError
add = dict(path_in_repo="x.txt", path_or_fileobj=b"x", repo_id="org/model")
for token, status in (("hf_read", 403), ("hf_wrong", 401)):
    assert raised(api.upload_file, token=token, **add).response.status_code == status
assert raised(api.create_repo, "org/other", token="hf_read").response.status_code == 403
assert raised(api.upload_file, parent_commit="0" * 40, **add).response.status_code == 412
gone = [CommitOperationDelete("gone.txt")]
assert type(raised(api.create_commit, "org/model", gone, commit_message="x")) is errors.RemoteEntryNotFoundError
card = b"---\\nlicense: [\\n---\\n"
assert "README" in str(raised(api.upload_file, path_in_repo="README.md", path_or_fileobj=card, repo_id="org/model"))
api.create_repo("org/secret", private=True)
assert type(raised(api.model_info, "org/secret", token=False)) is errors.RepositoryNotFoundError
assert api.model_info("org/secret").private and api.whoami()["name"] == "tester"
api.create_commit("org/model", [CommitOperationAdd("d/y.txt", b"y")], commit_message="y")
api.create_branch("org/model", branch="dev")
api.delete_folder("d", "org/model")
assert not api.file_exists("org/model", "d/y.txt") and api.file_exists("org/model", "d/y.txt", revision="dev")
""",
    )


@pytest.mark.parametrize("how", ["cut", 503])
def test_a_fault_befalls_the_requests_asked_for_and_no_other(hub, tmp_path, how):
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "a.bin").write_bytes(BIG)
    hub.fail_next("PUT /lfs", how=how)
    run(hub, tmp_path, 'api.create_repo("org/m"); api.upload_folder(repo_id="org/m", folder_path=here / "up")')
    assert sum(request.startswith("PUT") for request in hub.requests) == 2
    assert hub.files("model", "org/m")["a.bin"].read_bytes() == BIG
    hub.fail_next("GET /org/m/resolve")  # the client takes up a broken download where it broke
    (path,) = run(hub, tmp_path, 'print(hf_hub_download("org/m", "a.bin"))')
    assert Path(path).read_bytes() == BIG
    assert not [file for file in (tmp_path / "hub").iterdir() if file.is_file()], "half an object was left"


def test_transformers_loads_a_model_pinned_to_a_revision(hub, tmp_path):
    up = tmp_path / "up"
    up.mkdir()
    config = '{"model_type": "bert", "hidden_size": 8, "auto_map": {"AutoConfig": "own.OwnConfig"}}'
    (up / "config.json").write_text(config)
    code = "from transformers import BertConfig\n\nclass OwnConfig(BertConfig):\n    word = '%s'\n"
    (up / "own.py").write_text(code % "old")
    old = hub.add("model", "org/m", up)
    (up / "own.py").write_text(code % "new")
    hub.add("model", "org/m", up)
    lines = run(
        hub,
        tmp_path,
        f"""
from transformers import AutoConfig
for revision in ("{old}", "main"):
    print(AutoConfig.from_pretrained("org/m", revision=revision, trust_remote_code=True).word)
""",
    )
    assert lines[-2:] == ["old", "new"]
