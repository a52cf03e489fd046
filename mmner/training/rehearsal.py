"""Keeps what a model knows while it learns new types: posts, tagged by the model, among its training sentences."""

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
    rows: datasets.Dataset,
    model: TwoMNERForTokenClassification,
    own: list[str],
    processor: TwoMNERProcessor,
    number: int,
    seed: int,
) -> datasets.Dataset:
    """
    Training rows and so many posts, both tagged by the model: the posts with the types that it had before, the rows
    with those of them that the rows do not have. Otherwise a model that sees nothing but new types soon takes every
    name for one of these ("Learning without Forgetting", Li and Hoiem 2016, by hard labels). In posts, no word is of
    a new type: if that were left open, any noun would become one. Half of the posts have no name at all.

    Args:
        rows: with the column `known_types`.
        model: that has just got the types of the rows that it lacked (`with_labels`).
        own: the types that it had before.
        processor: its processor.
        number: of posts, at least 1.
        seed: of the choice of posts.
    """
    labels, names = model.config.labels, label_names(rows)
    others = [kind for kind in own if kind not in types_of(names)]
    posts_by_names: dict[bool, list[tuple[str, list[str]]]] = {True: [], False: []}
    for path in sorted(POSTS.glob("*/train.txt")):
        for row in read_markup(path):
            if isinstance(row, Row):
                posts_by_names[set(row.tags) != {"O"}].append((path.parent.name, row.tokens))
    rng, half = random.Random(seed), number // 2
    found = [
        post
        for some, size in zip(posts_by_names.values(), (number - half, half), strict=True)
        for post in rng.sample(some, min(size, len(some)))
    ]
    of_rows = _own_tags(rows["tokens"][:], others, model, processor)
    of_posts = _own_tags([tokens for _, tokens in found], own, model, processor)
    features = rows.features.copy()
    features["ner_tags"] = datasets.List(datasets.ClassLabel(names=labels))
    posts = [
        {"id": f"post-{index}", "lang": lang, "tokens": tokens, "ner_tags": tags, "known_types": types_of(labels)}
        for index, ((lang, tokens), tags) in enumerate(zip(found, of_posts, strict=True))
    ]
    all_tags = []
    for given, tags in zip(rows["ner_tags"], of_rows, strict=True):
        merged = [labels.index(names[tag]) for tag in given]
        for start, end, _ in iob2_spans([labels[tag] for tag in tags]):
            if all(names[tag] == "O" for tag in given[start:end]):
                merged[start:end] = tags[start:end]
        all_tags.append(merged)
    known = [others + given for given in rows["known_types"]]
    rows = rows.remove_columns(["ner_tags", "known_types"])
    rows = rows.add_column("ner_tags", all_tags, feature=features["ner_tags"])
    rows = rows.add_column("known_types", known, feature=features["known_types"])
    ordered = datasets.Features({name: features[name] for name in rows.column_names})
    filled = [{name: post.get(name) for name in ordered} for post in posts]
    return datasets.concatenate_datasets([rows, datasets.Dataset.from_list(filled, features=ordered)])


@torch.no_grad()
def _own_tags(
    sentences: list[list[str]], kinds: list[str], model: TwoMNERForTokenClassification, processor: TwoMNERProcessor
) -> list[list[int]]:
    """The tags of sentences by the model, of these types; of a long sentence the beginning alone has any."""
    was_training = model.training
    model.eval()
    left_out = [index for index, label in enumerate(model.config.labels) if label != "O" and label[2:] not in kinds]
    order = sorted(range(len(sentences)), key=lambda place: len(sentences[place]))
    found = [[model.config.labels.index("O")] * len(tokens) for tokens in sentences]
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        batch = processor([sentences[place][: processor.windows(sentences[place])[0].stop] for place in places])
        batch = {name: value.to(model.device) for name, value in batch.items()}
        logits = model.emissions(**batch).logits.float()
        logits[..., left_out] = -1e4
        tags = model.crf.decode(logits, batch["word_starts"] >= 0).tolist()
        for place, of_sentence in zip(places, tags, strict=True):
            known = [tag for tag in of_sentence if tag >= 0]
            found[place][: len(known)] = known
    model.train(was_training)
    return found
