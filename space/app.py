"""Gradio app of 2M-NER: a text and an image in; its entities, and what the image changed, out.

`MODEL=org/2m-ner python app.py`: the environment variable names a model on the Hub, or a folder; `REVISION` pins it.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import gradio as gr
from answers import MAX_CHARACTERS, about, answer, checked
from examples import EXAMPLES, Example
from transformers import pipeline

MAX_FILE_SIZE = "8mb"
MAX_WAITING = 32
# White on the orange of Gradio's buttons has a contrast of 2.8; on this blue, 6.7.
THEME = gr.themes.Default(primary_hue="blue").set(
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
)


def build(ner, model: str) -> gr.Blocks:
    """The page of a pipeline of 2M-NER, whose model has this name on the Hub or is in this folder."""

    def opened(text: str, upload: dict | None):
        try:
            return checked(ner, text, upload)
        except ValueError as error:
            raise gr.Error(str(error), title="Not read", print_exception=False) from error

    def check(text: str, upload: dict | None):
        opened(text, upload)

    def run(text: str, upload: dict | None):
        return answer(ner, text, opened(text, upload))

    with gr.Blocks(title="2M-NER") as page:
        gr.Markdown(about(model))
        with gr.Row():
            with gr.Column(scale=2):
                text = gr.Textbox(label="Text", lines=5, max_length=MAX_CHARACTERS, elem_id="text")
                button = gr.Button("Find entities", variant="primary", elem_id="run")
            sources = ["upload", "clipboard"]
            image = gr.Image(label="Image (optional)", sources=sources, height=260, elem_id="image")
        found = gr.HTML(elem_id="found", apply_default_css=False)  # it has styles of its own
        data = gr.JSON(visible=False)  # for those who call the page by its API
        outputs = [found, data]
        # Gradio writes "Error" over every output of a step that fails: what fails for a reason has none. And it would
        # open the image, with whatever reader of Pillow: without its preprocessing the model's code does.
        given = {"inputs": [text, image], "preprocess": False}

        def read_after(event: Callable, api_name: str | bool) -> None:
            checks = event(check, **given, api_name=False)
            checks.failure(lambda: [None] * len(outputs), None, outputs, api_name=False)
            checks.success(run, **given, outputs=outputs, api_name=api_name)

        read_after(partial(gr.on, [button.click, text.submit]), "entities")
        gr.Markdown("Examples, read at one click:")
        for example, path in _examples():  # buttons: the keyboard does not reach the rows of gr.Examples
            label = f"{example.text} ({'no image' if path is None else 'with an image'})"
            chosen = gr.Button(label, size="sm", icon=path, elem_classes="example")
            filled = chosen.click(partial(_given, example.text, path), None, [text, image], api_name=False)
            read_after(filled.success, False)
    return page.queue(max_size=MAX_WAITING)


def _given(text: str, path: str | None) -> tuple[str, str | None]:
    return text, path


def _examples() -> Iterator[tuple[Example, str | None]]:
    """Examples and the files of their images: Gradio takes an image from a file."""
    folder = Path(tempfile.mkdtemp(prefix="examples-"))
    for example in EXAMPLES:
        path = None
        if example.draw is not None:
            path = str(folder / f"{example.draw.__name__}.png")
            example.draw().save(path)
        yield example, path


def main() -> None:
    """Loads the model that the environment names, and serves the page."""
    model = os.environ.get("MODEL")
    if not model:
        raise SystemExit("Set the variable MODEL to the model's name on the Hub, or its folder: MODEL=org/2m-ner")
    ner = pipeline(
        "token-classification", model=model, revision=os.environ.get("REVISION") or None, trust_remote_code=True
    )
    build(ner, model).launch(max_file_size=MAX_FILE_SIZE, theme=THEME)


if __name__ == "__main__":
    main()
