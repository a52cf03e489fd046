"""The encoders of 2M-NER: any text tower and any image tower of Transformers, made, loaded and read in one way."""

import contextlib
import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoImageProcessor, AutoModel
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

try:
    from .alignment_2mner import is_sharded
except ImportError:
    from alignment_2mner import is_sharded


# Parts of image towers that feed nothing but outputs we do not read: masked-image tokens, pooled heads and, by type of
# model, the norm in front of the head.
UNREAD_PARTS = ("mask_token", "pooler", "head")
UNREAD_NORMS = {
    "chinese_clip_vision_model": "post_layernorm",
    "clip_vision_model": "post_layernorm",
    "convnext": "layernorm",
    "convnextv2": "layernorm",
    "mlcd_vision_model": "post_layernorm",
}

# Pictures that a frozen tower reads at once on a CPU. The large outputs of a layer are memory that the C library asks
# of the system anew each time, page by page: EfficientNet-Lite0 takes 8 ms a picture of 224 x 224 by fours, 12 by
# eights and 17 by sixteens.
CPU_PICTURES = 4


def sequence_of(tower: PreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """
    Last hidden state of an image tower as a sequence (N, P, D); a convolutional map is read cell by cell. A frozen
    tower on a CPU reads at most `CPU_PICTURES` at once, in parts as equal as can be.
    """
    # Convolutions are several times faster on channels_last input on CPU, and never slower; patches do not care.
    pixel_values = pixel_values.to(tower.dtype).contiguous(memory_format=torch.channels_last)
    parts = [pixel_values]
    if _reads_few(tower, pixel_values):
        parts = pixel_values.tensor_split(-(-len(pixel_values) // CPU_PICTURES))
    states = [tower(pixel_values=part, return_dict=True).last_hidden_state for part in parts]
    sequence = torch.cat(states) if len(states) > 1 else states[0]
    if sequence.dim() == 4:
        sequence = sequence.flatten(2).transpose(1, 2)  # (N, D, h, w) -> (N, h * w, D)
    return sequence


def _reads_few(tower: PreTrainedModel, pixel_values: torch.Tensor) -> bool:
    # A compiled graph and processes that share a tower's weights must run it as often whatever the batch holds.
    if torch.compiler.is_compiling() or pixel_values.device.type != "cpu" or is_sharded(tower):
        return False
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in tower.parameters()):
        return False
    return len(pixel_values) > CPU_PICTURES


def in_chunks(encode: Callable[..., torch.Tensor], size: int | None, **inputs: torch.Tensor) -> torch.Tensor:
    """
    `encode(**inputs)`, `size` rows at a time where a gradient is wanted. A chunk's activations are not kept: they are
    computed again in the backward pass, with the same random numbers (Gao et al. 2021, "Scaling Deep Contrastive
    Learning Batch Size under Memory Limited Setup": memory of a chunk, gradient of the batch).
    """
    rows = len(next(iter(inputs.values())))
    if size is None or rows <= size or not torch.is_grad_enabled():
        return encode(**inputs)
    parts = []
    for start in range(0, rows, size):
        chunk = {name: value[start : start + size] for name, value in inputs.items()}
        parts.append(checkpoint(encode, use_reentrant=False, **chunk))
    return torch.cat(parts)


def drawing_aside(like: torch.Tensor, enabled: bool):
    """A context whose random numbers, on the CPU and on the device of `like`, are drawn again after it."""
    if not enabled or torch.compiler.is_compiling():
        return contextlib.nullcontext()  # a disabled `fork_rng` is one more thing to trace, and fixes the batch size
    return torch.random.fork_rng([like.device] if like.is_cuda else [])


def blank_image(config, like: torch.Tensor) -> torch.Tensor:
    """Pixels (1, C, H, W) of a size that a tower of this configuration takes, all zero, on the device of `like`."""
    size = getattr(config, "image_size", 64)  # a convolutional tower takes any
    size = (size, size) if isinstance(size, int) else tuple(size)
    return like.new_zeros(1, getattr(config, "num_channels", 3), *size)


def zero_of(tower: PreTrainedModel, like: torch.Tensor) -> torch.Tensor:
    """A zero on the device of `like` that gives each trained parameter of a tower a (zero) gradient."""
    if is_sharded(tower):  # whoever does run it waits for this process's share of the weights
        return 0 * sequence_of(tower, blank_image(tower.config, like)).sum()
    return sum((p.flatten()[0] * 0 for p in tower.parameters() if p.requires_grad), like.new_zeros(()))


def renormalized(pixel_values: torch.Tensor, config) -> torch.Tensor:
    """
    The pixels (N, C, H, W) that two image towers share, as the second of a [`TwoMNERConfig`] was trained to see them:
    its normalisation and, if fixed, its size.
    """
    if config.global_image_normalization is not None:
        mean, std, global_mean, global_std = (
            pixel_values.new_tensor(statistics[name]).view(1, -1, 1, 1)
            for statistics in (config.image_normalization, config.global_image_normalization)
            for name in ("mean", "std")
        )
        pixel_values = (pixel_values * std + mean - global_mean) / global_std
    size = getattr(config.global_vision_config, "image_size", None)
    # Only a tower with position embeddings is tied to its size; a convolutional one takes any.
    if hasattr(config.global_vision_config, "patch_size") and size is not None:
        size = (size, size) if isinstance(size, int) else tuple(size)
        if pixel_values.shape[-2:] != size:
            # In float32, as it does not exist in half precision on a CPU.
            pixel_values = F.interpolate(pixel_values.float(), size=size, mode="bicubic", antialias=True)
    return pixel_values


def fresh_tower(config) -> PreTrainedModel:
    """A tower of this configuration, without a pooling layer if its class lets us choose."""
    try:
        return AutoModel.from_config(config, add_pooling_layer=False)
    except TypeError:
        return AutoModel.from_config(config)


def pretrained_tower(name: str | os.PathLike, side: str, dtype: torch.dtype) -> PreTrainedModel:
    """
    Loads a tower; of a text-image model, the side ("text" or "vision") asked for, if that side's own class finds its
    weights in the checkpoint (CLIP, SigLIP).

    Raises:
        ValueError: weights that are read are not in the checkpoint under the names that the tower's class has.
    """
    whole = AutoConfig.from_pretrained(name)
    options = {"config": getattr(whole, f"{side}_config", whole), "dtype": dtype, "output_loading_info": True}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # heads and poolers left behind are what is wanted, not worth a report
    try:
        try:
            tower, found = AutoModel.from_pretrained(name, add_pooling_layer=False, **options)
        except TypeError:
            tower, found = AutoModel.from_pretrained(name, **options)
    finally:
        logging.set_verbosity(verbosity)
    state = tower.state_dict()
    # Whole numbers, such as positions and BatchNorm's counters, are no weights.
    weights = [key for key, value in state.items() if value.is_floating_point() and not _is_unread(tower, key)]
    if missing := [key for key in weights if key in found["missing_keys"]]:
        raise ValueError(
            f"The {side} tower {name} lacks {len(missing)} of the {len(weights)} weights of a {type(tower).__name__} "
            f"({missing[0]}, ...), which would stay random. Its config.json is that of a `{whole.model_type}`: if the "
            "tower is a part of it, load the whole, save that part with its `save_pretrained` into a folder of its "
            "own, with the tokenizer or image processor, and give that folder."
        )
    return tower


def normalization(name: str | os.PathLike) -> dict[str, list[float]]:
    """Mean and standard deviation that the image processor in this folder applies."""
    try:
        processor = AutoImageProcessor.from_pretrained(name, backend="pil")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The image tower {name} has no image processor to read its normalisation from ({error}). Save one beside "
            "it, or give `image_normalization` and `global_image_normalization`."
        ) from error
    return {"mean": list(processor.image_mean), "std": list(processor.image_std)}


def freeze_unread_parts(tower: PreTrainedModel) -> None:
    """
    Freezes what never gets a gradient in an image tower that is read by `sequence_of`: DistributedDataParallel takes a
    trained parameter without one for an error.
    """
    for name, parameter in tower.named_parameters():
        if _is_unread(tower, name):
            parameter.requires_grad_(False)


def _is_unread(tower: PreTrainedModel, name: str) -> bool:
    parts = name.split(".")
    return parts[0] == UNREAD_NORMS.get(tower.config.model_type) or any(part in UNREAD_PARTS for part in parts)


def rest_frozen_parts(module: nn.Module) -> None:
    """Puts `module` into evaluation if it has parameters and trains none, else looks inside; BatchNorm always."""
    parameters = list(module.parameters())
    frozen = parameters and not any(parameter.requires_grad for parameter in parameters)
    if frozen or isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.eval()
        return
    for child in module.children():
        rest_frozen_parts(child)


def gather_words(piece_states: torch.Tensor, word_starts: torch.Tensor) -> torch.Tensor:
    """The first piece of each word: (B, S, H) at the positions (B, W) -> (B, W, H), zeros where there is no word."""
    index = word_starts.clamp(min=0)[..., None].expand(-1, -1, piece_states.shape[-1])
    return piece_states.gather(1, index) * (word_starts >= 0)[..., None]
