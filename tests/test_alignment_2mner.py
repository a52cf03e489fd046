"""The contrastive losses against loops and closed forms, and two processes against one."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from alignment_2mner import (  # noqa: E402
    build_alignment,
    gather_all,
    late_interaction,
    world_size,
)

KINDS = ["nt_xent", "clip", "siglip", "token"]
KINDS_AND_POOLINGS = [(kind, "mean") for kind in KINDS] + [(kind, "first") for kind in KINDS if kind != "token"]
TEXT, IMAGE, SPACE = 6, 5, 4


class Batch(NamedTuple):
    """One image a row; `align` makes the arguments of an alignment of it."""

    text_states: Tensor
    text_mask: Tensor
    image_states: Tensor
    has_image: Tensor
    image_ids: Tensor


def make_batch(lengths, image_ids, has_image=None, patches=3, seed=0, words=None) -> Batch:
    """Random states; `image_ids` None: no image; rows of the same non-zero id get the same image states."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(lengths)
    rows, words = len(lengths), words or max(1, int(lengths.max()))
    text_states = torch.randn(rows, words, TEXT, generator=generator)
    image_states = torch.randn(rows, patches, IMAGE, generator=generator)
    for i, image_id in enumerate(image_ids):
        if image_id:
            own = torch.Generator().manual_seed(1000 + image_id)
            image_states[i] = torch.randn(patches, IMAGE, generator=own)
    return Batch(
        text_states,
        torch.arange(words) < lengths[:, None],
        image_states,
        torch.tensor([x is not None for x in image_ids]),
        # 0 stands for an image that no other row shows.
        torch.tensor([0 if x is None else x or 10_000 + 100 * seed + i for i, x in enumerate(image_ids)]),
    )


def align(module: nn.Module, batch: Batch) -> Tensor:
    """The loss of a batch, with an image for each row that has one."""
    rows = batch.has_image.nonzero().flatten()
    index = torch.full(batch.has_image.shape, -1).index_copy(0, rows, torch.arange(len(rows)))
    images, ids = batch.image_states[rows], batch.image_ids[rows]
    if not len(rows):  # the model's stand-in, which every parameter of the image tower touches
        images, ids = (
            0 * batch.image_states.nan_to_num().sum().expand(1, 1, batch.image_states.shape[2]),
            ids.new_zeros(1),
        )
    return module(batch.text_states, batch.text_mask, images, index, ids)


def take(batch: Batch, rows) -> Batch:
    return Batch(*(x[rows] for x in batch))


def build(kind, text_pooling="mean", seed=0, **kwargs) -> nn.Module:
    torch.manual_seed(seed)
    return build_alignment(kind, TEXT, IMAGE, SPACE, text_pooling=text_pooling, **kwargs)


def mixed_batch() -> Batch:
    """A shared image (7, thrice), images of their own (0, 9, 0), no image (row 2), an image without a word (row 5)."""
    return make_batch([4, 2, 5, 1, 3, 0, 5, 2], [7, 0, None, 9, 7, 3, 0, 7])


# ---------------------------------------------------------------------------------------------------------------------
# The oracle: one pair at a time, from the definitions
# ---------------------------------------------------------------------------------------------------------------------


def unit(x: Tensor) -> Tensor:
    return x / x.pow(2).sum().sqrt()


def nce(positive: Tensor, negatives: list[Tensor]) -> Tensor:
    shares = [similarity.exp() for similarity in [positive, *negatives]]
    return -(shares[0] / sum(shares)).log()


