"""Pipeline of 2M-NER: raw text and an optional picture in, entities with character offsets and scores out."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from reprlib import Repr
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import AutoModelForTokenClassification, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import logging

try:
    from .batching_2mner import (
        ACCELERATOR_BATCH_PIECES,
        BATCH_PICTURES,
        CPU_BATCH_PIECES,
        LookAhead,
        Picture,
        PreparedText,
        Row,
        grouped,
        opened,
        packed,
        release,
    )
    from .configuration_2mner import PIPELINE_TASKS, set_in_package
    from .explain_2mner import Explanation, explain
    from .onnx_2mner import OnnxEmissions
    from .processing_2mner import VISIBLE, given_words, index_images
except ImportError:
    from batching_2mner import (
        ACCELERATOR_BATCH_PIECES,
        BATCH_PICTURES,
        CPU_BATCH_PIECES,
        LookAhead,
        Picture,
        PreparedText,
        Row,
        grouped,
        opened,
        packed,
        release,
    )
    from configuration_2mner import PIPELINE_TASKS, set_in_package
    from explain_2mner import Explanation, explain
    from onnx_2mner import OnnxEmissions
    from processing_2mner import VISIBLE, given_words, index_images

logger = logging.get_logger(__name__)

# The stock pipeline's ways to make entities of pieces. A piece is not a unit of this model: whole entities come out of
# the CRF, so that all but "none" are one.
AGGREGATION_STRATEGIES = ("none", "simple", "first", "average", "max")
LONG_TEXT_POLICIES = ("stride", "error", "warn")

OUTSIDE = "O"
# What `LinearChainCRF.span_log_prob` is asked for: row, start, end, tag of the first word, tag of the others (-1: one
# word, whatever follows).
Query = tuple[int, int, int, int, int]

# In place of a batch size: as many windows as make a budget of pieces.
BY_PIECES = 0
# Words, padding included, that are decoded at once.
DECODED_WORDS = 8192

# A value as it came, cut to what fits a message.
SHOWN = Repr()
SHOWN.maxstring = SHOWN.maxother = 80
SHOWN.maxlevel = 2


class InputError(ValueError):
    """An option that cannot be used, or a text that one refuses. Its message is safe to tell whoever sent them."""


def _is_whole(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Integral) and not isinstance(value, bool) and value >= least


def _is_strings(value: Any) -> bool:
    return isinstance(value, (str, list, tuple, set, frozenset)) and all(isinstance(item, str) for item in value)


# Each option of a call: whether a value is right, and what would be. `None` is always its default.
OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    # The stock pipeline's enumeration is taken as well.
    "aggregation_strategy": (
        lambda value: str(getattr(value, "value", value)).lower() in AGGREGATION_STRATEGIES,
        f"one of {', '.join(AGGREGATION_STRATEGIES)}",
    ),
    "min_score": (
        lambda value: isinstance(value, Real) and not isinstance(value, bool) and 0 <= value <= 1,
        "a number from 0 to 1",
    ),
    "entity_types": (_is_strings, "a list of strings"),
    "ignore_labels": (_is_strings, "a list of strings"),
    "top_k": (_is_whole(1), "a whole number, 1 or more"),
    "stride": (_is_whole(0), "a whole number, 0 or more"),
    "long_text": (lambda value: value in LONG_TEXT_POLICIES, f"one of {', '.join(LONG_TEXT_POLICIES)}"),
    "is_split_into_words": (lambda value: isinstance(value, bool), "True or False"),
    "delimiter": (lambda value: isinstance(value, str), "a string"),
    "batch_size": (_is_whole(1), "a whole number, 1 or more"),
    "num_workers": (_is_whole(0), "a whole number, 0 or more"),
}
PREPROCESS_OPTIONS = ("stride", "long_text", "is_split_into_words", "delimiter")


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """
    The options that are not `None`.

    Raises:
        TypeError: an option that does not exist.
        InputError: a value that is not right.
    """
    for name, value in options.items():
        if name not in OPTIONS:
            raise TypeError(f"There is no option `{name}`; expected one of {', '.join(OPTIONS)}.")
        is_right, expected = OPTIONS[name]
        if value is not None and not is_right(value):
            raise InputError(f"`{name}` is {SHOWN.repr(value)}; expected {expected}.")
    return {name: value for name, value in options.items() if value is not None}


class Span(NamedTuple):
    """
    An entity in words: `start:end`, its type, and log P(these words and no more are an entity of this type); where
    asked for, also what else the words may be: pairs of a type (or "O": no word is in an entity) and its probability.
    """

    start: int
    end: int
    entity_type: str
    log_prob: float
    alternatives: list[tuple[str, float]] | None = None


class Tag(NamedTuple):
    """One word's label and its posterior probability."""

    word: int
    label: str
    probability: float


