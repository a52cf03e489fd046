"""Windows of sentences to the tensors of a batch; an image that does not open is counted, named and left out."""

import logging
import multiprocessing
from collections.abc import Sequence
from typing import Any

from PIL import Image

from images_2mner import load_image
from processing_2mner import TwoMNERProcessor

logger = logging.getLogger(__name__)


class MultimodalCollator:
    """
    Makes a batch of what `WindowedSentences` gives. Here, and nowhere before, images are decoded.

    Args:
        processor: of the model.
        use_images: False for a model that reads none: then no image is opened.
        pad_to_multiple_of: pad the pieces to a multiple of this, which half precision on a GPU likes (8).
    """

    def __init__(self, processor: TwoMNERProcessor, use_images: bool = True, pad_to_multiple_of: int | None = None):
        self.processor = processor
        self.use_images = use_images
        self.pad_to_multiple_of = pad_to_multiple_of
        self._warned: set[str] = set()
        self._unreadable = multiprocessing.Value("q", 0)  # shared: the data loader's workers have copies of the rest

    @property
    def unreadable_images(self) -> int:
        """How often an image did not open and its sentence went without; each pass over the data counts anew."""
        return self._unreadable.value

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """
        Args:
            features: `tokens`, `labels` and `image` (undecoded, or `None`) of each window.

        Returns:
            The tensors of the batch contract, as the processor gives them.
        """
        images = None
        if self.use_images:
            images = [self._open(feature["image"]) for feature in features]
        return dict(
            self.processor(
                text=[feature["tokens"] for feature in features],
                images=images,
                word_labels=[feature["labels"] for feature in features],
                pad_to_multiple_of=self.pad_to_multiple_of,
            )
        )

    def _open(self, image: Any) -> Image.Image | None:
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
