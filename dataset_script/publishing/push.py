"""Push a finished dataset folder to the Hub: Parquet by language, card, origins of the pictures; no code.

``python -m dataset_script push FOLDER ORG/NAME``. One commit brings everything, so that what is on the Hub is the old
dataset or the new one; a push that broke off is completed by repeating it, which uploads no file again.
"""

import argparse
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, HfApi, RepoUrl
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

from ..files import MARKER, is_inside
from .card import ADDRESS, LICENCE_FILE
from .facts import find_shards

logger = logging.getLogger(__name__)

_REPO_TYPE = "dataset"
_FILES = (LICENCE_FILE, "README.md", "build.json", "load_report.json", "pictures.jsonl")
_OURS = re.compile(r"(en|de|fr|es)/[^/]+\.parquet|assets/[^/]+|" + "|".join(map(re.escape, _FILES)))
_REPEAT = "What was uploaded is kept: repeat the push to complete it."


def push(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Push ``folder``, so that ``load_dataset(repo_id, "de")`` reads it; files of an earlier push that are no longer
    there are deleted in the same commit, files that no push brought are left alone.

    Args:
        folder: a finished dataset, as ``build`` or ``write_parquet`` writes it.
        repo_id: ``"org/name"``; the repository is made if there is none.
        private: make it a private one; one that exists stays as it is.
        token: with the right to write; by default ``HF_TOKEN`` or that of ``hf auth login``.
        revision: a branch, made if there is none; ``main`` if left out.

    Returns:
        The address of the dataset.

    Raises:
        ValueError: ``folder`` is not a finished dataset, or the repository holds a loading script.
        PermissionError: the Hub refuses the token, or it may not write there.
        ConnectionError: the Hub does not answer, or the connection broke.
    """
    folder = Path(folder).expanduser()
    files = _check(folder)
    api = HfApi(token=token)
    try:
        # None leaves it to the organisation, some of which allow no public repositories.
        url = api.create_repo(repo_id, repo_type=_REPO_TYPE, private=private or None, exist_ok=True)
        return _commit(api, url, folder, files, revision or "main", commit_message)
    except Exception as error:
        translated = _explain(error, api, repo_id)
        if translated is None:
            raise
        raise translated from error


def _commit(
    api: HfApi, url: RepoUrl, folder: Path, files: list[str], revision: str, commit_message: str | None
) -> str:
    if revision != "main":
        api.create_branch(url.repo_id, repo_type=_REPO_TYPE, branch=revision, exist_ok=True)
    info = api.dataset_info(url.repo_id, revision=revision)
    there = {sibling.rfilename for sibling in info.siblings or []}
    script = f"{url.repo_id.rpartition('/')[2]}.py"
    if script in there:
        raise ValueError(
            f"{url} has {script} at its root, a loading script, for which load_dataset refuses the repository: delete "
            "it there, then push again."
        )
    card = (folder / "README.md").read_text(encoding="utf-8").replace(ADDRESS, url.repo_id)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, card.encode() if name == "README.md" else folder / name) for name in files
    ]
    stale = sorted(name for name in there - {*files} if _OURS.fullmatch(name))
    operations += [CommitOperationDelete(name) for name in stale]
    logger.info("%s: pushing %d files, deleting %d of an earlier push", url, len(files), len(stale))
    rows = sum(pq.read_metadata(path).num_rows for paths in find_shards(folder).values() for path in paths)
    commit = api.create_commit(
        url.repo_id,
        operations,
        commit_message=commit_message or f"Push {rows} rows",
        repo_type=_REPO_TYPE,
        revision=revision,
        # Should someone else commit meanwhile, then what is stale may have changed: better to begin again.
        parent_commit=info.sha,
    )
    logger.info("%s", commit.commit_url)
    return str(url)


def _check(folder: Path) -> list[str]:
    """The files to push, relative to ``folder``, if it holds a whole dataset."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected a finished dataset, as build writes it.")
    shards = find_shards(folder)
    missing = [
        name for name, there in (("README.md", (folder / "README.md").is_file()), ("Parquet", shards)) if not there
    ]
    if missing:
        raise ValueError(
            f"{folder} has no {' and no '.join(missing)} files; expected a finished dataset: README.md and "
            "{lang}/{split}-00000.parquet, as build writes them."
        )
    rows: dict[str, int] = {}
    for (_, split), paths in shards.items():
        for number, path in enumerate(paths):
            if path.stem != f"{split}-{number:05d}":
                raise ValueError(
                    f"{path} stands where {split}-{number:05d}.parquet was expected: build the dataset again."
                )
            try:
                rows[split] = rows.get(split, 0) + pq.read_metadata(path).num_rows
            except (OSError, pa.ArrowException) as error:
                raise ValueError(f"{path} is not a whole Parquet file ({error}): build the dataset again.") from None
    described = _described_rows(folder)
    if rows != described:
        raise ValueError(
            f"The Parquet files in {folder} have rows {rows}, its card says {described or 'nothing'}: write the card "
            "again (dataset_script.publishing.card.write_card) if the files are as they should be."
        )
    files = sorted(_files(folder))
    known = {MARKER, *(name.partition("/")[0] for name in files)}
    left = sorted(path.name for path in folder.iterdir() if path.name not in known)
    if left:
        logger.warning("Not pushed, since no part of a dataset: %s", ", ".join(left))
    return files


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and _OURS.fullmatch(name):
            if not is_inside(path, folder):
                raise ValueError(f"{path} is a link out of {folder}, and is not pushed: put the file itself there.")
            yield name


