"""Gradio app of 2M-NER: a text and an image in; entities with the image and without, and heat maps.

`MODEL=org/2m-ner python app.py`: the environment variable names a model on the Hub, or a folder; `REVISION` pins it.
"""

import os
import tempfile
from pathlib import Path

import gradio as gr
from answers import COLUMNS, MAX_CHARACTERS, answer, checked, colours
from examples import EXAMPLES
from transformers import pipeline

MAX_FILE_SIZE = "8mb"
MAX_WAITING = 32
ABOUT = """# 2M-NER
Named entities in English, German, French and Spanish, from a text and, where there is one, its image. With an image
the text is read twice, with it and without: what differs is what the image did."""


def build(ner) -> gr.Blocks:
    """The page of a pipeline of 2M-NER."""

    def opened(text: str, upload: dict | None):
        try:
            return checked(ner, text, upload)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def check(text: str, upload: dict | None):
        opened(text, upload)

    def run(text: str, upload: dict | None):
        shown = answer(ner, text, opened(text, upload))
        return shown.highlighted, shown.highlighted_without, shown.rows, shown.heat_maps

    with gr.Blocks(title="2M-NER") as page:
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column(scale=2):
                text = gr.Textbox(label="Text", lines=5, max_length=MAX_CHARACTERS, elem_id="text")
                button = gr.Button("Find entities", variant="primary", elem_id="run")
            sources = ["upload", "clipboard"]
            image = gr.Image(label="Image (optional)", sources=sources, height=260, elem_id="image")
        with gr.Row():
            options = {"color_map": colours(ner.entity_types), "combine_adjacent": False, "show_legend": True}
            found = gr.HighlightedText(label="Entities", elem_id="found", **options)
            without = gr.HighlightedText(label="Without the image", elem_id="without", **options)
        rows = gr.Dataframe(headers=COLUMNS, label="Scores", interactive=False, wrap=True, elem_id="scores")
        maps = gr.Gallery(
            label="What each entity's words attended to",
            columns=4,
            fit_columns=False,
            height="auto",
            object_fit="contain",
            elem_id="maps",
            interactive=False,
        )
        gr.Examples(_example_rows(), inputs=[text, image], label="Examples")
        outputs = [found, without, rows, maps]
        # Gradio writes "Error" over every output of a step that fails: what fails for a reason has none. And it would
        # open the image, with whatever reader of Pillow: without its preprocessing the model's code does.
        given = {"inputs": [text, image], "preprocess": False}
        asked = gr.on([button.click, text.submit], check, **given, api_name=False)
        asked.failure(lambda: [None] * len(outputs), None, outputs, api_name=False)
        asked.success(run, **given, outputs=outputs, api_name="entities")
    return page.queue(max_size=MAX_WAITING)


def _example_rows() -> list[list[str | None]]:
    """Texts and files of images: Gradio takes an example's image from a file."""
    folder = Path(tempfile.mkdtemp(prefix="examples-"))
    rows: list[list[str | None]] = []
    for example in EXAMPLES:
        path = None
        if example.draw is not None:
            path = str(folder / f"{example.draw.__name__}.png")
            example.draw().save(path)
        rows.append([example.text, path])
    return rows


def main() -> None:
    """Loads the model that the environment names, and serves the page."""
    model = os.environ.get("MODEL")
    if not model:
        raise SystemExit("Set the variable MODEL to the model's name on the Hub, or its folder: MODEL=org/2m-ner")
    ner = pipeline(
        "token-classification", model=model, revision=os.environ.get("REVISION") or None, trust_remote_code=True
    )
    build(ner).launch(max_file_size=MAX_FILE_SIZE)


if __name__ == "__main__":
    main()
