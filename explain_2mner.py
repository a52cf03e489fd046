"""What an image had to do with the entities that 2M-NER found beside it: as data and as a page."""

import base64
import html
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

try:
    from .processing_2mner import load_image
except ImportError:
    from processing_2mner import load_image

# Hue in degrees of the types that most data has; another type gets one of its own, the same on every page.
HUES = {"PER": 210, "LOC": 130, "ORG": 30, "MISC": 285, "OTHER": 285}
PAGE_IMAGE_PIXELS = 320  # longest side
# For its own class only, and with all colours: around it may be a notebook or a Space, perhaps a dark one.
STYLE = """.two-mner { font: 16px/1.6 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: .5rem;
  background: #fff; color-scheme: light } .two-mner, .two-mner :is(h1, h2, p, th, td, small) { color: #1a1a1a }
.two-mner .text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 2.1 }
.two-mner mark { border-radius: .3em; padding: .15em .3em; color: #111 } .two-mner mark small { font-weight: 600 }
.two-mner .given { display: flex; flex-wrap: wrap; gap: 0 1rem; align-items: start }
.two-mner .given p { flex: 1 1 18rem; margin: 0 0 1rem } .two-mner .given img { max-width: min(100%, 12rem) }
.two-mner tr > :first-child { min-width: 4em }
.two-mner table { border-collapse: collapse; width: 100% } .two-mner .changed > * { background: #fff3c4 }
.two-mner :is(th, td) { border: 0 solid #ccc; border-bottom-width: 1px; padding: .4rem .3rem; text-align: start;
  vertical-align: top; font-size: 1rem; font-weight: 400; overflow-wrap: anywhere; background: #fff }
.two-mner :is(th, td) > small { display: block; font-size: .85rem; font-weight: 400 }
.two-mner .title { font-weight: 600; padding-top: 1rem } .two-mner tr :nth-child(4) { white-space: nowrap }
.two-mner .head th { font-size: .85rem; font-weight: 600 } :where(.two-mner) img { max-width: 100% }
.two-mner .bar { display: inline-block; height: .7em; min-width: 2px; background: #3b6ea8 }"""
SCORE = "A score is the probability, from 0 to 1, that exactly these words are an entity of this type."
SHOWN = "Shown is the probability that this is the entity of the text that the image shows."
RATIO = """How many times as likely this image is to show an entity of the type as an average image is, judged from the
image alone. It counts for an entity's type as far as the model expects that entity to be shown."""


@dataclass
class EntityExplanation:
    """One entity and what the image had to do with it. `None`: there is no image, or the model has no such part."""

    entity: dict[str, Any]  # as the pipeline returns it
    # The posterior of the same words and type when the model reads neither image nor caption.
    score_without_image: float | None = None
    shown: float | None = None  # the probability that the image shows this very entity ("evidence")

    def to_dict(self) -> dict[str, Any]:
        """All of it in types that JSON knows."""
        return {**self.entity, **{name: value for name, value in vars(self).items() if name != "entity"}}


