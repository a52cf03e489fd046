"""Pipeline of 2M-NER: raw text and an optional picture in, entities with character offsets and scores out."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from transformers import Pipeline
from transformers.utils import logging

logger = logging.get_logger(__name__)


class Span(NamedTuple):
    """An entity in words: `start:end`, its type, and log P(these words and no more are an entity of this type)."""

    start: int
    end: int
    entity_type: str
    log_prob: float


@dataclass
class PreparedText:
    """
    A text on its way through the pipeline: `preprocess` fills the first block, the windows' emissions follow one by
    one, the entities when the last of them is there.
    """

    text: str
    words: list[str]
    offsets: list[tuple[int, int]]  # of each word: its (start, end) characters in `text`
    windows: list[Any]  # of `processor.windows`; none for a text without a word
    pixel_values: torch.Tensor | None = None  # (1, C, H, W)
    image_ids: torch.Tensor | None = None  # (1,)

    emissions: list[torch.Tensor] = field(default_factory=list)  # of each window: (its own words, num_labels)
    spans: list[Span] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return len(self.emissions) == len(self.windows)


class TwoMNERPipeline(Pipeline):
    """
    Named entities of texts, each with a picture or without.

    ```python
    >>> from transformers import pipeline

    >>> ner = pipeline("token-classification", model=folder, trust_remote_code=True)
    >>> ner("Jordan was seen in Paris.", images="photo.jpg")
    >>> ner(["Jordan was seen in Paris.", "Orange gewinnt."], images=["photo.jpg", None], batch_size=8)
    >>> ner({"text": "Jordan was seen in Paris.", "image": "photo.jpg"})
    ```

    A text longer than the encoder takes is read in overlapping windows, each with the same picture; their emissions
    are joined and decoded once, so that an entity across a seam is found once, and nothing is cut off.

    Args:
        model ([`TwoMNERForTokenClassification`]): with IOB2 labels.
        processor ([`TwoMNERProcessor`]): its processor.
        stride (`int`, *optional*): pieces that neighbouring windows of a long text share. Default: 64, or a quarter of
            what the encoder takes if that is less.
        **kwargs: as for any pipeline: `device`, `batch_size` (in windows), `num_workers`, ...

    Raises:
        ValueError: no processor, or a model none of whose labels begins an entity.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    def __init__(self, model, processor=None, **kwargs):
        if processor is None:
            raise ValueError(
                "TwoMNERPipeline was given no processor; pass processor=AutoProcessor.from_pretrained(folder, "
                'trust_remote_code=True), or load all at once: pipeline("token-classification", model=folder, '
                "trust_remote_code=True)."
            )
        super().__init__(model=model, processor=processor, **kwargs)
        self.model.eval()
        label2id = {label: index for index, label in self.model.config.id2label.items()}
        # Tag that begins an entity -> its type and the tag that continues it, -1 where the type has none.
        self._begins = {
            index: (label[2:], label2id.get(f"I-{label[2:]}", -1))
            for label, index in label2id.items()
            if label.startswith("B-")
        }
        if not self._begins:
            raise ValueError(f"The model's labels are {list(label2id)}; expected IOB2 tags, such as B-PER and I-PER.")

    def __call__(self, inputs, images=None, **kwargs) -> list[dict] | list[list[dict]] | Iterator[list[dict]]:
        """
        Finds the entities of one text or many.

        Args:
            inputs: a string; or `{"text": ..., "image": ...}` (the image may be left out or `None`); or a list of
                these; or any other iterable of them, which is then read as the results are.
            images: the picture of one string; or a list of pictures and `None`s, one for each of a list of strings.
                A picture is anything that the processor takes: PIL image, path, URL, bytes, array.
            stride (`int`, *optional*): pieces that neighbouring windows of a long text share, as in the class.
            batch_size (`int`, *optional*, defaults to 1): windows the model reads at once (a short text is one).

        Returns:
            For one text the list of its entities in order; for a list of texts the list of these lists; for another
            iterable an iterator over them. An entity is `{"entity_group": str, "score": float, "word": str, "start":
            int, "end": int}` with character offsets, `text[start:end] == word`; the score is the posterior probability
            under the CRF that these words, and no more, are an entity of this type.

        Raises:
            TypeError: an input of another type.
            ValueError: texts and images that do not match in number, or an image that does not open.
        """
        if isinstance(inputs, (str, dict)):
            if isinstance(images, (list, tuple)):
                raise ValueError(f"Got a list of {len(images)} images for one text; give the image itself.")
            return super().__call__(_paired([inputs], [images]), **kwargs)[0]
        if isinstance(inputs, (list, tuple)):
            if images is not None and not isinstance(images, (list, tuple)):
                raise ValueError(
                    f"Got one image of type {type(images).__name__} for a list of {len(inputs)} texts; give a list of "
                    "images, with None for a text without one."
                )
            if not inputs and not images:
                return []
            return super().__call__(_paired(inputs, images), **kwargs)
        if isinstance(inputs, Iterable):
            if images is not None:
                raise ValueError(
                    f"`images` cannot be matched with texts from a {type(inputs).__name__}; let it yield "
                    '{"text": ..., "image": ...}, or pass two lists.'
                )
            return super().__call__((item for item in inputs), **kwargs)
        raise TypeError(
            f"Got an input of type {type(inputs).__name__}; expected a string, "
            '{"text": ..., "image": ...}, or a list or other iterable of these.'
        )

    def _sanitize_parameters(self, stride: int | None = None):
        return ({} if stride is None else {"stride": stride}), {}, {}

    def preprocess(self, inputs: str | dict, stride: int | None = None) -> PreparedText:
        """Splits a text into words and windows and reads its picture, once for all windows."""
        text, image = _text_and_image(inputs)
        words, offsets = self.processor.split_words(text)
        prepared = PreparedText(text, words, offsets, self.processor.windows(words, stride=stride) if words else [])
        if image is not None and self.model.config.collaboration == "none":
            logger.warning_once("This model reads text only (collaboration='none'): images have no effect.")
        elif image is not None:
            features = self.processor("", images=image)
            prepared.pixel_values, prepared.image_ids = features["pixel_values"], features["image_ids"]
        return prepared

    def _forward(self, model_inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"logits": self.model(**model_inputs).logits}

    def postprocess(self, prepared: PreparedText) -> list[dict[str, Any]]:
        """The entities of a decoded text, with offsets into it."""
        entities = []
        for span in prepared.spans:
            start, end = prepared.offsets[span.start][0], prepared.offsets[span.end - 1][1]
            entities.append(
                {
                    "entity_group": span.entity_type,
                    "score": math.exp(span.log_prob),
                    "word": prepared.text[start:end],
                    "start": start,
                    "end": end,
                }
            )
        return entities

    def get_iterator(
        self, inputs, num_workers: int, batch_size: int, preprocess_params, forward_params, postprocess_params
    ) -> Iterator[list[dict[str, Any]]]:
        """
        The entities of each input, in order. A batch is filled with windows, whichever texts they come from: many
        short texts or one long one cost the same a window, and only the texts that a batch touches are in memory.
        """
        waiting: deque[PreparedText] = deque()
        rows: list[tuple[PreparedText, Any]] = []
        for prepared in self._prepare(inputs, num_workers, preprocess_params):
            waiting.append(prepared)
            for window in prepared.windows:
                rows.append((prepared, window))
                if len(rows) == batch_size:
                    self._read(rows, forward_params)
                    rows = []
            yield from self._finish(waiting, postprocess_params)
        if rows:
            self._read(rows, forward_params)
        yield from self._finish(waiting, postprocess_params)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """Saves model, code and processor: all that `pipeline(..., model=save_directory)` needs."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _prepare(self, inputs, num_workers: int, preprocess_params: dict) -> Iterable[PreparedText]:
        if num_workers > 0 and isinstance(inputs, list):
            dataset = _Mapped(inputs, partial(self.preprocess, **preprocess_params))
            return DataLoader(dataset, batch_size=None, num_workers=num_workers, collate_fn=_unchanged)
        if num_workers > 0:
            logger.warning_once("num_workers has no effect on a stream of texts, only on a list.")
        return (self.preprocess(item, **preprocess_params) for item in inputs)

    def _read(self, rows: Sequence[tuple[PreparedText, Any]], forward_params: dict) -> None:
        """Runs the model over one batch of windows and hands each text the emissions of the words its windows keep."""
        batch = dict(self.processor([text.words[window.start : window.stop] for text, window in rows]))
        like = next((text.pixel_values for text, _ in rows if text.pixel_values is not None), None)
        if like is not None:
            none = (torch.zeros_like(like), torch.zeros(1, dtype=torch.long))
            pixels, ids = zip(
                *(none if text.pixel_values is None else (text.pixel_values, text.image_ids) for text, _ in rows),
                strict=True,
            )
            batch["pixel_values"], batch["image_ids"] = torch.cat(pixels), torch.cat(ids)
        logits = self.forward(batch, **forward_params)["logits"].float()  # (rows, words, num_labels)
        for row, (text, window) in enumerate(rows):
            text.emissions.append(logits[row, window.keep_start - window.start : window.keep_stop - window.start])

    def _finish(self, waiting: deque[PreparedText], postprocess_params: dict) -> Iterator[list[dict[str, Any]]]:
        """Decodes and yields the complete texts at the head of the queue."""
        finished = []
        while waiting and waiting[0].is_complete:
            finished.append(waiting.popleft())
        # Texts of one window are decoded together; a long one alone, or the others would be padded to its length.
        short = [text for text in finished if len(text.windows) == 1]
        for group in [short, *([text] for text in finished if len(text.windows) > 1)]:
            for text, spans in zip(group, self._decode([torch.cat(text.emissions) for text in group]), strict=True):
                text.spans = spans
        for text in finished:
            yield self.postprocess(text, **postprocess_params)

    @torch.no_grad()
    def _decode(self, emissions: Sequence[torch.Tensor]) -> list[list[Span]]:
        """
        Viterbi and span posteriors over whole texts.

        Args:
            emissions: of each text, shape (words, num_labels).

        Returns:
            The entities of each, read strictly: an entity begins with a B- tag and goes on with I- tags of its type.
        """
        if not emissions:
            return []
        crf = self.model.crf
        device = crf.transitions.device
        lengths = torch.tensor([len(scores) for scores in emissions], device=device)
        padded = pad_sequence(list(emissions), batch_first=True).to(device)  # (B, T, K)
        mask = torch.arange(padded.shape[1], device=device) < lengths[:, None]  # (B, T)
        with self.device_placement():
            spans = []
            for row, tags in enumerate(crf.decode(padded, mask).tolist()):
                spans += [(row, *span) for span in self._spans_of(tags)]
            log_probs = crf.span_log_prob(padded, mask, torch.tensor(spans, device=device).view(-1, 5).long()).tolist()
        found: list[list[Span]] = [[] for _ in emissions]
        for (row, start, end, begin, _), log_prob in zip(spans, log_probs, strict=True):
            found[row].append(Span(start, end, self._begins[begin][0], log_prob))
        return found

    def _spans_of(self, tags: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
        """Start, end, begin tag and inside tag of each entity in a row of tags (-100 where there is no word)."""
        for start, tag in enumerate(tags):
            if tag in self._begins:
                inside = self._begins[tag][1]
                end = start + 1
                while end < len(tags) and tags[end] == inside:
                    end += 1
                yield start, end, tag, inside


class _Mapped(Dataset):
    """A list, each item passed through a function when it is asked for (in a DataLoader's worker)."""

    def __init__(self, items: Sequence, function: Callable):
        self.items = items
        self.function = function

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        return self.function(self.items[index])


def _unchanged(item):
    return item


def _paired(inputs: Sequence, images: Sequence | None) -> list:
    """Texts and images as one list of inputs."""
    if images is None or (len(images) == len(inputs) and all(image is None for image in images)):
        return list(inputs)
    if len(images) != len(inputs):
        raise ValueError(f"{len(images)} images for {len(inputs)} texts; expected one (or None) for each.")
    for item in inputs:
        if not isinstance(item, str):
            raise ValueError(
                f"`images` was given beside an input of type {type(item).__name__}; it goes with strings only, "
                'a {"text": ..., "image": ...} brings its own.'
            )
    return [{"text": text, "image": image} for text, image in zip(inputs, images, strict=True)]


def _text_and_image(item: str | dict) -> tuple[str, Any]:
    """The two parts of one input."""
    if isinstance(item, str):
        return item, None
    if not isinstance(item, dict):
        raise TypeError(
            f'Got an input of type {type(item).__name__}; expected a string or {{"text": ..., "image": ...}}.'
        )
    unknown = sorted(str(key) for key in item if key not in ("text", "image"))
    if unknown or not isinstance(item.get("text"), str):
        raise ValueError(
            f"Got an input with the keys {sorted(map(str, item))} and a text of type "
            f"{type(item.get('text')).__name__}; "
            'expected {"text": a string, "image": an image or None}.'
        )
    return item["text"], item.get("image")


__all__ = ["TwoMNERPipeline"]