class TwoMNERPipeline(Pipeline):
    """
    Named entities of texts, each with a picture or without.

    ```python
    >>> from transformers import pipeline

    >>> ner = pipeline("token-classification", model=folder, trust_remote_code=True)
    >>> ner("Jordan was seen in Paris.", images="photo.jpg")
    >>> ner(["Jordan was seen in Paris.", "Orange gewinnt."], images=["photo.jpg", None], batch_size=8)
    >>> ner({"text": "Jordan was seen in Paris.", "image": "photo.jpg"}, entity_types=["PER"], min_score=0.5)
    >>> ner.explain("Jordan was seen in Paris.", "photo.jpg").to_html()
    ```

    A text longer than the encoder takes is read in overlapping windows, each with the same picture; their emissions
    are joined and decoded once, so that an entity across a seam is found once, and nothing is cut off.

    Many texts are read some way ahead, put into batches of about one length and answered in their own order, with the
    results of each alone (to float tolerance). A picture that several of them show is opened and encoded once.

    Every option of a call may also be given here, as its default.

    Args:
        model ([`TwoMNERForTokenClassification`]): with IOB2 labels.
        processor ([`TwoMNERProcessor`]): its processor.
        onnx (`bool` or `str`, *optional*): compute the emissions by ONNX Runtime: `True` for the export in the model's
            folder or in the folder `onnx` of that, or the folder of one. `explain` stays with PyTorch.
        **kwargs: as for any pipeline: `device`, `batch_size`, `num_workers`, ...; and the options of a call.

    Raises:
        ValueError: no processor, a model none of whose labels begins an entity, no whole export of this model, or an
            option of a wrong value ([`InputError`]).
        ImportError: `onnx` without ONNX Runtime.
    """

    InputError = InputError  # for whoever has the pipeline, but not the module of remote code that it comes from

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

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
        self._outside = label2id.get(OUTSIDE)
        if not self._begins:
            raise ValueError(f"The model's labels are {list(label2id)}; expected IOB2 tags, such as B-PER and I-PER.")
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

    def __call__(
        self, inputs, images=None, *, image=None, **kwargs
    ) -> list[dict] | list[list[dict]] | Iterator[list[dict]]:
        """
        Finds the entities of one text or many.

        Args:
            inputs: a string; or `{"text": ..., "image": ...}` (the image may be left out or `None`; a model of
                `image_as_text` reads a `"caption"`, too); or a list of these; or a dataset, generator or other
                iterable of them, which is then read as the results are, at first a batch ahead of them and by and by
                further, up to some thousand sentences. A text split already is `{"tokens": [...], "image": ...}`. Of a
                dataset with columns, `text` (else `tokens`) and `image` are read; a pandas Series in its own order.
            images: the picture of one string; or a list of pictures and `None`s, one for each of a list of strings.
                An image is anything that the processor takes: PIL image, path, URL, bytes, base64, array.
            image: the same as `images`.
            aggregation_strategy (`str`, *optional*): `"none"` for the label of each word, as the stock pipeline has it
                of each piece; `"simple"`, `"first"`, `"average"` and `"max"` give whole entities, as by default.
            min_score (`float`, *optional*): what scores less is left out.
            entity_types (`list[str]`, *optional*): what is of another type is left out.
            top_k (`int`, *optional*): adds to each entity its `"alternatives"`.
            ignore_labels (`list[str]`, *optional*, defaults to `["O"]`): labels or types to leave out.
            stride (`int`, *optional*): pieces that neighbouring windows of a long text share. Default: 64, or a
                quarter of what the encoder takes if that is less.
            long_text (`str`, *optional*, defaults to `"stride"`): a text that does not fit one window is read in
                several (`"stride"`), the same with a warning (`"warn"`), or refused (`"error"`).
            is_split_into_words (`bool`, *optional*), delimiter (`str`, *optional*, defaults to a space): `inputs` is a
                list of words, or a list of such lists (the result is a list of lists in both cases, as the stock
                pipeline's is); a tuple, array, Series or column of words is a list of words, too. Offsets are those in
                the words joined by the delimiter. No entity begins or ends with a word of which nothing is shown, such
                as an empty one.
            batch_size (`int`, *optional*): windows the model reads at once (a short text is one). Default: as many as
                make 512 pieces with their padding, 4,096 on an accelerator. With 1, a stream is not read ahead.
            num_workers (`int`, *optional*, defaults to 0): threads that open pictures while the model reads. Items of
                a dataset come from as many processes.

        Returns:
            For one text the list of its entities in order; for a list of texts the list of these lists; for another
            iterable an iterator over them. An entity is `{"entity_group": str, "score": float, "word": str, "start":
            int, "end": int}` with character offsets, `text[start:end] == word`; the score is the posterior probability
            under the CRF that these words, and no more, are an entity of this type.

            With `top_k` also `"alternatives"`: the `top_k` likeliest other readings of these words, best first, each
            `{"entity_group": str, "score": float}`: the posterior of the same words as an entity of another type, or,
            as `"O"`, of none of them being in an entity.

            With `aggregation_strategy="none"` a labelled word is `{"entity": "B-PER", "score": float, "index": int,
            "word": str, "start": int, "end": int}`: `score` is the posterior of this label at this word, `index` the
            word's number, from 1.

        Raises:
            TypeError: an input of another type, or an option that does not exist.
            InputError: a `ValueError`: an option of a wrong value, a type that the model does not know, a text that is
                too long where that is an error. Of a stream, the results before it are given first.
            ValueError: texts and images that do not match in number, an image that does not open.
        """
        images, kwargs = _either(images, image), _checked(kwargs)
        kwargs["batch_size"] = kwargs.get("batch_size") or self._batch_size or BY_PIECES
        is_split = kwargs.get("is_split_into_words", self._preprocess_params.get("is_split_into_words", False))
        if is_split and _is_words(inputs):
            inputs, images = [inputs], None if images is None else [images]
        if isinstance(inputs, (str, dict)):
            if isinstance(images, (list, tuple)):
                raise ValueError(f"Got a list of {len(images)} images for one text; give the image itself.")
            return super().__call__(_paired([inputs], [images], is_split), **kwargs)[0]
        if isinstance(inputs, (list, tuple)):
            if images is not None and not isinstance(images, (list, tuple)):
                raise ValueError(
                    f"Got one image of type {type(images).__name__} for a list of {len(inputs)} texts; give a list of "
                    "images, with None for a text without one."
                )
            if not inputs and not images:
                return []
            return super().__call__(_paired(inputs, images, is_split), **kwargs)
        if images is not None:
            raise ValueError(
                f"`images` cannot be matched with texts from a {type(inputs).__name__}; let it yield "
                '{"text": ..., "image": ...}, or pass two lists.'
            )
        if hasattr(inputs, "columns") and hasattr(inputs, "to_dict"):  # to iterate over it gives the columns' names
            raise TypeError(
                f'Got a {type(inputs).__name__}, a table of columns; pass one of them, df["text"], or its rows: '
                'df.to_dict("records"), of the columns "text" (or "tokens") and "image".'
            )
        if getattr(inputs, "column_names", None):
            inputs = _text_columns(inputs)
        if _is_indexed(inputs):
            return super().__call__(_Items(inputs), **kwargs)
        if isinstance(inputs, Iterable):
            return super().__call__((item for item in inputs), **kwargs)
        raise TypeError(
            f"Got an input of type {type(inputs).__name__}; expected a string, "
            '{"text": ..., "image": ...}, or a list, dataset or other iterable of these.'
        )

    def explain(
        self, text: str | dict | Sequence[str], image: Any = None, *, images: Any = None, **kwargs
    ) -> Explanation:
        """
        The entities of a text as a call finds them, and what its picture or its caption had to do with them.

        Args:
            text: a string, or `{"text": ..., "image": ..., "caption": ...}`, or, with `is_split_into_words`, a list of
                words.
            image: its image, of any kind that the processor takes.
            images: the same as `image`.
            **kwargs: options of a call, but for `aggregation_strategy` and `ignore_labels`, as it is about whole
                entities, and `batch_size` and `num_workers`, as it reads one text, window by window.

        Returns:
            [`Explanation`]: data (`to_dict`), a page to look at (`to_html`) and heat-maps (`heat_map`).

        Raises:
            TypeError, ValueError: as of a call.
        """
        fixed = sorted({"aggregation_strategy", "ignore_labels", "batch_size", "num_workers"} & set(kwargs))
        if fixed:
            raise TypeError(f"explain() is about the whole entities of one text; it takes no {', '.join(fixed)}.")
        preprocess_params, _, postprocess_params = self._sanitize_parameters(**kwargs)
        preprocess_params = {**self._preprocess_params, **preprocess_params}
        text, own_image, words, caption = _parts(text, preprocess_params.get("is_split_into_words", False))
        image = _either(image, images)
        if own_image is not None and image is not None:
            raise ValueError("Got an image in the input and another as `image`; give one.")
        reading = {**self._postprocess_params, **postprocess_params}
        return explain(
            self,
            {**({"text": text} if words is None else {"tokens": words}), "caption": caption},
            own_image if image is None else image,
            preprocess_params,
            {**reading, "aggregation_strategy": "simple", "ignore_labels": [OUTSIDE]},
        )

    def _sanitize_parameters(self, **options):
        options = _checked(options)
        if "aggregation_strategy" in options:
            strategy = options["aggregation_strategy"]
            options["aggregation_strategy"] = str(getattr(strategy, "value", strategy)).lower()
        for name in {"entity_types", "ignore_labels"} & set(options):
            options[name] = [options[name]] if isinstance(options[name], str) else list(options[name])
        unknown = [kind for kind in options.get("entity_types", ()) if kind not in self.entity_types]
        if unknown:
            types = self.entity_types
            raise InputError(f"The model knows no entities of {SHOWN.repr(unknown)}; its types are {types}.")
        preprocess_params = {name: options.pop(name) for name in PREPROCESS_OPTIONS if name in options}
        return preprocess_params, {}, options

    def preprocess(self, inputs: str | dict | Sequence[str], **preprocess_params) -> PreparedText:
        """Splits a text into words and windows and reads its picture, once for all windows."""
        text = self._split(inputs, {}, **preprocess_params)
        self._cut([text], **preprocess_params)
        if text.error is None and text.picture is not None:
            text.picture.open(self.processor)
            text.error = text.picture.error
        if text.error is not None:
            raise text.error
        return text

    def _split(
        self,
        inputs: str | dict | Sequence[str],
        pictures: dict[Any, Picture],
        is_split_into_words: bool = False,
        delimiter: str = " ",
        **_,
    ) -> PreparedText:
        """A text in words, and its picture: one of `pictures` where it is there already."""
        text, image, words, caption = _parts(inputs, is_split_into_words)
        if words is None:
            words, offsets = self.processor.split_words(text)
        else:
            text, offsets = _joined(words, delimiter)
        picture = None
        if image is not None and self.model.config.collaboration == "none":
            logger.warning_once("This model reads text only (collaboration='none'): images have no effect.")
        elif image is not None:
            picture = Picture(image)
            source = image.get("bytes") or image.get("path") if isinstance(image, dict) else image
            if isinstance(source, (str, bytes, os.PathLike)):  # a file, opened when it is needed
                picture = pictures.setdefault(source, picture)
            else:  # pixels, which may be large, or change
                picture.open(self.processor)
                if picture.error is not None:
                    raise picture.error
                picture = pictures.setdefault(picture.image_id, picture)
        if caption is not None and not self.model.config.image_as_text:
            raise ValueError("Got a caption, and this model was not trained to read captions (image_as_text=False).")
        read = [] if caption is None else self.processor.caption_pieces([caption])[0]
        return PreparedText(text, words, offsets, picture, read)

    def _cut(self, texts: Sequence[PreparedText], stride: int | None = None, long_text: str = "stride", **_) -> None:
        """Cuts texts into windows that fit the encoder."""
        for text, pieces in zip(texts, self.processor.pieces([text.words for text in texts]), strict=True):
            if text.error is not None:
                continue
            text.pieces = pieces
            if text.words:
                text.windows = self.processor.windows_of([len(word) for word in pieces], stride)
            if len(text.windows) > 1 and long_text != "stride":
                message = (
                    f"A text of {len(text.text)} characters, {len(text.words)} words, does not fit the encoder, which "
                    f"takes {self.processor.max_pieces} pieces."
                )
                if long_text == "error":
                    text.error = InputError(f'{message} Cut it, or let it be read in windows: long_text="stride".')
                    continue
                logger.warning(f"{message} It is read in {len(text.windows)} overlapping windows.")
            if text.picture is not None:
                text.picture.num_unread += len(text.windows)
                if not text.windows:  # to be told, if it does not open
                    text.picture.open(self.processor)
                    text.error = text.picture.error

    def _forward(self, model_inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self._onnx is not None:
            return self._onnx.forward(model_inputs)
        return {"logits": self.model.emissions(**model_inputs).logits}

    def postprocess(
        self,
        prepared: PreparedText,
        min_score: float = 0.0,
        entity_types: Sequence[str] | None = None,
        **reading,
    ) -> list[dict[str, Any]]:
        """The entities (or labels) of a decoded text, with offsets into it; `reading` was `decode`'s."""
        items = []
        for item in prepared.found:
            if isinstance(item, Tag):
                entity_type, first, last = item.label[2:], item.word, item.word
                values = {"entity": item.label, "score": item.probability, "index": item.word + 1}
            else:
                entity_type, first, last = item.entity_type, item.start, item.end - 1
                values = {"entity_group": entity_type, "score": math.exp(item.log_prob)}
            if values["score"] < min_score or (entity_types is not None and entity_type not in entity_types):
                continue
            shown = [word for word in range(first, last + 1) if VISIBLE.search(prepared.words[word])]
            if not shown:
                continue
            start, end = prepared.offsets[shown[0]][0], prepared.offsets[shown[-1]][1]
            values |= {"word": prepared.text[start:end], "start": start, "end": end}
            if isinstance(item, Span) and item.alternatives is not None:
                values["alternatives"] = [
                    {"entity_group": other, "score": score} for other, score in item.alternatives
                ]
            items.append(values)
        return items

    def get_iterator(
        self, inputs, num_workers: int, batch_size: int, preprocess_params, forward_params, postprocess_params
    ) -> Iterator[list[dict[str, Any]]]:
        """
        The entities of each input, in order. A batch is filled with windows, whichever texts they come from: many
        short texts or one long one cost the same a window, and only the texts of a look-ahead are in memory.
        """
        on_cpu = self.device.type == "cpu"
        batch_pieces = CPU_BATCH_PIECES if on_cpu else ACCELERATOR_BATCH_PIECES
        ahead = LookAhead(batch_size, batch_pieces, is_stream=not isinstance(inputs, list))
        specials = self.processor.max_length - self.processor.max_pieces
        waiting: deque[PreparedText] = deque()
        kept_bytes = 0
        if num_workers and isinstance(inputs, _Items):
            inputs = DataLoader(inputs, batch_size=None, num_workers=num_workers, collate_fn=_unchanged)
        items = iter(inputs)
        with ThreadPoolExecutor(num_workers) if num_workers else nullcontext() as pool:
            while texts := self._look_ahead(items, ahead, preprocess_params):
                waiting += texts
                for stretch in ahead.stretches(texts):
                    rows = [(text, window) for text in stretch if text.error is None for window in text.windows]
                    lengths = [sum(map(len, text.pieces[w.start : w.stop])) + specials for text, w in rows]
                    batches = [[rows[i] for i in batch] for batch in packed(lengths, batch_pieces, batch_size)]
                    for some in grouped(opened(batches, self.processor, pool)):
                        self._encode([text.picture for batch in some for text, _ in batch])
                        for batch in some:
                            self._read(batch, forward_params)
                            kept_bytes = release(batch, kept_bytes)
                    self._decode(stretch, postprocess_params)
                    while waiting and waiting[0].is_done:
                        yield self._result(waiting.popleft(), postprocess_params)

    def _look_ahead(self, items: Iterator, ahead: LookAhead, preprocess_params: dict) -> list[PreparedText]:
        """The next texts; what cannot be read is the last of them, with its error."""
        texts: list[PreparedText] = []
        pictures: dict[Any, Picture] = {}
        num_words = num_bytes = 0
        try:
            for item in items:
                num_pictures = len(pictures)
                texts.append(self._split(item, pictures, **preprocess_params))
                num_words += len(texts[-1].words)
                if len(pictures) > num_pictures:
                    num_bytes += texts[-1].picture.num_bytes
                if ahead.is_enough(len(texts), num_words, num_bytes):
                    break
        except Exception as error:  # raised when the texts before it are answered
            texts.append(PreparedText("", [], [], error=error))
        self._cut(texts, **preprocess_params)
        ahead.grow()
        return texts

    def _result(self, text: PreparedText, postprocess_params: dict) -> list[dict[str, Any]]:
        if text.error is not None:
            raise text.error
        return self.postprocess(text, **postprocess_params)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """Saves model, code and processor: all that `pipeline(..., model=save_directory)` needs."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _read(self, rows: Sequence[Row], forward_params: dict) -> None:
        """Runs the model over one batch of windows and hands each text the emissions of the words its windows keep."""
        logits = self.forward(self.batch(rows), **forward_params)["logits"].float()  # (rows, words, num_labels)
        for row, (text, window) in enumerate(rows):
            kept = slice(window.keep_start - window.start, window.keep_stop - window.start)
            text.emissions[window] = logits[row, kept]

    def batch(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """The model's inputs for windows of texts, each with what is known of its text's picture, which is open."""
        captions = [text.caption for text, _ in rows] if any(text.caption for text, _ in rows) else None
        windows = [text.pieces[window.start : window.stop] for text, window in rows]
        batch = self.processor.encode_pieces(windows, captions=captions)
        ids = [None if text.picture is None else text.picture.image_id for text, _ in rows]
        pictures = {text.picture.image_id: text.picture for text, _ in rows if text.picture is not None}
        if not pictures:
            return batch
        return batch | index_images(ids) | self._of_pictures(list(pictures.values()))

    def _of_pictures(self, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        """What the model is given of each picture, (pictures, ...): what the image tower says of it, or its pixels."""
        if self._onnx is not None:
            return {"pixel_values": self.processor.pixel_values([picture.pixels for picture in pictures])}
        self._encode(pictures)
        names = ("image_features", "global_image_features")
        of_all = zip(*(picture.states for picture in pictures), strict=True)
        return {name: torch.stack(states) for name, states in zip(names, of_all, strict=False)}

    def _encode(self, pictures: Sequence[Picture | None]) -> None:
        """Runs the image tower over the pictures that it has not read, or whose vectors were let go of."""
        if self._onnx is not None:  # the graph reads pixels
            return
        new = [picture for picture in pictures if picture is not None and picture.states is None]
        distinct = list({picture.image_id: picture for picture in new}.values())
        for start in range(0, len(distinct), BATCH_PICTURES):
            part = distinct[start : start + BATCH_PICTURES]
            pixels = self.processor.pixel_values([picture.pixels for picture in part]).to(self.device)
            with self.device_placement(), torch.no_grad():
                encoded = self.model.model.encode_images(pixels)
            for picture, *states in zip(part, *(states for states in encoded if states is not None), strict=True):
                picture.states = states
        known = {picture.image_id: picture.states for picture in distinct}
        for picture in new:
            picture.states = known[picture.image_id]

    def _decode(self, texts: Sequence[PreparedText], postprocess_params: dict) -> None:
        """Finds what is in the texts that are read to their end."""
        texts = [text for text in texts if not text.is_done and len(text.emissions) == len(text.windows)]
        for group in packed([len(text.words) for text in texts], DECODED_WORDS):
            emissions = [[texts[place].emissions[window] for window in texts[place].windows] for place in group]
            found = self.decode(
                [torch.cat(parts) if parts else torch.empty(0, len(self._labels)) for parts in emissions],
                **postprocess_params,
            )
            for place, items in zip(group, found, strict=True):
                texts[place].found, texts[place].emissions, texts[place].pieces = items, {}, []

    @torch.no_grad()
    def decode(
        self,
        emissions: Sequence[torch.Tensor],
        aggregation_strategy: str = "simple",
        ignore_labels: Sequence[str] = (OUTSIDE,),
        top_k: int | None = None,
        **selection,
    ) -> list[list[Span] | list[Tag]]:
        """
        Viterbi and posteriors over whole texts.

        Args:
            emissions: of each text, shape (words, num_labels).
            aggregation_strategy, ignore_labels, top_k: as of a call; what else is given is `postprocess`'s.

        Returns:
            The entities of each (with `"none"`, the labels of its words), read strictly: an entity begins with a B-
            tag and goes on with I- tags of its type.
        """
        if not emissions:
            return []
        device = self.model.crf.transitions.device
        lengths = torch.tensor([len(scores) for scores in emissions], device=device)
        padded = pad_sequence(list(emissions), batch_first=True).to(device)  # (B, T, K)
        mask = torch.arange(padded.shape[1], device=device) < lengths[:, None]  # (B, T)
        with self.device_placement():
            rows = [
                tags[:length]
                for tags, length in zip(self.model.crf.decode(padded, mask).tolist(), lengths.tolist(), strict=True)
            ]
            log_probs = partial(self._log_probs, padded, mask)
            if aggregation_strategy == "none":
                return self._tags(rows, ignore_labels, log_probs)
            return self._spans(rows, ignore_labels, top_k, log_probs)

    @torch.no_grad()
    def score_spans(self, emissions: torch.Tensor, spans: Sequence[Span]) -> list[float]:
        """The posteriors of given entities in a text whose emissions are (words, num_labels)."""
        tags = {entity_type: (begin, inside) for begin, (entity_type, inside) in self._begins.items()}
        emissions = emissions[None].to(self.model.crf.transitions.device)
        mask = torch.ones(emissions.shape[:2], dtype=torch.bool, device=emissions.device)
        queries = [(0, span.start, span.end, *tags[span.entity_type]) for span in spans]
        with self.device_placement():
            return [math.exp(log_prob) for log_prob in self._log_probs(emissions, mask, queries)]

    def _tags(self, rows: Sequence[Sequence[int]], ignore_labels: Sequence[str], log_probs) -> list[list[Tag]]:
        kept = [
            (row, word, word + 1, tag, -1)
            for row, tags in enumerate(rows)
            for word, tag in enumerate(tags)
            if self._labels[tag] not in ignore_labels
        ]
        found: list[list[Tag]] = [[] for _ in rows]
        for (row, word, _, tag, _), log_prob in zip(kept, log_probs(kept), strict=True):
            found[row].append(Tag(word, self._labels[tag], math.exp(log_prob)))
        return found

    def _spans(
        self, rows: Sequence[Sequence[int]], ignore_labels: Sequence[str], top_k: int | None, log_probs
    ) -> list[list[Span]]:
        spans: list[Query] = []
        for row, tags in enumerate(rows):
            for start, end, begin, inside in self._spans_of(tags, OUTSIDE not in ignore_labels):
                if begin == self._outside or self._begins[begin][0] not in ignore_labels:
                    spans.append((row, start, end, begin, inside))
        # All questions at once: the CRF's forward and backward messages are then computed once.
        queries = list(spans)
        for row, start, end, begin, _ in spans:
            if top_k is not None and begin != self._outside:
                queries += self._other_types(row, start, end, begin)
            if self._outside is not None and (top_k is not None or begin == self._outside):
                queries += self._outside_queries(row, start, end)
        answers = dict(zip(queries, log_probs(queries), strict=True))

        found: list[list[Span]] = [[] for _ in rows]
        for query in spans:
            row, start, end, begin, _ = query
            if begin == self._outside:
                found[row].append(Span(start, end, OUTSIDE, self._all_outside(row, start, end, answers)))
                continue
            alternatives = None
            if top_k is not None:
                alternatives = [
                    (self._begins[other[3]][0], math.exp(answers[other]))
                    for other in self._other_types(row, start, end, begin)
                ]
                if self._outside is not None:
                    alternatives.append((OUTSIDE, math.exp(self._all_outside(row, start, end, answers))))
                alternatives = sorted(alternatives, key=lambda pair: -pair[1])[:top_k]
            found[row].append(Span(start, end, self._begins[begin][0], answers[query], alternatives))
        return found

    def _spans_of(self, tags: Sequence[int], with_outside: bool = False) -> Iterator[tuple[int, int, int, int]]:
        """Start, end, begin tag and inside tag of each entity (and each stretch of O) in a row of tags."""
        start = 0
        while start < len(tags):
            tag, end = tags[start], start + 1
            if tag in self._begins:
                inside = self._begins[tag][1]
            elif tag == self._outside and with_outside:
                inside = tag
            else:
                start = end
                continue
            while end < len(tags) and tags[end] == inside:
                end += 1
            yield start, end, tag, inside
            start = end

    def _other_types(self, row: int, start: int, end: int, begin: int) -> list[Query]:
        """The same words as an entity of each other type that can be as long."""
        return [
            (row, start, end, other, inside)
            for other, (_, inside) in self._begins.items()
            if other != begin and (inside >= 0 or end - start == 1)
        ]

    def _outside_queries(self, row: int, start: int, end: int) -> list[Query]:
        """What `_all_outside` needs to know: P(O) at each word, and P(O, then not O) at each but the last."""
        out = self._outside
        return [(row, word, word + 1, out, -1) for word in range(start, end)] + [
            (row, word, word + 1, out, out) for word in range(start, end - 1)
        ]

    def _all_outside(self, row: int, start: int, end: int, answers: dict[Query, float]) -> float:
        """
        log P(all words of start:end are O): by the chain rule, the first word's times, for each next one,
        P(O | O before it) = 1 - P(O before it, then not O) / P(O before it).
        """
        out = self._outside
        total = answers[row, start, start + 1, out, -1]
        for word in range(start, end - 1):
            leaves = math.exp(answers[row, word, word + 1, out, out] - answers[row, word, word + 1, out, -1])
            if leaves >= 1:
                return -math.inf
            total += math.log1p(-leaves)
        return total

    def _log_probs(self, emissions: torch.Tensor, mask: torch.Tensor, queries: Sequence[Query]) -> list[float]:
        spans = torch.tensor(queries, dtype=torch.long, device=emissions.device).view(-1, 5)
        return self.model.crf.span_log_prob(emissions, mask, spans).tolist()


class _Items(Dataset):
    """A list or dataset whose items are read when they are asked for (in a DataLoader's worker)."""

    def __init__(self, items: Sequence):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        if index >= len(self.items):
            raise IndexError(index)  # a loop over a dataset ends by it
        return self.items[index]


def _is_indexed(inputs) -> bool:
    """Whether 0, 1, ... are known to find the items. In a pandas Series they may find others, or none: labels do."""
    if isinstance(inputs, IterableDataset) or not (hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__")):
        return False
    is_known = isinstance(inputs, (Dataset, Sequence)) or hasattr(inputs, "column_names")
    return is_known or not hasattr(inputs, "__iter__")  # a dataset of no known class: there is no other way to read it


def _is_words(inputs) -> bool:
    """Whether inputs are the words of one text (and not several texts), in whatever holds words in order."""
    if isinstance(inputs, (str, dict, Dataset)) or not (hasattr(inputs, "__len__") and isinstance(inputs, Iterable)):
        return False
    return not hasattr(inputs, "columns") and isinstance(next(iter(inputs), None), str)


def _either(value: Any, alias: Any) -> Any:
    """What was given by the one name or the other."""
    if value is not None and alias is not None:
        raise ValueError("Got both `image` and `images`, which are two names of one argument; give one of them.")
    return alias if value is None else value


def _unchanged(item):
    return item


def _paired(inputs: Sequence, images: Sequence | None, is_split: bool) -> list:
    """Texts and images as one list of inputs."""
    if images is None or (len(images) == len(inputs) and all(image is None for image in images)):
        return list(inputs)
    if len(images) != len(inputs):
        raise ValueError(f"{len(images)} images for {len(inputs)} texts; expected one (or None) for each.")
    paired = []
    for item, image in zip(inputs, images, strict=True):
        if isinstance(item, dict):
            raise ValueError(
                f"`images` was given beside an input of type {type(item).__name__}; it goes with strings only, "
                'a {"text": ..., "image": ...} brings its own.'
            )
        paired.append({"text" if isinstance(item, str) and not is_split else "tokens": item, "image": image})
    return paired


def _parts(item: str | dict | Sequence[str], is_split: bool) -> tuple[str, Any, list[str] | None, str | None]:
    """Text, image, words of a text that is split already, and caption of one input."""
    if is_split and not isinstance(item, dict):
        item = {"tokens": item}
    if isinstance(item, str):
        return item, None, None, None
    if not isinstance(item, dict):
        raise TypeError(
            f'Got an input of type {type(item).__name__}; expected a string or {{"text": ..., "image": ...}}; for a '
            "list of words, pass is_split_into_words=True."
        )
    unknown = [key for key in item if key not in ("text", "tokens", "image", "caption")]
    tokens, text, caption = item.get("tokens"), item.get("text"), item.get("caption")
    if not isinstance(caption, str | None):
        raise ValueError(f"Got a caption of type {type(caption).__name__}; expected a string or None.")
    words = given_words(tokens)
    if not unknown and text is None and words is not None:
        return "", item.get("image"), words, caption
    if unknown or tokens is not None or not isinstance(text, str):
        raise ValueError(
            f"Got an input with the keys {sorted(map(str, item))}, a text of type {type(text).__name__} and tokens of "
            f"type {type(tokens).__name__}; expected "
            '{"text": a string, "image": an image or None}, or {"tokens": a list of words, ...}.'
        )
    return text, item.get("image"), None, caption


def _joined(words: Sequence[str], delimiter: str) -> tuple[str, list[tuple[int, int]]]:
    """Words as one text, and where each of them is in it."""
    offsets, start = [], 0
    for word in words:
        offsets.append((start, start + len(word)))
        start += len(word) + len(delimiter)
    return delimiter.join(words), offsets


def _text_columns(dataset):
    """The columns of a dataset (of the library `datasets`) that are an input of the pipeline."""
    names = dataset.column_names
    columns = [name for name in ("text", "tokens") if name in names][:1]
    if not columns:
        raise ValueError(
            f"The dataset has the columns {list(names)}; expected `text` or `tokens`, and `image` where there are "
            "pictures. Rename one (dataset.rename_column), or pass transformers.pipelines.pt_utils.KeyDataset."
        )
    dataset = dataset.select_columns(columns + ["image"] * ("image" in names))
    feature = (dataset.features or {}).get("image")
    if getattr(feature, "decode", False) and getattr(feature, "mode", None) is None:
        dataset = dataset.cast_column("image", replace(feature, decode=False))  # files, to be opened when needed
    return dataset


if "." not in __name__ and PIPELINE_TASKS[-1] not in PIPELINE_REGISTRY.supported_tasks:
    # A folder's own config names this class for all its tasks; here the one that is new, for objects. The stock tasks
    # stay with the stock pipeline: other models are loaded in the same process.
    PIPELINE_REGISTRY.register_pipeline(
        PIPELINE_TASKS[-1], pipeline_class=TwoMNERPipeline, pt_model=AutoModelForTokenClassification, type="multimodal"
    )
    # It would replace, in every saved config, the map of all tasks by this one alone.
    del TwoMNERPipeline._registered_impl
if "." in __name__:
    set_in_package(__name__)

__all__ = ["InputError", "TwoMNERPipeline"]
