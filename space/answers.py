"""What the page shows for a text and its image, made from the pipeline's explanation; knows nothing of Gradio."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

MAX_CHARACTERS = 5_000
MAX_HEAT_MAPS = 12
MAX_IMAGE_SIDE_PX = 1_024
COLUMNS = ["entity", "type", "score", "score without the image", "gate"]
# Light: the words are written on them.
COLOURS = ["#9ec5fe", "#a3e4b5", "#ffd08a", "#d8b4fe", "#fda4af", "#99e2e8", "#e3e38c", "#f0abfc", "#c4c9d4"]


@dataclass
class Answer:
    """
    What the page shows of one text and its image.

    Args:
        highlighted: the text and its entities, as `gr.HighlightedText` takes them.
        highlighted_without: the same where the model does not see the image; `None` where there is none anyway.
        heat_maps: for each entity the image with what its words attended to, and a caption.
        rows: for each entity the values of `COLUMNS`.
    """

    highlighted: dict[str, Any]
    highlighted_without: dict[str, Any] | None = None
    heat_maps: list[tuple[Image.Image, str]] = field(default_factory=list)
    rows: list[list[Any]] = field(default_factory=list)


def checked(ner, text: str | None, upload: dict[str, Any] | None) -> Image.Image | None:
    """
    The image of what a visitor sent.

    Args:
        ner: a pipeline of 2M-NER.
        text: the text.
        upload: the `path` of its image's file, as Gradio has it, or `None`.

    Raises:
        ValueError: there is no text, it is too long, or the image is no file or does not open.
    """
    if not text or not text.strip():
        raise ValueError("There is no text to read.")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"The text has {len(text)} characters; this page reads {MAX_CHARACTERS} at most.")
    if upload is None:
        return None
    if upload["path"] is None:
        raise ValueError("The image is no uploaded file; expected one.")
    processing = sys.modules[type(ner.processor).__module__]  # the model's own code, wherever it was loaded from
    return processing.load_image(Path(upload["path"]).read_bytes(), trusted=False)


def answer(ner, text: str, image: Image.Image | None) -> Answer:
    """Reads a text with its image and without, by a pipeline of 2M-NER."""
    explanation = ner.explain(text, image)
    if explanation.image is not None:
        explanation.image.thumbnail((MAX_IMAGE_SIDE_PX, MAX_IMAGE_SIDE_PX))  # every heat-map is as large as this
    shown = Answer(highlight(text, (explained.entity for explained in explanation.entities)))
    if explanation.entities_without_image is not None:
        shown.highlighted_without = highlight(text, explanation.entities_without_image)
    for index, explained in enumerate(explanation.entities):
        entity = explained.entity
        values = (entity["score"], explained.score_without_image, explained.gate)
        numbers = ["" if value is None else f"{value:.3f}" for value in values]
        shown.rows.append([entity["word"], entity["entity_group"], *numbers])
        if explained.attention is not None and len(shown.heat_maps) < MAX_HEAT_MAPS:
            caption = f"{entity['word']} ({entity['entity_group']})"
            shown.heat_maps.append((explanation.heat_map(index), caption))
    return shown


def highlight(text: str, entities: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """A text and its entities, as `gr.HighlightedText` takes them."""
    spans = [{"entity": entity["entity_group"], "start": entity["start"], "end": entity["end"]} for entity in entities]
    return {"text": text, "entities": spans}


def colours(entity_types: Iterable[str]) -> dict[str, str]:
    """A colour for each type, the same with the image and without."""
    return {kind: COLOURS[number % len(COLOURS)] for number, kind in enumerate(entity_types)}
