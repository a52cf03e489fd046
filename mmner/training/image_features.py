"""What the frozen image towers of a run say of its pictures: computed before training, once a picture, and stored."""

import hashlib
import importlib.metadata
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from collaboration_2mner import CPU_IMAGES
from mmner.data.collator import MultimodalCollator
from mmner.data.feature_store import FeatureStore, Layout
from mmner.data.sentences import WindowedSentences
from mmner.options import DataArguments, TrainingArguments
from mmner.training.trainer import TwoMNERTrainer
from modeling_2mner import TwoMNERModel
from processing_2mner import TwoMNERProcessor, image_id

logger = logging.getLogger(__name__)

# Pictures a step, always: kernels are chosen by the shape, so that with one shape the vectors of a picture do not
# depend, in their last bits, on how many others happened to be computed beside it.
PICTURES_A_STEP = 16
TRIED_TWICE = 4
VOLATILE = ("_name_or_path", "transformers_version")
LIBRARIES = ("torch", "transformers", "pillow")


def store_image_features(
    trainer: TwoMNERTrainer, splits: Sequence[WindowedSentences], args: DataArguments
) -> FeatureStore | None:
    """
    Computes what is not yet in the store, and makes sentences and collator of a run use it.

    The vectors of a picture are those that the model computes from its pixels, to the rounding of a kernel chosen for
    another batch size (none for transformers as for convolutions in bfloat16, measured on a CPU). Every process of a
    distributed run must call this.

    Args:
        trainer: its model, processor, collator and precision.
        splits: the sentences of the run; their pictures are looked up, and from then on they give ids.
        args: the folder and its limit.

    Returns:
        The store; `None` where the model reads no image.

    Raises:
        ValueError: an image tower is trained, pictures differ from one reading to the next, the limit is too low, the
            processes do not share the folder, or training is fully sharded.
    """
    model: TwoMNERModel = trainer.accelerator.unwrap_model(trainer.model).model
    collator: MultimodalCollator = trainer.data_collator
    if not model.config.uses_images:
        logger.warning("The model reads no image: image_feature_store has nothing to do.")
        return None
    if trainer.is_fsdp_enabled:
        raise ValueError(
            "image_feature_store does not go with FSDP, where every process must run the image tower in every step: "
            "train with DDP (recipes/accelerate/ddp.yaml), or leave the option at none."
        )
    check_frozen(model, trainer.args)
    started = time.monotonic()
    model.to(trainer.args.device).eval()
    with trainer.accelerator.autocast(), torch.no_grad():
        fingerprint = tower_fingerprint(model, collator.processor, trainer.args.device.type)
        limit = int(args.image_feature_store_gb * 2**30)
        store = FeatureStore(args.image_feature_store, fingerprint, limit)
        contents = [sentences.shown_images() for sentences in splits]
        files = {
            content: (sentences, row)
            for sentences, rows in zip(splits, contents, strict=True)
            for row, content in rows.items()
        }
        ids = _fill(trainer, model, store, files)
    for sentences, rows in zip(splits, contents, strict=True):
        sentences.use_image_ids({row: ids[content] for row, content in rows.items()})
    collator.features = store
    logger.info(
        f"{sum(map(len, contents))} images, {len(set(ids.values()) - {0})} different: their vectors are in "
        f"{store.folder} after {time.monotonic() - started:.1f} s."
    )
    return store


def check_frozen(model: TwoMNERModel, args: TrainingArguments) -> None:
    """
    Raises:
        ValueError: the vectors of a picture would not stay as they are, or would not be those of its pixels.
    """
    for name in ("vision_model", "global_vision_model"):
        tower = getattr(model, name)
        trained = [] if tower is None else [key for key, value in tower.named_parameters() if value.requires_grad]
        if args.do_train and trained:
            raise ValueError(
                f"image_feature_store keeps what a frozen image tower computes, but {len(trained)} tensors of the "
                f"{name} are trained ({trained[0]}, ...). Freeze it: --freeze_{name} all, or leave the store out: "
                "--image_feature_store none."
            )
    if args.bf16_full_eval or args.fp16_full_eval:
        raise ValueError(
            "bf16_full_eval and fp16_full_eval give the image tower another precision in evaluation than in "
            "training, and a store has one: leave them out (--bf16 evaluates in bfloat16 too), or leave the store "
            "out: --image_feature_store none."
        )


def tower_fingerprint(model: TwoMNERModel, processor: TwoMNERProcessor, device_type: str) -> str:
    """
    A name of whatever a picture's vectors depend on: the image towers' weights, configurations and attention kernels,
    the preprocessing, the precision (that of `torch.autocast` included, so call it where they are computed), the kind
    of device and the versions of the libraries.
    """
    digest = hashlib.blake2b(digest_size=16)
    facts: dict[str, Any] = {
        "preprocessing": _plain(processor.image_processor.to_dict()),
        "normalizations": [model.config.image_normalization, model.config.global_image_normalization],
        "device": device_type,
        "autocast": str(torch.get_autocast_dtype(device_type)) if torch.is_autocast_enabled(device_type) else None,
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "pictures_a_step": min(PICTURES_A_STEP, CPU_IMAGES) if device_type == "cpu" else PICTURES_A_STEP,
    }
    for name in ("vision_model", "global_vision_model"):
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
    return {name: value for name, value in options.items() if name not in VOLATILE}


