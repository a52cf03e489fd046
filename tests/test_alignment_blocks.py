"""The contrastive losses computed by blocks: equal to the dense loss, in memory linear in the rows."""

import math

import pytest
import torch
from test_alignment_2mner import KINDS, Batch, build, loss_and_gradients, make_batch, mixed_batch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from alignment_2mner import over_negatives


def dense_loss(module: nn.Module, kind: str, batch: Batch) -> Tensor:
    """The loss of a batch all of whose rows are usable, over whole matrices, by the library's cross entropy."""
    if kind == "token":
        texts = nn.functional.normalize(module.text_projection(batch.text_states), dim=-1)
        images = nn.functional.normalize(module.image_projection(batch.image_states), dim=-1)
        cosines = torch.einsum("aqd,bkd->abqk", texts, images)  # texts x images x words x patches
        words = batch.text_mask[:, None, :, None]
        to_image = (cosines.amax(3) * words[..., 0]).sum(2) / words[..., 0].sum(2)
        to_text = cosines.masked_fill(~words, -math.inf).amax(2).mean(2).T
    else:
        lengths = batch.text_mask.sum(1, keepdim=True)
        texts = (batch.text_states * batch.text_mask[..., None]).sum(1) / lengths
        texts = nn.functional.normalize(module.text_projection(texts), dim=-1)
        images = nn.functional.normalize(module.image_projection(batch.image_states.mean(1)), dim=-1)
        to_image = texts @ images.T
        to_text = to_image.T
    eye = torch.eye(len(to_image), dtype=torch.bool)
    ids = batch.image_ids
    barred = (ids[:, None] == ids) & (ids != 0)[:, None] & ~eye
    if kind == "siglip":
        logits = module.logit_scale.exp() * to_image + module.logit_bias
        signs = torch.where(eye, 1.0, -1.0)
        return -(nn.functional.logsigmoid(signs * logits) * ~barred).sum() / len(ids)
    if kind == "nt_xent":
        both = torch.cat([texts, images])
        logits = (both @ both.T / module.temperature).masked_fill(barred.repeat(2, 2), -math.inf)
        logits = logits.masked_fill(torch.eye(len(both), dtype=torch.bool), -math.inf)
        return nn.functional.cross_entropy(logits, torch.arange(len(both)).roll(len(ids)))
    scale, own = module.logit_scale.exp(), torch.arange(len(ids))
    return (
        sum(nn.functional.cross_entropy((scale * x).masked_fill(barred, -math.inf), own) for x in (to_image, to_text))
        / 2
    )


def many_rows(rows: int) -> Batch:
    """Every fourth row has an image of its own, the others share a few."""
    return make_batch([1 + i % 4 for i in range(rows)], [0 if i % 4 == 0 else 1 + i % 5 for i in range(rows)], seed=11)


@pytest.mark.parametrize("block_size", [1, 100, 40 * 7, 2**22], ids=lambda size: f"blocks of {size}")
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_equal_the_dense_loss(kind, block_size):
    module, batch = build(kind).double(), many_rows(40)
    if kind == "siglip":
        nn.init.constant_(module.logit_bias, -1.0)
    batch = batch._replace(text_states=batch.text_states.double(), image_states=batch.image_states.double())
    module.block_size = block_size
    results = []
    for compute in (lambda b: module(*b), lambda b: dense_loss(module, kind, b)):
        states = {name: getattr(batch, name).clone().requires_grad_() for name in ("text_states", "image_states")}
        found = loss_and_gradients(module, compute(batch._replace(**states)))
        results.append(found | {name: x.grad for name, x in states.items()})
    torch.testing.assert_close(*results, atol=1e-9, rtol=1e-9)
    assert all(x.abs().max() > 1e-5 for x in results[0].values())


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_in_single_precision_equal_one_block(kind):
    module, batch = build(kind), mixed_batch()
    expected = loss_and_gradients(module, module(*batch))
    module.block_size = 1
    got = loss_and_gradients(module, module(*batch))
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-6 * max(1, value.abs().max().item()), rtol=1e-5)


@pytest.mark.parametrize("reduction", ["logsumexp", "softplus"])
@pytest.mark.parametrize("block_size", [1, 12, 1000])
def test_sum_over_negatives_passes_the_gradient_check(reduction, block_size):
    generator = torch.Generator().manual_seed(5)
    anchors, candidates = (torch.randn(n, 2, generator=generator).double().requires_grad_() for n in (4, 7))
    bias = torch.randn(7, generator=generator).double().requires_grad_()
    anchor_keys, keys = torch.tensor([1, 2, 3, 2]), torch.tensor([1, 2, 2, 3, 4, 5, 1])

    def compute(anchors, candidates, bias):
        barred = bias.masked_fill(keys == 5, -math.inf)
        return over_negatives(anchors, candidates, barred, anchor_keys, keys, reduction, block_size)

    assert torch.autograd.gradcheck(compute, (anchors, candidates, bias))


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes, forward and backward."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(outputs):
            if not isinstance(x, Tensor) or x.layout is not torch.strided:
                continue  # a sparse one is made of strided ones, which are seen
            if x.untyped_storage().nbytes():  # an expanded view holds but its storage
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return outputs


@pytest.mark.parametrize("kind", KINDS)
def test_no_tensor_is_as_large_as_rows_times_rows(kind):
    largest = {}
    for rows in (128, 256):
        module, batch = build(kind), many_rows(rows)
        module.block_size = 8192
        with LargestTensor() as mode:
            module(*batch).backward()
        largest[rows] = mode.elements
    assert largest[256] < 256 * 256 / 2
    assert largest[256] <= 2 * largest[128]
    module.block_size = 2**22
    with LargestTensor() as mode:
        module(*batch).backward()
    assert mode.elements >= 256 * 256, "what the blocks save is seen"
