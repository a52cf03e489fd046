"""
Trains a grid of systems, seeds and datasets with one recipe, and tests which differences are significant.

    python benchmarks/accuracy/accuracy.py --text_model FOLDER --vision_model FOLDER --data disjoint=FOLDER \
        --systems yours --against text_crf evidence --output_dir outputs/accuracy

A system is a line of ``systems.yaml`` beside this file, or of another ``--systems_file``. Each run is one of
``run_mmner.py``, in a folder of its own under ``--output_dir``; finished runs are not run again, so the same command
resumes a grid. The checkpoint is chosen on dev; test is scored once per run, with the images hidden and shuffled too.

Writes ``accuracy.json`` into ``--output_dir``, or to ``--output``: for each run its scores; for each system against
each of ``--against``, and against itself with images hidden or shuffled, the mean difference over seeds, its bootstrap
interval and its p-value. The predictions are written to ``predictions/SET.npz`` beside that file. A system of
``--against`` that is not among ``--systems`` is not trained: its predictions are read from there or from
``benchmarks/results/predictions``.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy.predictions import Rows, publish, read, with_gold  # noqa: E402
from benchmarks.accuracy.significance import bootstrap_interval, micro_f1, randomization_test, sentence_counts  # noqa: E402
from benchmarks.measuring import RESULTS, about, write  # noqa: E402

SLICES = ("all", "depicts", "unrelated", "none")
CONTROLS = {"text_only_tags": "images hidden", "shuffled_image_tags": "images shuffled"}


def run(arguments: argparse.Namespace, folder: Path, dataset: str, options: Mapping[str, Any], seed: int) -> None:
    """Trains and scores one cell of the grid, or resumes it; its output goes to a log beside the folder."""
    log_file = folder.with_name(f"{folder.name}.log")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if (folder / "all_results.json").exists():
        return
    command = [sys.executable, str(ROOT / "run_mmner.py"), str(arguments.recipe), "--dataset", dataset]
    command += ["--text_model", arguments.text_model, "--vision_model", arguments.vision_model]
    command += ["--output_dir", str(folder), "--seed", str(seed), "--disable_tqdm", "true", *arguments.options]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    with log_file.open("a") as log:
        command += ["--resume_from_checkpoint", "auto"]
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise RuntimeError(f"{folder.name} ended with code {code}; see {log_file}.")


def predictions_of(folder: Path) -> Rows:
    """The test sentences of a run, with gold and predicted tags."""
    with (folder / "predictions_test.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def facts_of(folder: Path) -> dict[str, Any]:
    """Scores of a run: dev and test, with controls."""
    results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
    f1 = {name: value for name, value in results.items() if "f1" in name and isinstance(value, float)}
    return {
        "scores": {name: round(value, 5) for name, value in f1.items()},
        "train_samples": results.get("train_samples"),
        "runtime_s": round(results.get("total_runtime", 0)),
    }


def in_slice(row: Mapping[str, Any], name: str) -> bool:
    """Whether a sentence belongs to one of `SLICES`, or is in a language."""
    return name in ("all", row["lang"], row.get("image_relation"))


def compare(first: Sequence[Rows], second: Sequence[Rows], tags: str = "predicted_tags") -> dict[str, Any]:
    """
    Compares two systems, seed by seed, over the same test sentences, in each slice and language.

    Args:
        first, second: the rows of each seed.
        tags: the column of `second` to compare with the predictions of `first`.
    """
    rows = first[0]
    sides = [
        np.stack([sentence_counts([row["ner_tags"] for row in run], [row[key] for row in run]) for run in runs])
        for runs, key in ((first, "predicted_tags"), (second, tags))
    ]
    found = {}
    for name in (*SLICES, *sorted({row["lang"] for row in rows if row["lang"]})):
        chosen = np.array([in_slice(row, name) for row in rows])
        ours, other = (side[:, chosen] for side in sides)  # (S, N, 3)
        if not ours[..., 2].any():
            continue
        difference = micro_f1(ours.sum(1)) - micro_f1(other.sum(1))
        found[name] = {
            "difference": round(float(difference.mean()), 5),
            "by_seed": [round(float(value), 5) for value in difference],
            "interval": [round(bound, 5) for bound in bootstrap_interval(ours, other)],
            "p": round(randomization_test(ours, other), 5),
        }
    return found


def published(system: str, data_name: str, seeds: Sequence[int], folders: Sequence[Path]) -> list[Rows]:
    """
    The published predictions of a system, seed by seed, from the first of `folders` that has them all.

    Raises:
        ValueError: none has.
    """
    for path in (folder / f"{data_name}.npz" for folder in folders):
        runs = read(path) if path.exists() else {}
        if all((system, seed) in runs for seed in seeds):
            return [runs[system, seed] for seed in seeds]
    raise ValueError(
        f"--against {system}: there are no published predictions for {data_name} and the seeds "
        f"{', '.join(map(str, seeds))} in {' or '.join(map(str, folders))}. Train it, too: name it in --systems."
    )


def one_set(
    arguments: argparse.Namespace, data_name: str, dataset: str, systems: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Runs what is missing on one dataset; returns scores and comparisons."""
    beside = arguments.output.parent / "predictions"
    against = arguments.against or [name for name in ("text_crf", "paper") if name in systems]
    others = {  # first, because a missing one is an error
        name: published(name, data_name, arguments.seeds, (beside, RESULTS / "predictions"))
        for name in against
        if name not in systems
    }
    cells = [(name, seed) for seed in arguments.seeds for name in systems]
    grid = arguments.output_dir.absolute() / data_name  # the runs have another working directory
    folders = {(name, seed): grid / f"{name}-{seed}" for name, seed in cells}
    for name, seed in cells:
        print(data_name, name, seed, flush=True)
        run(arguments, folders[name, seed], dataset, systems[name], seed)

    tagged = {name: [predictions_of(folders[name, seed]) for seed in arguments.seeds] for name in systems}
    rows = next(iter(tagged.values()))[0]
    tagged |= {name: [with_gold(one, rows) for one in found] for name, found in others.items()}
    runs, comparisons, new = [], [], {}
    for name in systems:
        for seed, predicted in zip(arguments.seeds, tagged[name], strict=True):
            runs.append({"system": name, "seed": seed} | facts_of(folders[name, seed]))
            new[name, seed] = predicted
        for tags, label in CONTROLS.items():
            if all(tags in predicted[0] for predicted in tagged[name]):
                slices = compare(tagged[name], tagged[name], tags)
                comparisons.append({"system": name, "against": label, "slices": slices})
    for other in against:
        for name in systems:
            if name != other:
                slices = compare(tagged[name], tagged[other])
                comparisons.append({"system": name, "against": other, "slices": slices})
    publish(beside / f"{data_name}.npz", new)
    return {
        "data": data_name,
        "made": [{"systems": list(systems)} | about(["torch", "transformers"])],
        "recipe": os.path.relpath(arguments.recipe, ROOT),
        "systems": dict(systems),
        "runs": runs,
        "comparisons": comparisons,
    }


