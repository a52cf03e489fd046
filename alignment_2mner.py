"""Contrastive alignment of sentences and images, with negatives from every process.

Sources: the paper (arXiv 2404.17122, its contrastive losses), SimCLR, CLIP, SigLIP, FILIP; each class names its own.
"""

from __future__ import annotations

import functools
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

logger = logging.getLogger(__name__)


# The gather


def world_size() -> int:
    """Number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """The number of this process among those that train together; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def is_sharded(module: nn.Module) -> bool:
    """Whether a part of `module` is spread over several processes (FSDP), so that all must run it together."""
    if world_size() == 1:
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel  # here, as it is slow to import

    return any(isinstance(part, FSDPModule | FullyShardedDataParallel) for part in module.modules())


def sum_over_processes(x: Tensor) -> Tensor:
    """`x`, summed in place over all processes; no gradient flows through it. A collective call."""
    if world_size() > 1:
        dist.all_reduce(x, group=_gather_group())
    return x


def gather_all(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Concatenates tensors over all processes, in rank order, so that gradients flow back to every process's rows.

    The backward pass sums the gradient over the processes and gives each its own rows. When DDP then averages the
    parameter gradients, the result is exactly the gradient of the mean over processes of their losses.

    This is a collective call: every process makes it, whatever its batch holds, and also its backward pass.

    Args:
        tensors (`torch.Tensor` of shape `(B, ...)` each): sizes, the first included, may differ between processes.

    Returns:
        `torch.Tensor` of shape `(sum of B, ...)` each, the other sizes zero-padded to the largest of any process. With
        one process these are the tensors themselves.
    """
    tensors = list(tensors)
    if world_size() == 1:
        return tensors
    sizes = torch.tensor([size for x in tensors for size in x.shape], device=tensors[0].device)
    shapes = [[part.tolist() for part in row.split([x.dim() for x in tensors])] for row in _all_gather(sizes)]
    return list(_Gather.apply(shapes, *tensors))


class _Gather(torch.autograd.Function):
    """All-gather forward; sum over processes and slice backward. `shapes[process][tensor]` is a list of sizes."""

    @staticmethod
    def forward(ctx, shapes: list[list[list[int]]], *tensors: Tensor) -> tuple[Tensor, ...]:
        outputs = []
        for k, x in enumerate(tensors):
            largest = [max(sizes) for sizes in zip(*(shape[k] for shape in shapes), strict=True)]
            padded = x.new_zeros(largest)
            padded[tuple(slice(size) for size in x.shape)] = x
            parts = _all_gather(padded)
            outputs.append(torch.cat([part[: shape[k][0]] for part, shape in zip(parts, shapes, strict=True)]))
        ctx.shapes = shapes
        ctx.differentiable = [x.is_floating_point() for x in tensors]
        ctx.mark_non_differentiable(*(x for x in outputs if not x.is_floating_point()))
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rank = dist.get_rank()
        results: list[Tensor | None] = [None]
        for k, gradient in enumerate(gradients):
            if not ctx.differentiable[k]:
                results.append(None)
                continue
            total = gradient.clone(memory_format=torch.contiguous_format)  # the reduction writes in place
            dist.all_reduce(total, group=_gather_group())
            first = sum(shape[k][0] for shape in ctx.shapes[:rank])
            rows, *rest = ctx.shapes[rank][k]
            results.append(total[(slice(first, first + rows), *(slice(size) for size in rest))])
        return tuple(results)


def _all_gather(x: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x, group=_gather_group())
    return parts


_own_group: tuple[object, object] | None = None


def _gather_group() -> object:
    """A process group of our own over all processes, made at the first gather.

    On a process whose batch has no image, the image tower's gradients may be ready before this gather's backward, and
    elsewhere after it. On the default group DDP's reductions and ours would then meet in different orders, and abort.
    """
    global _own_group
    if _own_group is None or _own_group[0] is not dist.group.WORLD:
        _own_group = (dist.group.WORLD, dist.new_group())
    return _own_group[1]


# What the losses share


class Rows(NamedTuple):
    """Which of the G rows of all processes are negatives of which of the B rows of this one: usable rows that show
    another image."""

    own_ids: Tensor  # (B,) int64: the image of each row of this process
    ids: Tensor  # (G,) int64: the image of each row of all processes
    usable: Tensor  # (G,) bool: the rows that take part


def over_negatives(
    logits_of: Callable[..., Tensor],
    candidates: Sequence[Tensor],
    rows: Rows,
    block_rows: int,
    reduce: Callable[[Tensor], Tensor],
    combine: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """
    Reduces the logits of each anchor with its negatives, a block of candidates at a time.

    Memory is linear in the number of rows: where there are several blocks, the logits of each are computed again in
    the backward pass (after arXiv 2112.05682, and for this loss arXiv 2410.17243).

    Args:
        logits_of: gives the logits `(A, some G)` of all anchors with a block of the candidates.
        candidates (`torch.Tensor` of shape `(G, ...)` each): of all processes.
        rows: which of them are negatives of which anchor.
        block_rows: candidates in a block. It bounds the memory and does not change the result.
        reduce: from the logits `(A, some G)` to `(A,)`; a candidate that is no negative has a very low one.
        combine: joins the results `(A,)` of two blocks.
    """

    def share(ids: Tensor, usable: Tensor, *block: Tensor) -> Tensor:
        logits = logits_of(*block)
        barred = ~usable | (rows.own_ids[:, None] == ids)
        # Not minus infinity: a log-sum-exp of nothing else has no gradient.
        return reduce(logits.masked_fill(barred, torch.finfo(logits.dtype).min / 2))

    blocks = list(zip(*(x.split(max(1, block_rows)) for x in (rows.ids, rows.usable, *candidates)), strict=True))
    if len(blocks) == 1:
        return share(*blocks[0])
    parts = (checkpoint(share, *block, use_reentrant=False, preserve_rng_state=False) for block in blocks)
    return functools.reduce(combine, parts)


def info_nce(positive: Tensor, negatives: Tensor) -> Tensor:
    """-log of the positive's share among itself and the negatives: the logit of each row's own pair and the log of the
    summed exponentials of its negatives, (B,) each, to (B,). A row without negatives has 0."""
    # The threshold, beyond which softplus returns its argument, is where float64 can no longer tell the two apart.
    return F.softplus(negatives - positive, threshold=40)


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _project(projection: nn.Module, x: Tensor) -> Tensor:
    """Projects and scales to unit length. A zero vector stays zero and gets no gradient, which would be unbounded."""
    x = _wide(projection(x.to(next(projection.parameters()).dtype)))
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    tiny = 1e-6
    return x * torch.where(norm > tiny, 1 / norm.clamp(min=tiny), 0)


class Alignment(nn.Module, ABC):
    """Base of the contrastive losses.

    A row takes part if it has an image and a word; every other row is neither anchor nor negative, and none of its
    values (NaN included) reaches the loss or a gradient. The positive of a row is its own pair; rows that show the
    same image are never each other's negatives, in any pairing of modalities and on whichever process they are.

    The loss is the mean over all usable pairs of all processes, scaled so that the *mean over processes* of their
    results, and of their gradients, is exactly that of one process with all rows. Every process must call it, also
    with a batch without images. Without any usable pair it is 0, and every parameter still gets a (zero) gradient.

    Args:
        text_width: last size of `text_states`.
        image_width: last size of `image_states`.
        projection_dim: size of the space in which the two are compared.
        temperature: similarities are divided by this; a start value where the class learns it. `None`: the class's
            `default_temperature`.
        text_pooling: `"mean"` over the words or the `"first"` one; not used where words are compared one by one.
    """

    default_temperature: float
    compares_words = False  # whether `text_states` are words, or the tokens of a sentence that becomes one vector
    block_size = 2**22  # similarities computed at a time: bounds the memory, not the result

    def __init__(
        self,
        text_width: int,
        image_width: int,
        projection_dim: int,
        temperature: float | None = None,
        text_pooling: str = "mean",
    ):
        super().__init__()
        self.temperature = self.default_temperature if temperature is None else temperature
        self.text_pooling = text_pooling
        self.text_projection = self.make_projection(text_width, projection_dim)
        self.image_projection = self.make_projection(image_width, projection_dim)
        self.add_parameters()
        self.reset_parameters()

    def make_projection(self, width: int, projection_dim: int) -> nn.Module:
        return nn.Linear(width, projection_dim, bias=False)

    def add_parameters(self) -> None:
        """Registers the parameters beside the projections."""

    def reset_parameters(self) -> None:
        """Sets the parameters whose start is not random: temperature and bias."""

    @abstractmethod
    def row_losses(self, local: Sequence[Tensor], everywhere: Sequence[Tensor], rows: Rows) -> Tensor:
        """From what `embed` made of the B rows of this process and of the G rows of all to a loss per row, (B,)."""

    def forward(
        self, text_states: Tensor, text_mask: Tensor, image_states: Tensor, image_index: Tensor, image_ids: Tensor
    ) -> Tensor:
        """
        Args:
            text_states (`torch.Tensor` of shape `(B, S, text_width)`): a vector per word; S may differ by process.
            text_mask (`torch.Tensor` bool of shape `(B, S)`): True where there is a word.
            image_states (`torch.Tensor` of shape `(N, P, image_width)`): of the distinct images, N at least 1.
            image_index (`torch.Tensor` int64 of shape `(B,)`): the image of each row, -1 for none.
            image_ids (`torch.Tensor` int64 of shape `(N,)`): equal for equal images, on every process.

        Returns: the loss, a float32 scalar, under autocast and in half precision too.
        """
        device = text_states.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            usable = (image_index >= 0) & text_mask.any(dim=1)
            word_mask = text_mask & usable[:, None]
            words = torch.where(word_mask[:, :, None], text_states, 0)  # not a product: NaN times zero is NaN
            local = self.embed(words, word_mask, image_states, image_index.clamp(min=0))
            own_ids = image_ids[image_index.clamp(min=0)]  # (B,)
            *everywhere, facts = gather_all([*local, torch.stack([own_ids, usable.long()], dim=1)])
            rows = Rows(own_ids, facts[:, 0], facts[:, 1].bool())
            losses = torch.where(usable, self.row_losses(local, everywhere, rows), 0)
            return losses.sum() * world_size() / rows.usable.sum().clamp(min=1)

    def embed(self, words: Tensor, word_mask: Tensor, images: Tensor, image_index: Tensor) -> tuple[Tensor, ...]:
        """One unit vector per sentence and one per row's image, (B, projection_dim) each: the tensors that all
        processes exchange."""
        if self.text_pooling == "mean":
            sentence = _wide(words).sum(dim=1) / word_mask.sum(dim=1, keepdim=True).clamp(min=1)
        else:
            first = word_mask.int().argmax(dim=1)
            sentence = words[torch.arange(len(words), device=words.device), first]
        vectors = _project(self.image_projection, _wide(images).mean(dim=1))  # (N, projection_dim)
        return _project(self.text_projection, sentence), vectors[image_index]


class _LearnedTemperature(Alignment):
    """The temperature as CLIP learns it: `logit_scale` is the log of its inverse."""

    max_scale: float | None = 100.0

    def add_parameters(self) -> None:
        self.logit_scale = nn.Parameter(torch.empty(1))  # a vector, as fully sharded training takes no scalars

    def reset_parameters(self) -> None:
        nn.init.constant_(self.logit_scale, -math.log(self.temperature))

    def scale(self) -> Tensor:
        """1 / temperature, at most `max_scale`."""
        if self.max_scale is None:
            return _wide(self.logit_scale).exp()
        limit = math.log(self.max_scale)
        if self.training:
            # As CLIP does after a step: the parameter itself is cut, or beyond the limit it would get no gradient and
            # never come back.
            with torch.no_grad():
                self.logit_scale.clamp_(max=limit)
        # Of a copy: the next batch may cut the parameter before this one's backward pass.
        return _wide(self.logit_scale.clone()).clamp(max=limit).exp()


# The losses


class NTXentAlignment(Alignment):
    """NT-Xent over the 2N vectors of N pairs: the paper's loss (arXiv 2404.17122), SimCLR's (arXiv 2002.05709, eq. 1).

    Each vector is an anchor; its positive is its pair's other modality, and its negatives are all other vectors, those
    of its own modality included. The temperature is fixed. Each modality has a Linear-ReLU-Linear of its own. Images
    are averaged over their patches; the paper flattens them, which would tie the weights to one image size.
    """

    default_temperature = 0.5

    def make_projection(self, width: int, projection_dim: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, projection_dim), nn.ReLU(), nn.Linear(projection_dim, projection_dim))

    def row_losses(self, local: Sequence[Tensor], everywhere: Sequence[Tensor], rows: Rows) -> Tensor:
        texts, images = local
        both = Rows(*(torch.cat([x, x]) for x in rows))
        positive = (texts * images).sum(dim=1) / self.temperature
        shares = _shares(
            torch.cat([texts, images]) / self.temperature, torch.cat(tuple(everywhere)), both, self.block_size
        )  # (2B,)
        return sum(info_nce(positive, share) for share in shares.chunk(2)) / 2


class CLIPAlignment(_LearnedTemperature):
    """Symmetric InfoNCE between modalities, with a learned temperature: CLIP (arXiv 2103.00020, figure 3)."""

    default_temperature = 0.07

    def row_losses(self, local: Sequence[Tensor], everywhere: Sequence[Tensor], rows: Rows) -> Tensor:
        (texts, images), (all_texts, all_images) = local, everywhere
        scale = self.scale()
        positive = scale * (texts * images).sum(dim=1)
        directions = ((texts, all_images), (images, all_texts))
        shares = [_shares(scale * own, others, rows, self.block_size) for own, others in directions]
        return sum(info_nce(positive, share) for share in shares) / 2


def _shares(anchors: Tensor, candidates: Tensor, rows: Rows, block_size: int) -> Tensor:
    """Log of the summed exponentials of each anchor's products with its negatives, (A,)."""
    return over_negatives(
        lambda block: anchors @ block.T,
        [candidates],
        rows,
        block_size // max(1, len(anchors)),
        lambda logits: logits.logsumexp(dim=1),
        torch.logaddexp,
    )


class SigLIPAlignment(_LearnedTemperature):
    """A sigmoid per text-image pair, with learned temperature and bias: SigLIP (arXiv 2303.15343, algorithm 1)."""

    default_temperature = 0.1
    default_bias = -10.0
    max_scale = None

    def add_parameters(self) -> None:
        super().add_parameters()
        self.logit_bias = nn.Parameter(torch.empty(1))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.logit_bias, self.default_bias)

    def row_losses(self, local: Sequence[Tensor], everywhere: Sequence[Tensor], rows: Rows) -> Tensor:
        (texts, images), (_, all_images) = local, everywhere
        anchors, logit_bias = self.scale() * texts, _wide(self.logit_bias)
        negatives = over_negatives(
            lambda block: anchors @ block.T + logit_bias,
            [all_images],
            rows,
            self.block_size // max(1, len(anchors)),
            lambda logits: F.softplus(logits).sum(dim=1),
            torch.add,
        )
        return F.softplus(-(anchors * images).sum(dim=1) - logit_bias) + negatives


