"""Pipeline of 2M-NER: raw text and an optional image in, entities with character offsets and scores out."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from numbers import Integral, Real
from reprlib import Repr
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Pipeline
from transformers.utils import logging

try:
    from .configuration_2mner import PushedWithCard, set_in_package
    from .explain_2mner import Explanation, explain
    from .onnx_2mner import OnnxEmissions
    from .processing_2mner import VISIBLE, ImageLike, Window, given_words, image_id, index_images, load_image
except ImportError:
    from configuration_2mner import PushedWithCard, set_in_package
    from explain_2mner import Explanation, explain
    from onnx_2mner import OnnxEmissions
    from processing_2mner import VISIBLE, ImageLike, Window, given_words, image_id, index_images, load_image

logger = logging.get_logger(__name__)

# The stock pipeline's ways to make entities of tokens. The CRF gives whole entities, so all but "none" are one here.
AGGREGATION_STRATEGIES = ("none", "simple", "first", "average", "max")

OUTSIDE = "O"
# What `LinearChainCRF.span_log_prob` is asked for: row, start, end, tag of the first word, tag of the others (-1: one
# word, whatever follows).
Query = tuple[int, int, int, int, int]

# Tokens of a batch, padding included. A CPU gains nothing from more (`benchmarks/speed/`), an accelerator does.
CPU_BATCH_TOKENS = 512
ACCELERATOR_BATCH_TOKENS = 4096
BATCH_IMAGES = 16  # that are opened and then encoded at once
DECODED_WORDS = 8192  # that are decoded at once, padding included
# Texts that are sorted by length together (3 % of a batch is then padding), whose images are in memory at once. Of a
# stream so many are read before the first is answered, at first fewer; of a list so many words.
READ_TEXTS = 512
FIRST_TEXTS = 8
LOOK_AHEAD_WORDS = 65_536

INPUT = 'a string, {"text": ..., "image": an image or None}, or {"tokens": a list of words, "image": ...}'
# What other libraries call an option or a key, and its name here.
MEANT = {"threshold": "min_score", "labels": "entity_types"}
MEANT |= dict.fromkeys(("img", "photo", "picture", "image_path"), "image")

# Shows a value as it came, cut to what fits a message.
SHOWN = Repr()
SHOWN.maxstring = SHOWN.maxother = 80
SHOWN.maxlevel = 2


class InputError(ValueError):
    """An option that cannot be used. Its message is safe to tell whoever sent it."""


def _is_whole(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _is_share(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= value <= 1  # type: ignore[operator]


# Each option of a call: whether a value is right, and what would be. `None` is always its default.
OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    # The stock pipeline's enumeration is taken as well.
    "aggregation_strategy": (
        lambda value: str(getattr(value, "value", value)).lower() in AGGREGATION_STRATEGIES,
        f"one of {', '.join(AGGREGATION_STRATEGIES)}",
    ),
    "min_score": (
        lambda value: all(map(_is_share, value.values())) if isinstance(value, Mapping) else _is_share(value),
        'a number from 0 to 1, or one for each type: {"PER": 0.5, ...}',
    ),
    "entity_types": (
        lambda value: isinstance(value, (str, list, tuple, set)) and all(isinstance(item, str) for item in value),
        "a list of strings",
    ),
    "top_k": (_is_whole(1), "a whole number, 1 or more"),
    "stride": (_is_whole(0), "a whole number, 0 or more"),
    "batch_size": (_is_whole(1), "a whole number, 1 or more"),
    "num_workers": (_is_whole(0), "a whole number, 0 or more"),
    "errors": (lambda value: value in ("raise", "skip"), "'raise' or 'skip'"),
    "offsets": (lambda value: value in ("characters", "utf-16"), "'characters' or 'utf-16'"),
}


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """
    The options that are not `None`.

    Raises:
        TypeError: an option that does not exist.
        InputError: a value that is not right.
    """
    for name, value in options.items():
        if name not in OPTIONS:
            near = get_close_matches(MEANT.get(name, name), ["image", "images", *OPTIONS], n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"expected one of {', '.join(OPTIONS)}."
            raise TypeError(f"There is no option `{name}`; {hint}")
        is_right, expected = OPTIONS[name]
        if value is not None and not is_right(value):
            raise InputError(f"`{name}` is {SHOWN.repr(value)}; expected {expected}.")
    return {name: value for name, value in options.items() if value is not None}


class Span(NamedTuple):
    """
    An entity: words `start:end`, its first tag, and log P(these words and no more are an entity of this type). With
    `aggregation_strategy="none"`: one word, its tag, and log P(this word has this tag).
    """

    start: int
    end: int
    label: str
    log_prob: float
    alternatives: list[tuple[str, float]] | None = None  # with `top_k`: other types and their probabilities

    @property
    def entity_type(self) -> str:
        return self.label[2:]


@dataclass
class SharedImage:
    """An image of one text or of several: opened once, encoded once."""

    source: ImageLike
    image_id: int = 0  # the hash of its pixels, once it is open
    pixels: torch.Tensor | None = None  # (num_channels, height, width), from when it is open until it is encoded
    states: tuple[torch.Tensor, ...] | None = None  # what `encode_images` gave for it
    error: Exception | None = None  # why it did not open


@dataclass
class PreparedText:
    """A text on its way through the pipeline."""

    text: str
    words: list[str]
    offsets: list[tuple[int, int]]  # the (start, end) characters in `text` of each word
    image: SharedImage | None = None
    caption: list[int] = field(default_factory=list)  # its token ids, read after every window
    token_ids: list[list[int]] = field(default_factory=list)  # of each word
    windows: list[Window] = field(default_factory=list)  # none for a text without a word
    emissions: dict[Window, torch.Tensor] = field(default_factory=dict)  # (kept words, num_labels) of each window
    found: list[Span] = field(default_factory=list)
    error: Exception | None = None  # why there will be no result
    is_last: bool = False  # whether the source of the texts failed here


def packed(lengths: Sequence[int], budget: int, size: int = 0) -> list[list[int]]:
    """Batches of rows of about one length, from long to short, as places in `lengths`: `size` rows each or, if that is
    0, as many as `budget` tokens hold with their padding (at least one)."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    batches, start = [], 0
    while start < len(order):
        stop = start + (size or max(1, budget // max(1, lengths[order[start]])))
        batches.append(order[start:stop])
        start = stop
    return batches


def _parts_of(texts: Iterable[PreparedText], size: int) -> Iterator[list[PreparedText]]:
    """Parts of about `size` texts; those that share an image are in one, so that it is encoded once."""
    first: dict[int, int] = {}
    part: list[PreparedText] = []
    for text in sorted(texts, key=lambda text: first.setdefault(id(text.image or text), len(first))):
        if len(part) >= size and (text.image is None or text.image is not part[-1].image):
            yield part
            part = []
        part.append(text)
    yield part


class TwoMNERPipeline(PushedWithCard, Pipeline):
    """
    Finds the named entities of texts, each with an image or without.

    ```python
    >>> from transformers import pipeline

    >>> ner = pipeline("token-classification", model=folder, trust_remote_code=True)
    >>> ner("Jordan was seen in Paris.", images="photo.jpg")
    >>> ner(["Jordan was seen in Paris.", "Orange gewinnt."], images=["photo.jpg", None], batch_size=8)
    >>> ner({"text": "Jordan was seen in Paris.", "image": "photo.jpg"}, entity_types=["PER"], min_score=0.5)
    >>> ner.explain("Jordan was seen in Paris.", "photo.jpg").save("page.html")
    ```

    A text longer than the encoder takes is read in overlapping windows, each with the same image; their emissions are
    joined and decoded once, so that an entity across a seam is found once, and nothing is cut off.

    Texts are batched by length. Results come in input order and equal those of single calls (to float tolerance). An
    image that several texts share is opened and encoded once.

    Every option of a call may also be given here, as its default.

    Args:
        model ([`TwoMNERForTokenClassification`]): with IOB2 labels.
        processor ([`TwoMNERProcessor`]): its processor.
        onnx (`bool` or `str`, *optional*): compute the emissions by ONNX Runtime: `True` for the export in the model's
            folder or in the folder `onnx` of that, or the folder of one. `explain` stays with PyTorch.
        **kwargs: as for any pipeline: `device`, `batch_size`, `num_workers`, ...; and the options of a call.

    Raises:
        ValueError: no processor, labels that are not IOB2, no whole export of this model, or an option of a wrong
            value ([`InputError`]).
        ImportError: `onnx` without ONNX Runtime.
    """

    InputError = InputError  # for whoever has the pipeline, but not the module of remote code that it comes from

    model: Any
    processor: Any
    _load_processor = True  # type: ignore[assignment]
    _load_tokenizer = _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = _load_video_processor = False  # type: ignore[assignment]

    def __init__(self, model, processor=None, onnx: bool | str | os.PathLike | None = None, **kwargs):
        if processor is None:
            raise ValueError(
                "TwoMNERPipeline was given no processor; pass processor=AutoProcessor.from_pretrained(folder, "
                'trust_remote_code=True), or load all at once: pipeline("token-classification", model=folder, '
                "trust_remote_code=True)."
            )
        self._labels = dict(model.config.id2label)
        label2id = {label: index for index, label in self._labels.items()}
        # Tag that begins an entity -> its type and the tag that continues it, -1 where the type has none.
        self._begins = {
            index: (label[2:], label2id.get(f"I-{label[2:]}", -1))
            for label, index in label2id.items()
            if label.startswith("B-")
        }
        if not self._begins or OUTSIDE not in label2id:
            raise ValueError(f"The model's labels are {list(label2id)}; expected IOB2: O, B-PER, I-PER, ...")
        self._outside = label2id[OUTSIDE]
        for name in ("batch_size", "num_workers"):  # the base class keeps these unseen
            _checked({name: kwargs.get(name)})
        super().__init__(model=model, processor=processor, **kwargs)
        self.model.eval()
        self._onnx = OnnxEmissions.for_model(self.model, onnx) if onnx else None

    @property
    def entity_types(self) -> list[str]:
        """The types that the model knows."""
        return [entity_type for entity_type, _ in self._begins.values()]

    def __getstate__(self) -> dict[str, Any]:
        """Without the number of calls: `datasets` would take a pipeline that has been called for another one."""
        return {**self.__dict__, "call_count": 0}

    def __call__(  # type: ignore[override]
        self, inputs, images=None, image=None, **kwargs
    ) -> list[dict] | list[list[dict]] | Iterator[list[dict]]:
        """
        Finds the entities of one text or many.

        Args:
            inputs: a string; or `{"text": ..., "image": ...}` (the image may be left out or `None`; a model of
                `image_as_text` reads a `"caption"`, too); or a list of these; or a dataset, generator or other
                iterable of them, which is read a few texts ahead of the results. A text split already is
                `{"tokens": [...], "image": ...}`; offsets then are those in the words joined by spaces, and no entity
                begins or ends with an invisible word. Of a dataset with columns, `text` (else `tokens`) and `image`
                are read.
            images, image: one argument with two names: the image of one string, or a list of images and `None`s, one
                for each of a list of strings. An image is a PIL image, path, URL, bytes, base64 or array.
            aggregation_strategy (`str`, *optional*): `"none"` for the label of each word, as the stock pipeline has it
                of each token; `"simple"`, `"first"`, `"average"` and `"max"` give whole entities, as by default.
            min_score (`float` or `dict`, *optional*): what scores less is left out; `{"PER": 0.5}` sets it by type.
            entity_types (`list[str]`, *optional*): what is of another type is left out.
            top_k (`int`, *optional*): adds to each entity its `"alternatives"`.
            stride (`int`, *optional*): tokens that neighbouring windows of a long text share. Default: at most 64.
            batch_size (`int`, *optional*): windows the model reads at once. Default: as many as make 512 tokens with
                their padding, 4,096 on an accelerator. With 1, a stream is not read ahead.
            num_workers (`int`, *optional*, defaults to 0): threads that open images.
            errors (`str`, *optional*, defaults to `"raise"`): with `"skip"`, the result of an input that cannot be
                read is `{"error": why}`, and the next are read.
            offsets (`str`, *optional*, defaults to `"characters"`): `"utf-16"` counts as JavaScript and Java do.

        Returns:
            For one text the list of its entities in order; for a list of texts the list of these lists; for another
            iterable an iterator over them. An entity is `{"entity_group": str, "score": float, "word": str, "start":
            int, "end": int}` with character offsets, `text[start:end] == word`; the score is the posterior probability
            under the CRF that these words, and no more, are an entity of this type.

            With `top_k` also `"alternatives"`, best first, each `{"entity_group": str, "score": float}`: the posterior
            of the same words as an entity of another type.

            With `aggregation_strategy="none"` a labelled word is `{"entity": "B-PER", "score": float, "index": int,
            "word": str, "start": int, "end": int}`: `score` is the posterior of this label at this word, `index` the
            word's number, from 1.

        Raises:
            TypeError: an input of another type, or an option that does not exist.
            InputError: a `ValueError`: an option of a wrong value, or a type that the model does not know.
            ValueError: texts and images that do not match in number, an image that does not open.
        """
        kwargs, images = _checked(kwargs), _one_of(image, images)
        kwargs["batch_size"] = kwargs.get("batch_size") or self._batch_size or 0  # 0: by the number of tokens
        if isinstance(inputs, (str, dict)):
            if isinstance(images, (list, tuple)):
                raise ValueError(f"Got a list of {len(images)} images for one text; give the image itself.")
            return super().__call__(_paired([inputs], [images]), **kwargs)[0]
        if images is not None:
            inputs, images = _listed(inputs), _listed(images)
        if isinstance(inputs, (list, tuple)):
            if images is not None and not isinstance(images, (list, tuple)):
                came = f"one image of type {type(images).__name__} for a list of {len(inputs)} texts"
                raise ValueError(f"Got {came}; give a list of images, with None for a text without one.")
            return super().__call__(_paired(inputs, images), **kwargs) if inputs or images else []
        if images is not None:
            came = f"`images` cannot be matched with texts from a {type(inputs).__name__}"
            raise ValueError(came + '; let it yield {"text": ..., "image": ...}, or pass two lists.')
        return super().__call__(_stream(inputs), **kwargs)

    def explain(self, text: str | dict, image: ImageLike | None = None, images=None, **options) -> Explanation:
        """
        The entities of a text as a call finds them, and what its image had to do with them.

        Args:
            text: a string, or `{"text": ..., "image": ..., "caption": ...}`, or `{"tokens": ...}` likewise.
            image, images: its image, of any kind that `load_image` takes: one argument with two names.
            **options: `min_score`, `entity_types`, `top_k`, `stride`, as of a call.

        Returns:
            [`Explanation`]: data (`to_dict`) and a page, which a notebook shows (`save`, `to_html`).

        Raises:
            TypeError, ValueError: as of a call.
        """
        if refused := sorted(set(options) & set(OPTIONS) - {"min_score", "entity_types", "top_k", "stride"}):
            raise TypeError(f"explain() is about the whole entities of one text; it takes no {', '.join(refused)}.")
        preprocess_params, _, postprocess_params = self._sanitize_parameters(**options)
        preprocess_params, image = {**self._preprocess_params, **preprocess_params}, _one_of(image, images)
        text, own_image, words, caption = _parts(text)
        if own_image is not None and image is not None:
            raise ValueError("Got an image in the input and another as `image`; give one.")
        return explain(
            self,
            {**({"text": text} if words is None else {"tokens": words}), "caption": caption},
            own_image if image is None else image,
            preprocess_params,
            self._postprocess_params
            | postprocess_params
            | {"aggregation_strategy": "simple", "offsets": "characters"},
        )

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """Saves model, code and processor: all that `pipeline(..., model=save_directory)` needs."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def _sanitize_parameters(self, **options):
        options = _checked(options)
        if "aggregation_strategy" in options:
            strategy = options["aggregation_strategy"]
            options["aggregation_strategy"] = str(getattr(strategy, "value", strategy)).lower()
        if isinstance(options.get("entity_types"), str):
            options["entity_types"] = [options["entity_types"]]
        least = options.get("min_score")
        named = [*options.get("entity_types", ()), *(least if isinstance(least, Mapping) else ())]
        unknown = [kind for kind in named if kind not in self.entity_types]
        if unknown:
            types = self.entity_types
            raise InputError(f"The model knows no entities of {SHOWN.repr(unknown)}; its types are {types}.")
        preprocess_params = {"stride": options.pop("stride")} if "stride" in options else {}
        forward_params = {"errors": options.pop("errors")} if "errors" in options else {}
        return preprocess_params, forward_params, options

    # Texts and images to batches

    def preprocess(self, inputs, **preprocess_params) -> PreparedText:  # type: ignore[override]
        """Splits a text into words and windows, and opens its image."""
        text = self._split(inputs, {}, is_stream=False)
        self._cut([text], **preprocess_params)
        if text.image is not None:
            self._open(text.image)
            if text.image.error is not None:
                raise text.image.error
        return text

    def get_iterator(
        self, inputs, num_workers: int, batch_size: int, preprocess_params, forward_params, postprocess_params
    ) -> Iterator[Any]:
        """The entities of each input, in order. Batches are filled with windows, whichever texts they come from."""
        is_stream, skips = not isinstance(inputs, list), forward_params.get("errors") == "skip"
        batch_tokens = CPU_BATCH_TOKENS if self.device.type == "cpu" else ACCELERATOR_BATCH_TOKENS
        num_texts = (batch_size or FIRST_TEXTS) if is_stream else math.inf
        items = iter(inputs)
        with ThreadPoolExecutor(num_workers) if num_workers else nullcontext() as pool:
            while texts := self._look_ahead(items, num_texts, batch_size, is_stream, skips, preprocess_params):
                if is_stream and batch_size != 1:  # a first result comes soon; later, more can be sorted
                    num_texts = min(2 * num_texts, max(READ_TEXTS, batch_size))
                for some in _parts_of(texts, max(READ_TEXTS, batch_size)):
                    self._read_texts(some, batch_tokens, batch_size, pool)
                self._decode(texts, postprocess_params)
                for text in texts:
                    error = text.error or (text.image.error if text.image is not None else None)
                    if error is None:
                        yield self.postprocess(text, **postprocess_params)
                    elif skips and not text.is_last and isinstance(error, (TypeError, ValueError)):
                        yield {"error": str(error)}
                    else:
                        raise error

    def _read_texts(self, texts: Sequence[PreparedText], batch_tokens: int, batch_size: int, pool):
        """Gives each text the emissions of its windows, which are sorted by length."""
        images = list({id(text.image): text.image for text in texts if text.image is not None}.values())
        for start in range(0, len(images), BATCH_IMAGES):
            some = images[start : start + BATCH_IMAGES]
            list((pool.map if pool else map)(self._open, some))  # one thread beside PyTorch's would slow both
            self._encode([image for image in some if image.error is None])
        readable = [text for text in texts if text.image is None or text.image.error is None]
        rows = [(text, window) for text in readable for window in text.windows]
        specials = self.processor.max_length - self.processor.token_budget()
        lengths = [
            sum(map(len, text.token_ids[window.start : window.stop])) + len(text.caption) + specials
            for text, window in rows
        ]
        for batch in packed(lengths, batch_tokens, batch_size):
            self._read([rows[place] for place in batch])
        for image in images:
            image.states = None

    def _look_ahead(self, items, num_texts, batch_size, is_stream, skips, params) -> list[PreparedText]:
        """The next texts; what cannot be read is there with its error, and the last of them unless `skips`."""
        texts: list[PreparedText] = []
        images: dict[Any, SharedImage] = {}
        num_words = 0
        try:
            for item in items:
                try:
                    texts.append(self._split(item, images, is_stream))
                except (TypeError, ValueError) as error:
                    texts.append(PreparedText("", [], [], error=error))
                    if not skips:
                        break
                num_words += len(texts[-1].words) + 1
                if len(texts) >= num_texts or (num_words >= LOOK_AHEAD_WORDS and len(texts) >= batch_size):
                    break
        except Exception as error:  # raised when the texts before it are answered
            texts.append(PreparedText("", [], [], error=error, is_last=True))
        self._cut(texts, **params)
        return texts

    def _split(self, inputs: str | dict, images: dict[Any, SharedImage], is_stream: bool) -> PreparedText:
        """A text in words, and its image: one of `images` where it is there already."""
        text, image, words, caption = _parts(inputs)
        if words is None:
            words, offsets = self.processor.split_words(text)
        else:
            text, offsets = self.processor.join_words(words)
        if caption is not None and not self.model.config.image_as_text:
            raise ValueError("Got a caption, and this model was not trained to read captions (image_as_text=False).")
        caption_ids = [] if caption is None else self.processor.caption_ids([caption])[0]
        shared = None
        if image is not None and self.model.config.collaboration == "none":
            logger.warning_once("This model reads text only (collaboration='none'): images have no effect.")
        elif image is not None:
            shared = SharedImage(image)
            key = (image.get("bytes") or image.get("path")) if isinstance(image, dict) else image
            if not isinstance(key, (str, bytes, os.PathLike)):
                key = id(image)
                if is_stream:  # its pixels may be others when it is needed
                    self._open(shared)
                    if shared.error is not None:
                        raise shared.error
                    key = shared.image_id
            shared = images.setdefault(key, shared)
        return PreparedText(text, words, offsets, shared, caption_ids)

    def _cut(self, texts: Sequence[PreparedText], stride: int | None = None) -> None:
        """Cuts texts into windows that fit the encoder."""
        for text, token_ids in zip(texts, self.processor.token_ids([text.words for text in texts]), strict=True):
            text.token_ids = token_ids
            if text.words:
                text.windows = self.processor.windows_of(list(map(len, token_ids)), stride)

    def _open(self, image: SharedImage) -> None:
        """Opens an image if that is still to be done; what goes wrong is kept in `error`."""
        if image.source is None:
            return
        try:
            opened = load_image(image.source)
            image.image_id, image.pixels = image_id(opened), self.processor.pixel_values(opened)
        except Exception as error:  # raised when the first text that shows it is answered
            image.error = error
        image.source = None

    def _encode(self, images: Sequence[SharedImage]) -> None:
        """Runs the image tower over the distinct ones of opened images."""
        encoder = self.model.model if self._onnx is None else self._onnx
        distinct = {image.image_id: image.pixels for image in images if image.pixels is not None}
        if distinct:
            with self.device_placement(), torch.no_grad():
                encoded = encoder.encode_images(torch.stack(list(distinct.values())).to(self.device))
            states = zip(*(states for states in encoded if states is not None), strict=True)
            known = dict(zip(distinct, states, strict=True))
        for image in images:
            image.states, image.pixels = known[image.image_id], None

    def _read(self, rows: Sequence[tuple[PreparedText, Window]]) -> None:
        """Runs the model over one batch of windows and hands each text the emissions of the words its windows keep."""
        captions = [text.caption for text, _ in rows] if any(text.caption for text, _ in rows) else None
        token_ids = [text.token_ids[window.start : window.stop] for text, window in rows]
        batch = self.processor.encode_ids(token_ids, captions)
        images = {text.image.image_id: text.image for text, _ in rows if text.image is not None}
        if images:
            batch |= index_images([None if text.image is None else text.image.image_id for text, _ in rows])
            states = zip(*(image.states for image in images.values()), strict=True)
            names = ("image_features", "global_image_features")
            batch |= {name: torch.stack(of_all) for name, of_all in zip(names, states, strict=False)}
        logits = self.forward(batch)["logits"].float()  # (B, W, K)
        for row, (text, window) in enumerate(rows):
            kept = slice(window.keep_start - window.start, window.keep_stop - window.start)
            text.emissions[window] = logits[row, kept]

    def _forward(self, model_inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:  # type: ignore[override]
        if self._onnx is not None:
            return {"logits": torch.from_numpy(self._onnx(**model_inputs))}
        return {"logits": self.model.emissions(**model_inputs).logits}

    # Emissions to entities

    def _decode(self, texts: Sequence[PreparedText], postprocess_params: dict) -> None:
        """Finds what is in texts whose windows are read."""
        texts = [text for text in texts if text.emissions]
        for group in packed([len(text.words) for text in texts], DECODED_WORDS):
            emissions = [torch.cat([texts[place].emissions[w] for w in texts[place].windows]) for place in group]
            for place, found in zip(group, self.decode(emissions, **postprocess_params), strict=True):
                texts[place].found, texts[place].emissions = found, {}

    @torch.no_grad()
    def decode(
        self,
        emissions: Sequence[torch.Tensor],
        aggregation_strategy: str = "simple",
        top_k: int | None = None,
        **selection,
    ) -> list[list[Span]]:
        """
        Viterbi and posteriors over whole texts.

        Args:
            emissions: of each text, shape (num_words, num_labels).
            aggregation_strategy, top_k: as of a call; what else is given is `postprocess`'s.

        Returns:
            The entities of each (with `"none"`, the labels of its words), read strictly: an entity begins with a B-
            tag and goes on with I- tags of its type.
        """
        device = self.device
        lengths = torch.tensor([len(scores) for scores in emissions], device=device)
        padded = pad_sequence(list(emissions), batch_first=True).to(device)  # (B, W, K)
        mask = torch.arange(padded.shape[1], device=device) < lengths[:, None]  # (B, W)
        with self.device_placement():
            rows = [
                tags[:length]
                for tags, length in zip(self.model.crf.decode(padded, mask).tolist(), lengths.tolist(), strict=True)
            ]
            spans: list[Query] = []
            for row, tags in enumerate(rows):
                if aggregation_strategy == "none":
                    spans += [(row, word, word + 1, tag, -1) for word, tag in enumerate(tags) if tag != self._outside]
                else:
                    spans += [(row, *span) for span in self._spans_of(tags)]
            top_k = None if aggregation_strategy == "none" else top_k
            # All queries at once: the CRF's forward and backward messages are then computed once.
            queries = spans + [other for span in spans if top_k for other in self._other_types(span)]
            answers = dict(zip(queries, self._log_probs(padded, mask, queries), strict=True))
        found: list[list[Span]] = [[] for _ in rows]
        for span in spans:
            row, start, end, tag, _ = span
            alternatives = None
            if top_k:
                others = [(self._begins[other[3]][0], math.exp(answers[other])) for other in self._other_types(span)]
                alternatives = sorted(others, key=lambda pair: -pair[1])[:top_k]
            found[row].append(Span(start, end, self._labels[tag], answers[span], alternatives))
        return found

    @torch.no_grad()
    def score_spans(self, emissions: torch.Tensor, spans: Sequence[Span]) -> list[float]:
        """The posteriors of given entities in a text whose emissions are (num_words, num_labels)."""
        tags = {entity_type: (begin, inside) for begin, (entity_type, inside) in self._begins.items()}
        emissions = emissions[None].to(self.device)
        mask = torch.ones(emissions.shape[:2], dtype=torch.bool, device=emissions.device)
        queries = [(0, span.start, span.end, *tags[span.entity_type]) for span in spans]
        with self.device_placement():
            return [math.exp(log_prob) for log_prob in self._log_probs(emissions, mask, queries)]

    def postprocess(  # type: ignore[override]
        self,
        prepared: PreparedText,
        min_score: float | Mapping[str, float] = 0.0,
        entity_types: Sequence[str] | None = None,
        aggregation_strategy: str = "simple",
        offsets: str = "characters",
        **reading,
    ) -> list[dict[str, Any]]:
        """The entities (or labels) of a decoded text, with offsets into it; `reading` was `decode`'s."""
        items = []
        for span in prepared.found:
            score = math.exp(span.log_prob)
            least = min_score.get(span.entity_type, 0.0) if isinstance(min_score, Mapping) else min_score
            if score < least or (entity_types is not None and span.entity_type not in entity_types):
                continue
            shown = [word for word in range(span.start, span.end) if VISIBLE.search(prepared.words[word])]
            if not shown:
                continue
            start, end = prepared.offsets[shown[0]][0], prepared.offsets[shown[-1]][1]
            if aggregation_strategy == "none":
                item = {"entity": span.label, "score": score, "index": span.end}
            else:
                item = {"entity_group": span.entity_type, "score": score}
            item["word"] = prepared.text[start:end]
            if offsets == "utf-16":
                start, end = (len(prepared.text[:n].encode("utf-16-le", "surrogatepass")) // 2 for n in (start, end))
            item |= {"start": start, "end": end}
            if span.alternatives is not None:
                item["alternatives"] = [{"entity_group": other, "score": score} for other, score in span.alternatives]
            items.append(item)
        return items

    def _spans_of(self, tags: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
        """Start, end, begin tag and inside tag of each entity in a row of tags."""
        for start, tag in enumerate(tags):
            if tag in self._begins:
                inside, end = self._begins[tag][1], start + 1
                while end < len(tags) and tags[end] == inside:
                    end += 1
                yield start, end, tag, inside

    def _other_types(self, span: Query) -> list[Query]:
        """The same words as an entity of each other type that can be as long."""
        row, start, end, begin, _ = span
        return [
            (row, start, end, other, inside)
            for other, (_, inside) in self._begins.items()
            if other != begin and (inside >= 0 or end - start == 1)
        ]

    def _log_probs(self, emissions: torch.Tensor, mask: torch.Tensor, queries: Sequence[Query]) -> list[float]:
        spans = torch.tensor(queries, dtype=torch.long, device=emissions.device).view(-1, 5)
        return self.model.crf.span_log_prob(emissions, mask, spans).tolist()


def _stream(inputs) -> Iterator:
    """
    The inputs one by one, whatever holds them.

    Raises:
        TypeError: nothing that holds inputs.
    """
    if hasattr(inputs, "columns") and hasattr(inputs, "to_dict"):  # to iterate over it gives the columns' names
        raise TypeError(
            f'Got a {type(inputs).__name__}, a table of columns; pass one of them, df["text"], or its rows: '
            'df.to_dict("records"), of the columns "text" (or "tokens") and "image".'
        )
    if getattr(inputs, "column_names", None):
        inputs = _text_columns(inputs)
    if isinstance(inputs, Iterable):
        return (item for item in inputs)
    if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
        return (inputs[index] for index in range(len(inputs)))
    raise TypeError(f"Got an input of type {type(inputs).__name__}; expected {INPUT}, or an iterable of these.")


def _listed(values: Any) -> Any:
    """A column of pandas, NumPy or `datasets` as a list; anything else as it is."""
    return list(values) if type(values).__name__ in ("Series", "ndarray", "Column") else values


def _one_of(image: Any, images: Any) -> Any:
    if image is not None and images is not None:
        raise ValueError("Got both `image` and `images`, which are one argument; give one of them.")
    return images if image is None else image


def _paired(inputs: Sequence, images: Sequence | None) -> list:
    """Texts and images as one list of inputs."""
    if images is None:
        return list(inputs)
    if len(images) != len(inputs):
        raise ValueError(f"{len(images)} images for {len(inputs)} texts; expected one (or None) for each.")
    if any(isinstance(item, dict) for item in inputs):
        if all(image is None for image in images):
            return list(inputs)
        raise ValueError("`images` was given beside an input of type dict, which brings its own image.")
    return [
        {"text" if isinstance(item, str) else "tokens": item, "image": image}
        for item, image in zip(inputs, images, strict=True)
    ]


def _parts(item: str | dict) -> tuple[str, Any, list[str] | None, str | None]:
    """Text, image, words of a text that is split already, and caption of one input."""
    if isinstance(item, str):
        return item, None, None, None
    if not isinstance(item, dict):
        raise TypeError(f"Got an input of type {type(item).__name__}; expected {INPUT}.")
    known = ("text", "tokens", "image", "caption")
    for key in set(item) - set(known):
        if near := get_close_matches(MEANT.get(key, str(key).lower()), known, n=1, cutoff=0.8):
            raise ValueError(f"Got an input with the key {key!r}; did you mean {near[0]!r}?")
    text, image, caption = item.get("text"), item.get("image"), item.get("caption")
    image = None if isinstance(image, float) and math.isnan(image) else image  # a missing value of pandas
    if not isinstance(caption, str | None):
        raise ValueError(f"Got a caption of type {type(caption).__name__}; expected a string or None.")
    words = given_words(item.get("tokens")) if text is None else None
    if words is None and (not isinstance(text, str) or item.get("tokens") is not None):
        raise ValueError(
            f"Got an input with the keys {sorted(map(str, item))}, a text of type {type(text).__name__} and tokens of "
            f"type {type(item.get('tokens')).__name__}; expected {INPUT}."
        )
    return text or "", image, words, caption


def _text_columns(dataset):
    """The columns of a dataset (of the library `datasets`) that are an input of the pipeline."""
    names = dataset.column_names
    columns = [name for name in ("text", "tokens") if name in names][:1]
    if not columns:
        raise ValueError(
            f"The dataset has the columns {list(names)}; expected `text` or `tokens`, and `image` where there are "
            "images. Rename one (dataset.rename_column), or pass transformers.pipelines.pt_utils.KeyDataset."
        )
    dataset = dataset.select_columns(columns + ["image"] * ("image" in names))
    feature = (dataset.features or {}).get("image")
    if getattr(feature, "decode", False) and getattr(feature, "mode", None) is None:
        # `load_image` opens the files: it knows which formats are safe.
        dataset = dataset.cast_column("image", replace(feature, decode=False))
    return dataset


if "." in __name__:
    set_in_package(__name__)

__all__ = ["InputError", "TwoMNERPipeline"]
