"""Why 2M-NER found what it found: scores with and without picture or caption, gates, where in it the words looked."""

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
    from .images_2mner import load_image
except ImportError:
    from images_2mner import load_image

# Hue in degrees of the types that most data has; another type gets one of its own, the same on every page.
HUES = {"PER": 210, "LOC": 130, "ORG": 30, "MISC": 285, "OTHER": 285}
# Longest side of a picture in a page, in pixels: it is looked at, not analysed.
PAGE_IMAGE_PIXELS = 320
# Colours from cold to hot, RGB, at equal distances.
HEAT_COLOURS = np.array([[20, 10, 90], [130, 20, 140], [220, 60, 80], [250, 150, 40], [255, 240, 120]], dtype=float)
HEAT_OPACITY = 0.65
# Tokens that an image tower may put before its patches: one for the whole image, and registers.
MOST_PREFIX_TOKENS = 16

STYLE = """
body { font: 16px/1.6 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 2.1; }
mark { border-radius: .3em; padding: .15em .3em; color: inherit; }
mark small { font-size: .65em; font-weight: 600; margin-inline-start: .4em; opacity: .8; }
figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; }
figcaption { font-size: .85em; color: #555; }
section { border-top: 1px solid #ddd; padding: .6rem 0; }
td, th { text-align: left; padding: 0 1.2rem 0 0; font-weight: normal; }
th { color: #555; }
"""


