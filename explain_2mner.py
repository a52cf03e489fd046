"""Why 2M-NER found an entity: its score without the image, its gate, and where in the image its words attended."""

import base64
import html
import io
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

try:
    from .processing_2mner import load_image
except ImportError:
    from processing_2mner import load_image

# Hue in degrees of the types that most data has; another type gets one of its own, the same on every page.
HUES = {"PER": 210, "LOC": 130, "ORG": 30, "MISC": 285, "OTHER": 285}
PAGE_IMAGE_PIXELS = 320  # longest side
HEAT_COLOUR, HEAT_OPACITY = "#ff5a1f", 0.8
# Tokens that an image tower may put before its patches: one for the whole image, and registers.
MAX_PREFIX_TOKENS = 16
STYLE = """body { font: 16px/1.6 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
.text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 2.1 }
mark { border-radius: .3em; padding: .15em .3em; color: #111 }
mark small { font-weight: 600; margin-inline-start: .4em }"""


@dataclass
class EntityExplanation:
    """One entity and what the image had to do with it. `None`: there is no image, or the model has no such part."""

    entity: dict[str, Any]  # as the pipeline returns it
    # The posterior of the same words and type when the model reads neither image nor caption.
    score_without_image: float | None = None
    gate: float | None = None  # how much of the image the words took up, 0 to 1, mean over them
    # (height, width): the words' attention to the image's patches, mean over words and heads.
    attention: np.ndarray | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it in types that JSON knows."""
        attention = None if self.attention is None else self.attention.tolist()
        rest = {"score_without_image": self.score_without_image, "gate": self.gate, "attention": attention}
        return {**self.entity, **rest}


@dataclass
class Explanation:
    """What [`TwoMNERPipeline.explain`] returns."""

    text: str
    entities: list[EntityExplanation] = field(default_factory=list)  # in order
    # What the model finds when it reads neither image nor caption; `None` where there is none anyway.
    entities_without_image: list[dict[str, Any]] | None = None
    image: Image.Image | None = None  # the part of the image that the model saw
    caption: str | None = None  # that was read after the text (`image_as_text` models)

    def to_dict(self) -> dict[str, Any]:
        """All of it but the image, in types that JSON knows."""
        return {
            "text": self.text,
            "caption": self.caption,
            "entities": [entity.to_dict() for entity in self.entities],
            "entities_without_image": self.entities_without_image,
        }

    def heat_map(self, index: int) -> Image.Image:
        """
        The image, coloured where the words of entity `index` attended.

        Raises:
            IndexError: there is no such entity.
            ValueError: there is no image, or the model has no attention to it.
        """
        attention = self.entities[index].attention
        if self.image is None or attention is None:
            raise ValueError(f"Entity {index} has no attention: no image was given, or the model has none.")
        patches = Image.fromarray((attention / max(float(attention.max()), 1e-12)).astype(np.float32))
        heat = np.asarray(patches.resize(self.image.size, Image.Resampling.BICUBIC)).clip(0, 1)
        opacity = Image.fromarray((255 * HEAT_OPACITY * heat).astype(np.uint8))
        return Image.composite(Image.new("RGB", self.image.size, HEAT_COLOUR), self.image, opacity)

    def to_html(self) -> str:
        """A page that needs nothing else: text and entities, with the image and without, and a heat map of each."""
        parts = [_paragraph(highlight(self.text, [explained.entity for explained in self.entities]))]
        if self.caption is not None:
            parts.append(_paragraph(f"Caption: {html.escape(self.caption)}"))
        if self.entities_without_image is not None:
            parts.append("<h2>Without the image</h2>")
            parts.append(_paragraph(highlight(self.text, self.entities_without_image)))
        if self.image is not None:
            parts.append(figure(self.image))
        for index, explained in enumerate(self.entities):
            entity = explained.entity
            parts.append(_paragraph(highlight(entity["word"], [{**entity, "start": 0, "end": len(entity["word"])}])))
            rows = [("Score", entity["score"]), ("Score without the image", explained.score_without_image)]
            rows += [("Gate", explained.gate)]
            rows += [(f"As {other['entity_group']}", other["score"]) for other in entity.get("alternatives", ())]
            shown = [f"<li>{html.escape(name)}: {value:.3f}</li>" for name, value in rows if value is not None]
            parts.append(f"<ul>{''.join(shown)}</ul>")
            if self.image is not None and explained.attention is not None:
                parts.append(figure(self.heat_map(index)))
        body = "\n".join(parts)
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Named entities</title>'
            f"<style>{STYLE}</style></head>\n<body>\n<h1>Named entities</h1>\n{body}\n</body></html>\n"
        )


def highlight(text: str, entities: Sequence[dict[str, Any]]) -> str:
    """
    A text as HTML, its entities (as the pipeline returns them: in order, without overlap) marked and coloured by type;
    everything in it is escaped.
    """
    parts, end = [], 0
    for entity in entities:
        kind = entity["entity_group"]
        hue = HUES.get(kind, zlib.crc32(kind.encode()) % 360)
        word = html.escape(text[entity["start"] : entity["end"]])
        parts.append(html.escape(text[end : entity["start"]]))
        parts.append(f'<mark style="background:hsl({hue} 80% 86%)">{word}<small>{html.escape(kind)}</small></mark>')
        end = entity["end"]
    return "".join([*parts, html.escape(text[end:])])


def _paragraph(content: str) -> str:
    return f'<p class="text" dir="auto">{content}</p>'


def figure(image: Image.Image) -> str:
    """An image inside the page itself, small."""
    image = image.copy()
    image.thumbnail((PAGE_IMAGE_PIXELS, PAGE_IMAGE_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


@torch.no_grad()
def explain(
    pipeline, inputs: dict[str, Any], image: Any, preprocess_params: dict[str, Any], reading: dict[str, Any]
) -> Explanation:
    """
    Reads a text with its image (and caption) and without; see [`TwoMNERPipeline.explain`].

    Args:
        pipeline ([`TwoMNERPipeline`]): the pipeline.
        inputs: one input of it, without its image.
        image: the image, of any kind that `load_image` takes, or `None`.
        preprocess_params, reading: options of the pipeline's `preprocess`, and of its `decode` and `postprocess`.
    """
    image = None if image is None else load_image(image)
    prepared = pipeline.preprocess({**inputs, "image": image}, **preprocess_params)
    explanation = Explanation(prepared.text, caption=inputs["caption"] if prepared.caption else None)
    states = global_states = grid = None
    if prepared.image is not None:
        explanation.image = image.crop(_seen_box(pipeline.processor.image_processor, image.size))
        pixels = prepared.image.pixels[None].to(pipeline.device)
        states, global_states = pipeline.model.model.encode_images(pixels)
        grid = _grid(pipeline.model.config.vision_config, states.shape[1], pixels.shape[-2:])
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
            if "gates" in evidence:
                explained.gate = float(evidence["gates"][span.start : span.end].mean())
            if "attention" in evidence and grid is not None:
                height, width, prefix = grid
                attention = evidence["attention"][span.start : span.end].mean(dim=0)  # (num_keys,)
                explained.attention = attention[prefix : prefix + height * width].reshape(height, width).numpy()
            explanation.entities.append(explained)
    if has_control:
        prepared.found = pipeline.decode([evidence["text_logits"]], **reading)[0]
        explanation.entities_without_image = pipeline.postprocess(prepared, **reading)
    return explanation


def _read(pipeline, token_ids, caption, states, global_states) -> dict[str, torch.Tensor]:
    """
    Reads one window of words: `logits` and, without the image, `text_logits` (1, num_words, num_labels); where there
    are an image and the model has them, `gates` (1, num_words) and `attention` (1, num_words, num_keys).
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
        fused = model.model.fuse(words, mask, *image, output_attentions=True)
    found = {"logits": emissions.logits, "text_logits": text_logits}
    if emissions.gates is not None:
        found["gates"] = emissions.gates
    # Of several attentions the last over the image itself: UMT's first is over an image that has already read.
    over_patches = [weights for weights in fused.image_attentions if weights.shape[-1] >= states.shape[1]]
    if over_patches:
        found["attention"] = over_patches[-1].mean(dim=1)  # (1, heads, words, keys) -> (1, words, keys)
    return found


