"""Rows with images, in memory or written as Parquet files of several row groups."""

import io
import random
from pathlib import Path

import datasets
import pyarrow.parquet as pq
from PIL import Image

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
WORDS = ["Jordan", "won", "in", "Paris", "today", "."]
FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "lang": datasets.Value("string"),
        "tokens": datasets.List(datasets.Value("string")),
        "ner_tags": datasets.List(datasets.ClassLabel(names=LABELS)),
        "image": datasets.Image(),
    }
)


def png(*colour: int) -> dict:
    """A small image of one colour, as `datasets` stores it."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{colour}.png"}


def make_rows(count: int, seed: int = 0) -> datasets.Dataset:
    """Sentences of 1 to 40 words, each with a first word that no other has; two in three with an image of its own."""
    rng, rows = random.Random(seed), []
    for number in range(count):
        words = [f"w{number}"] + [rng.choice(WORDS) for _ in range(rng.choice([0, 2, 4, 6, 9, 39]))]
        image = png(number % 256, number // 256, 7) if rng.random() < 0.66 else None
        tags = [{"Jordan": 3, "Paris": 1}.get(word, 0) for word in words]
        rows.append({"id": f"r{number}", "lang": "en", "tokens": words, "ner_tags": tags, "image": image})
    return datasets.Dataset.from_list(rows, features=FEATURES)


def rows_of(tokens: list, ner_tags: list, images: list | None = None, **columns) -> datasets.Dataset:
    """Rows of these columns; tags by number, images as files or `None`, the others of strings."""
    data = {"tokens": tokens, "ner_tags": ner_tags, "image": images or [None] * len(tokens), **columns}
    features = {name: FEATURES.get(name, datasets.Value("string")) for name in data}
    return datasets.Dataset.from_dict(data, features=datasets.Features(features))


def random_rows(words: list[str], lengths: list[int], images: list | None = None, seed: int = 0, **columns):
    """Rows of so many of these words, with tags in IOB2, both drawn by the seed."""
    rng, tags = random.Random(seed), []
    tokens = [[rng.choice(words) for _ in range(length)] for length in lengths]
    for length in lengths:
        row: list[int] = []
        for _ in range(length):
            inside = [row[-1] + row[-1] % 2] * 4 if row and row[-1] else []  # B-X (odd) or I-X goes on as I-X
            row.append(rng.choice([0, 0, 1, 3, *inside]))
        tags.append(row)
    return rows_of(tokens, tags, images, **columns)


def write(rows: datasets.Dataset, folder: Path, split: str = "train", files: int = 3, group: int = 10) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        part = rows.shard(files, number, contiguous=True).with_format("arrow")[:]
        pq.write_table(part, folder / f"{split}-{number:05d}-of-{files:05d}.parquet", row_group_size=group)
