"""Reads texts with a model, and keeps what is done, so that a run that was ended goes on where it was."""

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm import tqdm

from dataset_script.files import claim
from dataset_script.images import IMAGE_SUFFIXES

from .inputs import CAPTION_FILES, Columns, Item, read_items
from .outputs import FORMATS, Row

JOURNAL = "annotation"
READ = ("*.txt", *CAPTION_FILES, *(f"*{suffix}" for suffix in IMAGE_SUFFIXES))
"""Of a folder; the output may lie in it, too."""
LOST_IMAGE = "{error} The text was read without an image."


def annotate(
    ner: Callable[..., Any],
    source: str,
    output: Path,
    columns: Columns,
    options: dict[str, Any],
    about: dict[str, Any],
) -> int:
    """
    Annotates the texts of a file or folder. Under `accelerate launch` each process takes its share.

    Rows are kept in the folder `OUTPUT.unfinished` as they are done; the same command goes on after them. `output` is
    written when all are done.

    Args:
        ner: a pipeline of 2M-NER.
        source, columns: as of `read_items`.
        output: the file to write, of one of `FORMATS`.
        options: of the pipeline's call.
        about: what else tells runs from each other: `model`, its folder or its name on the Hub, and `onnx`.

    Returns:
        The number of rows with an error.

    Raises:
        ValueError: the source cannot be read, or the output is of no known kind.
        FileExistsError: the output is there, or its rows are of another run.
    """
    if output.suffix not in FORMATS:
        raise ValueError(f"--output {output} ends with {output.suffix!r}; expected one of {', '.join(FORMATS)}.")
    for name, suffixes in (("offsets", (".jsonl", ".csv")), ("top_k", (".jsonl",))):
        if options.get(name, "characters") != "characters" and output.suffix not in suffixes:
            raise ValueError(f"--{name} has no place in a {output.suffix} file; give --output a .jsonl name.")
    if output.suffix == ".spacy" and importlib.util.find_spec("spacy") is None:
        raise ValueError("A .spacy file needs spaCy: pip install spacy; or give --output a .jsonl name.")
    if output.exists():
        raise FileExistsError(f"--output {output} is there already; remove it or give another name.")
    if source == "-":
        raise ValueError("Standard input is read to standard output: leave out --output, or give a file as INPUT.")
    state = _process_state()
    rank, world = (state.process_index, state.num_processes) if state else (0, 1)
    journal = output.with_name(f"{output.name}.unfinished")
    total = sum(1 for _ in read_items(source, columns))
    if rank == 0:
        model = Path(about["model"]).expanduser()
        weights = _fingerprint(model, [model / "config.json", *model.glob("*.safetensors"), *model.rglob("*.onnx")])
        facts = about | {"weights": weights, "columns": [columns.text, columns.image], "options": options}
        path = Path(source).expanduser()
        files = [file for name in READ for file in path.rglob(name)] if path.is_dir() else [path]
        _open_journal(journal, {**facts, "input": _fingerprint(path, files), "rows": total})
    if state:
        state.wait_for_everyone()
    done = {number for number, _ in _journaled(journal)}
    mine = ((number, item) for number, item in enumerate(read_items(source, columns)) if number % world == rank)
    left = ((number, item) for number, item in mine if number not in done)
    share = len(range(rank, total, world)) - sum(number % world == rank for number in done)
    part = journal / f"rows-{rank}.jsonl"
    with part.open("ab") as file:
        if file.tell() and not _ends_with_line(part):
            file.write(b"\n")  # after a line that was cut off
        for number, row in tqdm(answers(ner, left, options), total=share, unit="row", disable=rank > 0):
            file.write(json.dumps([number, row]).encode() + b"\n")
            file.flush()
    if state:
        state.wait_for_everyone()
        state.destroy_process_group()  # a process that ends with its group may abort
    if rank > 0:
        return 0
    rows = [row for _, row in sorted(_journaled(journal), key=lambda pair: pair[0])]
    whole = journal / f"whole{output.suffix}"
    FORMATS[output.suffix](rows, whole, ner.processor)  # type: ignore[attr-defined]
    whole.replace(output)
    shutil.rmtree(journal)
    return sum("error" in row for row in rows)


def process_device() -> torch.device | None:
    """The device of this process under `accelerate launch`; `None` where it is the only one."""
    state = _process_state()
    return state.device if state else None


def _process_state() -> PartialState | None:
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return None
    return PartialState(cpu=not torch.accelerator.is_available())


def answers(
    ner: Callable[..., Any], items: Iterator[tuple[int, Item]], options: dict[str, Any]
) -> Iterator[tuple[int, Row]]:
    """The rows of items with their numbers, in order. A text whose image does not open is read without it."""
    waiting: list[tuple[int, Item]] = []

    def inputs() -> Iterator[dict[str, Any]]:
        for pair in items:
            waiting.append(pair)
            yield _input(pair[1])

    for found in ner(inputs(), errors="skip", **options):
        number, item = waiting.pop(0)
        error = item.error
        if isinstance(found, dict):
            error, found = error or found["error"], []
            if item.image is not None and item.error is None:
                again = ner({**_input(item), "image": None}, errors="skip", **options)
                if isinstance(again, list):
                    error, found = LOST_IMAGE.format(error=error), again
        yield number, _row(item, found, error)


def _input(item: Item) -> dict[str, Any]:
    if item.error is not None:
        return {"text": ""}
    text = {"text": item.text} if item.tokens is None else {"tokens": item.tokens}
    return {**text, "image": item.image}


def _row(item: Item, entities: list[dict[str, Any]], error: str | None) -> Row:
    row: Row = {"id": item.id, "text": " ".join(item.tokens) if item.tokens is not None else item.text}
    if item.tokens is not None:
        row["tokens"] = item.tokens
    if isinstance(item.image, str) and len(item.image) < 1000:
        row["image"] = item.image
    row["entities"] = entities
    return row if error is None else {**row, "error": error}


def _open_journal(journal: Path, facts: dict[str, Any]) -> None:
    """Begins the folder of rows, or goes on with one of the same run."""
    about = journal / "run.json"
    claim(journal, JOURNAL)
    begun = json.loads(about.read_text()) if about.is_file() else facts
    if begun != json.loads(json.dumps(facts)):
        changed = ", ".join(name for name in facts if begun.get(name) != json.loads(json.dumps(facts[name])))
        raise FileExistsError(
            f"{journal} holds rows of a run with other {changed}; give the command of that run to go on, or remove "
            "the folder to begin anew."
        )
    about.write_text(json.dumps(facts))


def _fingerprint(root: Path, files: Iterable[Path]) -> str:
    """Changes when a file comes, goes or is written to."""
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file.is_file()):
        digest.update(f"{file.relative_to(root)} {file.stat().st_size} {file.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _journaled(journal: Path) -> Iterator[tuple[int, Row]]:
    for path in sorted(journal.glob("rows-*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                try:
                    number, row = json.loads(line)
                except ValueError:
                    continue  # cut off when the run was ended; its row is read again
                yield number, row


def _ends_with_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