@dataclass
class EntityExplanation:
    """
    One entity and what the picture had to do with it.

    Args:
        entity (`dict`): as the pipeline returns it.
        score_without_image (`float`, *optional*): the posterior of the same words and type when the model sees no
            picture (a caption is still read). This and the next four are `None` where there is no picture, or the
            model does not have it.
        gate (`float`, *optional*): how far the words let the picture in, 0 to 1, mean over them (`gated` models).
        attention (`numpy.ndarray` of shape `(height, width)`, *optional*): how the words' attention is spread over the
            picture's patches, mean over words and heads. It sums to 1, less `attention_elsewhere`.
        attention_elsewhere (`float`, *optional*): attention to vectors of no place in the picture: the tower's token
            for the whole, or the second tower's vector.
        similarity (`numpy.ndarray` of shape `(height, width)`, *optional*): cosine of the words and each patch where
            the alignment compares them (`token`, `both`), mean over words.
        score_without_caption (`float`, *optional*): the posterior of the same words and type when the model reads no
            caption (a picture is still seen); `None` where there is none.
    """

    entity: dict[str, Any]
    score_without_image: float | None = None
    gate: float | None = None
    attention: np.ndarray | None = None
    attention_elsewhere: float | None = None
    similarity: np.ndarray | None = None
    score_without_caption: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it in types that JSON knows."""
        return {
            **self.entity,
            "score_without_image": self.score_without_image,
            "gate": self.gate,
            "attention": None if self.attention is None else self.attention.tolist(),
            "attention_elsewhere": self.attention_elsewhere,
            "similarity": None if self.similarity is None else self.similarity.tolist(),
            "score_without_caption": self.score_without_caption,
        }


@dataclass
class Explanation:
    """
    What [`TwoMNERPipeline.explain`] returns.

    Args:
        text (`str`): the text.
        entities (`list[EntityExplanation]`): its entities, in order.
        entities_without_image (`list[dict]`, *optional*): what the model finds when it sees no picture; `None` where
            there is none anyway.
        image (`PIL.Image.Image`, *optional*): the part of the picture that the model saw.
        caption (`str`, *optional*): the caption that was read after the text (`image_as_text` models).
        entities_without_caption (`list[dict]`, *optional*): what the model finds when it reads no caption; `None`
            where there is none anyway.
    """

    text: str
    entities: list[EntityExplanation] = field(default_factory=list)
    entities_without_image: list[dict[str, Any]] | None = None
    image: Image.Image | None = None
    caption: str | None = None
    entities_without_caption: list[dict[str, Any]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it but the picture, in types that JSON knows."""
        return {
            "text": self.text,
            "entities": [entity.to_dict() for entity in self.entities],
            "entities_without_image": self.entities_without_image,
            "caption": self.caption,
            "entities_without_caption": self.entities_without_caption,
        }

    def heat_map(self, index: int, of: str = "attention") -> Image.Image:
        """
        Where in the picture entity `index` looked: the picture, with what counted most in the warmest colour.

        Args:
            index: number of the entity in `entities`.
            of: `"attention"`, or `"similarity"` where the model has one.

        Raises:
            IndexError: there is no such entity.
            ValueError: there is no picture, or the model has no such map.
        """
        if of not in ("attention", "similarity"):
            raise ValueError(f"`of` is {of!r}; expected 'attention' or 'similarity'.")
        values = getattr(self.entities[index], of)
        if self.image is None or values is None:
            raise ValueError(
                f"There is no {of} map of entity {index}: "
                + ("no picture was given." if self.image is None else "the model does not have it.")
            )
        lowest = 0.0 if of == "attention" else float(values.min())
        heat = (values - lowest) / max(float(values.max()) - lowest, 1e-12)
        heat = Image.fromarray(heat.astype(np.float32)).resize(self.image.size, Image.Resampling.BICUBIC)
        heat = np.asarray(heat).clip(0, 1)[..., None]  # (height, width, 1)
        stops = np.linspace(0, 1, len(HEAT_COLOURS))
        colours = np.concatenate([np.interp(heat, stops, channel) for channel in HEAT_COLOURS.T], axis=-1)
        opacity = HEAT_OPACITY * heat
        blended = np.asarray(self.image, dtype=float) * (1 - opacity) + colours * opacity
        return Image.fromarray(blended.round().astype(np.uint8))

    def to_html(self) -> str:
        """A page that needs nothing else: text and entities, caption, picture, and a section for each entity."""
        parts = [f'<p class="text" dir="auto">{highlight(self.text, [e.entity for e in self.entities])}</p>']
        if self.caption is not None:
            parts.append(f'<p class="text" dir="auto">Caption: {html.escape(self.caption)}</p>')
        for what, entities in (("picture", self.entities_without_image), ("caption", self.entities_without_caption)):
            if entities is not None:
                parts.append(f"<h2>Without the {what}</h2>")
                parts.append(f'<p class="text" dir="auto">{highlight(self.text, entities)}</p>')
        if self.image is not None:
            parts.append(_figure(self.image, "The picture, as far as the model saw it"))
        for index, entity in enumerate(self.entities):
            parts.append(self._section(index, entity))
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Named entities</title>'
            f"<style>{STYLE}</style></head>\n<body>\n<h1>Named entities</h1>\n"
            + "\n".join(parts)
            + "\n</body></html>\n"
        )

    def _section(self, index: int, entity: EntityExplanation) -> str:
        rows = [("Score", entity.entity["score"]), ("Score without the picture", entity.score_without_image)]
        rows += [("Score without the caption", entity.score_without_caption)]
        rows += [("Gate", entity.gate), ("Attention to no place in the picture", entity.attention_elsewhere)]
        rows += [(f"Or {other['entity_group']}", other["score"]) for other in entity.entity.get("alternatives", ())]
        table = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{value:.3f}</td></tr>" for name, value in rows if value is not None
        )
        figures = "".join(
            _figure(self.heat_map(index, of), caption)
            for of, caption in (("attention", "Where its words looked"), ("similarity", "What is like its words"))
            if self.image is not None and getattr(entity, of) is not None
        )
        title = highlight(entity.entity["word"], [{**entity.entity, "start": 0, "end": len(entity.entity["word"])}])
        return f'<section><p dir="auto">{title}</p><table>{table}</table>{figures}</section>'


def highlight(text: str, entities: Sequence[dict[str, Any]]) -> str:
    """
    A text as HTML, its entities marked and coloured by type; everything in it is escaped.

    Args:
        text: the text.
        entities: as the pipeline returns them: in order, without overlap.
    """
    parts, end = [], 0
    for entity in entities:
        kind, hue = entity["entity_group"], _hue(entity["entity_group"])
        word = html.escape(text[entity["start"] : entity["end"]])
        title = html.escape(f"{kind}, {entity['score']:.3f}", quote=True)
        parts.append(html.escape(text[end : entity["start"]]))
        style = f"background:hsl({hue} 80% 86%)"
        parts.append(f'<mark style="{style}" title="{title}">{word}<small>{html.escape(kind)}</small></mark>')
        end = entity["end"]
    return "".join([*parts, html.escape(text[end:])])


