"""Makes batches of windows. An image that does not open is counted, named and left out."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from mmner.data.feature_store import FeatureStore
from processing_2mner import TwoMNERProcessor, index_images, load_image

logger = logging.getLogger(__name__)


class MultimodalCollator:
    """
    Makes a batch of items of `WindowedSentences`. This is the only place of a run that decodes images.

    Args:
        processor: of the model.
        use_images: False for a model that reads no image: then none is opened.
        pad_to_multiple_of: of the number of tokens; 8 suits half precision on a GPU.

    Attributes:
        features: a store of the outputs of the image towers. If it is set, the `image` of an item is an id of the
            store, or 0, and a batch has `image_features` (and `global_image_features`) instead of `pixel_values`.
    """

    features: FeatureStore | None = None

    def __init__(self, processor: TwoMNERProcessor, use_images: bool = True, pad_to_multiple_of: int | None = None):
        self.processor = processor
        self.use_images = use_images
        self.pad_to_multiple_of = pad_to_multiple_of
        self._warned: set[str] = set()
        # Shared with data loader workers, which have copies of the rest. The context is the one that gives a lock
        # which workers can receive however they are started.
        self._unreadable = multiprocessing.get_context("spawn").Value("q", 0)

    @property
    def unreadable_images(self) -> int:
        """How often an image did not open, so that its sentence went without; each epoch counts anew."""
        return self._unreadable.value

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The tensors of a batch, as the processor gives them, from items of `WindowedSentences`."""
        columns = {name: [feature[name] for feature in features] for name in features[0]}
        from_pixels = self.use_images and self.features is None
        batch = dict(
            self.processor(
                text=columns["tokens"],
                images=[self.open(image) for image in columns["image"]] if from_pixels else None,
                captions=columns.get("caption"),
                word_labels=columns.get("labels"),
                pad_to_multiple_of=self.pad_to_multiple_of,
            )
        )
        if any(map(any, columns.get("unknown_tags", ()))):
            batch["unknown_tags"] = torch.tensor(columns["unknown_tags"])
        if self.use_images and self.features is not None:
            batch |= stored_images(self.features, [image_id or None for image_id in columns["image"]])
        return batch

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
