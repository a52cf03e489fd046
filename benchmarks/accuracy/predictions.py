"""
The published predictions behind the accuracy tables: nobody needs to train again to compare with them.

``benchmarks/results/predictions/SET.npz`` holds what the systems predicted for each test sentence of a set: ``ids`` of
the sentences (UTF-8), ``lengths`` in words, ``labels``, and as ``SYSTEM/SEED/COLUMN`` the labels' indices of all words
in a row. The columns are ``predicted_tags``, ``text_only_tags`` (images hidden) and ``shuffled_image_tags`` (images of
other sentences). Neither the sentences nor their gold tags are in the file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = ("predicted_tags", "text_only_tags", "shuffled_image_tags")
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
    labels = sorted({tag for rows in merged.values() for row in rows for name in COLUMNS for tag in row.get(name, ())})
    index = {label: place for place, label in enumerate(labels)}
    arrays = {
        "ids": np.array([row["id"].encode() for row in first]),
        "lengths": np.array([len(row["predicted_tags"]) for row in first], dtype=np.uint16),
        "labels": np.array(labels),
    }
    for (system, seed), rows in merged.items():
        for name in COLUMNS:
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
