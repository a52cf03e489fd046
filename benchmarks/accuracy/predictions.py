"""
The predictions behind the accuracy tables, published so that nobody needs to train again to compare with them.

    python benchmarks/accuracy/predictions.py disjoint=FOLDER [as_is=FOLDER ...]

``benchmarks/results/predictions/SET/SYSTEM-SEED.npz`` holds what a run of ``benchmarks/accuracy/accuracy.py`` said of each test
sentence: ``ids`` of the sentences (UTF-8), ``lengths`` in words, ``labels``, and of all words in a row the places of
their labels: ``predicted_tags``, ``text_only_tags`` (images hidden) and ``shuffled_image_tags`` (images of other
sentences). Neither the sentences nor their gold tags are in it. The command reads those of FOLDER, scores every
published run of the sets named, and ends with code 1 if one is not what the JSON in ``results/`` says.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy.grid import test_rows  # noqa: E402
from benchmarks.accuracy.significance import micro_f1, sentence_counts  # noqa: E402
from mmner.data import label_names  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PUBLISHED = RESULTS / "predictions"
SCORES = {  # the columns of a prediction, and what their score is called
    "predicted_tags": "test_f1",
    "text_only_tags": "test_text_only_f1",
    "shuffled_image_tags": "test_shuffled_image_f1",
}


def of_run(folder: Path) -> list[dict[str, Any]]:
    """The test sentences of a run of `run_mmner.py`, with gold and predicted tags."""
    with (folder / "predictions_test.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def publish(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes the predictions of a run, those of `of_run`, without its sentences."""
    columns = [name for name in SCORES if name in rows[0]]
    labels = sorted({tag for row in rows for name in columns for tag in row[name]})
    index = {label: place for place, label in enumerate(labels)}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        ids=np.array([row["id"].encode() for row in rows]),
        lengths=np.array([len(row["predicted_tags"]) for row in rows], dtype=np.uint16),
        labels=np.array(labels),
        **{name: np.array([index[tag] for row in rows for tag in row[name]], dtype=np.uint8) for name in columns},
    )


def published(path: Path) -> list[dict[str, Any]]:
    """What `publish` wrote: of each sentence its `id` and the tags."""
    with np.load(path) as file:
        arrays = dict(file)
    ends = arrays["lengths"].astype(int).cumsum()[:-1]
    tags = {
        name: [part.tolist() for part in np.split(arrays["labels"][arrays[name]], ends)]
        for name in SCORES
        if name in arrays
    }
    ids = [one.decode() for one in arrays["ids"].tolist()]
    return [{"id": one} | {name: found[place] for name, found in tags.items()} for place, one in enumerate(ids)]


def with_gold(predictions: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Predictions, those of `published`, beside the sentences that they are of, whose other columns stay.

    Raises:
        ValueError: `rows` are not these sentences, in this order.
    """
    found, expected = [row["id"] for row in predictions], [row["id"] for row in rows]
    if found != expected:
        raise ValueError(
            f"The published predictions are of {len(found)} sentences, {found[0]!r} to {found[-1]!r}; these are "
            f"{len(expected)}, {expected[0]!r} to {expected[-1]!r}. Expected the same sentences in the same order: "
            "predict with the same data and `--max_predict_samples`."
        )
    return [row | one for row, one in zip(rows, predictions, strict=True)]


def recorded(name: str) -> dict[tuple[str, int], list[dict[str, float]]]:
    """The scores of the runs (system, seed) on a set, as each JSON that has the run gives them."""
    scores: dict[tuple[str, int], list[dict[str, float]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        for one in facts if isinstance(facts, list) else []:
            for run in one.get("runs", []) if one.get("data") == name else []:
                if "scores" in run:
                    scores.setdefault((run["system"], run["seed"]), []).append(run["scores"])
    return scores


def main() -> None:
    """Scores what is published, says where it is not what the tables say."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("data", nargs="+", metavar="SET=FOLDER")
    arguments = parser.parse_args()
    wrong = 0
    for entry in arguments.data:
        name, _, folder = entry.partition("=")
        paths = sorted((PUBLISHED / name).glob("*.npz"))
        if not folder or not paths:
            parser.error(f"{entry}: expected SET=FOLDER, a set of which predictions are in {PUBLISHED}")
        with tempfile.TemporaryDirectory() as scratch:
            test, _ = test_rows(folder, None, Path(scratch))
            names = label_names(test)
            gold = {
                row["id"]: [names[tag] for tag in row["ner_tags"]] for row in test.select_columns(["id", "ner_tags"])
            }
        scores = recorded(name)
        for path in paths:
            predictions = published(path)
            if missing := [one["id"] for one in predictions if one["id"] not in gold]:
                parser.error(f"{folder} has no test sentence {missing[0]!r}, of which {path} has a prediction")
            true = [gold[one["id"]] for one in predictions]
            system, _, seed = path.stem.rpartition("-")
            said = scores.get((system, int(seed)), [{}])
            for column in (column for column in SCORES if column in predictions[0]):
                counts = sentence_counts(true, [one[column] for one in predictions])
                found = round(float(micro_f1(counts.sum(0))), 5)
                expected = [one.get(SCORES[column]) for one in said]
                agree = all(found == one for one in expected)
                wrong += not agree
                print(name, path.stem, SCORES[column], found, "" if agree else f"but the tables say {expected}")
    sys.exit(int(wrong > 0))


if __name__ == "__main__":
    main()
