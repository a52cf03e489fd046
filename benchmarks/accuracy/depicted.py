"""
What taggers get wrong of the very entity that a picture shows, what their pictures repair and break, and what
repairing all of it could bring. No training: the predictions are the published ones.

    python benchmarks/accuracy/depicted.py disjoint=FOLDER IMAGES_TSV

FOLDER is the set that ``benchmarks/results/predictions/disjoint`` are of, with the columns ``image_name`` and
``image_relation``; IMAGES_TSV has the names of the entity on each picture (columns ``file`` and ``mentions``). A
*depicted mention* is an entity of a sentence that its own picture shows, by that list.

Of each run: how many depicted mentions there are, what is wrong with them when pictures are hidden, how many of these
the own pictures repair and how many they break, and how many entities pictures repair and break in sentences with
which they have nothing to do. And entity F1 on the sentences whose picture shows an entity of theirs, pictures hidden:
as it is; with the types of all depicted mentions right; with those that were missed found, too; with their boundaries
right, too, that is, with nothing wrong of what any picture shows.

Writes ``benchmarks/results/depicted.json``, in which other sets keep what an earlier command found.
"""

import argparse
import csv
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy.analysis import judge, repairs  # noqa: E402
from benchmarks.accuracy.grid import test_rows  # noqa: E402
from benchmarks.accuracy.predictions import PUBLISHED, published  # noqa: E402
from benchmarks.accuracy.significance import micro_f1  # noqa: E402
from benchmarks.measuring import about, write  # noqa: E402
from mmner.data import label_names  # noqa: E402
from mmner.entity_f1 import Span, find_entities  # noqa: E402

KINDS = ("type", "missed", "boundary")  # of what is wrong, in the order in which it is put right
WAYS = ("as it is", "types right", "and missed ones found", "and boundaries right")
Rows = Sequence[dict[str, Any]]  # `tokens`, gold `tags`, `image_name`, `image_relation` of a sentence


def depicted_mentions(row: dict[str, Any], mentions: dict[str, set[str]]) -> set[Span]:
    """The entities of a sentence that its own picture shows, by the names that the picture stands for."""
    if row["image_relation"] != "depicts":
        return set()
    names = mentions[row["image_name"]]
    return {span for span in find_entities([row["tags"]])[0] if " ".join(row["tokens"][span[1] : span[2]]) in names}


def put_right(
    gold: Sequence[str], predicted: Sequence[str], shown: Collection[Span], kinds: Collection[str]
) -> set[Span]:
    """The predicted entities of a sentence, with those of `shown` in which one of `kinds` is wrong as in the gold
    tags; what overlaps them gives way."""
    found = set(find_entities([predicted])[0])
    for one in judge([gold], [predicted]):
        if one.span in shown and one.kind in kinds:
            found = {span for span in found if span[2] <= one.span[1] or one.span[2] <= span[1]} | {one.span}
    return found


def facts_of(rows: Rows, predictions: Rows, mentions: dict[str, set[str]]) -> dict[str, Any]:
    """Of a run: what is wrong with depicted mentions, what pictures repair and break, and what could be had."""
    counts: Counter[str] = Counter(dict.fromkeys(("mentions", *KINDS, "repaired", "broken"), 0))
    totals = np.zeros((len(WAYS), 3), dtype=np.int64)
    unrelated: list[list[list[str]]] = [[], [], []]
    for row, one in zip(rows, predictions, strict=True):
        own = one["predicted_tags"]
        hidden = one.get("text_only_tags", own)  # a tagger without pictures has no such column
        if row["image_relation"] == "unrelated":
            for column, tags in zip(unrelated, (row["tags"], hidden, own), strict=True):
                column.append(tags)
        if row["image_relation"] != "depicts":
            continue
        shown = depicted_mentions(row, mentions)
        counts["mentions"] += len(shown)
        counts.update(judged.kind for judged in judge([row["tags"]], [hidden]) if judged.span in shown)
        before, after = (set(find_entities([tags])[0]) for tags in (hidden, own))
        counts["repaired"] += len(shown & (after - before))
        counts["broken"] += len(shown & (before - after))
        gold = set(find_entities([row["tags"]])[0])
        for way in range(len(WAYS)):
            found = put_right(row["tags"], hidden, shown, KINDS[:way])
            totals[way] += (len(gold & found), len(found), len(gold))
    elsewhere = repairs(*unrelated)
    return {
        **{name: counts[name] for name in ("mentions", *KINDS, "repaired", "broken")},
        "unrelated_repaired": elsewhere["repaired"],
        "unrelated_broken": elsewhere["broken"],
        "f1": {way: round(float(f1), 5) for way, f1 in zip(WAYS, micro_f1(totals), strict=True)},
    }


def read_mentions(path: Path) -> dict[str, set[str]]:
    """The names of the entity on each picture, by its file name."""
    with path.open(encoding="utf-8", newline="") as file:
        return {line["file"]: set(line["mentions"].split(";")) for line in csv.DictReader(file, delimiter="\t")}


def main() -> None:
    """Reads, counts, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("data", metavar="SET=FOLDER")
    parser.add_argument("images_tsv", type=Path)
    parser.add_argument("--systems", nargs="+", default=["text_crf", "umt", "paper", "gated", "evidence"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "depicted.json")
    arguments = parser.parse_args()
    name, _, folder = arguments.data.partition("=")
    if not folder:
        parser.error(f"{arguments.data}: expected SET=FOLDER")
    with tempfile.TemporaryDirectory() as scratch:
        test, _ = test_rows(folder, None, Path(scratch))
        tags = label_names(test)
        columns = ["id", "tokens", "ner_tags", "image_name", "image_relation"]
        gold = {
            row["id"]: row | {"tags": [tags[tag] for tag in row["ner_tags"]]} for row in test.select_columns(columns)
        }
    mentions = read_mentions(arguments.images_tsv)
    runs: list[dict[str, Any]] = []
    sentences: Counter[str] = Counter()
    for system in arguments.systems:
        for seed in arguments.seeds:
            path = PUBLISHED / name / f"{system}-{seed}.npz"
            if not path.exists():
                parser.error(
                    f"there are no published predictions {path}: publish them by benchmarks/accuracy/accuracy.py"
                )
            predictions = published(path)
            rows = [gold[one["id"]] for one in predictions]
            sentences = Counter(row["image_relation"] for row in rows)
            runs.append({"system": system, "seed": seed} | facts_of(rows, predictions, mentions))
            print(json.dumps(runs[-1]), flush=True)
    kept = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.exists() else []
    facts = {"data": name} | about(["numpy"])
    facts |= {"sentences": {relation: sentences[relation] for relation in ("depicts", "unrelated")}, "runs": runs}
    write(arguments.output, [other for other in kept if other["data"] != name] + [facts])


if __name__ == "__main__":
    main()
