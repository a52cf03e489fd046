"""Contrastive alignment of sentences and images, and the gather that brings negatives from every process.

Sources: the paper (arXiv 2404.17122, its contrastive losses), SimCLR, CLIP, SigLIP, FILIP; each class names its own.
"""

from __future__ import annotations

import functools
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

logger = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------------------------------
# The gather
# ---------------------------------------------------------------------------------------------------------------------


def world_size() -> int:
    """Number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """The number of this process among those that train together; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def unshared_image_ids(batch_size: int, device: torch.device) -> Tensor:
    """Ids `(batch_size,)` for images that no other row shows, on any process."""
    return torch.arange(1, batch_size + 1, device=device) + (process_rank() << 32)


def is_sharded(module: nn.Module) -> bool:
    """Whether a part of `module` is spread over several processes (FSDP), so that all must run it together."""
    if world_size() == 1:
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel  # here, as it is slow to import

    return any(isinstance(part, FSDPModule | FullyShardedDataParallel) for part in module.modules())


def gather_with_gradient(x: Tensor) -> Tensor:
    """Concatenate `x` over all processes, in rank order, so that gradients flow back to every process's rows.

    The backward pass sums the gradient over the processes and hands each its own rows. When DDP then averages the
    parameter gradients, the result is exactly the gradient of the mean over processes of their losses.

    This is a collective call: every process makes it, forward and backward, whatever its batch holds.

    Args:
        x (`torch.Tensor` of shape `(B, ...)`): sizes, the first one included, may differ between processes.

    Returns:
        `torch.Tensor` of shape `(sum of B, ...)`, the other sizes zero-padded to the largest of any process. With one
        process or no process group this is `x` itself.
    """
    return gather_all([x])[0]


def gather_all(tensors: Sequence[Tensor]) -> list[Tensor]:
    """`gather_with_gradient` for several tensors of one batch, with one exchange of sizes and one backward node."""
    tensors = list(tensors)
    if world_size() == 1:
        return tensors
    numbers = [size for x in tensors for size in x.shape]
    numbers.append(int(torch.is_grad_enabled() and any(x.requires_grad for x in tensors)))
    exchanged = torch.stack(_all_gather(torch.tensor(numbers, device=tensors[0].device))).tolist()
    if any(row[-1] for row in exchanged) and not numbers[-1]:
        # Some other process will run the backward collective (here, say, no image required a gradient): join it.
        k = next(k for k, x in enumerate(tensors) if x.is_floating_point())
        tensors[k] = tensors[k].detach().requires_grad_()
    ranks = [tensors[0].dim()]
    for x in tensors[1:]:
        ranks.append(ranks[-1] + x.dim())
    shapes = [[row[stop - x.dim() : stop] for x, stop in zip(tensors, ranks, strict=True)] for row in exchanged]
    return list(_Gather.apply(shapes, *tensors))


def sum_over_processes(x: Tensor) -> Tensor:
    """`x` (no gradient flows through it), summed in place over all processes; a collective call."""
    if world_size() > 1:
        dist.all_reduce(x, group=_gather_group())
    return x


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


# ---------------------------------------------------------------------------------------------------------------------
# What the losses share
# ---------------------------------------------------------------------------------------------------------------------


class Candidates(NamedTuple):
    """With which of the G rows of all processes each of the B local rows is compared.

    A usable row is a negative of another unless their keys are equal: one (B, G) comparison that is made a block at a
    time, and never held as a whole.
    """

    own_keys: Tensor
    """(B,) int32: the keys of the local rows."""
    keys: Tensor
    """(G,) int32: equal for rows that show the same image, unlike for all others."""
    bias: Tensor
    """(G,): what is added to a logit: 0, or minus infinity for a row that takes no part."""
    count: Tensor
    """Scalar int64: usable rows on all processes, at least 1."""