def explain(
    pipeline, inputs: dict[str, Any], image: Any, preprocess_params: dict[str, Any], reading: dict[str, Any]
) -> Explanation:
    """
    Reads a text with its picture and without, with its caption and without, and keeps what lies between; see
    [`TwoMNERPipeline.explain`].

    Args:
        pipeline ([`TwoMNERPipeline`]): the pipeline.
        inputs: one input of it, without its image.
        image: the image, of any kind that the processor takes, or `None`.
        preprocess_params, reading: options of the pipeline's `preprocess`, and of its `decode` and `postprocess`.
    """
    image = None if image is None else load_image(image)
    prepared = pipeline.preprocess({**inputs, "image": image}, **preprocess_params)
    explanation = Explanation(prepared.text)
    seen, read = prepared.picture is not None, bool(prepared.caption)
    if seen:
        explanation.image = image.crop(_seen_box(pipeline.processor.image_processor, image.size))
    if read:
        explanation.caption = inputs["caption"]
    if not prepared.windows:
        explanation.entities_without_image = [] if seen else None
        explanation.entities_without_caption = [] if read else None
        return explanation

    evidence = _read(pipeline, prepared)
    spans = pipeline.decode([evidence["logits"]], **reading)[0]
    unseen = pipeline.score_spans(evidence["imageless_logits"], spans) if seen else [None] * len(spans)
    unread = pipeline.score_spans(evidence["captionless_logits"], spans) if read else [None] * len(spans)
    grid = None
    if seen:
        grid = _grid(pipeline.model.config.vision_config, evidence["num_patches"], evidence["size"])
    for span, without_image, without_caption in zip(spans, unseen, unread, strict=True):
        prepared.found = [span]
        for entity in pipeline.postprocess(prepared, **reading):
            explained = EntityExplanation(entity, without_image, score_without_caption=without_caption)
            if "gates" in evidence:
                explained.gate = float(evidence["gates"][span.start : span.end].mean())
            for name in ("attention", "similarity"):
                if name in evidence and grid is not None:
                    height, width, prefix = grid
                    values = evidence[name][span.start : span.end].mean(dim=0)  # (keys,)
                    patches = values[prefix : prefix + height * width]
                    setattr(explained, name, patches.reshape(height, width).numpy())
                    if name == "attention":
                        explained.attention_elsewhere = max(0.0, float(values.sum() - patches.sum()))
            explanation.entities.append(explained)
    if seen:
        prepared.found = pipeline.decode([evidence["imageless_logits"]], **reading)[0]
        explanation.entities_without_image = pipeline.postprocess(prepared, **reading)
    if read:
        prepared.found = pipeline.decode([evidence["captionless_logits"]], **reading)[0]
        explanation.entities_without_caption = pipeline.postprocess(prepared, **reading)
    return explanation


@torch.no_grad()
def _read(pipeline, prepared) -> dict[str, Any]:
    """
    Runs the text tower once over each window (with a caption twice, with it and without), the image tower once, and
    the collaboration with the image and without.

    Returns:
        `logits` and `imageless_logits` (words, num_labels), equal if there is no image; with a caption also
        `captionless_logits`; with an image also `num_patches`, the `size` of the pixels and, where the model has them,
        `gates` (words,), `attention` and `similarity` (words, keys).
    """
    model, base = pipeline.model, pipeline.model.model
    states = global_states = None
    if prepared.picture is not None:
        pixels = pipeline.processor.pixel_values([prepared.picture.pixels])
        states, global_states = base.encode_images(pixels.to(model.device))
    parts: dict[str, list[torch.Tensor]] = {}
    with pipeline.device_placement():
        for window in prepared.windows:
            pieces = prepared.pieces[window.start : window.stop]
            found = _read_window(pipeline, pieces, prepared.caption, states, global_states)
            if prepared.caption:
                found["captionless_logits"] = _read_window(pipeline, pieces, [], states, global_states)["logits"]
            kept = slice(window.keep_start - window.start, window.keep_stop - window.start)
            for name, values in found.items():
                parts.setdefault(name, []).append(values[0, kept].float().cpu())
    evidence: dict[str, Any] = {name: torch.cat(values) for name, values in parts.items()}
    if states is not None:
        evidence |= {"num_patches": states.shape[1], "size": pixels.shape[-2:]}
    return evidence