def _fill(
    trainer: TwoMNERTrainer,
    model: TwoMNERModel,
    store: FeatureStore,
    files: dict[bytes, tuple[WindowedSentences, int]],
) -> dict[bytes, int]:
    """Computes what the store lacks, each process its share; the picture of each file, 0 where it does not open."""
    args, accelerator, collator = trainer.args, trainer.accelerator, trainer.data_collator
    rank, world = args.process_index, args.world_size
    own = sorted(files)[rank::world]
    store.check({store.id_of(content) for content in own} - {None})
    accelerator.wait_for_everyone()
    store.refresh()
    ids = {content: store.id_of(content) for content in files}
    store.release_unused({found for found in ids.values() if found is not None})
    unknown = [content for content in own if ids[content] is None]
    missing = sum(found is None for found in ids.values())
    if missing:
        first = [files[content] for content in unknown[:TRIED_TWICE]]
        _check_repeatable([sentences.image_file(row) for sentences, row in first], collator)
        blank = _pixels(Image.new("RGB", (64, 64)), collator)
        layout = Layout.of(_encode(model, [blank])[0])
        if rank == 0:
            logger.info(f"{missing} of {len(ids)} images are not in {store.folder}: their vectors are computed.")
            store.reserve(missing, layout)
        accelerator.wait_for_everyone()
        pictures = _Pictures({content: files[content] for content in unknown}, collator)
        found = list(zip(unknown, _compute(model, store, pictures, args), strict=True))
        for shares in gather_object([found]):
            ids.update(shares)
        accelerator.wait_for_everyone()
        store.refresh()
    if lost := [found for found in ids.values() if found and found not in store]:
        raise ValueError(
            f"{len(lost)} pictures that another process computed are not in {store.folder} for process {rank}; "
            "expected a folder on a disk that all processes share. Name one by --image_feature_store."
        )
    return ids


def _compute(model: TwoMNERModel, store: FeatureStore, pictures: "_Pictures", args: TrainingArguments) -> list[int]:
    """Adds the vectors of the pictures that the store lacks; the id of each picture, 0 where it does not open."""
    # A generator of its own: the seeds of the workers must not be drawn from the one that training draws from.
    loader = DataLoader(
        pictures,
        batch_size=None,
        num_workers=args.dataloader_num_workers,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        generator=torch.Generator(),
    )
    silent = args.disable_tqdm or args.process_index > 0
    ids: list[int] = []
    new: dict[int, tuple[bytes, torch.Tensor]] = {}
    added: set[int] = set()
    progress = tqdm(loader, desc="images", unit="image", disable=silent)
    for content, (picture, pixels) in zip(pictures.contents, progress, strict=True):
        ids.append(picture)
        if picture in store:  # another file of this picture is there
            store.check([picture])
        if picture and picture not in added and picture not in store:
            added.add(picture)
            new[picture] = (content, pixels)
        if new and (len(new) == PICTURES_A_STEP or len(ids) == len(pictures)):
            vectors = _encode(model, [pixels for _, pixels in new.values()])
            for (image, (file, _)), tensors in zip(new.items(), vectors, strict=True):
                store.add(image, file, tensors)
            new.clear()
    return ids


def _encode(model: TwoMNERModel, pixels: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """The vectors (P, D) of each picture (C, H, W), and the second tower's (1, D) if there is one."""
    blank = torch.zeros_like(pixels[0])
    full = torch.stack(pixels + [blank] * (PICTURES_A_STEP - len(pixels))).to(model.device)
    states = [part.cpu() for part in model.encode_images(full) if part is not None]
    return [[part[row] for part in states] for row in range(len(pixels))]


class _Pictures(Dataset):
    """Pictures, opened and made pixels: in worker processes, if there are any."""

    def __init__(self, files: dict[bytes, tuple[WindowedSentences, int]], collator: MultimodalCollator):
        self.contents, self.places = list(files), list(files.values())
        self.collator = collator

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        sentences, row = self.places[index]
        image = self.collator.open(sentences.image_file(row))
        if image is None:
            return 0, torch.empty(0)
        return image_id(image), _pixels(image, self.collator)


def _pixels(image: Image.Image, collator: MultimodalCollator) -> torch.Tensor:
    """As a batch has them, to the last bit."""
    processor = collator.processor
    return processor.pixel_values(image)


def _check_repeatable(cells: list[dict[str, Any]], collator: MultimodalCollator) -> None:
    """
    Raises:
        ValueError: the preprocessing makes other pixels of the same picture the second time.
    """
    for cell in cells:
        image = collator.open(cell)
        if image is not None and not torch.equal(_pixels(image, collator), _pixels(image, collator)):
            raise ValueError(
                f"{type(collator.processor.image_processor).__name__} gives the same picture other pixels each time "
                "(augmentation?), so that its vectors cannot be computed once. Use one without chance, or leave the "
                "store out: --image_feature_store none."
            )


__all__ = ["check_frozen", "store_image_features", "tower_fingerprint"]