def slow_loss(module: nn.Module, kind: str, rows: list[tuple[Tensor, Tensor, int]], text_pooling="mean") -> Tensor:
    """The loss of usable rows: (words (n, Dt), patches (p, Di), image id) each, n and p at least 1."""
    texts, images = [], []
    for words, patches, _ in rows:
        if kind == "token":
            texts.append([unit(module.text_projection(word)) for word in words])
            images.append([unit(module.image_projection(patch)) for patch in patches])
        else:
            sentence = words[0] if text_pooling == "first" else sum(words) / len(words)
            texts.append(unit(module.text_projection(sentence)))
            images.append(unit(module.image_projection(sum(patches) / len(patches))))
    count = len(rows)

    def others(i):
        return [j for j in range(count) if rows[i][2] != rows[j][2]]

    total = torch.zeros(())
    if kind == "nt_xent":
        tau = module.temperature
        for i in range(count):
            for anchors, partners in ((texts, images), (images, texts)):
                negatives = [anchors[i] @ anchors[j] / tau for j in others(i)]
                negatives += [anchors[i] @ partners[j] / tau for j in others(i)]
                total = total + nce(anchors[i] @ partners[i] / tau, negatives) / 2
    elif kind == "clip":
        scale = module.logit_scale.exp()
        for i in range(count):
            for anchors, partners in ((texts, images), (images, texts)):
                total = (
                    total
                    + nce(scale * (anchors[i] @ partners[i]), [scale * (anchors[i] @ partners[j]) for j in others(i)])
                    / 2
                )
    elif kind == "siglip":
        for i in range(count):
            for j in [i, *others(i)]:
                logit = module.logit_scale.exp() * (texts[i] @ images[j]) + module.logit_bias
                total = total - torch.log(1 / (1 + torch.exp(-logit if i == j else logit)))
    else:
        scale = module.logit_scale.exp()

        def interaction(one, other):
            return sum(torch.stack([a @ b for b in other]).max() for a in one) / len(one)

        for i in range(count):
            for anchors, partners in ((texts, images), (images, texts)):
                total = (
                    total
                    + nce(
                        scale * interaction(anchors[i], partners[i]),
                        [scale * interaction(anchors[i], partners[j]) for j in others(i)],
                    )
                    / 2
                )
    return total.squeeze() / count


def usable_rows(batch: Batch) -> list[tuple[Tensor, Tensor, int]]:
    return [
        (batch.text_states[i][batch.text_mask[i]], batch.image_states[i], int(batch.image_ids[i]))
        for i in range(len(batch.has_image))
        if batch.has_image[i] and batch.text_mask[i].any()
    ]


def loss_and_gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad.clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize(("kind", "text_pooling"), KINDS_AND_POOLINGS)
def test_loss_and_gradients_equal_the_slow_loop(kind, text_pooling):
    module, batch = build(kind, text_pooling), mixed_batch()
    assert len(usable_rows(batch)) == 6
    if kind == "siglip":
        nn.init.constant_(module.logit_bias, -1.0)  # at -10 the negatives would hardly count
    got = loss_and_gradients(module, align(module, batch))
    expected = loss_and_gradients(module, slow_loss(module, kind, usable_rows(batch), text_pooling))
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert all(got[name].abs().max() > 1e-5 for name in got), "every parameter matters in this batch"


@pytest.mark.parametrize("kind", KINDS)
def test_states_get_the_gradient_of_the_slow_loop(kind):
    module, batch = build(kind), mixed_batch()
    gradients = []
    for compute in (lambda b: align(module, b), lambda b: slow_loss(module, kind, usable_rows(b))):
        leaves = batch._replace(
            text_states=batch.text_states.clone().requires_grad_(),
            image_states=batch.image_states.clone().requires_grad_(),
        )
        compute(leaves).backward()
        gradients.append((leaves.text_states.grad, leaves.image_states.grad))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Closed forms
# ---------------------------------------------------------------------------------------------------------------------


def identity_alignment(kind, width, **kwargs) -> nn.Module:
    """Projections that leave non-negative vectors as they are."""
    module = build_alignment(kind, width, width, width, **kwargs)
    for linear in (m for m in module.modules() if isinstance(m, nn.Linear)):
        nn.init.eye_(linear.weight)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
    return module


