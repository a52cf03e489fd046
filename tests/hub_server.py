"""A Hugging Face Hub on the loopback, for models and datasets.

It answers what ``huggingface_hub`` 2.4, ``datasets`` and ``transformers`` ask of the Hub to create, push to, read and
pin a repository, over LFS (no Xet).

``HF_ENDPOINT`` is read at import: talk to it from a process of its own, with ``HubServer.environment``.
"""

import base64
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from loopback import Handler, Loopback


class HubError(Exception):
    """An answer other than success: ``status``, and the ``X-Error-Code`` that the client reads."""

    def __init__(self, status: int, message: str, code: str = "", **body: Any):
        super().__init__(message)
        self.status, self.code, self.body = status, code, {"error": message} | body


@dataclass
class Repo:
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    """Branch -> sha."""
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    """sha -> path -> sha256 of the file; none is ever changed."""
    titles: dict[str, str] = field(default_factory=dict)

    def sha(self, revision: str = "main") -> str:
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def commit(self, branch: str, title: str, added: dict[str, str], deleted: list[str]) -> str:
        parent = self.branches.get(branch)
        files = {path: entry for path, entry in self.commits.get(parent, {}).items() if path not in deleted} | added
        sha = hashlib.sha1(json.dumps([parent, title, files]).encode()).hexdigest()
        self.commits[sha], self.titles[sha], self.branches[branch] = files, title, sha
        return sha


class HubServer(Loopback):
    """``with HubServer(folder) as hub``: serves at ``hub.url`` until the block ends; ``folder`` holds the files.

    ``hub.token`` may read and write, ``hub.read_token`` only read, any other is refused; without one everything may be
    read. ``hub.requests`` lists every request as ``"PUT /lfs/..."``, in order of arrival.
    """

    token, read_token = "hf_write", "hf_read"

    def __init__(self, folder: str | Path):
        super().__init__()
        self.objects = Path(folder) / "objects"
        self.objects.mkdir(parents=True)
        self.repos: dict[tuple[str, str], Repo] = {}

    def environment(self, home: str | Path) -> dict[str, str]:
        """The environment of a subprocess that is to use this Hub, with its caches and settings in ``home``."""
        kept = {k: v for k, v in os.environ.items() if not re.match(r"HF_|HUGGING|TRANSFORMERS_|\w+_proxy$", k, re.I)}
        own = {"HF_ENDPOINT": self.url, "HF_TOKEN": self.token, "HF_HOME": str(home)}
        return kept | own | {f"HF_HUB_DISABLE_{name}": "1" for name in ("XET", "TELEMETRY", "PROGRESS_BARS")}

    def repo(self, kind: str, name: str) -> Repo:
        if (kind, name) not in self.repos:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return self.repos[kind, name]

    def create(self, kind: str, name: str, private: bool = False) -> Repo:
        # The real one begins a repository with this file too, and a push must leave it alone.
        repo = self.repos[kind, name] = Repo(private)
        repo.commit("main", "initial commit", {".gitattributes": self.put(b"*.parquet filter=lfs\n")}, [])
        return repo

    def add(self, kind: str, name: str, folder: str | Path) -> str:
        """Commits the files of ``folder`` to a ``"model"`` or ``"dataset"``, made if absent; returns the sha."""
        repo = self.repos.get((kind, name)) or self.create(kind, name)
        files = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if path.is_file()}
        return repo.commit("main", "added", {name: self.put(path.read_bytes()) for name, path in files.items()}, [])

    def put(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        (self.objects / sha256).write_bytes(content)
        return sha256

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, Path]:
        """The files of a repository by path; each value is where the server keeps the content."""
        repo = self.repo(kind, name)
        return {path: self.objects / sha256 for path, sha256 in sorted(repo.commits[repo.sha(revision)].items())}


