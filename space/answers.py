"""What the page answers to a text and its image, from the pipeline's explanation; knows nothing of Gradio."""

import sys
from pathlib import Path
from typing import Any

from PIL import Image

MAX_CHARACTERS = 5_000


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


def answer(ner, text: str, image: Image.Image | None) -> tuple[str, dict[str, Any]]:
    """A text read with its image and without, by a pipeline of 2M-NER: as HTML to look at, and as data."""
    explanation = ner.explain(text, image)
    return explanation._repr_html_(), explanation.to_dict()


def about(model: str) -> str:
    """What stands above, in Markdown: the name of the model, and where its card is."""
    card = f"**{Path(model).name}**, a folder of this machine"
    if not Path(model).exists():
        card = (
            f"[{model}](https://huggingface.co/{model}), whose card tells what it was trained on and how often it errs"
        )
    return (
        "# 2M-NER\nFinds the named entities of a text and, where there is one, its image. With an image it reads the "
        f"text twice, with the image and without, and shows what the image changed.\n\nThe model is {card}."
    )
