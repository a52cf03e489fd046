"""
Makes the text of a dataset poorer, as that of posts and captions is, to see when the picture begins to help.

    python benchmarks/accuracy/poorer.py FOLDER outputs/poorer

``FOLDER`` is one that ``python -m dataset_script build`` wrote. Writes a folder beside the others for each way of
``WAYS``: letters in lower case, punctuation left out, all but two words on either side of one entity cut away, and all
of these. The entity of a cut is the one that the picture shows, where it shows one; otherwise one is drawn. Pictures,
splits and rows stay as they are, so that scores of different ways differ by the text alone.
"""

import argparse
import json
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mmner import augmentation  # noqa: E402
from mmner.entity_f1 import find_entities  # noqa: E402

AROUND = 2  # words on either side of the entity of a cut
Row = tuple[list[str], list[str]]  # tokens, IOB2 tags


def cut(tokens: list[str], tags: list[str], shown: Sequence[str], rng: random.Random) -> Row:
    """One entity and `AROUND` words on either side, of a row without an entity its first words; an entity of which the
    window has only a part is what the part is."""
    entities = sorted(find_entities([tags])[0])
    names = {name.lower() for name in shown}
    if not entities:
        return tokens[: 2 * AROUND + 1], tags[: 2 * AROUND + 1]
    fitting = [entity for entity in entities if " ".join(tokens[entity[1] : entity[2]]).lower() in names]
    _, start, end = rng.choice(fitting or entities)
    window = slice(max(0, start - AROUND), end + AROUND)
    tags = tags[window]
    if tags[0].startswith("I-"):
        tags = ["B" + tags[0][1:], *tags[1:]]
    return tokens[window], tags


def lower(tokens: list[str], tags: list[str], shown: Sequence[str], rng: random.Random) -> Row:
    """All letters in lower case."""
    return augmentation.lower(tokens, tags)


def no_punctuation(tokens: list[str], tags: list[str], shown: Sequence[str], rng: random.Random) -> Row:
    """Without punctuation outside of entities."""
    return augmentation.no_punctuation(tokens, tags)


WAYS = {
    "lower": (lower,),
    "no_punctuation": (no_punctuation,),
    "cut": (cut,),
    "all": (no_punctuation, cut, lower),
}


def poorer(row: dict[str, Any], names: dict[str, list[str]], labels: list[str], way: str) -> dict[str, Any]:
    """A row of a dataset with poorer text; `names`: those of what each picture shows. The draw is the row's own."""
    tokens, tags = row["tokens"], [labels[tag] for tag in row["ner_tags"]]
    shown = names[row["image_name"]] if row["image_relation"] == "depicts" else []
    for step in WAYS[way]:
        tokens, tags = step(tokens, tags, shown, random.Random(row["id"]))
    return {"tokens": tokens, "ner_tags": [labels.index(tag) for tag in tags]}


def main() -> None:
    """Writes the folders."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("output_dir", type=Path)
    arguments = parser.parse_args()
    index = arguments.folder / "pictures.jsonl"
    if not index.exists():
        parser.error(
            f"{arguments.folder} has no pictures.jsonl; expected a folder of `python -m dataset_script build`"
        )
    pictures = map(json.loads, index.read_text(encoding="utf-8").splitlines())
    names = {picture["name"]: picture["mentions"] for picture in pictures}
    for way in WAYS:
        for path in sorted(arguments.folder.glob("*/*.parquet")):
            rows = datasets.Dataset.from_parquet(str(path))
            labels = rows.features["ner_tags"].feature.names
            images = rows.features["image"]
            rows = rows.cast_column("image", datasets.Image(decode=False))
            options = {"names": names, "labels": labels, "way": way}
            rows = rows.map(poorer, fn_kwargs=options, load_from_cache_file=False).cast_column("image", images)
            out = arguments.output_dir / way / path.relative_to(arguments.folder)
            out.parent.mkdir(parents=True, exist_ok=True)
            rows.to_parquet(str(out))
        for file in ("README.md", "pictures.jsonl"):
            shutil.copy(arguments.folder / file, arguments.output_dir / way / file)
        print(arguments.output_dir / way)


if __name__ == "__main__":
    main()
