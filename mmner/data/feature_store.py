"""The outputs of frozen image towers on disk: one safetensors file per image, computed once and read ever after."""

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dataset_script.files import claim


class FeatureStore:
    """
    Tensors by image. Any number of processes may read and write at once; no file is ever changed.

    Args:
        folder: of the store, on a disk that all processes of a run share; made where there is none.
        fingerprint: of whatever the tensors depend on but the image: the name of a subfolder.

    Attributes:
        folder: the subfolder. Deleting it, or the whole store, is safe while no run uses it.

    Raises:
        FileExistsError: the folder holds files, and is no store.
    """

    def __init__(self, folder: str | os.PathLike, fingerprint: str):
        claim(Path(folder), "feature store")
        self.folder = Path(folder) / fingerprint

    def __contains__(self, image_id: int) -> bool:
        return self._file(image_id).is_file()

    def __getitem__(self, image_id: int) -> list[torch.Tensor]:
        """
        The tensors of an image, in the order in which they were added.

        Raises:
            KeyError: the store does not hold it.
            ValueError: its file is damaged (a fault of the disk, or a machine that went down while it was written).
        """
        file = self._file(image_id)
        try:
            tensors = load_file(file)
        except FileNotFoundError:
            raise KeyError(f"The image {image_id} is not in {self.folder}.") from None
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}). Delete it, and the next run computes it anew.") from error
        return [tensors[str(place)] for place in range(len(tensors))]

    def add(self, image_id: int, tensors: Sequence[torch.Tensor]) -> None:
        """Writes the tensors of an image, complete or not at all."""
        file = self._file(image_id)
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(f".{uuid.uuid4().hex}")
        try:
            save_file({str(place): tensor.contiguous() for place, tensor in enumerate(tensors)}, aside)
            aside.replace(file)
        finally:
            aside.unlink(missing_ok=True)

    def _file(self, image_id: int) -> Path:
        name = f"{image_id:016x}"
        return self.folder / name[:2] / f"{name}.safetensors"
