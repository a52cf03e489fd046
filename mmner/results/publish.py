"""
Pushes the folder of a finished run to the Hub, in one commit.

    mmner publish outputs/probe org/name
"""

import fnmatch
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard

from dataset_script.arguments import Parser
from onnx_2mner import ONNX_FOLDER

logger = logging.getLogger(__name__)

# Weights, code, processor, recipe, scores, card, plots. Predictions are not published: they hold sentences of the
# dataset, whose licence may not allow it.
PUBLISHED = (
    *("*.safetensors", "*.safetensors.index.json", "*_2mner.py", "handler.py", "*config.json", "tokenizer.json"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "*.jinja", "*.model", "vocab.txt", "merges.txt"),
    *("all_results.json", "onnx.json", "recipe.yaml", "README.md", "*.png", "*.onnx*"),
)
# Weights and code of an earlier push, which would be loaded by mistake if this model does not replace them.
REPLACED = ("*.safetensors", "*.safetensors.index.json", "*_2mner.py", "handler.py", "*.onnx*", "*onnx.json")

NAME = "this-model"
LOCATION = f"path/to/{NAME}"
"""Placeholders in the card of a run for the name of its repository, which `publish` fills in."""


def files_to_publish(folder: str | Path) -> list[str]:
    """The names of the files that make up the published model; a `ValueError` if there is none in the folder."""
    names = sorted(path.name for path in Path(folder).glob("*") if path.is_file() and _matches(path.name, PUBLISHED))
    exported = sorted(path for path in Path(folder, ONNX_FOLDER).glob("*onnx*") if path.is_file())
    names += [f"{ONNX_FOLDER}/{path.name}" for path in exported]
    required = ("config.json", "*.safetensors", "processor_config.json", "README.md")
    if missing := [pattern for pattern in required if not fnmatch.filter(names, pattern)]:
        raise ValueError(
            f"{folder} has no {' and no '.join(missing)}; expected the output_dir of a finished training."
        )
    return names


def card_for(folder: str | Path, repo_id: str) -> str:
    """The card of a run with the name of the repository in its title, metadata and snippets."""
    card, name = ModelCard.load(Path(folder) / "README.md"), repo_id.rpartition("/")[2]
    own = card.data.model_name or NAME
    card.text = card.text.replace(LOCATION, repo_id).replace(f'"{own}"', f'"{repo_id}"').replace(NAME, name)
    if card.data.model_name:
        card.data.model_name = name
    return str(card)


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
) -> CommitInfo:
    """
    Pushes the model in a folder to the Hub, in one commit. Large files that an interrupted push has sent, and files
    that have not changed, are not sent again.

    Args:
        repo_id: `"org/name"` or `"name"`; created, and private if so asked, if it does not exist.
        token: with the right to write. Default: the one that `hf auth login` has stored.
        revision: the branch; created if it does not exist. Default: `main`.

    Raises:
        ValueError: there is no model in the folder, or its card's metadata is invalid.
        OSError, HfHubHTTPError, httpx.HTTPError: the Hub was not reached or refused; a note says how to go on.
    """
    folder = Path(folder)
    names = files_to_publish(folder)
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        present = api.list_repo_files(repo_id, revision=revision)
        ours = [name for name in present if name.rpartition("/")[0] in ("", ONNX_FOLDER) and _matches(name, REPLACED)]
        stale = [name for name in ours if name not in names]
        card = card_for(folder, repo_id).encode()
        # Not `upload_folder`, which makes several commits where Xet is installed.
        commit = api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, card if name == "README.md" else folder / name) for name in names),
                *(CommitOperationDelete(path_in_repo=name) for name in stale),
            ],
            commit_message="2M-NER model",
            revision=revision,
        )
    except Exception as error:
        error.add_note(
            f"The model was not published, but is complete in {folder}. Publish it without training again: "
            f"mmner publish {shlex.quote(str(folder))} {repo_id}"
        )
        raise
    logger.info(f"Published: {commit.commit_url}")
    return commit


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def main(argv: Sequence[str] | None = None) -> None:
    """Publishes the folder that the arguments name and prints the address of the commit."""
    parser = Parser("mmner publish", description="Push a finished run to the Hub.")
    parser.add_argument("folder", help="output_dir of a finished training, such as outputs/probe")
    parser.add_argument("repo_id", help="org/name")
    parser.add_argument("--private", action="store_true", default=None, help="make the repository private")
    parser.add_argument("--revision", help="a branch other than main")
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    commit = publish(arguments.folder, arguments.repo_id, private=arguments.private, revision=arguments.revision)
    sys.stdout.write(f"{commit.commit_url}\n")
