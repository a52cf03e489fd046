"""Keeps what a model knows while it learns new types: posts, tagged by itself, among its training sentences."""

import random
from pathlib import Path

import datasets
import torch

from dataset_script.formats.markup import read_markup
from dataset_script.rows import Row, iob2_spans
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
    Training rows and so many posts, both tagged by the model with the types that it had before; entities that the rows
    have already stay. Otherwise a model that sees nothing but new types soon takes every name for one of these
    ("Learning without Forgetting", Li and Hoiem 2016, by hard labels). In posts, no word is of a new type: if that
    were left open, any noun would become one.

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
    found = random.Random(seed).sample(found, min(number, len(found)))
    ids = _own_tags([*rows["tokens"], *(tokens for _, tokens in found)], old, model, processor)
    features = rows.features.copy()
    features["ner_tags"] = datasets.List(datasets.ClassLabel(names=labels))
    posts = [
        {"id": f"post-{index}", "lang": lang, "tokens": tokens, "ner_tags": tags, "known_types": types_of(labels)}
        for index, ((lang, tokens), tags) in enumerate(zip(found, ids[len(rows) :], strict=True))
    ]
    own = []
    for given, tags in zip(rows["ner_tags"], ids[: len(rows)], strict=True):
        merged = [labels.index(names[tag]) for tag in given]
        for start, end, _ in iob2_spans([labels[tag] for tag in tags]):
            if all(names[tag] == "O" for tag in given[start:end]):
                merged[start:end] = tags[start:end]
        own.append(merged)
    known = [old + given for given in rows["known_types"]]
    rows = rows.remove_columns(["ner_tags", "known_types"])
    rows = rows.add_column("ner_tags", own, feature=features["ner_tags"])
    rows = rows.add_column("known_types", known, feature=features["known_types"])
    ordered = datasets.Features({name: features[name] for name in rows.column_names})
    filled = [{name: post.get(name) for name in ordered} for post in posts]
    return datasets.concatenate_datasets([rows, datasets.Dataset.from_list(filled, features=ordered)])


@torch.no_grad()
def _own_tags(
    sentences: list[list[str]], old: list[str], model: TwoMNERForTokenClassification, processor: TwoMNERProcessor
) -> list[list[int]]:
    """The tags of sentences by the model, its new types left out; of a long one the beginning alone has any."""
    was_training = model.training
    model.eval()
    new = [index for index, label in enumerate(model.config.labels) if label != "O" and label[2:] not in old]
    order = sorted(range(len(sentences)), key=lambda place: len(sentences[place]))
    found = [[model.config.labels.index("O")] * len(tokens) for tokens in sentences]
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        batch = processor([sentences[place][: processor.windows(sentences[place])[0].stop] for place in places])
        batch = {name: value.to(model.device) for name, value in batch.items()}
        logits = model.emissions(**batch).logits.float()
        logits[..., new] = -1e4
        tags = model.crf.decode(logits, batch["word_starts"] >= 0).tolist()
        for place, of_sentence in zip(places, tags, strict=True):
            known = [tag for tag in of_sentence if tag >= 0]
            found[place][: len(known)] = known
    model.train(was_training)
    return found
