"""A finished dataset folder, hand-made: what ``build`` leaves behind, small enough to count on one's fingers."""

import json
import random
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import sharded_rows
from PIL import Image
from test_load_image import encoded
from written_files import write_jsonl

from dataset_script.parquet import ShardWriter
from dataset_script.publishing import card

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
FEATURES = sharded_rows.FEATURES | {
    "ner_tags": datasets.List(datasets.ClassLabel(names=LABELS)),
    "image_relation": datasets.Value("string"),
    "image_name": datasets.Value("string"),
}
FEATURES = datasets.Features(FEATURES)
NAMES = {
    "PER": [["Ada", "Lovelace"], ["Jordan"], ["Émilie", "du", "Châtelet"]],
    "LOC": [["Paris"], ["New", "York"], ["Córdoba"]],
    "MISC": [["C", "|", "D*"]],
}
LICENCES = ["CC BY-SA 4.0", "CC BY-SA 4.0", "Public domain", None]


def image_bytes(number: int) -> bytes:
    """A JPEG like no other."""
    colour = (40 * number % 256, 90 * number % 256, 17 * number % 256)
    return encoded(Image.new("RGB", (300, 200), colour), "JPEG")


def row(number: int, lang: str, chance: random.Random) -> dict[str, Any]:
    """A sentence of two entities, two times in three with one of five images."""
    tokens, tags = [f"Nr{number}", "went", "with"], [0, 0, 0]
    for kind in chance.sample(sorted(NAMES), 2):
        name = chance.choice(NAMES[kind])
        tokens += [*name, "to"]
        tags += [LABELS.index(f"B-{kind}"), *[LABELS.index(f"I-{kind}")] * (len(name) - 1), 0]
    shown = chance.randrange(5) if chance.random() < 0.67 else None
    relation = "none" if shown is None else chance.choice(["depicts", "depicts", "unrelated"])
    image = None if shown is None else {"bytes": image_bytes(shown), "path": f"{shown}.jpg"}
    name = None if shown is None else f"{shown}.jpg"
    values = (f"{lang}-{number}", lang, tokens, tags, image, relation, name)
    return dict(zip(FEATURES, values, strict=True))


def make(folder: Path, rows: int = 40, shards: int = 1, languages: tuple[str, ...] = ("en", "de"), built: bool = True):
    """The folder, with its card; without ``built``, nothing is known of its origin."""
    chance = random.Random(5)
    used: set[str] = set()
    for lang in languages:
        for split, share in (("train", 1.0), ("validation", 0.25), ("test", 0.5)):
            for shard in range(shards):
                with ShardWriter(folder / lang, split, FEATURES) as writer:
                    writer._number = shard
                    records = [row(number + 1000 * shard, lang, chance) for number in range(int(rows * share))]
                    used |= {record["image_name"] for record in records} - {None}
                    # Several row groups, so that the place of a row in its file matters.
                    for start in range(0, len(records), 7):
                        writer.write(pa.Table.from_pylist(records[start : start + 7], FEATURES.arrow_schema))
    if built:
        author = "A <b>Photographer</b>"
        lines = [
            {"name": name, "licence": LICENCES[int(name[0]) % 4], "author": None if name == "1.jpg" else author}
            | {"source": f"https://example.org/{name}"}
            for name in sorted(used)
        ]
        write_jsonl(folder / "pictures.jsonl", *lines)
        facts = {
            "options": {"provider": "folder", "unrelated_share": 0.25, "missing_share": 0.3},
            "seed": 1234,
            "sources": [
                {"name": "Babelscape/wikineural", "rows": 4321, "licence": "CC BY-NC-SA 4.0", "languages": {"en": 1}},
                {"name": "my texts", "rows": 5},
            ],
            "counts": {"rows read": 4326, "provider": {"mentions asked": 77}, "images that do not open": {"a": "x"}},
            "left_out": {"train row is a near-duplicate of one in test": 13},
            "versions": {"datasets": "5.2.0"},
        }
        (folder / "build.json").write_text(json.dumps(facts))
    card.write_card(folder)
    return folder