def pairs(vectors: Tensor, image_ids=None) -> Batch:
    """Two words and three patches a row, all equal to the row's vector."""
    rows = len(vectors)
    return Batch(
        vectors[:, None].repeat(1, 2, 1),
        torch.ones(rows, 2, dtype=torch.bool),
        vectors[:, None].repeat(1, 3, 1),
        torch.ones(rows, dtype=torch.bool),
        torch.arange(rows) if image_ids is None else torch.tensor(image_ids),
    )


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("nt_xent", math.log(2 * 5 - 1)),
        ("clip", math.log(5)),
        ("token", math.log(5)),
        ("siglip", softplus(10.0 - 10.0) + 4 * softplus(10.0 - 10.0)),
    ],
)
def test_identical_pairs_cannot_be_told_apart(kind, expected):
    loss = align(identity_alignment(kind, 5), pairs(torch.ones(5, 5)))
    assert loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("nt_xent", math.log(1 + 8 * math.exp(-1 / 0.25))),
        ("clip", math.log(1 + 4 * math.exp(-1 / 0.25))),
        ("token", math.log(1 + 4 * math.exp(-1 / 0.25))),
        ("siglip", softplus(-(1 / 0.25 - 10)) + 4 * softplus(-10.0)),
    ],
)
def test_orthogonal_pairs_at_a_given_temperature(kind, expected):
    loss = align(identity_alignment(kind, 5, temperature=0.25), pairs(3 * torch.eye(5)))
    assert loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["nt_xent", "clip", "token"])
def test_rows_of_one_image_have_no_negatives(kind):
    loss = align(build(kind), make_batch([2, 3, 4], [5, 5, 5]))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_siglip_of_one_image_keeps_the_positives_only():
    vectors = torch.ones(4, 5)
    loss = align(identity_alignment("siglip", 5), pairs(vectors, [3] * 4))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize(("kind", "temperature"), [("nt_xent", 0.5), ("clip", 0.07), ("siglip", 0.1), ("token", 0.07)])
def test_default_temperatures(kind, temperature):
    module = build(kind)
    assert module.temperature == temperature
    if kind == "nt_xent":
        assert not hasattr(module, "logit_scale")
    else:
        assert module.scale().item() == pytest.approx(1 / temperature, rel=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Who takes part
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30])
def test_what_takes_no_part_leaves_no_trace(kind, garbage):
    module, batch = build(kind), mixed_batch()
    usable = batch.has_image & batch.text_mask.any(1)
    expected = loss_and_gradients(module, align(module, take(batch, usable)))

    words_out = ~(batch.text_mask & usable[:, None])
    text_states = batch.text_states.masked_fill(words_out[:, :, None], garbage).requires_grad_()
    image_states = batch.image_states.masked_fill(~batch.has_image[:, None, None], garbage).requires_grad_()
    ids = batch.image_ids.masked_fill(~batch.has_image, 7)
    got = loss_and_gradients(
        module, align(module, batch._replace(text_states=text_states, image_states=image_states, image_ids=ids))
    )
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    assert text_states.grad[words_out].eq(0).all() and text_states.grad[~words_out].ne(0).any()
    assert image_states.grad[~usable].eq(0).all() and image_states.grad[usable].ne(0).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ids", [[None, None, None], [4, None, None]], ids=["no image", "an image without a word"])
