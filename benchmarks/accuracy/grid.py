"""The finished runs of one set in a grid of ``benchmarks/accuracy/accuracy.py``, for benchmarks that predict with them anew."""

import argparse
import json
from pathlib import Path
from typing import Any

import datasets

from benchmarks.measuring import about, write
from mmner.arguments import TrainingArguments, parse_arguments
from mmner.data import load_splits

ROOT = Path(__file__).resolve().parents[2]


def grid_parser(description: str, result: str) -> argparse.ArgumentParser:
    """The options that say which runs, on which sentences; what is found goes into ``results/{result}.json``."""
    parser = argparse.ArgumentParser(description=description.strip().split("\n")[0])
    parser.add_argument("--grid", type=Path, required=True, help="the folder of one set in a grid")
    parser.add_argument("--systems", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--data", required=True, help="the set that the runs were trained on")
    parser.add_argument("--sentences", type=int, default=4000, help="of test, at most")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / f"{result}.json")
    return parser


def test_rows(folder: str, sentences: int | None, scratch: Path) -> tuple[datasets.Dataset, TrainingArguments]:
    """The test sentences of a set, or as many as a run with `--max_predict_samples` drew, and the arguments of a run
    on it."""
    argv = [str(ROOT / "recipes" / "local.yaml"), "--dataset", folder]
    argv += ["--text_model", "none", "--vision_model", "none"]  # the run's own are read
    argv += ["--max_predict_samples", str(sentences)] if sentences is not None else []
    argv += ["--do_train", "false", "--eval_strategy", "no", "--load_best_model_at_end", "false"]
    argv += ["--output_dir", str(scratch), "--disable_tqdm", "true"]
    _, data_args, args = parse_arguments(argv)
    return load_splits(data_args, ["test"], scratch / "_data")["test"], args


def write_grid(arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    """Writes what was found of a grid; other grids keep what an earlier command found."""
    output: Path = arguments.output
    before = json.loads(output.read_text(encoding="utf-8")) if output.exists() else []
    facts = about(["torch", "transformers"]) | {"grid": arguments.grid.name, "sentences": arguments.sentences} | found
    write(output, [*(other for other in before if other["grid"] != facts["grid"]), facts])