def find_candidates(rows: Tensor, image_ids: Tensor, rank: int, dtype: torch.dtype) -> Candidates:
    """Keys that tell each local row's negatives, and the number of usable rows; without waiting for the device.

    Args:
        rows (`torch.Tensor` int64 of shape `(G, 3)`): of every row of every process: usable, image id, rank.
        image_ids (`torch.Tensor` int64 of shape `(B,)`): of the local rows; 0 is an image that no other row shares.
        rank: this process.
        dtype: of the logits.
    """
    usable, ids, ranks = rows.unbind(dim=1)
    ids, order = ids.sort()
    begins = torch.ones_like(ids, dtype=torch.bool)
    begins[1:] = (ids[1:] != ids[:-1]) | (ids[1:] == 0)
    keys = torch.empty_like(order).scatter_(0, order, begins.cumsum(0)).int()
    own = (ranks < rank).sum() + torch.arange(len(image_ids), device=rows.device)
    bias = torch.zeros(keys.shape, dtype=dtype, device=keys.device).masked_fill_(usable == 0, -math.inf)
    return Candidates(keys[own], keys, bias, usable.sum().clamp(min=1))


class _OverNegatives(torch.autograd.Function):
    """`over_negatives`, a block of candidates at a time: forward, and again backward."""

    @staticmethod
    def forward(
        ctx,
        anchors: Tensor,
        candidates: Tensor,
        bias: Tensor,
        anchor_keys: Tensor,
        candidate_keys: Tensor,
        reduction: str,
        block_size: int,
    ) -> Tensor:
        ctx.reduction = reduction
        ctx.rows = max(1, block_size // max(1, len(anchors)))
        total = logits = None
        for start in range(0, max(1, len(candidates)), ctx.rows):
            block = slice(start, start + ctx.rows)
            logits = _block_logits(anchors, candidates, bias, anchor_keys, candidate_keys, block)
            if reduction == "softplus":
                part = F.softplus(logits).sum(dim=1)
                total = part if total is None else total + part
            else:
                part = logits.logsumexp(dim=1)
                total = part if total is None else torch.logaddexp(total, part)
        # What is a single block is small enough to be kept: as fast as if blocks did not exist.
        logits = logits if len(candidates) <= ctx.rows else None
        ctx.save_for_backward(anchors, candidates, bias, anchor_keys, candidate_keys, total, logits)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        anchors, candidates, bias, anchor_keys, candidate_keys, total, kept = ctx.saved_tensors
        # An anchor without negatives: minus infinity less itself is not a number; less 0 its weights are 0, as due.
        shift = total.masked_fill(total == -math.inf, 0)[:, None]
        anchors_gradient = torch.zeros_like(anchors)
        candidates_gradient, bias_gradient = torch.empty_like(candidates), torch.empty_like(bias)
        for start in range(0, len(candidates), ctx.rows):
            block = slice(start, start + ctx.rows)
            logits = kept
            if logits is None:
                logits = _block_logits(anchors, candidates, bias, anchor_keys, candidate_keys, block)
            weights = logits.sigmoid() if ctx.reduction == "softplus" else (logits - shift).exp_()
            weights.mul_(gradient[:, None])  # (A, block): of the gradient of the logits
            anchors_gradient.addmm_(weights, candidates[block])
            torch.mm(weights.T, anchors, out=candidates_gradient[block])
            if ctx.needs_input_grad[2]:
                torch.sum(weights, dim=0, out=bias_gradient[block])
        return (
            anchors_gradient,
            candidates_gradient,
            bias_gradient if ctx.needs_input_grad[2] else None,
            None,
            None,
            None,
            None,
        )


def _block_logits(
    anchors: Tensor, candidates: Tensor, bias: Tensor, anchor_keys: Tensor, candidate_keys: Tensor, block: slice
) -> Tensor:
    """(A, block): products plus the candidates' bias, minus infinity where the keys are equal."""
    logits = torch.addmm(bias[block], anchors, candidates[block].T)
    return logits.masked_fill_(anchor_keys[:, None] == candidate_keys[block], -math.inf)


def over_negatives(
    anchors: Tensor,
    candidates: Tensor,
    bias: Tensor,
    anchor_keys: Tensor,
    candidate_keys: Tensor,
    reduction: str,
    block_size: int,
) -> Tensor:
    """
    Sum over each anchor's negatives, the candidates of another key, of a function of the logit
    `anchor @ candidate + bias`, in memory linear in anchors and candidates.

    The logits are computed by blocks of candidates, and, where there are several, once more in the backward pass
    (after memory-efficient attention, arXiv 2112.05682, and for this loss arXiv 2410.17243). Exact, up to rounding.

    Args:
        anchors (`torch.Tensor` of shape `(A, D)`).
        candidates (`torch.Tensor` of shape `(C, D)`).
        bias (`torch.Tensor` of shape `(C,)`): minus infinity for a candidate that takes no part.
        anchor_keys (`(A,)`) and candidate_keys (`(C,)`): a candidate of the anchor's own key is no negative.
        reduction: `"logsumexp"`, or `"softplus"`: sum of log(1 + exp(logit)).
        block_size: logits computed at a time: bounds the memory, not the result.

    Returns:
        `torch.Tensor` of shape `(A,)`; minus infinity (`logsumexp`) or 0 for an anchor without negatives, with zero
        gradients.
    """
    return _OverNegatives.apply(anchors, candidates, bias, anchor_keys, candidate_keys, reduction, block_size)


def info_nce(positive: Tensor, negatives: Tensor) -> Tensor:
    """-log of the positive's share among itself and the negatives.

    Args:
        positive (`torch.Tensor` of shape `(B,)`): logit of each row's own pair.
        negatives (`torch.Tensor` of shape `(B,)`): log of the summed exponentials of its negatives.

    Returns:
        `torch.Tensor` of shape `(B,)`; finite also for a row without negatives (0).
    """
    # The threshold, beyond which softplus returns its argument, is where float64 can no longer tell the two apart.
    return F.softplus(negatives - positive, threshold=40)


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _project(projection: nn.Module, x: Tensor) -> Tensor:
    """Project and scale to unit length. A zero vector stays zero and gets no gradient, which would be unbounded."""
    x = _wide(projection(x.to(next(projection.parameters()).dtype)))
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    tiny = 1e-6
    return x * torch.where(norm > tiny, 1 / norm.clamp(min=tiny), 0)


class Alignment(nn.Module, ABC):
    """Base of the contrastive losses.

    A row takes part if it has an image and a word; every other row is neither anchor nor negative, and nothing of it
    (NaN included) reaches the loss or a gradient. The positive of a row is its own pair; rows that show the same image
    are never each other's negatives, in any pairing of modalities and on whichever process they are.

    The loss is the mean over all usable pairs of all processes, written so that the *mean over processes* of what they
    return, and of their gradients, is exactly that of one process with all rows. Every process must call it, also
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
    compares_words = False
    """Whether `text_states` are words, or the pieces of a sentence that becomes one vector."""
    block_size = 2**22
    """Similarities computed at a time: bounds the memory, not the result."""

    def __init__(
        self,
        text_width: int,
        image_width: int,
        projection_dim: int,
        temperature: float | None = None,
        text_pooling: str = "mean",
    ):
        super().__init__()
        temperature = self.default_temperature if temperature is None else temperature
        if not temperature > 0:
            raise ValueError(f"The alignment temperature is {temperature}; it must be above 0 (None: the default).")
        if text_pooling not in ("mean", "first"):
            raise ValueError(f"text_pooling is {text_pooling!r}; choose 'mean' or 'first'.")
        self.text_width = text_width
        self.image_width = image_width
        self.temperature = temperature
        self.text_pooling = text_pooling
        self.text_projection = self.make_projection(text_width, projection_dim)
        self.image_projection = self.make_projection(image_width, projection_dim)
        self.add_parameters()
        self.reset_parameters()

    def parts(self) -> Sequence[Alignment]:
        """The losses that are summed: this one."""
        return [self]

    def make_projection(self, width: int, projection_dim: int) -> nn.Module:
        return nn.Linear(width, projection_dim, bias=False)

    def add_parameters(self) -> None:
        """Register the parameters beside the projections."""

    def reset_parameters(self) -> None:
        """Set the parameters whose start is not random (temperature, bias); projections are ordinary `nn.Linear`."""

    @abstractmethod
    def embed(self, words: Tensor, word_mask: Tensor, patches: Tensor) -> tuple[Tensor, ...]:
        """(B, S, Dt), (B, S) bool, (B, P, Di), zeros where not usable, to the tensors that all processes exchange."""

    @abstractmethod
    def row_losses(self, local: Sequence[Tensor], everywhere: Sequence[Tensor], candidates: Candidates) -> Tensor:
        """What `embed` made of the B local rows and of the G rows of all processes, to one finite loss a row, (B,)."""

    def forward(
        self, text_states: Tensor, text_mask: Tensor, image_states: Tensor, has_image: Tensor, image_ids: Tensor
    ) -> Tensor:
        """
        Args:
            text_states (`torch.Tensor` of shape `(B, S, text_width)`): a vector a word; S may differ by process.
            text_mask (`torch.Tensor` bool of shape `(B, S)`): True where there is a word.
            image_states (`torch.Tensor` of shape `(B, P, image_width)`): anything in rows without an image.
            has_image (`torch.Tensor` bool of shape `(B,)`).
            image_ids (`torch.Tensor` int64 of shape `(B,)`): equal for rows that share an image; 0: shared with none.

        Returns:
            The loss, a float32 scalar, under autocast and in half precision too.

        Raises:
            ValueError: shapes that do not fit.
        """
        self._check(text_states, text_mask, image_states, has_image, image_ids)
        device = text_states.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            usable = has_image & text_mask.any(dim=1)
            word_mask = text_mask & usable[:, None]
            # `where`, not a product: NaN times zero is NaN, in the gradient too.
            words = torch.where(word_mask[:, :, None], text_states, 0)
            patches = torch.where(usable[:, None, None], image_states, 0)
            local = self.embed(words, word_mask, patches)
            rank = process_rank()
            rows = torch.stack([usable.long(), image_ids, torch.full_like(image_ids, rank)], dim=1)
            *everywhere, rows = gather_all([*local, rows])
            candidates = find_candidates(rows, image_ids, rank, local[0].dtype)
            losses = torch.where(usable, self.row_losses(local, everywhere, candidates), 0)
            return losses.sum() * world_size() / candidates.count

    def pool(self, words: Tensor, word_mask: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """One unit vector a sentence and one an image, (B, projection_dim) each."""
        if self.text_pooling == "mean":
            sentence = _wide(words).sum(dim=1) / word_mask.sum(dim=1, keepdim=True).clamp(min=1)
        else:
            first = word_mask.int().argmax(dim=1)
            sentence = words[torch.arange(len(words), device=words.device), first]
        return _project(self.text_projection, sentence), _project(self.image_projection, _wide(patches).mean(dim=1))

    def _check(
        self, text_states: Tensor, text_mask: Tensor, image_states: Tensor, has_image: Tensor, image_ids: Tensor
    ) -> None:
        fits = (
            text_states.dim() == image_states.dim() == 3
            and text_states.shape[2] == self.text_width
            and image_states.shape[2] == self.image_width
            and text_mask.shape == text_states.shape[:2]
            and image_states.shape[:1] == has_image.shape == image_ids.shape == text_mask.shape[:1]
            and min(text_states.shape[1], image_states.shape[1]) > 0
        )
        if not fits:
            raise ValueError(
                f"Got text_states {tuple(text_states.shape)}, text_mask {tuple(text_mask.shape)}, "
                f"image_states {tuple(image_states.shape)}, has_image {tuple(has_image.shape)}, "
                f"image_ids {tuple(image_ids.shape)}; expected (B, S, {self.text_width}), (B, S), "
                f"(B, P, {self.image_width}), (B,), (B,) with S and P at least 1. "
                "Rows without an image need image_states too: zeros will do."
            )
        if text_mask.dtype != torch.bool or has_image.dtype != torch.bool:
            raise ValueError(
                f"text_mask is {text_mask.dtype} and has_image {has_image.dtype}; pass both as torch.bool."
            )


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


# ---------------------------------------------------------------------------------------------------------------------
# The losses
# ---------------------------------------------------------------------------------------------------------------------


class NTXentAlignment(Alignment):
    """NT-Xent over the 2N vectors of N pairs: the paper's loss (arXiv 2404.17122), SimCLR's (arXiv 2002.05709, eq. 1).

    Each vector is an anchor; its positive is its pair's other modality, and its negatives are all other vectors, those
    of its own modality included. The temperature is fixed. Each modality has a Linear-ReLU-Linear of its own. Images
    are averaged over their patches; the paper flattens them, which would tie the weights to one image size.
    """

    default_temperature = 0.5

    def make_projection(self, width: int, projection_dim: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, projection_dim), nn.ReLU(), nn.Linear(projection_dim, projection_dim))

    def embed(self, words: Tensor, word_mask: Tensor, patches: Tensor) -> tuple[Tensor, ...]:
        return self.pool(words, word_mask, patches)

    def row_losses(self, local: Sequence[Tensor], everywhere: Sequence[Tensor], candidates: Candidates) -> Tensor:
        texts, images = local
        anchors = torch.cat([texts, images]) / self.temperature
        own_keys, keys, bias = (torch.cat([x, x]) for x in candidates[:3])
        shares = over_negatives(
            anchors, torch.cat(tuple(everywhere)), bias, own_keys, keys, "logsumexp", self.block_size
        )  # (2B,)
        positive = (anchors[: len(texts)] * images).sum(dim=1)
        return sum(info_nce(positive, share) for share in shares.chunk(2)) / 2


class CLIPAlignment(_LearnedTemperature):
    """Symmetric InfoNCE between modalities, with a learned temperature: CLIP (arXiv 2103.00020, figure 3)."""

    default_temperature = 0.07

    def embed(self, words: Tensor, word_mask: Tensor, patches: Tensor) -> tuple[Tensor, ...]:
        return self.pool(words, word_mask, patches)

    def row_losses(self, local: Sequence[Tensor], everywhere: Sequence[Tensor], candidates: Candidates) -> Tensor:
        (texts, images), (all_texts, all_images) = local, everywhere
        own_keys, keys, bias, _ = candidates
        scale = self.scale()
        anchors = scale * texts
        positive = (anchors * images).sum(dim=1)
        shares = (
            over_negatives(anchors, all_images, bias, own_keys, keys, "logsumexp", self.block_size),
            over_negatives(scale * images, all_texts, bias, own_keys, keys, "logsumexp", self.block_size),
        )
        return sum(info_nce(positive, share) for share in shares) / 2


class SigLIPAlignment(_LearnedTemperature):
    """A sigmoid a text-image pair, with learned temperature and bias: SigLIP (arXiv 2303.15343, algorithm 1)."""

    default_temperature = 0.1
    default_bias = -10.0
    max_scale = None

    def add_parameters(self) -> None:
        super().add_parameters()
        self.logit_bias = nn.Parameter(torch.empty(1))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.logit_bias, self.default_bias)

    def embed(self, words: Tensor, word_mask: Tensor, patches: Tensor) -> tuple[Tensor, ...]:
        return self.pool(words, word_mask, patches)

    def row_losses(self, local: Sequence[Tensor], everywhere: Sequence[Tensor], candidates: Candidates) -> Tensor:
        (texts, images), (_, all_images) = local, everywhere
        own_keys, keys, bias, _ = candidates
        anchors, logit_bias = self.scale() * texts, _wide(self.logit_bias)
        negative_losses = over_negatives(
            anchors, all_images, bias + logit_bias, own_keys, keys, "softplus", self.block_size
        )
        return F.softplus(-(anchors * images).sum(dim=1) - logit_bias) + negative_losses


_BELOW_ANY_COSINE = -2.0


class _NearestKey(torch.autograd.Function):
    """Largest product of each query (B, Q, D) with the unmasked keys of each row (G, K, D): (B, Q, G), -2 if no keys.

    All products are needed to find the maxima, a block of rows at a time, but only the maxima pass a gradient: one
    entry in K. Autograd would multiply by the zeros too, at twice the cost of the forward pass.
    """

    @staticmethod
    def forward(ctx, queries: Tensor, keys: Tensor, key_mask: Tensor, block_size: int) -> Tensor:
        flat_queries = queries.reshape(-1, queries.shape[-1])
        rows = max(1, block_size // max(1, len(flat_queries) * keys.shape[1]))
        values, places = [], []
        for some_keys, some_mask in zip(keys.split(rows), key_mask.split(rows), strict=True):
            products = (flat_queries @ some_keys.flatten(0, 1).T).view(
                len(flat_queries), *some_mask.shape
            )  # (BQ, some G, K)
            value, place = products.masked_fill_(~some_mask, _BELOW_ANY_COSINE).max(dim=-1)
            values.append(value)
            places.append(place)
        ctx.save_for_backward(queries, keys, key_mask, torch.cat(places, dim=1))
        return torch.cat(values, dim=1).view(*queries.shape[:2], len(keys))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, key_mask, places = ctx.saved_tensors
        flat_queries, flat_keys = queries.reshape(-1, queries.shape[-1]), keys.reshape(-1, keys.shape[-1])
        weights = gradient.reshape(places.shape) * key_mask.any(dim=1)  # (BQ, G)
        columns = places + torch.arange(len(keys), device=keys.device) * keys.shape[1]  # (BQ, G), among the GK keys
        lines = torch.arange(len(flat_queries), device=keys.device)[:, None].expand_as(columns)
        matrix = torch.sparse_coo_tensor(
            torch.stack([lines.flatten(), columns.flatten()]),
            weights.flatten(),
            (len(flat_queries), len(flat_keys)),
            check_invariants=False,
        )
        return (matrix @ flat_keys).view_as(queries), (matrix.T @ flat_queries).view_as(keys), None, None


class TokenAlignment(_LearnedTemperature):
    """Word-to-patch late interaction: FILIP (arXiv 2111.07783, section 3.1).

    A text is as similar to an image as its words, on average, are to the patch nearest to each; an image to a text as
    its patches are to the word nearest to each. Symmetric InfoNCE as in CLIP, each direction over its own similarity.
    No sentence vector is formed: it is the *sentence-level* alignment that the paper finds to interfere with tagging.
    """

    default_temperature = 0.07
    compares_words = True
    block_size = 2**24
    """Cosines computed at a time: bounds the memory, not the result."""

    def embed(self, words: Tensor, word_mask: Tensor, patches: Tensor) -> tuple[Tensor, ...]:
        patch_mask = torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device)
        # Masks as integers, which every communication backend carries; padding of the gather reads as masked.
        return (
            _project(self.text_projection, words),
            word_mask.long(),
            _project(self.image_projection, patches),
            patch_mask,
        )

    def row_losses(self, local: Sequence[Tensor], everywhere: Sequence[Tensor], candidates: Candidates) -> Tensor:
        words, word_mask, patches, patch_mask = local
        all_words, all_word_mask, all_patches, all_patch_mask = everywhere
        scale = self.scale()
        directions = (
            (words, word_mask, patches, patch_mask, all_patches, all_patch_mask),
            (patches, patch_mask, words, word_mask, all_words, all_word_mask),
        )
        losses = (
            info_nce(
                scale * self.own_interaction(queries, query_mask, own, own_mask),
                self.negatives_share(queries, query_mask, keys, key_mask, scale, candidates),
            )
            for queries, query_mask, own, own_mask, keys, key_mask in directions
        )
        return sum(losses) / 2

    def negatives_share(
        self, queries: Tensor, query_mask: Tensor, keys: Tensor, key_mask: Tensor, scale: Tensor, among: Candidates
    ) -> Tensor:
        """Log of the summed exponentials of each row's negatives, (B,).

        Where there are several blocks of rows, the places of the nearest keys of each are forgotten, and found again
        in the backward pass.
        """
        lowest = torch.finfo(queries.dtype).min / 2  # at minus infinity the gradient of a log-sum-exp is NaN

        def share(queries: Tensor, keys: Tensor, key_mask: Tensor, row_keys: Tensor, bias: Tensor, scale: Tensor):
            logits = scale * self.late_interaction(queries, query_mask, keys, key_mask)  # (B, some G)
            barred = (bias < 0) | (among.own_keys[:, None] == row_keys)
            return logits.masked_fill(barred, lowest).logsumexp(dim=1)

        rows = max(1, self.block_size // max(1, query_mask.numel()))
        parts = (x.split(rows) for x in (keys, key_mask, among.keys, among.bias))
        blocks = [(*block, scale) for block in zip(*parts, strict=True)]
        if len(blocks) == 1:
            return share(queries, *blocks[0])
        again = functools.partial(checkpoint, share, use_reentrant=False, preserve_rng_state=False)
        return torch.stack([again(queries, *block) for block in blocks]).logsumexp(dim=0)

    @staticmethod
    def own_interaction(queries: Tensor, query_mask: Tensor, keys: Tensor, key_mask: Tensor) -> Tensor:
        """`late_interaction` of each row with its own pair alone: (B, Q, D), (B, Q), (B, K, D), (B, K) to (B,)."""
        products = (queries @ keys.transpose(1, 2)).masked_fill(~key_mask.bool()[:, None], _BELOW_ANY_COSINE)
        total = (products.max(dim=2).values * query_mask).sum(dim=1)
        return total / query_mask.sum(dim=1).clamp(min=1)

    def late_interaction(self, queries: Tensor, query_mask: Tensor, keys: Tensor, key_mask: Tensor) -> Tensor:
        """Mean over a row's queries of the largest cosine with any key of the other row.

        Args:
            queries (`torch.Tensor` of shape `(B, Q, D)`) and query_mask (`(B, Q)`): unit vectors; 0 where padded.
            keys (`torch.Tensor` of shape `(G, K, D)`) and key_mask (`(G, K)`): likewise.

        Returns:
            `torch.Tensor` of shape `(B, G)`; at the bottom of its range, but finite, where a row has no key.
        """
        nearest = _NearestKey.apply(queries, keys, key_mask.bool(), self.block_size)  # (B, Q, G)
        total = (nearest * query_mask[:, :, None]).sum(dim=1)
        return total / query_mask.sum(dim=1).clamp(min=1)[:, None]


class BothAlignments(nn.Module):
    """Sentences as `nt_xent` compares them, and words as `token` does: two losses, to be summed."""

    def __init__(
        self,
        text_width: int,
        image_width: int,
        projection_dim: int,
        temperature: float | None = None,
        text_pooling: str = "mean",
    ):
        super().__init__()
        self.sentences = NTXentAlignment(text_width, image_width, projection_dim, temperature, text_pooling)
        self.words = TokenAlignment(text_width, image_width, projection_dim, temperature)

    def parts(self) -> Sequence[Alignment]:
        return [self.sentences, self.words]


_KINDS: dict[str, type[Alignment | BothAlignments]] = {
    "nt_xent": NTXentAlignment,
    "clip": CLIPAlignment,
    "siglip": SigLIPAlignment,
    "token": TokenAlignment,
    "both": BothAlignments,
}


def build_alignment(
    kind: str,
    text_width: int,
    image_width: int,
    projection_dim: int,
    temperature: float | None = None,
    text_pooling: str = "mean",
) -> Alignment | BothAlignments:
    """
    The contrastive loss of that name: `nt_xent` (the paper's), `clip`, `siglip`, `token`, or `both` (`nt_xent` and
    `token`): its `parts` are called with words or pieces as each `compares_words` or not, and summed.

    `temperature=None` takes the kind's own (0.5, 0.07, 0.1, 0.07): fixed for `nt_xent`, a start value for the others.

    Raises:
        ValueError: unknown kind or pooling, temperature not above 0.
    """
    if kind not in _KINDS:
        raise ValueError(f"There is no alignment {kind!r}; choose one of {', '.join(_KINDS)} (for none, build none).")
    if kind == "token" and text_pooling != "mean":
        logger.warning("text_pooling=%r has no effect with alignment 'token', which compares words.", text_pooling)
    return _KINDS[kind](text_width, image_width, projection_dim, temperature, text_pooling)