@dataclass
class Explanation:
    """What [`TwoMNERPipeline.explain`] returns; a notebook shows it as a page."""

    text: str
    entities: list[EntityExplanation] = field(default_factory=list)  # in order
    # What the model finds when it reads neither image nor caption; `None` where there is none anyway.
    entities_without_image: list[dict[str, Any]] | None = None
    image: Image.Image | None = None
    caption: str | None = None  # that was read after the text (`image_as_text` models)
    # By type, how many times as likely the image is to show an entity of it as an average image is ("evidence").
    image_ratios: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it but the image, in types that JSON knows."""
        rest = {name: value for name, value in vars(self).items() if name != "image"}
        return {**rest, "entities": [entity.to_dict() for entity in self.entities]}

    def save(self, path: str | os.PathLike) -> None:
        """Writes the page to a file; one that is there already is a `FileExistsError`."""
        if Path(path).exists():
            raise FileExistsError(f"{path} is there already; remove it or give another name.")
        Path(path).write_text(self.to_html(), encoding="utf-8")

    def to_html(self) -> str:
        """A page that needs nothing else: the text, its image, and a table of what the image changed."""
        return f"{page_head('Named entities')}{self._content()}\n</body></html>\n"

    def _repr_html_(self) -> str:
        return f'<div class="two-mner"><style>{STYLE}</style>{self._content()}</div>'

    def _content(self) -> str:
        text = highlight(self.text, [one.entity for one in self.entities])
        given = f'<p class="text" dir="auto">{text}</p>{"" if self.image is None else figure(self.image)}'
        if self.caption is not None:
            given += f'<p class="text" dir="auto">Caption: {html.escape(self.caption)}</p>'
        return f'<div class="given">{given}</div>\n<table>{"".join(self._rows())}</table>'

    def _rows(self) -> Iterator[str]:
        """The rows of the table: each entity without the image and with it, then what the image says of each type."""
        thing, is_compared = "caption" if self.image is None else "image", self.entities_without_image is not None
        found = {(one.entity["start"], one.entity["end"]): one for one in self.entities}
        without = {(entity["start"], entity["end"]): entity for entity in self.entities_without_image or ()}
        has_shown = any(one.shown is not None for one in self.entities)
        heads = [f"Without the {thing}", f"With the {thing}"] if is_compared else ["Type and score"]
        heads = ["Entity", *heads, *["Shown"] * has_shown]
        yield _title("Entities", f"{SCORE} {SHOWN}" if has_shown else SCORE, len(heads))
        head_cells = "".join(f'<th scope="col">{head}</th>' for head in heads)
        yield f'<tr class="head">{head_cells}</tr>'
        if not found and not without:
            yield f'<tr><td colspan="{len(heads)}">No entity was found.</td></tr>'
        for span in sorted({**found, **without}):
            one, old = found.get(span), without.get(span, {})
            new, change = {} if one is None else one.entity, ""
            if is_compared and not (new and old):
                change = f"only {'with' if new else 'without'} the {thing}"
            elif is_compared and new["entity_group"] != old["entity_group"]:
                change = f"changed: {old['entity_group']} → {new['entity_group']}"
            cells = [_cell(new, new.get("alternatives", ()), change)]
            if is_compared:
                cells.insert(0, _cell(old, [{**new, "score": one.score_without_image}] if one and change else ()))
            cells += ["–" if one is None else f"{one.shown:.3f}"] if has_shown else []
            row = "".join(f"<td>{cell}</td>" for cell in cells)
            row = f'<th scope="row" dir="auto">{html.escape(self.text[slice(*span)])}</th>{row}'
            yield f'<tr class="changed">{row}</tr>' if change else f"<tr>{row}</tr>"
        if self.image_ratios:
            yield _title("What the image says of each type", RATIO, len(heads))
            for kind, ratio in sorted(self.image_ratios.items(), key=lambda pair: -pair[1]):
                bar = f'<span class="bar" style="width:{30 * ratio / max(self.image_ratios.values()):.0f}%"></span>'
                value = f'<td colspan="{len(heads) - 1}">{bar} {ratio:.3g} times as likely</td>'
                yield f'<tr><th scope="row">{_mark(kind)}</th>{value}</tr>'


def _title(name: str, note: str, num_columns: int) -> str:
    return f'<tr><th class="title" colspan="{num_columns}">{name}<small>{note}</small></th></tr>'


def _cell(entity: dict[str, Any], others: Sequence[dict[str, Any]], change: str = "") -> str:
    """An entity's type and score, what the image changed, and the scores of the same words as other types."""
    shown = f"{_mark(entity['entity_group'])} {entity['score']:.3f}" if entity else "not found"
    small = [change] * bool(change) + [f"as {other['entity_group']}: {other['score']:.3f}" for other in others]
    return shown + "".join(f" <small>{html.escape(text)}</small>" for text in small)


