"""
The published predictions behind the accuracy tables: nobody needs to train again to compare with them.

    python benchmarks/accuracy/predictions.py disjoint=FOLDER [split_0=FOLDER ...]

``benchmarks/results/predictions/SET.npz`` holds what the systems predicted for each test sentence of a set: ``ids`` of
the sentences (UTF-8), ``lengths`` in words, ``labels``, and as ``SYSTEM/SEED/COLUMN`` the labels' indices of all words
in a row. The columns are ``predicted_tags``, ``text_only_tags`` (images hidden) and ``shuffled_image_tags`` (images of
other sentences). Neither the sentences nor their gold tags are in the file.

The command reads the gold tags from FOLDER, scores every published run, and exits with 1 where a score is not the one
in ``benchmarks/results/*.json``.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy.significance import micro_f1, sentence_counts  # noqa: E402
from benchmarks.measuring import RESULTS  # noqa: E402
from dataset_script import load  # noqa: E402

SCORES = {  # the column of a prediction, and the name of its score
    "predicted_tags": "test_f1",
    "text_only_tags": "test_text_only_f1",
    "shuffled_image_tags": "test_shuffled_image_f1",
}
Rows = Sequence[Mapping[str, Any]]  # the test sentences of a run
Run = tuple[str, int]  # system, seed


def publish(path: Path, runs: Mapping[Run, Rows]) -> None:
    """
    Writes the predictions of runs on one set; the file keeps those of other runs.

    Raises:
        ValueError: the runs are not all on the same sentences.
    """
    merged: dict[Run, Rows] = {**(read(path) if path.exists() else {}), **runs}
    first = next(iter(merged.values()))
    for run, rows in merged.items():
        _check_ids(rows, first, f"{path}, {run[0]}, seed {run[1]}")
    labels = sorted({tag for rows in merged.values() for row in rows for name in SCORES for tag in row.get(name, ())})
    index = {label: place for place, label in enumerate(labels)}
    arrays = {
        "ids": np.array([row["id"].encode() for row in first]),
        "lengths": np.array([len(row["predicted_tags"]) for row in first], dtype=np.uint16),
        "labels": np.array(labels),
    }
    for (system, seed), rows in merged.items():
        for name in SCORES:
            if name in rows[0]:
                tags = [index[tag] for row in rows for tag in row[name]]
                arrays[f"{system}/{seed}/{name}"] = np.array(tags, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read(path: Path) -> dict[Run, Rows]:
    """What `publish` wrote: of each run and sentence the `id` and the tags."""
    with np.load(path) as file:
        arrays = dict(file)
    ids = [one.decode() for one in arrays.pop("ids").tolist()]
    labels, ends = arrays.pop("labels"), arrays.pop("lengths").astype(int).cumsum()[:-1]
    runs: dict[Run, list[dict[str, Any]]] = {}
    for key, indices in arrays.items():
        system, seed, column = key.split("/")
        rows = runs.setdefault((system, int(seed)), [{"id": one} for one in ids])
        for row, tags in zip(rows, np.split(labels[indices], ends), strict=True):
            row[column] = tags.tolist()
    return dict(runs)


def with_gold(predictions: Rows, rows: Rows) -> Rows:
    """
    Puts published predictions of the sentences `rows` in place of those in `rows`.

    Raises:
        ValueError: the predictions are not of these sentences, in this order.
    """
    _check_ids(predictions, rows, "the published predictions")
    return [{**row, **one} for row, one in zip(rows, predictions, strict=True)]


def _check_ids(rows: Rows, others: Rows, name: str) -> None:
    found, expected = [row["id"] for row in rows], [row["id"] for row in others]
    if found != expected:
        raise ValueError(
            f"{name}: {len(found)} sentences, {found[0]!r} to {found[-1]!r}; expected the same as the others, "
            f"{len(expected)}, {expected[0]!r} to {expected[-1]!r}. Use the same data and --max_predict_samples."
        )


def recorded(name: str) -> dict[Run, list[dict[str, float]]]:
    """The scores of the runs on a set, from each JSON file that has the run."""
    scores: dict[Run, list[dict[str, float]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        for one in facts if isinstance(facts, list) else []:
            for run in one.get("runs", []) if one.get("data") == name else []:
                if "scores" in run:
                    scores.setdefault((run["system"], run["seed"]), []).append(run["scores"])
    return scores


def main() -> None:
    """Scores the published runs of the sets named, and compares."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("data", nargs="+", metavar="SET=FOLDER")
    wrong = 0
    for entry in parser.parse_args().data:
        name, _, folder = entry.partition("=")
        path = RESULTS / "predictions" / f"{name}.npz"
        if not folder or not path.exists():
            parser.error(f"{entry}: expected SET=FOLDER; {path.parent} has {[x.stem for x in path.parent.glob('*')]}")
        test = load(folder)["test"]
        names = test.features["ner_tags"].feature.names
        gold = {row["id"]: [names[tag] for tag in row["ner_tags"]] for row in test.select_columns(["id", "ner_tags"])}
        scores = recorded(name)
        for (system, seed), rows in read(path).items():
            if missing := [row["id"] for row in rows if row["id"] not in gold]:
                parser.error(f"{folder} has no test sentence {missing[0]!r}, of which {path} has a prediction.")
            true = [gold[row["id"]] for row in rows]
            for column in (column for column in SCORES if column in rows[0]):
                found = round(float(micro_f1(sentence_counts(true, [row[column] for row in rows]).sum(0))), 5)
                expected = [one.get(SCORES[column]) for one in scores.get((system, seed), [{}])]
                agree = all(found == one for one in expected)
                wrong += not agree
                print(name, system, seed, SCORES[column], found, "" if agree else f"but the tables say {expected}")
    sys.exit(int(wrong > 0))


if __name__ == "__main__":
    main()