def test_no_pair_at_all_is_zero_with_zero_gradients(kind, ids):
    module, batch = build(kind), make_batch([0, 2, 3], ids)
    for name, value in loss_and_gradients(module, align(module, batch)).items():
        assert value.eq(0).all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_no_row_at_all_is_zero_with_zero_gradients(kind):
    module = build(kind)
    for name, value in loss_and_gradients(module, align(module, take(mixed_batch(), slice(0)))).items():
        assert value.eq(0).all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_one_pair_has_no_negatives(kind):
    module, batch = build(kind), make_batch([2, 2], [None, 4])
    expected = slow_loss(module, kind, usable_rows(batch)).item()
    assert align(module, batch).item() == pytest.approx(expected, abs=1e-6)
    assert (expected == 0) == (kind != "siglip")
    assert all(p.grad is not None for p in module.parameters() if align(module, batch).backward() is None)


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_rows_does_not_matter(kind):
    module, batch = build(kind), mixed_batch()
    order = torch.randperm(len(batch.has_image), generator=torch.Generator().manual_seed(1))
    got = loss_and_gradients(module, align(module, take(batch, order)))
    torch.testing.assert_close(got, loss_and_gradients(module, align(module, batch)), atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize(("kind", "text_pooling"), KINDS_AND_POOLINGS)
def test_padding_on_either_side_changes_nothing(kind, text_pooling):
    module, batch = build(kind, text_pooling), mixed_batch()
    expected = align(module, batch)
    padding = torch.randn(len(batch.has_image), 3, TEXT)
    for left in (False, True):
        states, mask = [batch.text_states, padding], [batch.text_mask, torch.zeros(padding.shape[:2]).bool()]
        padded = batch._replace(
            text_states=torch.cat(states[::-1] if left else states, 1),
            text_mask=torch.cat(mask[::-1] if left else mask, 1),
        )
        torch.testing.assert_close(align(module, padded), expected, atol=1e-6, rtol=1e-6)


def test_late_interaction_is_the_mean_over_queries_of_the_nearest_key():
    generator = torch.Generator().manual_seed(3)
    queries, keys = torch.randn(3, 4, 2, generator=generator), torch.randn(5, 6, 2, generator=generator)
    query_mask, key_mask = (
        torch.arange(n) < torch.tensor(sizes)[:, None] for n, sizes in ((4, [4, 1, 2]), (6, [6, 1, 2, 3, 4]))
    )
    expected = [
        [
            sum(max(float(q @ k) for k in keys[g][key_mask[g]]) for q in queries[b][query_mask[b]])
            / int(query_mask[b].sum())
            for g in range(5)
        ]
        for b in range(3)
    ]
    # Unit vectors never fall below the fill value of masked keys; these would, unless made shorter.
    got = late_interaction(queries / 10, query_mask.long(), keys / 10, key_mask.long())
    torch.testing.assert_close(100 * got, torch.tensor(expected))


@pytest.mark.parametrize("kind", ["clip", "siglip", "token"])
def test_a_dead_image_gets_no_unbounded_gradient(kind):
    module, batch = build(kind), make_batch([2, 3, 4], [0, 0, 0])
    image_states = batch.image_states.clone()
    image_states[1] = 0
    image_states.requires_grad_()
    loss = align(module, batch._replace(image_states=image_states))
    loss.backward()
    assert loss.isfinite() and image_states.grad.isfinite().all() and image_states.grad.abs().max() < 1e3


# ---------------------------------------------------------------------------------------------------------------------
# Precision, temperature, construction
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_changes_nothing(kind):
    module, batch = build(kind), mixed_batch()
    expected = align(module, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = align(module, batch)
    assert got.dtype == torch.float32 and got.equal(expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_other_weight_precisions(kind, dtype):
    module, batch = build(kind), mixed_batch()
    expected = align(module, batch).item()
    module.to(dtype)
    loss = align(
        module, batch._replace(text_states=batch.text_states.to(dtype), image_states=batch.image_states.to(dtype))
    )
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.item() == pytest.approx(expected, rel=1e-5 if dtype == torch.float64 else 0.05)
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("kind", ["clip", "token"])
def test_scale_is_cut_at_100_and_can_come_back(kind):
    module, batch = build(kind), mixed_batch()
    nn.init.constant_(module.logit_scale, 10.0)
    module.eval()
    assert module.scale().item() == pytest.approx(100, rel=1e-5)
    assert module.logit_scale.item() == 10
    module.train()
    align(module, batch).backward()
    assert module.logit_scale.item() == pytest.approx(math.log(100))
    assert module.logit_scale.grad.abs().item() > 1e-3


@pytest.mark.parametrize("kind", ["clip", "token"])
def test_two_batches_may_share_a_backward_pass(kind):
    module, batches = build(kind), (mixed_batch(), make_batch([3, 2, 4], [1, 2, 3], seed=1))
    single = 0
    for batch in batches:
        module.zero_grad()
        align(module, batch).backward()
        single = single + module.logit_scale.grad
    module.zero_grad()
    sum(align(module, batch) for batch in batches).backward()
    torch.testing.assert_close(module.logit_scale.grad, single)


@pytest.mark.parametrize("kind", KINDS)
def test_meta_device_then_reset(kind):
    with torch.device("meta"):
        module = build(kind)
    assert all(p.is_meta for p in module.parameters())
    module.to_empty(device="cpu")
    for m in module.modules():
        if hasattr(m, "reset_parameters"):
            m.reset_parameters()
    for name in ("logit_scale", "logit_bias"):
        if hasattr(module, name):
            assert getattr(module, name).equal(getattr(build(kind), name))
    assert align(module, mixed_batch()).isfinite()
    assert not list(module.buffers())


def test_the_paper_projects_with_two_layers_a_modality():
    module = build("nt_xent")
    layers = [[type(layer) for layer in p] for p in (module.text_projection, module.image_projection)]
    assert layers == [[nn.Linear, nn.ReLU, nn.Linear]] * 2
    assert {name: tuple(p.shape) for name, p in module.text_projection.named_parameters()} == {
        "0.weight": (SPACE, TEXT),
        "0.bias": (SPACE,),
        "2.weight": (SPACE, SPACE),
        "2.bias": (SPACE,),
    }


def test_an_option_without_effect_is_said(caplog):
    build_alignment("token", 2, 2, 2, text_pooling="first")
    assert "text_pooling='first' has no effect with alignment 'token'" in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# Blocks
# ---------------------------------------------------------------------------------------------------------------------


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
    barred = (ids[:, None] == ids) & ~eye
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
    for compute in (lambda b: align(module, b), lambda b: dense_loss(module, kind, b)):
        states = {name: getattr(batch, name).clone().requires_grad_() for name in ("text_states", "image_states")}
        found = loss_and_gradients(module, compute(batch._replace(**states)))
        results.append(found | {name: x.grad for name, x in states.items()})
    torch.testing.assert_close(*results, atol=1e-9, rtol=1e-9)
    assert all(x.abs().max() > 1e-5 for x in results[0].values())


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_in_single_precision_equal_one_block(kind):
    module, batch = build(kind), mixed_batch()
    expected = loss_and_gradients(module, align(module, batch))
    module.block_size = 1
    got = loss_and_gradients(module, align(module, batch))
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-6 * max(1, value.abs().max().item()), rtol=1e-5)


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes, forward and backward."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(outputs):
            if not isinstance(x, Tensor):
                continue
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
            align(module, batch).backward()
        largest[rows] = mode.elements
    assert largest[256] < 256 * 256 / 2
    assert largest[256] <= 2 * largest[128]
    module.block_size = 2**22
    with LargestTensor() as mode:
        align(module, batch).backward()
    assert mode.elements >= 256 * 256, "what the blocks save is seen"


# ---------------------------------------------------------------------------------------------------------------------
# Processes
# ---------------------------------------------------------------------------------------------------------------------


def test_one_process_gathers_nothing():
    x = torch.randn(2, 3, requires_grad=True)
    assert world_size() == 1
    assert gather_all([x, x])[1] is x


def two_process_batches() -> dict[str, tuple[Batch, Batch]]:
    """The batches of the two processes by case. Unlike number of rows, words, images; images shared across."""
    none = make_batch([2, 3], [None, None], patches=1, seed=5)
    return {
        "shared across": (
            make_batch([4, 2, 5], [7, 9, 0], seed=1),
            make_batch([3, 7, 1, 6, 2], [7, None, 0, 7, 3], seed=2),
        ),
        "equal rows": (make_batch([4, 2, 5], [1, 2, 3], seed=1), make_batch([3, 1, 1], [4, 5, 6], seed=2)),
        "none on the second": (
            make_batch([4, 2, 5, 0], [7, 7, 0, 3], seed=3),
            none._replace(image_states=none.image_states * math.nan),
        ),
        "none on the first": (none, make_batch([4, 2, 5], [1, 2, 0], seed=4)),
        "none at all": (none, none),
    }


def unlike_patches() -> tuple[Batch, Batch]:
    return make_batch([4, 2], [1, 0], patches=2, seed=6), make_batch([3, 3, 1], [2, 0, None], patches=5, seed=7)


def joined(batches: tuple[Batch, Batch]) -> Batch:
    """Both processes' rows in one batch, padded with garbage."""
    words = max(b.text_mask.shape[1] for b in batches)
    patches = max(b.image_states.shape[1] for b in batches)

    def pad(x, size, value):
        return torch.cat([x, x.new_full((len(x), size - x.shape[1], *x.shape[2:]), value)], dim=1)

    return Batch(
        torch.cat([pad(b.text_states, words, math.nan) for b in batches]),
        torch.cat([pad(b.text_mask, words, False) for b in batches]),
        torch.cat([pad(b.image_states, patches, math.nan) for b in batches]),
        torch.cat([b.has_image for b in batches]),
        torch.cat([b.image_ids for b in batches]),
    )


class WithTower(nn.Module):
    """As a model that runs its image tower only where the batch has an image. The tower fills buckets of its own."""

    def __init__(self):
        super().__init__()
        self.alignment = build("clip")
        self.tower = nn.Sequential(nn.Linear(IMAGE, 100_000, bias=False), nn.Linear(100_000, IMAGE, bias=False))

    def forward(self, batch: Batch) -> Tensor:
        if batch.has_image.any():
            return align(self.alignment, batch._replace(image_states=self.tower(batch.image_states)))
        return align(self.alignment, batch) + 0 * sum(p.sum() for p in self.tower.parameters())


def run_process(folder: str) -> None:
    """What each of two processes does; writes what it got to `folder`."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    rank, got = dist.get_rank(), {"world_size": world_size()}

    def run(module, batch):
        states = {name: getattr(batch, name).clone().requires_grad_() for name in ("text_states", "image_states")}
        parallel = DistributedDataParallel(module)  # must live until the backward pass, which averages
        gradients = loss_and_gradients(module, align(parallel, batch._replace(**states)))
        return gradients | {name: x.grad for name, x in states.items()}

    for kind in KINDS:
        for case, batches in two_process_batches().items():
            got[kind, case] = run(build(kind), batches[rank])
            blocks = build(kind)
            blocks.block_size = 2 + 5 * rank  # unlike numbers of blocks, too
            got[kind, case, "blocks"] = run(blocks, batches[rank])
        got[kind, "unlike patches"] = run(build(kind), unlike_patches()[rank])
    got["first"] = run(build("nt_xent", "first"), two_process_batches()["shared across"][rank])
    with torch.no_grad():
        got["no_grad"] = align(build("token"), two_process_batches()["shared across"][rank])

    # The gather itself: a different weight for each row and process.
    x = torch.arange(float(2 + rank)).add(10 * rank).view(-1, 1).repeat(1, 1 + rank).requires_grad_()
    neighbour = torch.zeros(5, 2, requires_grad=True)
    beside = neighbour * 1  # made first, so it reads its gradient last: the very tensor that the gather got
    (gathered,) = gather_all([x])
    weights = torch.arange(1.0, 11).view(5, 2) * (1 + rank)
    ((gathered + beside) * weights).sum().backward()
    got["gather"] = (gathered.detach(), x.grad, neighbour.grad)

    # The image tower's gradients are ready before the gather's backward on one process, after it on the other.
    tower = DistributedDataParallel(WithTower())
    with_images, without = make_batch([2, 3], [1, 2], seed=8), make_batch([2, 3], [None, None], seed=8)
    for step in range(4):
        tower.zero_grad()
        tower(with_images if (rank + step) % 2 else without).backward()
    got["tower"] = tower.module.tower[0].weight.grad.norm()
    torch.save(got, Path(folder) / f"{rank}.pt")


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> list[dict]:
    """One launch for all cases, from a fresh interpreter: autograd cannot be forked once it has run."""
    folder = tmp_path_factory.mktemp("processes")
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def assert_two_equal_one(processes, key, module, loss_of, batches):
    """The mean loss, DDP's gradients and the states' gradients of two processes, against one with all rows."""
    states = [
        {name: getattr(b, name).clone().requires_grad_() for name in ("text_states", "image_states")} for b in batches
    ]
    batches = [b._replace(**s) for b, s in zip(batches, states, strict=True)]
    expected = loss_and_gradients(module, loss_of(batches))
    got = [p[key] for p in processes]
    assert (got[0]["loss"] + got[1]["loss"]).item() / 2 == pytest.approx(expected["loss"].item(), abs=1e-6, rel=1e-6)
    for name, parameter in module.named_parameters():
        for result in got:
            torch.testing.assert_close(result[name], expected[name], atol=1e-5, rtol=1e-5)
        assert parameter.grad is not None
    for rank, result in enumerate(got):
        for name, x in states[rank].items():
            torch.testing.assert_close(result[name] / 2, x.grad, atol=1e-5, rtol=1e-5)
    return expected


@pytest.mark.parametrize("blocks", [(), ("blocks",)], ids=["one block", "blocks"])
@pytest.mark.parametrize("case", list(two_process_batches()))
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one(processes, kind, case, blocks):
    assert [p["world_size"] for p in processes] == [2, 2]
    module = build(kind)
    expected = assert_two_equal_one(
        processes, (kind, case, *blocks), module, lambda b: align(module, joined(b)), two_process_batches()[case]
    )
    assert (expected["loss"] == 0) == (case == "none at all")


@pytest.mark.parametrize("kind", KINDS)
def test_unlike_numbers_of_patches_equal_the_slow_loop(processes, kind):
    module = build(kind)
    assert_two_equal_one(
        processes,
        (kind, "unlike patches"),
        module,
        lambda batches: slow_loss(module, kind, [row for b in batches for row in usable_rows(b)]),
        unlike_patches(),
    )


def test_two_processes_with_first_word_pooling(processes):
    module = build("nt_xent", "first")
    batches = two_process_batches()["shared across"]
    assert_two_equal_one(processes, "first", module, lambda b: align(module, joined(b)), batches)


def test_two_processes_without_gradients(processes):
    expected = align(build("token"), joined(two_process_batches()["shared across"])).item()
    assert sum(p["no_grad"].item() for p in processes) / 2 == pytest.approx(expected, abs=1e-6)
    assert not processes[0]["no_grad"].requires_grad


def test_gather_concatenates_and_sums_gradients(processes):
    rows = torch.tensor([[0, 0], [1, 0], [10, 10], [11, 11], [12, 12]]).float()  # the first process's padded with 0
    weights = torch.arange(1.0, 11).view(5, 2)
    for process in processes:
        assert process["gather"][0].equal(rows)
    for rank, process in enumerate(processes):
        assert process["gather"][2].equal((1 + rank) * weights), "the reduction may not write into others' gradients"
    assert processes[0]["gather"][1].equal(3 * weights[:2, :1])  # weight 1 here and 2 there
    assert processes[1]["gather"][1].equal(3 * weights[2:])


def test_gradients_ready_in_another_order_on_each_process(processes):
    assert processes[0]["tower"] == processes[1]["tower"] > 0


if __name__ == "__main__":
    from accelerate import debug_launcher

    debug_launcher(run_process, args=(sys.argv[1],), num_processes=2)
