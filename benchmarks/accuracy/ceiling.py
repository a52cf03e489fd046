"""
How much could pictures bring at all? What an evidence model gains on test when told what its pictures show.

    python benchmarks/accuracy/ceiling.py DATASET IMAGES_TSV RUN [RUN ...]

Each RUN is a folder that `run_mmner.py` left behind, with ``collaboration: evidence`` and predictions of test;
IMAGES_TSV says of each picture the types of the entity on it (columns ``file`` and ``types``), DATASET has the columns
``image_name`` and ``image_relation``. Entity F1 on those of the predicted sentences that have a picture, five ways:

- "hidden": the text alone.
- "own": the model's own reading of its pictures.
- "types told": in place of its reading, how often such pictures (by `types`) show an entity of each type, and how
  often they stand beside sentences that they have nothing to do with, counted in training with the relation known.
- "relation told": that, and also which pictures have nothing to do with their sentence: these are hidden, and of the
  others it is known that they show an entity of it.
- "all repaired": each entity that the text finds with the wrong type gets the right one wherever a picture of that
  type stands beside it and shows an entity of the sentence. No way of reading pictures that leaves the extent of
  entities as it is can do better; one that must also tell these entities from the many that were right comes short
  of it.

Writes ``benchmarks/results/ceiling.json``, in which other data sets keep what an earlier command found.
"""

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy.analysis import judge, repairs  # noqa: E402
from benchmarks.accuracy.significance import micro_f1, sentence_counts  # noqa: E402
from benchmarks.measuring import about, write  # noqa: E402
from collaboration_2mner import Collaboration  # noqa: E402
from modeling_2mner import TwoMNERForTokenClassification  # noqa: E402
from processing_2mner import TwoMNERProcessor  # noqa: E402

WAYS = ("hidden", "own", "types told", "relation told", "all repaired")
BATCH = 64
GRAIN = 0.5  # added to each count: what was never seen is rare, not impossible
CERTAIN = 12.0  # logit of a share that is all but 1


def rows_of(dataset: str, split: str) -> list[dict[str, Any]]:
    """The rows of a split that have a picture, tags by name, without the picture."""
    rows = load_dataset(dataset)[split].remove_columns("image")
    names = rows.features["ner_tags"].feature.names
    return [row | {"tags": [names[tag] for tag in row["ner_tags"]]} for row in rows if row["image_name"]]


def types_of(row: dict[str, Any]) -> Counter[str]:
    """How many entities of each type a sentence has."""
    return Counter(tag[2:] for tag in row["tags"] if tag.startswith("B-"))


def counted(rows: Sequence[dict[str, Any]], kinds: dict[str, str], types: Sequence[str]) -> dict[str, torch.Tensor]:
    """
    For each kind of picture, log p(kind | it shows an entity of a type) / p(kind) for each type, and last log p(kind |
    it shows none of the sentence) / p(kind).
    """
    number = {kind: np.full(len(types) + 1, GRAIN) for kind in sorted(set(kinds.values()))}
    for row in rows:
        kind = kinds[row["image_name"]]
        if row["image_relation"] != "depicts":
            number[kind][-1] += 1
            continue
        entities = types_of(row)
        shown = np.array([entities[name] * (name in kind.split(";")) for name in types], dtype=float)
        if shown.any():  # of several that it may be, each to its part
            number[kind][:-1] += shown / shown.sum()
    table = np.stack(list(number.values()))
    ratio = (table / table.sum(0)) / (table.sum(1, keepdims=True) / table.sum())
    return dict(zip(number, torch.tensor(np.log(ratio), dtype=torch.float32), strict=True))


def repaired(row: dict[str, Any], tags: list[str], kind: str) -> list[str]:
    """Tags, in which entities of the right extent get their type where the picture shows one of that type."""
    tags = list(tags)
    for one in judge([row["tags"]], [tags]):
        if one.kind == "type" and one.span[0] in kind.split(";"):
            entity_type, start, stop = one.span
            tags[start:stop] = [f"{'I' if place else 'B'}-{entity_type}" for place in range(stop - start)]
    return tags


