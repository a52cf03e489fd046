"""
Trains a grid of systems, seeds and data sets with one recipe, and says which differences are more than luck.

    python benchmarks/accuracy/accuracy.py --text_model FOLDER --vision_model FOLDER --data wiki=FOLDER disjoint=FOLDER \
        --seeds 1 2 3 --output_dir outputs/accuracy

A system is a line of ``benchmarks/accuracy/systems.yaml``, or of another ``--systems_file``. Every run is one of
``run_mmner.py``, in a folder of its own under ``--output_dir``, with both controls (images hidden, images shuffled);
what is finished is not run again, so the same command goes on after a break. The checkpoint is chosen on dev; test is
scored once a run.

Writes ``benchmarks/results/accuracy.json``: the scores of every run, the mistakes and calibration of its predictions
and what its images repair and break; and for each system against each of ``--against``, and against itself with images
hidden or shuffled, the mean difference over seeds, its bootstrap interval and its p-value by randomisation.
Sets, and systems of a set, that are not named keep what an earlier command found. The predictions of the runs go into
a folder ``predictions`` beside that file: a system of ``--against`` that is not among ``--systems`` is not trained but
read from there, or from ``benchmarks/results/predictions``.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy.analysis import MISTAKES, calibration, changes, judge, mistakes, repairs  # noqa: E402
from benchmarks.accuracy.predictions import PUBLISHED, of_run, publish, published, with_gold  # noqa: E402
from benchmarks.accuracy.significance import bootstrap_interval, randomization_test, sentence_counts  # noqa: E402
from benchmarks.measuring import about, write  # noqa: E402
from mmner.entity_f1 import Span, find_entities  # noqa: E402

SYSTEMS = ROOT / "benchmarks" / "systems.yaml"
RESULTS = "all_results.json"
SLICES = ("all", "depicts", "unrelated", "none")
EXAMPLES = 3  # of each kind: the first of a run that name different entities
CONTEXT = 2  # words on either side of the entity in an example: the sentences are not ours to print
Rows = list[dict[str, Any]]  # the test sentences of a run
CONTROLS = {"text_only_tags": "images hidden", "shuffled_image_tags": "images shuffled"}


def run(arguments: argparse.Namespace, folder: Path, dataset: str, options: dict[str, Any], seed: int) -> None:
    """Trains and scores one cell of the grid, or goes on with it; what it prints goes into its `log`."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / RESULTS).exists():
        return
    command = [sys.executable, str(ROOT / "run_mmner.py"), str(arguments.recipe), "--dataset", dataset]
    command += ["--text_model", arguments.text_model, "--vision_model", arguments.vision_model]
    command += ["--output_dir", str(folder), "--seed", str(seed), "--disable_tqdm", "true"]
    command += arguments.options
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    if any(folder.glob("checkpoint-*")):
        command += ["--resume_from_checkpoint", "last"]
    with (folder / "log").open("a") as log:
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise RuntimeError(f"{folder.name} ended with code {code}; its last words are in {folder / 'log'}.")


def facts_of(folder: Path, rows: Rows) -> dict[str, Any]:
    """Scores of a run (dev and test, with controls), and mistakes and calibration of its test predictions, `rows`."""
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    gold, predicted = [row["ner_tags"] for row in rows], [row["predicted_tags"] for row in rows]
    scores, right = [], []
    for row, true, found in zip(rows, find_entities(gold), find_entities(predicted), strict=True):
        scores += [entity["score"] for entity in row["entities"]]
        right += [span in true for span in found]
    judged = judge(gold, predicted)
    examples = [
        (one.kind, rows[one.sentence], one.span, one.predicted[0] if one.predicted else "")
        for one in judged
        if one.kind != "right" and in_slice(rows[one.sentence], "depicts")
    ]
    parts = {name: [one for one in judged if in_slice(rows[one.sentence], name)] for name in SLICES}
    repaired = {}
    for name in SLICES:
        part = [row for row in rows if in_slice(row, name) and "text_only_tags" in row]
        if part:
            without, own = ([row[key] for row in part] for key in ("text_only_tags", "predicted_tags"))
            repaired[name] = repairs([row["ner_tags"] for row in part], without, own)
            if name == "depicts":
                examples += [
                    (kind, part[place], span, "")
                    for kind, place, span in changes(without, own, [row["ner_tags"] for row in part])
                ]
    calibrated = calibration(np.clip(scores, 0, 1), right)
    return {
        "scores": {
            name: round(value, 5) for name, value in results.items() if "f1" in name and isinstance(value, float)
        },
        "mistakes": {name: mistakes(part) for name, part in parts.items() if part},
        "images": repaired,
        "examples": example_texts(examples),
        "calibration": calibrated._asdict() | {"expected_error": round(calibrated.expected_error, 4)},
        "train_samples": results.get("train_samples"),
        "runtime_s": round(results.get("total_runtime", 0)),
    }


