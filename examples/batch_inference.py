"""
Tag a whole dataset with `Dataset.map`. What was tagged before by the same model is read from the cache.

    python examples/batch_inference.py --output outputs/tagged.jsonl
"""

import argparse

from datasets import List, Value, load_dataset
from transformers import pipeline

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="models/2m-ner-small")
parser.add_argument("--data", default="examples/sentences.jsonl")  # rows of tokens and image
parser.add_argument("--output", default="outputs/tagged.jsonl")
given = parser.parse_args()

rows = load_dataset("json", data_files=given.data, split="train").select_columns(["tokens", "image"])
ner = pipeline("token-classification", model=given.model, trust_remote_code=True)
entity = {"entity_group": Value("string"), "score": Value("float32"), "word": Value("string")}
entity |= {"start": Value("int64"), "end": Value("int64")}


def tag(batch):
    # Of rows with a column of strings: ner(batch["text"], images=batch["image"])
    pairs = zip(batch["tokens"], batch["image"], strict=True)
    return {"entities": ner([{"tokens": tokens, "image": image} for tokens, image in pairs])}


# The features are given because a first batch without an entity would not tell them.
features = rows.features.copy()
features["entities"] = List(entity)
tagged = rows.map(tag, batched=True, batch_size=256, features=features)
for row in tagged.select(range(3)):
    print(" ".join(row["tokens"]), [(found["entity_group"], found["word"]) for found in row["entities"]])
tagged.to_json(given.output, force_ascii=False)
