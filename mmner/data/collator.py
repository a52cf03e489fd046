"""Makes batches of rows or windows. An image that does not open is counted, named and left out."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from configuration_2mner import TwoMNERConfig
from dataset_script.rows import TagError, iob2_tags, is_unlabelled, tag_names
from mmner.data.feature_store import FeatureStore
from processing_2mner import TwoMNERProcessor, index_images, load_image

logger = logging.getLogger(__name__)


class DataCollatorForMultimodalTokenClassification:
    """
    Makes batches for the Trainer: of plain rows, `{"tokens": words, "ner_tags": ids or names, "image": an image or
    None}`, or of items of `WindowedSentences`. Other columns are not read, but for the `caption` of a model with
    `image_as_text`. This is the only place of a run that decodes images. The stock Trainer needs
    `remove_unused_columns=False`.

    ```python
    label_names = train.features["ner_tags"].feature.names
    collator = DataCollatorForMultimodalTokenClassification(processor, model.config, label_names=label_names)
    ```

    Args:
        processor: of the model.
        config: of the model: which tags it knows, and whether it reads images and captions. Without one, rows with
            `ner_tags` are refused and all is read.
        label_names: the names of the dataset's tag ids, in id order; needed where `ner_tags` are ids, since the order
            of a dataset's tags need not be the model's.
        pad_to_multiple_of: of the number of tokens; 8 suits half precision on a GPU.

    Attributes:
        features: a store of the outputs of the image towers. If it is set, the `image` of an item is an id of the
            store, or 0, and a batch has `image_features` (and `global_image_features`) instead of `pixel_values`.
    """

    features: FeatureStore | None = None

    def __init__(
        self,
        processor: TwoMNERProcessor,
        config: TwoMNERConfig | None = None,
        *,
        label_names: Sequence[str] = (),
        pad_to_multiple_of: int | None = None,
    ):
        self.processor = processor
        self.use_images = config is None or config.uses_images
        self.use_captions = config is None or config.image_as_text
        self.label2id = None if config is None else {label: index for index, label in config.id2label.items()}
        self.label_names = label_names
        self.pad_to_multiple_of = pad_to_multiple_of
        # Of a softmax head the labels may be of any kind.
        self._read_tags = tag_names if config is not None and config.tagging_head == "softmax" else iob2_tags
        self._warned: set[str] = set()
        # Shared with data loader workers, which have copies of the rest. The context is the one that gives a lock
        # which workers can receive however they are started.
        self._unreadable = multiprocessing.get_context("spawn").Value("q", 0)

    @property
    def unreadable_images(self) -> int:
        """How often an image did not open, so that its sentence went without; each epoch counts anew."""
        return self._unreadable.value

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """
        The tensors of a batch, as the processor gives them; `labels` where the rows have tags.

        Raises:
            ValueError: a row's tags are malformed or not known to the model, only some rows have tags, or a sentence
                has more tokens than the model reads.
        """
        names = dict.fromkeys(name for feature in features for name in feature)
        columns: dict[str, list[Any]] = {name: [feature.get(name) for feature in features] for name in names}
        if "labels" not in columns and not all(map(is_unlabelled, columns.get("ner_tags", [None]))):
            columns["labels"] = [self._labels(row) for row in features]
        from_pixels = self.use_images and self.features is None and "image" in columns
        batch = dict(
            self.processor(
                text=columns["tokens"],
                images=[self.open(image) for image in columns["image"]] if from_pixels else None,
                captions=columns.get("caption") if self.use_captions else None,
                word_labels=columns.get("labels"),
                pad_to_multiple_of=self.pad_to_multiple_of,
            )
        )
        if any(map(any, columns.get("unknown_tags", ()))):
            batch["unknown_tags"] = torch.tensor(columns["unknown_tags"])
        if self.use_images and self.features is not None:
            batch |= stored_images(self.features, [image_id or None for image_id in columns["image"]])
        return batch

    def _labels(self, row: Mapping[str, Any]) -> list[int]:
        """The model's label ids of a row with `tokens` and `ner_tags`."""
        if self.label2id is None:
            raise ValueError("The rows have `ner_tags`; pass the collator model.config, which tells their ids.")
        try:
            tags = self._read_tags(row["tokens"], row.get("ner_tags"), self.label_names)
        except TagError as error:
            ids = "" if self.label_names else " If the tags are ids, pass label_names, the dataset's names of them."
            raise ValueError(f"Row {row.get('id', row['tokens'])}: {error}.{ids}") from None
        if unknown := sorted(set(tags) - set(self.label2id)):
            raise ValueError(
                f"Row {row.get('id', row['tokens'])} has the tags {', '.join(unknown)}, which the model does not "
                f"know; it knows {', '.join(self.label2id)}."
            )
        return [self.label2id[tag] for tag in tags]

    def open(self, image: Any) -> Image.Image | None:
        """An image as RGB; `None` for none, and for one that does not open, which is counted and named."""
        if image is None:
            return None
        try:
            return load_image(image)
        except ValueError as error:
            with self._unreadable.get_lock():
                self._unreadable.value += 1
            if (message := str(error)) not in self._warned:
                self._warned.add(message)
                logger.warning(f"{message} Its sentences go without an image.")
            return None


def stored_images(store: FeatureStore, image_ids: Sequence[int | None]) -> dict[str, torch.Tensor]:
    """The image keys of a batch whose rows have these images of the store; none where no row has one."""
    if not any(image_ids):
        return {}
    batch = index_images(image_ids)
    stored = zip(*(store[image_id] for image_id in batch["image_ids"].tolist()), strict=True)
    names = ("image_features", "global_image_features")
    return batch | {name: torch.stack(states) for name, states in zip(names, stored, strict=False)}
