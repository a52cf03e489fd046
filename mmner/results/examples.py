"""Sentences for the Hub's widget, with the predictions of the trained model."""

from collections.abc import Collection, Sequence
from typing import Any

from transformers import Pipeline

# Written for this purpose: a dataset's licence may not allow to show its sentences.
SENTENCES = {
    "en": "Ada Lovelace worked with Charles Babbage in London.",
    "de": "Die Universität Heidelberg ehrte gestern Marie Curie.",
    "fr": "Victor Hugo est né à Besançon et mort à Paris.",
    "es": "El Real Madrid jugó ayer en Sevilla contra el Valencia.",
}


def own_sentences(languages: Collection[str | None]) -> list[str]:
    """A sentence for each of these languages; English where there is none."""
    return [SENTENCES[lang] for lang in SENTENCES if lang in languages] or [SENTENCES["en"]]


def widget_examples(ner: Pipeline, texts: Sequence[str]) -> list[dict[str, Any]]:
    """`text`, and `output`: the entities that the model finds in it without an image (the widget takes none)."""
    return [
        {"text": text, "output": [{**entity, "score": round(entity["score"], 4)} for entity in entities]}
        for text, entities in zip(texts, ner(list(texts)), strict=True)
    ]
