"""What a loopback Hub keeps: repositories with their commits, files by content, and the Hub's rules for both."""

import hashlib
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

LFS_BYTES = 10_000_000
"""The Hub takes larger files through LFS whatever they hold."""
LFS_ENDINGS = ("arrow", "bin", "bz2", "gif", "gz", "jpeg", "jpg", "npy", "npz", "onnx", "parquet", "pdf", "pickle") + (
    ("pkl", "png", "pt", "pth", "safetensors", "tar", "tgz", "webp", "xz", "zip", "zst")
)
_LISTS = ("tags", "task_categories", "task_ids", "annotations_creators", "size_categories", "multilinguality")


class HubError(Exception):
    """An answer other than success: ``status``, and the ``X-Error-Code`` that the client reads."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any):
        super().__init__(message)
        self.status, self.code, self.body = status, code, {"error": message} | body


class Store:
    """Repositories as files: ``objects/{sha256}``, ``{kind}/{id}/commits/{sha}.json`` and ``{kind}/{id}/repo.json``.

    A commit lists all files of its tree, each with its sha256, size, git blob id and whether it is an LFS file; none
    is ever changed, so that an old revision serves its files for good.
    """

    def __init__(self, folder: Path):
        self.folder, self.objects = folder, folder / "objects"
        self.objects.mkdir(parents=True, exist_ok=True)
        self.lock = threading.RLock()

    def repo(self, kind: str, name: str) -> dict[str, Any]:
        file = self.folder / kind / name / "repo.json"
        if not file.is_file():
            raise HubError(404, "Repository not found", "RepoNotFound")
        return json.loads(file.read_text())

    def create(self, kind: str, name: str, private: bool = False) -> None:
        (self.folder / kind / name / "commits").mkdir(parents=True)
        self._write_repo(kind, name, {"private": private, "branches": {}, "tags": {}})
        # The real one begins a repository with this file too, and a push must leave it alone.
        attributes = "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LFS_ENDINGS).encode()
        self.commit(kind, name, "main", "initial commit", {".gitattributes": self.put(iter([attributes]), False)}, [])

    def put(self, chunks: Iterator[bytes], lfs: bool, expected: str | None = None) -> dict[str, Any]:
        """Stores ``chunks``, unless their sha256 is not ``expected``; returns the entry of the file in a commit."""
        sha256 = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
            try:
                for chunk in chunks:
                    file.write(chunk)
                    sha256.update(chunk)
                file.close()
                if expected not in (None, sha256.hexdigest()):
                    raise HubError(400, f"The object's sha256 is {sha256.hexdigest()}, not {expected}.")
                os.replace(file.name, self.objects / sha256.hexdigest())
            except BaseException:
                os.unlink(file.name)
                raise
        return self.entry(sha256.hexdigest(), lfs)

    def entry(self, sha256: str, lfs: bool) -> dict[str, Any]:
        path = self.objects / sha256
        size = path.stat().st_size
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        content = pointer if lfs else path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"sha256": sha256, "size": size, "blob": blob, "lfs": lfs, "pointer_size": len(pointer)}

    def sha(self, kind: str, name: str, revision: str) -> str:
        repo = self.repo(kind, name)
        for refs in (repo["branches"], repo["tags"]):
            if revision in refs:
                return refs[revision]
        if re.fullmatch("[0-9a-f]{40}", revision) and self._commit_file(kind, name, revision).is_file():
            return revision
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def read_commit(self, kind: str, name: str, revision: str) -> dict[str, Any]:
        sha = self.sha(kind, name, revision)
        return json.loads(self._commit_file(kind, name, sha).read_text()) | {"sha": sha}

    def commit(
        self, kind: str, name: str, branch: str, title: str, added: dict, deleted: list[str], parent: str | None = None
    ) -> str:
        """Adds the entries, removes the paths (a folder's ends in a slash), moves the branch; returns the new sha."""
        with self.lock:
            repo = self.repo(kind, name)
            head = repo["branches"].get(branch)
            if head is None and repo["branches"]:
                raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            if parent not in (None, head):
                raise HubError(412, f"A commit has happened since: the parent is {head}, not {parent}.")
            files = self.read_commit(kind, name, head)["files"] if head else {}
            for path in deleted:
                gone = [name for name in files if name == path or (path.endswith("/") and name.startswith(path))]
                if not gone:
                    raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                for each in gone:
                    del files[each]
            content = {"title": title, "parent": head, "files": dict(sorted((files | added).items()))}
            sha = hashlib.sha1(json.dumps(content).encode()).hexdigest()
            self._commit_file(kind, name, sha).write_text(json.dumps(content))
            repo["branches"][branch] = sha
            self._write_repo(kind, name, repo)
        return sha

    def set_ref(self, kind: str, name: str, refs: str, ref: str, revision: str) -> None:
        with self.lock:
            sha, repo = self.sha(kind, name, revision), self.repo(kind, name)
            if ref in repo[refs]:
                raise HubError(409, f"Reference already exists: {ref}")
            repo[refs][ref] = sha
            self._write_repo(kind, name, repo)

    def _commit_file(self, kind: str, name: str, sha: str) -> Path:
        return self.folder / kind / name / "commits" / f"{sha}.json"

    def _write_repo(self, kind: str, name: str, repo: dict[str, Any]) -> None:
        (self.folder / kind / name / "repo.json").write_text(json.dumps(repo))


def upload_mode(path: str, size: int, sample: bytes) -> str:
    """``"lfs"`` for a file that is large, binary, or has the ending of a binary format; else ``"regular"``."""
    ending = path.rpartition(".")[2].lower()
    return "lfs" if size > LFS_BYTES or ending in LFS_ENDINGS or b"\0" in sample else "regular"


def validate_yaml(content: str) -> dict[str, list]:
    """What the Hub says of a card: its ``errors`` and ``warnings``, each with a ``message``."""
    header = re.match(r"\s*---\r?\n(.*?)\r?\n---(\r?\n|$)", content, re.DOTALL)
    if header is None:
        return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
    try:
        data = yaml.safe_load(header[1])
    except yaml.YAMLError as error:
        return {"errors": [{"message": f"YAML: {error}"}], "warnings": []}
    if not isinstance(data, dict):
        return {"errors": [{"message": "the metadata is not a mapping"}], "warnings": []}
    errors = [
        {"message": f'"{key}" must be a list of strings'}
        for key in _LISTS
        if key in data and not all(isinstance(value, str) for value in _as_list(data[key]))
    ]
    if not all(re.fullmatch(r"[a-z]{2,3}|code", str(code)) for code in _as_list(data.get("language", []))):
        errors.append({"message": '"language" must be ISO 639 codes'})
    if not all(re.fullmatch(r"[a-z0-9.-]+", str(value)) for value in _as_list(data.get("license", []))):
        errors.append({"message": '"license" must be an identifier in lower case'})
    if data.get("license") != "other" and ("license_name" in data or "license_link" in data):
        errors.append({"message": '"license_name" and "license_link" need "license: other"'})
    return {"errors": errors, "warnings": []}


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]
