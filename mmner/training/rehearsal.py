"""Keeps what a model knows while it learns new types: posts, tagged by itself, among its training sentences."""

import random
from pathlib import Path

import datasets
import torch

from dataset_script.formats.markup import read_markup
from dataset_script.rows import Row
from mmner.data.splits import label_names
from mmner.training.labels import types_of
from modeling_2mner import TwoMNERForTokenClassification
from processing_2mner import TwoMNERProcessor

POSTS = Path(__file__).resolve().parents[1] / "posts"
"""The posts of this project, in the repository a link to their folder. Their own tags are not used."""
BATCH = 32


def with_rehearsal(
    rows: datasets.Dataset, model: TwoMNERForTokenClassification, processor: TwoMNERProcessor, number: int, seed: int
) -> datasets.Dataset:
    """
    Training rows and so many posts, tagged with the types that the model had before. Without them, a model that sees
    nothing but new types soon takes every name for one of these ("Learning without Forgetting", Li and Hoiem 2016, by
    hard labels).

    Args:
        rows: with the column `known_types`; their types are the new ones.
        model: that has just got the new types (`with_labels`).
        processor: its processor.
        number: of posts, at least 1.
        seed: of the choice of posts.
    """
    labels, names = model.config.labels, label_names(rows)
    old = [kind for kind in types_of(labels) if kind not in types_of(names)]
    found = [
        (path.parent.name, row.tokens)
        for path in sorted(POSTS.glob("*/train.txt"))
        for row in read_markup(path)
        if isinstance(row, Row)
    ]
    found = sorted(random.Random(seed).sample(found, min(number, len(found))), key=lambda pair: len(pair[1]))
    batches = (found[start : start + BATCH] for start in range(0, len(found), BATCH))
    tags = [ids for batch in batches for ids in _own_tags(batch, old, model, processor)]
    features = rows.features.copy()
    features["ner_tags"] = datasets.List(datasets.ClassLabel(names=labels))
    posts = [
        {"id": f"post-{index}", "lang": lang, "tokens": tokens, "ner_tags": ids, "known_types": old}
        for index, ((lang, tokens), ids) in enumerate(zip(found, tags, strict=True))
    ]
    own = [[labels.index(names[tag]) for tag in ids] for ids in rows["ner_tags"]]
    rows = rows.remove_columns("ner_tags").add_column("ner_tags", own, feature=features["ner_tags"])
    ordered = datasets.Features({name: features[name] for name in rows.column_names})
    filled = [{name: post.get(name) for name in ordered} for post in posts]
    return datasets.concatenate_datasets([rows, datasets.Dataset.from_list(filled, features=ordered)])


@torch.no_grad()
def _own_tags(
    posts: list[tuple[str, list[str]]],
    old: list[str],
    model: TwoMNERForTokenClassification,
    processor: TwoMNERProcessor,
) -> list[list[int]]:
    """The tags of posts by the model, its new types left out."""
    was_training = model.training
    model.eval()
    batch = processor([tokens for _, tokens in posts])
    batch = {name: value.to(model.device) for name, value in batch.items()}
    logits = model.emissions(**batch).logits.float()
    new = [index for index, label in enumerate(model.config.labels) if label != "O" and label[2:] not in old]
    logits[..., new] = -1e4
    found = model.crf.decode(logits, batch["word_starts"] >= 0).tolist()
    model.train(was_training)
    return [ids[: len(tokens)] for ids, (_, tokens) in zip(found, posts, strict=True)]