def _read_window(
    pipeline,
    pieces: list[list[int]],
    caption: list[int],
    states: torch.Tensor | None,
    global_states: torch.Tensor | None,
) -> dict[str, torch.Tensor]:
    """One window's words, of which the pieces are given, before a caption's: what `_read` returns, (1, words, ...)."""
    batch = pipeline.processor.encode_pieces([pieces], captions=[caption] if caption else None)
    outputs = pipeline.model.model(**pipeline.ensure_tensor_on_device(**batch))
    logits = pipeline.model.emissions_of_states(outputs.text_word_states, outputs.word_mask.bool()).logits
    found = {"logits": logits, "imageless_logits": logits}
    return found if states is None else found | _with_image(pipeline.model, outputs, states, global_states)


def _with_image(model, outputs, states: torch.Tensor, global_states: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """One window's words with the image: emissions, gates, attention and similarity, each (1, words, ...)."""
    base, mask = model.model, outputs.word_mask.bool()
    index = torch.zeros(1, dtype=torch.long, device=states.device)
    fused = base.fuse(outputs.text_word_states, mask, states, global_states, index, output_attentions=True)
    emissions = model.emissions_of_states(outputs.text_word_states, mask, states, global_states, index)
    found = {"logits": emissions.logits}
    if emissions.gates is not None:
        found["gates"] = emissions.gates
    # Of several attentions the last over the image itself: UMT's first is over an image that has already read.
    over_patches = [weights for weights in fused.image_attentions if weights.shape[-1] >= states.shape[1]]
    if over_patches:
        found["attention"] = over_patches[-1].mean(dim=1)  # (1, heads, words, keys) -> (1, words, keys)
    if base.alignment is not None and base.alignment.compares_words:
        words, _, patches, _ = base.alignment.embed(outputs.text_word_states, mask, states, index)
        found["similarity"] = words @ patches.transpose(1, 2)
    return found


def _grid(vision_config, num_patches: int, size: Sequence[int]) -> tuple[int, int, int] | None:
    """
    How an image tower's sequence lies over its picture: height and width in patches, and the number of tokens before
    the first patch. `None` if it lies in no way that fits.

    Args:
        vision_config: the tower's configuration.
        num_patches: length of its sequence.
        size: height and width of the pixels it reads.
    """
    patch = getattr(vision_config, "patch_size", None)
    if patch is not None:
        patch_height, patch_width = (patch, patch) if isinstance(patch, int) else tuple(patch)[-2:]
        height, width = size[0] // patch_height, size[1] // patch_width
        if 0 <= num_patches - height * width <= MOST_PREFIX_TOKENS:
            return height, width, num_patches - height * width
    # A convolutional map, or patches merged on the way: the factors that are nearest to the picture's own shape.
    shapes = [(height, num_patches // height) for height in range(1, num_patches + 1) if num_patches % height == 0]
    height, width = min(shapes, key=lambda shape: abs(math.log(shape[0] / shape[1] * size[1] / size[0])))
    if not 0.5 <= height / width * size[1] / size[0] <= 2:
        return None
    return height, width, 0


def _seen_box(image_processor, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of a picture (width, height) that its processor does not crop away."""
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


def _hue(entity_type: str) -> int:
    return HUES.get(entity_type, zlib.crc32(entity_type.encode()) % 360)


def _figure(image: Image.Image, caption: str) -> str:
    """An image inside the page itself, small."""
    image = image.copy()
    image.thumbnail((PAGE_IMAGE_PIXELS, PAGE_IMAGE_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    content = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><img src="data:image/jpeg;base64,{content}" width="{image.width}" height="{image.height}" '
        f'alt="{html.escape(caption, quote=True)}"><figcaption>{html.escape(caption)}</figcaption></figure>'
    )


__all__ = ["EntityExplanation", "Explanation", "explain", "highlight"]