def main() -> None:
    """Runs what is missing, compares, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--text_model", required=True)
    parser.add_argument("--vision_model", required=True)
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "local.yaml")
    parser.add_argument("--systems_file", type=Path, default=Path(__file__).with_name("systems.yaml"))
    parser.add_argument("--systems", nargs="+", help="names in the systems file; default: all")
    parser.add_argument("--against", nargs="+", help="default: text_crf and paper, where they are trained")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--output_dir", type=Path, default=Path("outputs") / "accuracy")
    parser.add_argument(
        "--output", type=Path, help="default: accuracy.json in --output_dir; other sets in it are kept"
    )
    parser.add_argument("options", nargs="*", help="after --: options of run_mmner.py for every run")
    arguments = parser.parse_args()
    arguments.output = arguments.output or arguments.output_dir / "accuracy.json"
    known = yaml.safe_load(arguments.systems_file.read_text(encoding="utf-8"))
    names = arguments.systems or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--systems {' '.join(unknown)}: {arguments.systems_file} has {', '.join(known)}")

    kept = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.exists() else []
    sets = {facts["data"]: facts for facts in kept}
    for entry in arguments.data:
        data_name, _, dataset = entry.partition("=")
        if not dataset:
            parser.error(f"--data {entry}: expected NAME=FOLDER")
        sets[data_name] = one_set(arguments, data_name, dataset, {name: known[name] for name in names})
        write(arguments.output, list(sets.values()))


if __name__ == "__main__":
    main()