def page_head(title: str, style: str = "") -> str:
    """How a page begins that needs nothing else; `</body></html>` ends it."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<style>{STYLE}\n{style}</style></head>\n<body class="two-mner">\n<h1>{title}</h1>\n'
    )


def highlight(text: str, entities: Sequence[dict[str, Any]]) -> str:
    """
    A text as HTML, its entities (as the pipeline returns them: in order, without overlap) marked, each with its type;
    everything in it is escaped.
    """
    parts, end = [], 0
    for entity in entities:
        parts.append(html.escape(text[end : entity["start"]]))
        parts.append(_mark(entity["entity_group"], text[entity["start"] : entity["end"]]))
        end = entity["end"]
    return "".join([*parts, html.escape(text[end:])])


def _mark(kind: str, word: str | None = None) -> str:
    """A type, or a word and its type, on the colour of the type."""
    hue, shown = HUES.get(kind, zlib.crc32(kind.encode()) % 360), html.escape(kind)
    shown = shown if word is None else f"{html.escape(word)} <small>{shown}</small>"
    return f'<mark style="background:hsl({hue} 80% 86%)">{shown}</mark>'


def figure(image: Image.Image) -> str:
    """An image inside the page itself, small."""
    image = image.copy()
    image.thumbnail((PAGE_IMAGE_PIXELS, PAGE_IMAGE_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="The image that was given with the text" src="data:image/jpeg;base64,{data}">'


@torch.no_grad()
def explain(
    pipeline, inputs: dict[str, Any], image: Any, preprocess_params: dict[str, Any], reading: dict[str, Any]
) -> Explanation:
    """
    Reads one input of a [`TwoMNERPipeline`] with its image (and caption) and without; see its `explain`. `reading` are
    the options of its `decode` and `postprocess`.
    """
    image = None if image is None else load_image(image)
    prepared = pipeline.preprocess({**inputs, "image": image}, **preprocess_params)
    explanation = Explanation(prepared.text, caption=inputs["caption"] if prepared.caption else None)
    states = global_states = None
    if prepared.image is not None:
        explanation.image = image
        pixels = prepared.image.pixels[None].to(pipeline.device)
        states, global_states = pipeline.model.model.encode_images(pixels)
        if (head := pipeline.model.evidence) is not None:
            ratios = head.log_ratios(states, global_states)[0].exp().tolist()  # (num_types + 1,), the last of no type
            kinds = [pipeline.model.config.labels[tag].removeprefix("B-") for tag in head.begins]
            explanation.image_ratios = dict(zip(kinds, ratios[:-1], strict=True))
    has_control = states is not None or bool(prepared.caption)
    if not prepared.windows:
        explanation.entities_without_image = [] if has_control else None
        return explanation

    parts: dict[str, list[torch.Tensor]] = {}
    for window in prepared.windows:
        token_ids = prepared.token_ids[window.start : window.stop]
        found = _read(pipeline, token_ids, prepared.caption, states, global_states)
        if prepared.caption:
            found["text_logits"] = _read(pipeline, token_ids, [], None, None)["logits"]
        kept = slice(window.keep_start - window.start, window.keep_stop - window.start)
        for name, values in found.items():
            parts.setdefault(name, []).append(values[0, kept].float().cpu())
    evidence = {name: torch.cat(values) for name, values in parts.items()}

    spans = pipeline.decode([evidence["logits"]], **reading)[0]
    without = pipeline.score_spans(evidence["text_logits"], spans) if has_control else [None] * len(spans)
    for span, score_without_image in zip(spans, without, strict=True):
        prepared.found = [span]
        for entity in pipeline.postprocess(prepared, **reading):
            explained = EntityExplanation(entity, score_without_image)
            if explanation.image_ratios is not None:
                explained.shown = float(evidence["gates"][span.start])  # of its first word, where it begins
            explanation.entities.append(explained)
    if has_control:
        prepared.found = pipeline.decode([evidence["text_logits"]], **reading)[0]
        explanation.entities_without_image = pipeline.postprocess(prepared, **reading)
    return explanation


def _read(pipeline, token_ids, caption, states, global_states) -> dict[str, torch.Tensor]:
    """
    Reads one window of words: `logits` and, without the image, `text_logits` (1, num_words, num_labels); where there
    are an image and the model has them, `gates` (1, num_words).
    """
    model = pipeline.model
    with pipeline.device_placement():
        batch = pipeline.processor.encode_ids([token_ids], [caption] if caption else None)
        outputs = model.model(**pipeline.ensure_tensor_on_device(**batch))
        words, mask = outputs.text_word_states, outputs.word_mask.bool()
        text_logits = model.emissions_of_states(words, mask).logits
        if states is None:
            return {"logits": text_logits, "text_logits": text_logits}
        image = (states, global_states, torch.zeros(1, dtype=torch.long, device=states.device))
        emissions = model.emissions_of_states(words, mask, *image)
    gates = {} if emissions.gates is None else {"gates": emissions.gates}
    return {"logits": emissions.logits, "text_logits": text_logits, **gates}


__all__ = ["EntityExplanation", "Explanation", "explain", "highlight"]