class TokenAlignment(_LearnedTemperature):
    """Word-to-patch late interaction: FILIP (arXiv 2111.07783, section 3.1).

    A text is as similar to an image as its words, on average, are to the patch nearest to each; an image to a text as
    its patches are to the word nearest to each. Symmetric InfoNCE as in CLIP, each direction over its own similarity.
    No sentence vector is formed: it is the *sentence-level* alignment that the paper finds to interfere with tagging.
    """

    default_temperature = 0.07
    compares_words = True
    block_size = 2**24

    def embed(self, words: Tensor, word_mask: Tensor, images: Tensor, image_index: Tensor) -> tuple[Tensor, ...]:
        patches = _project(self.image_projection, images)[image_index]  # (B, P, projection_dim)
        # Masks as integers, which every communication backend carries; padding of the gather reads as masked.
        patch_mask = torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device)
        return _project(self.text_projection, words), word_mask.long(), patches, patch_mask

    def row_losses(self, local: Sequence[Tensor], everywhere: Sequence[Tensor], rows: Rows) -> Tensor:
        words, word_mask, patches, patch_mask = local
        all_words, all_word_mask, all_patches, all_patch_mask = everywhere
        scale = self.scale()
        losses = []
        for queries, query_mask, own, own_mask, keys, key_mask in (
            (words, word_mask, patches, patch_mask, all_patches, all_patch_mask),
            (patches, patch_mask, words, word_mask, all_words, all_word_mask),
        ):
            products = torch.einsum("bqd,bkd->bqk", queries, own)[:, :, None]
            positive = scale * _mean_of_nearest(products, query_mask, own_mask[:, None, None])[:, 0]

            def logits_of(keys: Tensor, key_mask: Tensor, queries=queries, query_mask=query_mask) -> Tensor:
                return scale * _mean_of_nearest(torch.einsum("bqd,gkd->bqgk", queries, keys), query_mask, key_mask)

            share = over_negatives(
                logits_of,
                [keys, key_mask],
                rows,
                self.block_size // max(1, query_mask.numel() * keys.shape[1]),
                lambda logits: logits.logsumexp(dim=1),
                torch.logaddexp,
            )
            losses.append(info_nce(positive, share))
        return sum(losses) / 2


def _mean_of_nearest(products: Tensor, query_mask: Tensor, key_mask: Tensor) -> Tensor:
    """Mean over a row's queries of the largest product with any key of another row; -2 where that has no key: from
    products (B, Q, G, K) and their masks (B, Q) and (..., G, K) to (B, G)."""
    nearest = products.masked_fill(~key_mask.bool(), -2.0).amax(dim=3)
    return (nearest * query_mask[:, :, None]).sum(dim=1) / query_mask.sum(dim=1).clamp(min=1)[:, None]


_KINDS: dict[str, type[Alignment]] = {
    "nt_xent": NTXentAlignment,
    "clip": CLIPAlignment,
    "siglip": SigLIPAlignment,
    "token": TokenAlignment,
}


def build_alignment(kind: str, *args: Any, **options: Any) -> Alignment:
    """The contrastive loss `nt_xent` (the paper's), `clip`, `siglip` or `token`; arguments as of [`Alignment`]."""
    if kind == "token" and (pooling := options.get("text_pooling", "mean")) != "mean":
        logger.warning("text_pooling=%r has no effect with alignment 'token', which compares words.", pooling)
    return _KINDS[kind](*args, **options)
