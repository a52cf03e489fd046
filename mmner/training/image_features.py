"""The outputs of a run's frozen image towers: computed before training, once per image, and stored."""

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset

from mmner.data.collator import DataCollatorForMultimodalTokenClassification
from mmner.data.feature_store import FeatureStore
from mmner.data.sentences import WindowedSentences
from mmner.training.trainer import TwoMNERTrainer
from modeling_2mner import TwoMNERModel
from processing_2mner import TwoMNERProcessor

logger = logging.getLogger(__name__)

# Always this many, since kernels are chosen by the shape: so the features of an image do not depend, in their last
# bits, on how many others are computed with it.
IMAGES_PER_BATCH = 16
LIBRARIES = ("torch", "transformers", "pillow")
TOWERS = ("vision_model", "global_vision_model")


def store_image_features(
    trainer: TwoMNERTrainer, splits: Sequence[WindowedSentences], folder: str | Path
) -> FeatureStore | None:
    """
    Computes what is not yet in the store, and makes the sentences and the collator of a run use it. Every process of a
    distributed run must call this, with a folder that all share.

    The features of an image are those that the model computes from its pixels, to the rounding of a kernel chosen for
    another batch size. The store is `None` where the model reads no image.

    Raises:
        ValueError: an image tower is trained, or training is fully sharded.
    """
    model: Any = trainer.accelerator.unwrap_model(trainer.model).model
    collator: DataCollatorForMultimodalTokenClassification = trainer.data_collator
    if not model.config.uses_images:
        logger.warning("The model reads no image: --image_feature_store has nothing to do.")
        return None
    if trainer.is_fsdp_enabled:
        raise ValueError(
            "--image_feature_store does not go with FSDP, where every process must run the image tower in every step: "
            "train with DDP (recipes/accelerate/ddp.yaml), or leave it out (--image_feature_store none)."
        )
    for name in TOWERS if trainer.args.do_train else ():
        tower = getattr(model, name)
        if tower is not None and any(parameter.requires_grad for parameter in tower.parameters()):
            raise ValueError(
                f"--image_feature_store keeps the outputs of a frozen image tower, but the {name} is trained. Freeze "
                f"it (--freeze_{name} all), or leave the store out (--image_feature_store none)."
            )
    model.to(trainer.args.device).eval()
    images = [
        {row: int.from_bytes(content[:8], "little") >> 1 or 1 for row, content in sentences.shown_images().items()}
        for sentences in splits
    ]
    files = {
        image_id: (sentences, row)
        for sentences, rows in zip(splits, images, strict=True)
        for row, image_id in rows.items()
    }
    with trainer.accelerator.autocast(), torch.no_grad():
        store = FeatureStore(folder, tower_fingerprint(model, collator.processor, trainer.args.device.type))
        missing = sorted(image_id for image_id in files if image_id not in store)
        trainer.accelerator.wait_for_everyone()  # nobody adds before everybody has seen what is missing
        if missing:
            logger.info(f"{len(missing)} of {len(files)} images are not in {store.folder}: they are computed.")
        rank, world = trainer.args.process_index, trainer.args.world_size
        own = {image_id: files[image_id] for image_id in missing[rank::world]}
        unreadable = set(sum(gather_object([_compute(model, store, own, trainer)]), []))
    for sentences, rows in zip(splits, images, strict=True):
        sentences.use_image_ids({row: 0 if image_id in unreadable else image_id for row, image_id in rows.items()})
    collator.features = store
    return store


def tower_fingerprint(model: TwoMNERModel, processor: TwoMNERProcessor, device_type: str) -> str:
    """
    A name for whatever an image's features depend on. The precision is part of it, also that of `torch.autocast`, so
    call it where they are computed.
    """
    digest = hashlib.blake2b(digest_size=16)
    facts: dict[str, Any] = {
        "preprocessing": _plain(processor.image_processor.to_dict()),
        "normalizations": [model.config.image_normalization, model.config.global_image_normalization],
        "device": device_type,
        "autocast": str(torch.get_autocast_dtype(device_type)) if torch.is_autocast_enabled(device_type) else None,
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    for name in TOWERS:
        tower = getattr(model, name)
        if tower is None:
            continue
        facts[name] = [type(tower).__name__, tower.config._attn_implementation, _plain(tower.config.to_dict())]
        for key, value in sorted(tower.state_dict().items()):
            digest.update(f"{name}.{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("_name_or_path", "transformers_version")}


Files = dict[int, tuple[WindowedSentences, int]]  # of each image id, where the image is


def _compute(model: Any, store: FeatureStore, files: Files, trainer: TwoMNERTrainer) -> list[int]:
    """Adds the features of some images to the store; returns the ids of those that do not open."""
    args = trainer.args
    loader = DataLoader(
        _Images(files, trainer.data_collator),
        batch_size=IMAGES_PER_BATCH,
        collate_fn=list,
        num_workers=args.dataloader_num_workers,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        generator=torch.Generator(),  # not that which training draws from
    )
    unreadable: list[int] = []
    for batch in loader:
        opened = {image_id: pixels for image_id, pixels in batch if pixels is not None}
        unreadable += [image_id for image_id, _ in batch if image_id not in opened]
        if opened:
            pixels = torch.stack(list(opened.values()))  # (N, C, H, W)
            blank = pixels.new_zeros(IMAGES_PER_BATCH - len(opened), *pixels.shape[1:])
            outputs = model.encode_images(torch.cat([pixels, blank]).to(model.device))
            for place, image_id in enumerate(opened):
                # A copy, or the whole batch would be written.
                store.add(image_id, [output[place].cpu().clone() for output in outputs if output is not None])
    return unreadable


class _Images(Dataset):
    """The pixels (C, H, W) of images by id, as a batch has them, to the last bit; `None` where one does not open."""

    def __init__(self, files: Files, collator: DataCollatorForMultimodalTokenClassification):
        self.files, self.collator = list(files.items()), collator

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor | None]:
        image_id, (sentences, row) = self.files[index]
        pixels = self.collator([{"tokens": ["."], "image": sentences.image_file(row)}]).get("pixel_values")
        return image_id, None if pixels is None else pixels[0]