_REPO = r"/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
_ROUTES = [
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", rf"/api{_REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"/api{_REPO}/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", rf"/api{_REPO}/branch/(?P<revision>[^/]+)", "branch"),
    ("GET", rf"/api{_REPO}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", "tree"),
    ("GET", rf"/api{_REPO}(/revision/(?P<revision>[^/]+))?", "info"),
    ("POST", r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("GET", r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]
_NEED_WRITE = ("create", "preupload", "commit", "branch", "lfs_batch")


class _Handler(Handler):
    """One request. The method of its route returns JSON or raises ``HubError``; ``_resolve`` sends a file itself."""

    def _handle(self) -> None:
        self.hub: HubServer = self.server.owner
        url = urlsplit(self.path)
        fault = self.hub.take(f"{self.command} {url.path}")
        if fault and fault.how == "cut":
            self.close_connection = True
            return
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.query = parse_qs(url.query)
        try:
            if fault:
                raise HubError(int(fault.how), "a fault that the test asked for")
            verb = self.command.replace("HEAD", "GET")
            tried = ((re.fullmatch(pattern, url.path), route) for method, pattern, route in _ROUTES if method == verb)
            match, route = next((pair for pair in tried if pair[0]), (None, ""))
            if match is None:
                raise HubError(404, f"No such endpoint: {self.command} {url.path}")
            self._authorise(route)
            found = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
            if "name" in found:
                kind = "dataset" if found.pop("kind", "").startswith("datasets") else "model"
                self.kind, self.name = kind, found.pop("name")
                self.repo = self.hub.repo(kind, self.name)
            answer = getattr(self, "_" + route)(**found)
            if route != "resolve":
                self.send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())
        except HubError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": str(error), "Content-Type": "application/json"}
            self.send(error.status, headers, json.dumps(error.body).encode())

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815 - the names that http.server calls

    def _authorise(self, route: str) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", self.hub.token, self.hub.read_token) or (route in _NEED_WRITE and not token):
            raise HubError(401, "Invalid username or password.")
        if route in _NEED_WRITE and token == self.hub.read_token:
            raise HubError(403, "You don't have the rights to write to this repository")

    def _validate(self) -> dict[str, Any]:
        result = validate_yaml(json.loads(self.body)["content"])
        if result["errors"]:
            raise HubError(400, "Invalid metadata", **result)
        return result

    def _create(self) -> dict[str, Any]:
        body = json.loads(self.body)
        kind, name = body.get("type") or "model", f"{body['organization']}/{body['name']}"
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.hub.repos:
            raise HubError(409, "You already created this repo", url=url)
        self.hub.create(kind, name, body.get("visibility") == "private" or bool(body.get("private")))
        return {"url": url, "name": name, "id": name}

    def _preupload(self, revision: str) -> dict[str, Any]:
        present = self.hub.files(self.kind, self.name, revision)
        answer = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            lfs = path.endswith((".parquet", ".safetensors")) or b"\0" in base64.b64decode(file["sample"])
            entry = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            if path in present:
                content = present[path].read_bytes()
                blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                entry["oid"] = present[path].name if lfs else blob
            answer.append(entry)
        return {"files": answer}

    def _lfs_batch(self) -> dict[str, Any]:
        objects = json.loads(self.body)["objects"]
        for item in objects:
            if not (self.hub.objects / item["oid"]).is_file():
                item["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def _lfs_put(self, oid: str) -> None:
        if self.hub.put(self.body) != oid:
            raise HubError(400, f"The object's sha256 is not {oid}.")

    def _commit(self, revision: str) -> dict[str, Any]:
        title, added, deleted = "", {}, []
        for line in self.body.splitlines():
            kind, value = (json.loads(line)[name] for name in ("key", "value"))
            if kind == "header":
                title = value["summary"]
            elif kind == "file":
                added[value["path"]] = self.hub.put(base64.b64decode(value["content"]))
            elif kind == "lfsFile":
                if not (self.hub.objects / value["oid"]).is_file():
                    raise HubError(400, f"The LFS object {value['oid']} was never uploaded.")
                added[value["path"]] = value["oid"]
            else:
                deleted.append(value["path"])
        sha = self.repo.commit(revision, title, added, deleted)
        return {"commitOid": sha, "commitUrl": f"{self.hub.url}/{self.name}/commit/{sha}"}

    def _branch(self, revision: str) -> None:
        if revision in self.repo.branches:
            raise HubError(409, f"Reference already exists: {revision}")
        self.repo.branches[revision] = self.repo.sha(json.loads(self.body).get("startingPoint", "main"))

    def _info(self, revision: str = "main") -> dict[str, Any]:
        sha, files = self.repo.sha(revision), self.hub.files(self.kind, self.name, revision)
        answer = {"_id": sha[:24], "id": self.name, "sha": sha, "siblings": [{"rfilename": path} for path in files]}
        return answer | {"private": self.repo.private, "tags": [], "downloads": 0, "likes": 0}

    def _tree(self, revision: str, path: str = "") -> list[dict[str, Any]]:
        prefix, deep = path and path + "/", self.query["recursive"] == ["true"]
        entries: dict[str, dict[str, Any]] = {}
        for name, file in self.hub.files(self.kind, self.name, revision).items():
            folder, slash, _ = name.removeprefix(prefix).partition("/")
            if name.startswith(prefix) and slash and not deep:
                entries[folder] = {"type": "directory", "oid": folder, "size": 0, "path": prefix + folder}
            elif name.startswith(prefix):
                entries[name] = {"type": "file", "oid": file.name, "size": file.stat().st_size, "path": name}
        if path and not entries:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        return list(entries.values())

    def _resolve(self, revision: str, path: str) -> None:
        file = self.hub.files(self.kind, self.name, revision).get(path)
        if file is None:
            raise HubError(404, "Entry not found", "EntryNotFound")
        content = file.read_bytes()
        headers = {"X-Repo-Commit": self.repo.sha(revision), "ETag": f'"{file.name}"', "Accept-Ranges": "bytes"}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            headers["Content-Range"] = f"bytes {wanted[1]}-{wanted[2]}/{len(content)}"
            content = content[int(wanted[1]) : int(wanted[2]) + 1]
        self.send(206 if wanted else 200, headers, content)


HubServer.handler = _Handler


def validate_yaml(content: str) -> dict[str, list]:
    """What the Hub says of a card's metadata."""
    header = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    if header is None:
        return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
    data, errors = yaml.safe_load(header[1]), []
    for key, pattern in (("language", "[a-z]{2,3}|code"), ("license", "[a-z0-9.-]+")):
        values = data.get(key, [])
        if not all(re.fullmatch(pattern, str(value)) for value in (values if isinstance(values, list) else [values])):
            errors.append({"message": f'"{key}" is {values}'})
    if data.get("license") != "other" and ("license_name" in data or "license_link" in data):
        errors.append({"message": '"license_name" and "license_link" need "license: other"'})
    return {"errors": errors, "warnings": []}