def _grid(vision_config, num_patches: int, size: Sequence[int]) -> tuple[int, int, int] | None:
    """
    How a tower's sequence covers an image (height, width): height and width in patches, and the number of tokens
    before the first patch. `None` if it covers it in no way that fits.
    """
    patch = getattr(vision_config, "patch_size", None)
    if patch is not None:
        patch_height, patch_width = (patch, patch) if isinstance(patch, int) else tuple(patch)[-2:]
        height, width = size[0] // patch_height, size[1] // patch_width
        if 0 <= num_patches - height * width <= MAX_PREFIX_TOKENS:
            return height, width, num_patches - height * width
    # A convolutional map, or patches merged on the way: cells of one shape.
    height = max(round(math.sqrt(num_patches * size[0] / size[1])), 1)
    return (height, num_patches // height, 0) if num_patches % height == 0 else None


def _seen_box(image_processor, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of an image (width, height) that its processor does not crop away."""
    width, height = size
    crop = getattr(image_processor, "crop_size", None)
    if not getattr(image_processor, "do_center_crop", False) or not crop:
        return 0, 0, width, height
    target = dict(getattr(image_processor, "size", None) or {}) if image_processor.do_resize else {}
    if "shortest_edge" in target:
        scale_x = scale_y = target["shortest_edge"] / min(width, height)
    else:
        scale_x, scale_y = target.get("width", width) / width, target.get("height", height) / height
    seen_width, seen_height = min(width, crop["width"] / scale_x), min(height, crop["height"] / scale_y)
    left, top = (width - seen_width) / 2, (height - seen_height) / 2
    return round(left), round(top), max(round(left + seen_width), 1), max(round(top + seen_height), 1)


__all__ = ["EntityExplanation", "Explanation", "explain", "highlight"]