def _described_rows(folder: Path) -> dict[str, int]:
    """Split -> rows, as the card has it for the config ``all``."""
    header = DatasetCard.load(folder / "README.md", ignore_metadata_errors=True).data.to_dict()
    infos = header.get("dataset_info", [])
    for info in infos if isinstance(infos, list) else [infos]:
        if info.get("config_name") == "all":
            return {split["name"]: split["num_examples"] for split in info["splits"]}
    return {}


def _explain(error: Exception, api: HfApi, repo_id: str) -> Exception | None:
    """``error`` as one that says what to do; ``None`` for an error that says so itself."""
    causes: list[BaseException] = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    # The client wraps what befalls an upload into a RuntimeError.
    http = next((cause for cause in causes if isinstance(cause, HfHubHTTPError)), None)
    if http is not None:
        status = http.response.status_code
        if isinstance(http, RevisionNotFoundError):
            return ValueError(f"{repo_id} has no such revision; expected a branch. ({http})")
        if status == 401 or isinstance(http, RepositoryNotFoundError):
            return PermissionError(
                f"{api.endpoint} does not accept the token for {repo_id}, or was given none: set HF_TOKEN or run "
                f"`hf auth login` with a token that may write there. ({http})"
            )
        if status == 403:
            return PermissionError(
                f"The token may not write to {repo_id} on {api.endpoint}: take one that may. ({http})"
            )
        if status == 412:
            return ConnectionError(f"Someone else changed {repo_id} during the push. {_REPEAT}")
        if status >= 500 or status == 429:
            return ConnectionError(f"{api.endpoint} failed with status {status}. {_REPEAT} ({http})")
        return None
    if isinstance(error, ValueError | PermissionError):
        return None
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        return ConnectionError("HF_HUB_OFFLINE is set, so that nothing can be pushed: unset it.")
    # Those of the HTTP library that the client happens to use are known by their family alone.
    if any(
        isinstance(cause, OSError) or type(cause).__module__.partition(".")[0].startswith("http") for cause in causes
    ):
        return ConnectionError(
            f"The connection to {api.endpoint} could not be made or broke: {causes[-1]}. Check the network. {_REPEAT}"
        )
    return None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m dataset_script push``."""
    parser.add_argument("folder", help="a finished dataset, as build writes it")
    parser.add_argument("repo_id", metavar="ORG/NAME", help="the dataset on the Hub, made if there is none")
    parser.add_argument("--private", action="store_true", help="make the repository a private one")
    parser.add_argument("--revision", help="a branch, made if there is none (main)")
    parser.add_argument("--commit_message")


def run(arguments: argparse.Namespace) -> int:
    """Push, and print the address."""
    print(
        push(
            arguments.folder,
            arguments.repo_id,
            private=arguments.private,
            revision=arguments.revision,
            commit_message=arguments.commit_message,
        )
    )
    return 0