def example_texts(found: Sequence[tuple[str, dict[str, Any], Span, str]]) -> list[dict[str, str]]:
    """Of mistakes (kind, sentence, entity, predicted type) and of what images repaired and broke: a few of each."""
    texts, shown = [], set()
    for kind in (*MISTAKES[1:], "repaired", "broken"):
        left = EXAMPLES
        for _, row, (entity_type, start, stop), predicted in (one for one in found if one[0] == kind):
            words, entity = row["tokens"], " ".join(row["tokens"][start:stop])
            if left and (kind, entity) not in shown:
                shown.add((kind, entity))
                left -= 1
                before, after = words[max(0, start - CONTEXT) : start], words[stop : stop + CONTEXT]
                texts.append(
                    {
                        "kind": kind,
                        "text": " ".join([*before, f"[{entity}]", *after]),
                        "type": entity_type,
                        "predicted": predicted,
                        "lang": row["lang"],
                    }
                )
    return texts


def in_slice(row: dict[str, Any], name: str) -> bool:
    """Whether a sentence belongs to one of `SLICES`, or is in a language."""
    return name in ("all", row["lang"], row.get("image_relation"))


def compare(
    first: Sequence[Rows], second: Sequence[Rows], names: Sequence[str], tags: str = "predicted_tags"
) -> dict[str, Any]:
    """Two systems, of the second of which `tags` are taken, seed by seed, over the same test sentences; for each slice
    and language."""
    rows = first[0]
    counts = [
        np.stack([sentence_counts([r["ner_tags"] for r in run_], [r[key] for r in run_]) for run_ in runs])
        for runs, key in ((first, "predicted_tags"), (second, tags))
    ]
    found = {}
    for name in names:
        chosen = np.array([in_slice(row, name) for row in rows])
        ours, other = (side[:, chosen] for side in counts)
        if not chosen.any() or not ours[..., 2].any():
            continue
        means = [
            (2 * side.sum(1)[:, 0] / np.maximum(side.sum(1)[:, 1] + side.sum(1)[:, 2], 1)) for side in (ours, other)
        ]
        low, high = bootstrap_interval(ours, other)
        found[name] = {
            "difference": round(float((means[0] - means[1]).mean()), 5),
            "by_seed": [round(float(value), 5) for value in means[0] - means[1]],
            "interval": [round(low, 5), round(high, 5)],
            "p": round(randomization_test(ours, other), 5),
        }
    return found


def command_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--text_model", required=True)
    parser.add_argument("--vision_model", required=True)
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "local.yaml")
    parser.add_argument("--systems_file", type=Path, default=SYSTEMS)
    parser.add_argument("--systems", nargs="+", help="of the systems file; default: all")
    parser.add_argument("--against", nargs="+", help="default: text_crf and paper, where they are in the table")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--output_dir", type=Path, default=Path("outputs") / "accuracy")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "accuracy.json")
    parser.add_argument("options", nargs="*", help="after --: options of run_mmner.py for every run")
    return parser


def comparable(command: str) -> dict[str, str]:
    """What rows of one table must have in common, of a command as `about` writes it."""
    options = command_parser().parse_args(command.split()[2:])  # after "python benchmarks/accuracy/accuracy.py"
    options.seeds.sort()
    options.recipe = options.recipe.name  # `about` leaves no more of a path
    names = ("text_model", "vision_model", "recipe", "seeds", "options")
    return {name: str(getattr(options, name)) for name in names}


def comparisons_of(
    arguments: argparse.Namespace, before: dict[str, Any] | None, names: Sequence[str]
) -> list[tuple[str, str]]:
    """
    The pairs of systems to compare: those of `names` with those of `--against`, and all that an earlier command
    compared of which one is among `names`.

    Raises:
        ValueError: the set keeps rows that were made with other towers, recipe, seeds or options, so that one table
            cannot hold both.
    """
    present = {*names, *(before["systems"] if before else ())}
    against = arguments.against or [name for name in ("text_crf", "paper") if name in present]
    pairs = [(name, other) for other in against for name in names if name != other]
    if not (kept := present - set(names)):
        return pairs
    here = comparable(about([])["command"])
    for made in before["made"]:
        there = comparable(made["command"])
        if there != here and (stays := [name for name in made["systems"] if name in kept]):
            raise ValueError(
                f"{before['data']}: this command has {here}, but the rows of {', '.join(stays)} in {arguments.output} "
                f"have {there}. Name these systems, too, or give another --output."
            )
    compared = [(pair["system"], pair["against"]) for pair in before["comparisons"]]
    again = [pair for pair in compared if pair[1] not in CONTROLS.values() and set(pair) & set(names)]
    return list(dict.fromkeys(pairs + again))


