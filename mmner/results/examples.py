"""Sentences for the Hub's widget, with what the trained model says of them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transformers import Pipeline

# Written for this purpose: the sentences of a data set may not be free to be shown.
SENTENCES = {
    "en": "Ada Lovelace worked with Charles Babbage in London.",
    "de": "Die Universität Heidelberg ehrte gestern Marie Curie.",
    "fr": "Victor Hugo est né à Besançon et mort à Paris.",
    "es": "El Real Madrid jugó ayer en Sevilla contra el Valencia.",
}
MAX_WORDS = 25
CANDIDATES = 20


def own_sentences(languages: Collection[str | None]) -> list[str]:
    """A sentence for each of these languages; English where there is none."""
    return [SENTENCES[lang] for lang in SENTENCES if lang in languages] or [SENTENCES["en"]]


def widget_examples(ner: Pipeline, texts: Sequence[str]) -> list[dict[str, Any]]:
    """`text`, and `output`: the entities that the model finds in it without a picture (the widget takes none)."""
    return [
        {"text": text, "output": [{**entity, "score": round(entity["score"], 4)} for entity in entities]}
        for text, entities in zip(texts, ner(list(texts)), strict=True)
    ]


def probe_sentences(ner: Pipeline, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """
    Of each language, the first short sentence in which the model finds an entity, else the first short one.

    Args:
        ner: the pipeline of the trained model.
        rows: of a predictions file of the probe: its sentences are made by code, and free.
    """
    by_language: dict[str, list[str]] = {}
    for row in rows:
        if len(row["tokens"]) <= MAX_WORDS:
            by_language.setdefault(str(row["lang"]), []).append(row["text"])
    chosen = []
    for _, texts in sorted(by_language.items()):
        texts = texts[:CANDIDATES]
        chosen.append(next((text for text, found in zip(texts, ner(texts), strict=True) if found), texts[0]))
    return chosen


__all__ = ["own_sentences", "probe_sentences", "widget_examples"]
