"""Push a finished dataset folder to the Hub in one commit: Parquet by language, card, origins of the images; no code.

``mmner data push FOLDER ORG/NAME``. An interrupted push is completed by repeating it; files that have
arrived are not sent again.
"""

import argparse
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from httpx2 import TransportError
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, HfApi
from huggingface_hub.errors import HfHubHTTPError

from ..files import MARKER, is_inside
from .card import ADDRESS
from .facts import find_shards

logger = logging.getLogger(__name__)

_FILES = ("README.md", "build.json", "load_report.json", "pictures.jsonl")
_OURS = re.compile(r"(en|de|fr|es)/[^/]+\.parquet|" + "|".join(map(re.escape, _FILES)))


def push(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
) -> str:
    """Push ``folder``, so that ``load_dataset(repo_id, "de")`` reads it.

    The same commit deletes files of an earlier push that the folder no longer has. Other files stay.

    Args:
        folder: a finished dataset, as ``build`` or ``write_parquet`` writes it.
        repo_id: ``"org/name"``; made if there is none, then ``private`` if asked for.
        token: with the right to write; by default ``HF_TOKEN`` or that of ``hf auth login``.
        revision: a branch, made if there is none; ``main`` if left out.

    Returns:
        The address of the dataset.

    Raises:
        ValueError: ``folder`` is not a finished dataset.
        ConnectionError: the Hub does not answer, or the connection broke.
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses, such as a token that may not write there.
    """
    folder = Path(folder).expanduser()
    files, rows = _check(folder)
    api = HfApi(token=token)
    try:
        return _commit(api, folder, repo_id, files, private, revision, f"Push {rows} rows")
    except (TransportError, RuntimeError) as error:  # the client wraps what befalls an upload into a RuntimeError
        if isinstance(error.__cause__, HfHubHTTPError):
            raise error.__cause__ from None
        raise ConnectionError(
            f"{api.endpoint}: {error}. What was uploaded is kept: repeat the push to complete it."
        ) from error


def _commit(
    api: HfApi, folder: Path, repo_id: str, files: list[str], private: bool, revision: str | None, message: str
) -> str:
    # None leaves it to the organisation, some of which allow no public repositories.
    url = api.create_repo(repo_id, repo_type="dataset", private=private or None, exist_ok=True)
    if revision is not None:
        api.create_branch(url.repo_id, repo_type="dataset", branch=revision, exist_ok=True)
    info = api.dataset_info(url.repo_id, revision=revision)
    there = {sibling.rfilename for sibling in info.siblings or []}
    card = (folder / "README.md").read_text(encoding="utf-8").replace(ADDRESS, url.repo_id).encode()
    add = [CommitOperationAdd(name, card if name == "README.md" else folder / name) for name in files]
    stale = [CommitOperationDelete(name) for name in sorted(there - {*files}) if _OURS.fullmatch(name)]
    logger.info("%s: pushing %d files, deleting %d of an earlier push", url, len(add), len(stale))
    # If someone else commits meanwhile, then other files may be stale: the Hub refuses this commit.
    api.create_commit(
        url.repo_id,
        [*add, *stale],
        commit_message=message,
        repo_type="dataset",
        revision=revision,
        parent_commit=info.sha,
    )
    return str(url)


def _check(folder: Path) -> tuple[list[str], int]:
    """The files to push, relative to ``folder``, and the number of rows, if it holds a whole dataset."""
    shards = find_shards(folder)
    if not shards or not (folder / "README.md").is_file():
        raise ValueError(
            f"{folder} is no finished dataset; expected README.md and {{lang}}/{{split}}-00000.parquet, as build "
            "writes them."
        )
    rows: dict[str, int] = {}
    for (_, split), paths in shards.items():
        for path in paths:
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
    if left := sorted(path.name for path in folder.iterdir() if path.name not in known):
        logger.warning("Not pushed, since no part of a dataset: %s", ", ".join(left))
    return files, sum(rows.values())


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and _OURS.fullmatch(name):
            if not is_inside(path, folder):
                raise ValueError(f"{path} is a link out of {folder}, and is not pushed: put the file itself there.")
            yield name


def _described_rows(folder: Path) -> dict[str, int]:
    """Split -> rows, as the card has it for the config ``all``."""
    infos = DatasetCard.load(folder / "README.md", ignore_metadata_errors=True).data.to_dict().get("dataset_info", [])
    for info in infos if isinstance(infos, list) else [infos]:
        if info.get("config_name") == "all":
            return {split["name"]: split["num_examples"] for split in info["splits"]}
    return {}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``mmner data push``."""
    parser.add_argument("folder", help="a finished dataset, as build writes it")
    parser.add_argument("repo_id", metavar="ORG/NAME", help="the dataset on the Hub, made if there is none")
    parser.add_argument("--private", action="store_true", help="make the repository a private one")
    parser.add_argument("--revision", help="a branch, made if there is none (main)")


def run(arguments: argparse.Namespace) -> int:
    """Push, and print the address."""
    print(push(arguments.folder, arguments.repo_id, arguments.private, revision=arguments.revision))
    return 0
