"""Windows of sentences to the tensors of a batch; an image that does not open is counted, named and left out."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from processing_2mner import TwoMNERProcessor, index_images, load_image

if TYPE_CHECKING:
    from mmner.data.feature_store import FeatureStore

logger = logging.getLogger(__name__)


class MultimodalCollator:
    """
    Makes a batch of what `WindowedSentences` gives. Here, and nowhere before, images are decoded.

    Args:
        processor: of the model.
        use_images: False for a model that reads none: then no image is opened.
        pad_to_multiple_of: pad the pieces to a multiple of this, which half precision on a GPU likes (8).

    Attributes:
        features: a store of what the image towers say of each picture; then no image is opened here: `image` is its
            id, and a batch has `image_features` (and `global_image_features`) where it would have `pixel_values`.
    """

    features: FeatureStore | None = None

    def __init__(self, processor: TwoMNERProcessor, use_images: bool = True, pad_to_multiple_of: int | None = None):
        self.processor = processor
        self.use_images = use_images
        self.pad_to_multiple_of = pad_to_multiple_of
        self._warned: set[str] = set()
        # Shared, because the data loader's workers have copies of the rest; of the one kind that workers can be given
        # however they are started (fork, forkserver, spawn).
        self._unreadable = multiprocessing.get_context("spawn").Value("q", 0)

    @property
    def unreadable_images(self) -> int:
        """How often an image did not open and its sentence went without; each pass over the data counts anew."""
        return self._unreadable.value

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """
        Args:
            features: `tokens` and `image` (undecoded, its id if there is a store, or `None`) of each window; its
                `labels`, where there are gold labels; and, if captions are read, its `caption`.

        Returns:
            The tensors of the batch contract, as the processor gives them.
        """
        images = None
        if self.use_images and self.features is None:
            images = [self.open(feature["image"]) for feature in features]
        batch = dict(
            self.processor(
                text=[feature["tokens"] for feature in features],
                images=images,
                captions=[feature["caption"] for feature in features] if "caption" in features[0] else None,
                word_labels=[feature["labels"] for feature in features] if "labels" in features[0] else None,
                pad_to_multiple_of=self.pad_to_multiple_of,
            )
        )
        if self.use_images and self.features is not None:
            batch.update(self._stored([feature["image"] or 0 for feature in features]))
        return batch

    def _stored(self, image_ids: list[int]) -> dict[str, torch.Tensor]:
        """The stored outputs of the image towers, with the index and the ids that the processor would give."""
        ids = [image_id or None for image_id in image_ids]
        if not any(ids):
            return {}
        batch = index_images(ids)
        stored = zip(*(self.features[image_id] for image_id in batch["image_ids"].tolist()), strict=True)
        names = ("image_features", "global_image_features")
        return batch | {name: torch.stack(states) for name, states in zip(names, stored, strict=False)}

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