def where_published(system: str, data_name: str, seeds: Sequence[int], folders: Sequence[Path]) -> list[Path]:
    """
    The published predictions of a system, a file a seed, in the first of `folders` that has it.

    Raises:
        ValueError: none has.
    """
    paths = []
    for seed in seeds:
        places = [folder / data_name / f"{system}-{seed}.npz" for folder in folders]
        if not (found := [path for path in places if path.exists()]):
            raise ValueError(
                f"{data_name}: to compare with {system}, its predictions are needed; there is no {places[0]}. "
                "Train it, too: name it in --systems."
            )
        paths.append(found[0])
    return paths


def one_set(
    arguments: argparse.Namespace,
    data_name: str,
    dataset: str,
    systems: dict[str, Any],
    pairs: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """Trains `systems`, name and options, where they are not finished, publishes their predictions, and compares."""
    beside = arguments.output.parent / "predictions"
    elsewhere = {
        name: where_published(name, data_name, arguments.seeds, (beside, PUBLISHED))
        for name in dict.fromkeys(name for pair in pairs for name in pair if name not in systems)
    }
    folders = {
        name: [(arguments.output_dir / data_name / f"{name}-{seed}").absolute() for seed in arguments.seeds]
        for name in systems
    }
    for place, seed in enumerate(arguments.seeds):
        for name, options in systems.items():
            print(data_name, name, seed, flush=True)
            run(arguments, folders[name][place], dataset, options, seed)

    runs, comparisons = [], []
    tagged = {name: [of_run(folder) for folder in folders[name]] for name in systems}
    rows = next(iter(tagged.values()))[0]
    tagged |= {name: [with_gold(published(path), rows) for path in paths] for name, paths in elsewhere.items()}
    slices = [*SLICES, *sorted({row["lang"] for row in rows if row["lang"]})]
    for name in systems:
        for seed, folder, predicted in zip(arguments.seeds, folders[name], tagged[name], strict=True):
            runs.append({"system": name, "seed": seed} | facts_of(folder, predicted))
            publish(predicted, beside / data_name / f"{name}-{seed}.npz")
        for tags, label in CONTROLS.items():
            if all(tags in predicted[0] for predicted in tagged[name]):
                found = compare(tagged[name], tagged[name], slices, tags)
                comparisons.append({"system": name, "against": label, "slices": found})
    for name, other in pairs:
        found = compare(tagged[name], tagged[other], slices)
        comparisons.append({"system": name, "against": other, "slices": found})
    return {
        "data": data_name,
        "made": [{"systems": list(systems)} | about(["torch", "transformers"])],
        "recipe": os.path.relpath(arguments.recipe, ROOT),
        "systems": systems,
        "runs": runs,
        "comparisons": comparisons,
    }


def joined(before: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """The facts of a set, with the systems of `new` in place of those of the same name and beside the others."""
    if before is None:
        return new
    systems = before["systems"] | new["systems"]
    rank = {name: place for place, name in enumerate([*CONTROLS.values(), *systems])}
    runs = [run for run in before["runs"] if run["system"] not in new["systems"]] + new["runs"]
    pairs = [pair for pair in before["comparisons"] if not {pair["system"], pair["against"]} & set(new["systems"])]
    made = [
        one | {"systems": [name for name in one["systems"] if name not in new["systems"]]} for one in before["made"]
    ]
    return new | {
        "made": [one for one in made if one["systems"]] + new["made"],
        "systems": systems,
        "runs": sorted(runs, key=lambda run: rank[run["system"]]),
        "comparisons": sorted(
            pairs + new["comparisons"], key=lambda pair: (rank.get(pair["against"], len(rank)), rank[pair["system"]])
        ),
    }


def main() -> None:
    """Runs what is missing, compares, writes the JSON."""
    parser = command_parser()
    arguments = parser.parse_args()
    known = yaml.safe_load(arguments.systems_file.read_text(encoding="utf-8"))
    names = arguments.systems or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"{', '.join(unknown)}: not in {arguments.systems_file}, which has {', '.join(known)}")

    before = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.exists() else []
    sets = {facts["data"]: facts for facts in before}
    for entry in arguments.data:
        data_name, _, dataset = entry.partition("=")
        if not dataset:
            parser.error(f"--data {entry}: expected NAME=FOLDER")
        earlier = sets.get(data_name)
        pairs = comparisons_of(arguments, earlier, names)
        facts = one_set(arguments, data_name, dataset, {name: known[name] for name in names}, pairs)
        sets[data_name] = joined(earlier, facts)
        write(arguments.output, list(sets.values()))


if __name__ == "__main__":
    main()