@torch.no_grad()
def predictions(
    folder: str, rows: list[dict[str, Any]], training: list[dict[str, Any]], kinds: dict[str, str]
) -> dict[str, list[list[str]]]:
    """The tags of each sentence, each of `WAYS`; the first two as the run wrote them."""
    with Path(folder, "predictions_test.jsonl").open(encoding="utf-8") as file:
        predicted = {line["id"]: line for line in map(json.loads, file)}
    model = TwoMNERForTokenClassification.from_pretrained(folder).eval()
    processor = TwoMNERProcessor.from_pretrained(folder)
    collaboration, labels = model.model.collaboration, list(model.config.labels)
    types = [labels[tag][2:] for tag in collaboration.begins]
    told = counted(training, kinds, types)
    learned = (collaboration.shown.weight.clone(), collaboration.shown.bias.clone())
    found: dict[str, list[list[str]]] = {way: [] for way in WAYS}
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        text = processor(text=[row["tokens"] for row in batch])
        words = model.model(**text).word_states
        logits = model.classifier(words)
        mask = text["word_starts"] >= 0
        evidence = torch.stack([told[kinds[row["image_name"]]] for row in batch])
        depicts = torch.tensor([row["image_relation"] == "depicts" for row in batch])

        fused = Collaboration(word_states=words, image_evidence=evidence)
        by_type, _ = collaboration.weigh(logits, fused, mask, torch.ones_like(depicts))
        collaboration.shown.weight.zero_()
        collaboration.shown.bias.fill_(CERTAIN)
        by_relation, _ = collaboration.weigh(logits, fused, mask, depicts)
        collaboration.shown.weight.copy_(learned[0])
        collaboration.shown.bias.copy_(learned[1])
        ways = {
            "types told": model.crf.decode(by_type, mask),
            "relation told": model.crf.decode(by_relation, mask),
        }
        for way, decoded in ways.items():
            for row, tags in zip(batch, decoded.tolist(), strict=True):
                found[way].append([labels[tag] for tag in tags[: len(row["tokens"])]])
        for row in batch:
            hidden = predicted[row["id"]]["text_only_tags"]
            shown = kinds[row["image_name"]] if row["image_relation"] == "depicts" else ""
            found["hidden"].append(hidden)
            found["own"].append(predicted[row["id"]]["predicted_tags"])
            found["all repaired"].append(repaired(row, hidden, shown))
    return found


def main() -> None:
    """Reads, counts, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("dataset")
    parser.add_argument("images_tsv", type=Path)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "ceiling.json")
    arguments = parser.parse_args()
    with arguments.images_tsv.open(encoding="utf-8", newline="") as file:
        kinds = {line["file"]: line["types"] for line in csv.DictReader(file, delimiter="\t")}
    training = rows_of(arguments.dataset, "train")
    with Path(arguments.runs[0], "predictions_test.jsonl").open(encoding="utf-8") as file:
        predicted = {json.loads(line)["id"] for line in file}
    rows = [row for row in rows_of(arguments.dataset, "test") if row["id"] in predicted]
    parts = {
        relation: [place for place, row in enumerate(rows) if row["image_relation"] == relation]
        for relation in ("depicts", "unrelated")
    }
    runs = []
    for folder in arguments.runs:
        found = predictions(folder, rows, training, kinds)
        for relation, places in parts.items():
            gold = [rows[place]["tags"] for place in places]
            hidden = [found["hidden"][place] for place in places]
            for way in WAYS:
                tags = [found[way][place] for place in places]
                f1 = float(micro_f1(sentence_counts(gold, tags).sum(0)))
                run = {"model": Path(folder).name, "rows": relation, "way": way, "f1": round(f1, 5)}
                runs.append(run | repairs(gold, hidden, tags))
                print(*runs[-1].values(), flush=True)
    name = Path(arguments.dataset).name
    kept = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.exists() else []
    sentences = {relation: len(places) for relation, places in parts.items()}
    facts = {"data": name} | about(["torch", "transformers"]) | {"sentences": sentences, "runs": runs}
    write(arguments.output, [other for other in kept if other["data"] != name] + [facts])


if __name__ == "__main__":
    main()
