"""The contrastive losses against loops and closed forms, and two processes against one loop over all rows."""

import math
from pathlib import Path
from typing import NamedTuple

import own_process
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from alignment_2mner import build_alignment, gather_all, world_size

KINDS = ["nt_xent", "clip", "siglip", "token"]
KINDS_AND_POOLINGS = [(kind, "mean") for kind in KINDS] + [(kind, "first") for kind in KINDS if kind != "token"]
CASES = ["shared across", "equal rows", "none on the second", "none on the first", "none at all", "unequal patches"]
TWO_PROCESSES = [(kind, "mean", case) for kind in KINDS for case in CASES] + [("nt_xent", "first", CASES[0])]
TEXT, IMAGE, SPACE = 6, 5, 4


class Batch(NamedTuple):
    """One image per row; `align` makes the arguments of an alignment of it."""

    text_states: Tensor
    text_mask: Tensor
    image_states: Tensor
    has_image: Tensor
    image_ids: Tensor

    def with_leaves(self) -> "Batch":
        """The same states, of which gradients are kept."""
        states = {name: getattr(self, name).clone().requires_grad_() for name in ("text_states", "image_states")}
        return self._replace(**states)


def make_batch(lengths, image_ids, patches=3, seed=0) -> Batch:
    """Random states; `image_ids` None: no image, 0: an image that no other row shows; equal ids get equal states."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(lengths)
    rows, words = len(lengths), max(1, int(lengths.max()))
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
        torch.tensor([0 if x is None else x or 10_000 + 100 * seed + i for i, x in enumerate(image_ids)]),
    )


def mixed_batch() -> Batch:
    """A shared image (7, thrice), images of their own (0, 9, 0), no image (row 2), an image without a word (row 5)."""
    return make_batch([4, 2, 5, 1, 3, 0, 5, 2], [7, 0, None, 9, 7, 3, 0, 7])


def take(batch: Batch, rows) -> Batch:
    return Batch(*(x[rows] for x in batch))


def align(module: nn.Module, batch: Batch) -> Tensor:
    """The loss of a batch, with an image for each row that has one."""
    rows = batch.has_image.nonzero().flatten()
    index = torch.full(batch.has_image.shape, -1).index_copy(0, rows, torch.arange(len(rows)))
    images, ids = batch.image_states[rows], batch.image_ids[rows]
    if not len(rows):  # the model's stand-in, which every parameter of the image tower touches
        images = 0 * batch.image_states.nan_to_num().sum().expand(1, 1, batch.image_states.shape[2])
        ids = ids.new_zeros(1)
    return module(batch.text_states, batch.text_mask, images, index, ids)


def build(kind, text_pooling="mean", block_size=None) -> nn.Module:
    torch.manual_seed(0)
    module = build_alignment(kind, TEXT, IMAGE, SPACE, text_pooling=text_pooling)
    if kind == "siglip":
        nn.init.constant_(module.logit_bias, -1.0)  # at -10 the negatives would hardly count
    module.block_size = block_size or module.block_size
    return module


# The oracle: one pair at a time, from the definitions


def unit(x: Tensor) -> Tensor:
    return x / x.pow(2).sum().sqrt()


def slow_loss(module: nn.Module, kind: str, batches: list[Batch], text_pooling="mean") -> Tensor:
    """The loss of the usable rows of some batches, which have an image and a word."""
    texts, images, ids = [], [], []
    for batch in batches:
        for i in (batch.has_image & batch.text_mask.any(1)).nonzero().flatten().tolist():
            words, patches = batch.text_states[i][batch.text_mask[i]], batch.image_states[i]
            if kind != "token":
                words, patches = words[:1] if text_pooling == "first" else words.mean(0, True), patches.mean(0, True)
            texts.append([unit(module.text_projection(word)) for word in words])
            images.append([unit(module.image_projection(patch)) for patch in patches])
            ids.append(int(batch.image_ids[i]))

    def similarity(one, other):
        """The mean over `one`'s vectors of the largest product with one of `other`'s."""
        return sum(torch.stack([a @ b for b in other]).max() for a in one) / len(one)

    scale = 1 / module.temperature if kind == "nt_xent" else module.logit_scale.exp()
    total = torch.zeros(())
    for i in range(len(ids)):
        others = [j for j in range(len(ids)) if ids[i] != ids[j]]
        if kind == "siglip":
            for j in [i, *others]:
                logit = scale * similarity(texts[i], images[j]) + module.logit_bias
                total = total - torch.log(1 / (1 + torch.exp(-logit if i == j else logit)))
            continue
        for anchors, partners in ((texts, images), (images, texts)):
            candidates = [partners, anchors] if kind == "nt_xent" else [partners]
            negatives = [scale * similarity(anchors[i], side[j]) for side in candidates for j in others]
            positive = scale * similarity(anchors[i], partners[i])
            total = total + (torch.stack([positive, *negatives]).logsumexp(0) - positive) / 2
    return total.squeeze() / max(1, len(ids))


def gradients(module: nn.Module, loss: Tensor, *batches: Batch) -> dict[str, Tensor]:
    """The loss, and its gradients for the parameters and for the states of batches with leaves."""
    module.zero_grad()
    if loss.requires_grad:
        loss.backward()
    leaves = dict(module.named_parameters())
    for number, batch in enumerate(batches):
        leaves |= {f"text_states {number}": batch.text_states, f"image_states {number}": batch.image_states}
    found = {name: torch.zeros_like(x) if x.grad is None else x.grad.clone() for name, x in leaves.items()}
    return {"loss": loss.detach()} | found


@pytest.mark.parametrize("block_size", [None, 1, 24], ids=["one block", "blocks of 1", "blocks of 24"])
@pytest.mark.parametrize(("kind", "text_pooling"), KINDS_AND_POOLINGS)
def test_loss_and_gradients_equal_the_slow_loop(kind, text_pooling, block_size):
    module = build(kind, text_pooling, block_size)
    own, slow = mixed_batch().with_leaves(), mixed_batch().with_leaves()
    got = gradients(module, align(module, own), own)
    expected = gradients(module, slow_loss(module, kind, [slow], text_pooling), slow)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert all(value.abs().max() > 1e-5 for value in got.values()), "everything matters in this batch"


# Closed forms


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
    ("kind", "identical", "orthogonal"),
    [
        ("nt_xent", math.log(2 * 5 - 1), math.log(1 + 8 * math.exp(-4))),
        ("clip", math.log(5), math.log(1 + 4 * math.exp(-4))),
        ("token", math.log(5), math.log(1 + 4 * math.exp(-4))),
        ("siglip", 5 * softplus(0), softplus(10 - 4) + 4 * softplus(-10)),  # the bias is -10, 1 / temperature is 10
    ],
)
def test_pairs_that_cannot_be_told_apart_and_pairs_that_can(kind, identical, orthogonal):
    loss = align(identity_alignment(kind, 5), pairs(torch.ones(5, 5)))
    assert loss.item() == pytest.approx(identical, abs=1e-5)
    loss = align(identity_alignment(kind, 5, temperature=0.25), pairs(3 * torch.eye(5)))
    assert loss.item() == pytest.approx(orthogonal, abs=1e-5)


@pytest.mark.parametrize(("kind", "positives"), [("nt_xent", 0), ("clip", 0), ("token", 0), ("siglip", math.log(2))])
def test_rows_of_one_image_have_no_negatives(kind, positives):
    loss = align(identity_alignment(kind, 5), pairs(torch.ones(4, 5), [3] * 4))
    assert loss.item() == pytest.approx(positives, abs=1e-5)


# Who takes part


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30])
def test_what_takes_no_part_leaves_no_trace(kind, garbage):
    module, batch = build(kind), mixed_batch()
    usable = batch.has_image & batch.text_mask.any(1)
    expected = gradients(module, align(module, take(batch, usable)))

    words_out = ~(batch.text_mask & usable[:, None])
    text_states = batch.text_states.masked_fill(words_out[:, :, None], garbage).requires_grad_()
    image_states = batch.image_states.masked_fill(~batch.has_image[:, None, None], garbage).requires_grad_()
    ids = batch.image_ids.masked_fill(~batch.has_image, 7)
    dirty = batch._replace(text_states=text_states, image_states=image_states, image_ids=ids)
    torch.testing.assert_close(gradients(module, align(module, dirty)), expected, atol=1e-6, rtol=1e-5)
    assert text_states.grad[words_out].eq(0).all() and text_states.grad[~words_out].ne(0).any()
    assert image_states.grad[~usable].eq(0).all() and image_states.grad[usable].ne(0).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "batch",
    [make_batch([0, 2, 3], [None] * 3), make_batch([0, 2, 3], [4, None, None]), take(mixed_batch(), slice(0))],
    ids=["no image", "an image without a word", "no row"],
)
def test_no_pair_at_all_is_zero_with_zero_gradients(kind, batch):
    module = build(kind)
    loss = align(module, batch)
    loss.backward()
    assert loss == 0 and all(parameter.grad.eq(0).all() for parameter in module.parameters())


@pytest.mark.parametrize(("kind", "text_pooling"), KINDS_AND_POOLINGS)
def test_order_of_rows_and_padding_change_nothing(kind, text_pooling):
    module, batch = build(kind, text_pooling), mixed_batch()
    expected = align(module, batch)
    order = torch.randperm(len(batch.has_image), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(align(module, take(batch, order)), expected, atol=3e-6, rtol=1e-5)
    padding = torch.randn(len(batch.has_image), 3, TEXT)
    for step in (1, -1):  # on the right, on the left
        states, mask = [batch.text_states, padding], [batch.text_mask, torch.zeros(padding.shape[:2]).bool()]
        padded = batch._replace(text_states=torch.cat(states[::step], 1), text_mask=torch.cat(mask[::step], 1))
        torch.testing.assert_close(align(module, padded), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["clip", "siglip", "token"])
def test_a_dead_image_gets_no_unbounded_gradient(kind):
    module, batch = build(kind), make_batch([2, 3, 4], [0, 0, 0])
    batch.image_states[1] = 0
    batch = batch.with_leaves()
    loss = align(module, batch)
    loss.backward()
    gradient = batch.image_states.grad
    assert loss.isfinite() and gradient.isfinite().all() and gradient.abs().max() < 1e3


# Precision, temperature, construction


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_autocast_and_other_weight_precisions(kind, dtype):
    module, batch = build(kind), mixed_batch()
    expected = align(module, batch).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert align(module, batch).item() == expected
    module.to(dtype)
    batch = batch._replace(text_states=batch.text_states.to(dtype), image_states=batch.image_states.to(dtype))
    loss = align(module, batch)
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


def test_an_option_without_effect_is_said(caplog):
    build_alignment("token", 2, 2, 2, text_pooling="first")
    assert "text_pooling='first' has no effect with alignment 'token'" in caplog.text


# Memory


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes, forward and backward."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(outputs):
            if isinstance(x, Tensor):  # an expanded view holds no more than its storage
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return outputs


def largest_tensor(kind: str, rows: int, block_size: int) -> int:
    """In a batch where every fourth row has an image of its own and the others share a few."""
    ids = [0 if i % 4 == 0 else 1 + i % 5 for i in range(rows)]
    with LargestTensor() as mode:
        align(build(kind, block_size=block_size), make_batch([1 + i % 4 for i in range(rows)], ids)).backward()
    return mode.elements


@pytest.mark.parametrize("kind", KINDS)
def test_no_tensor_is_as_large_as_rows_times_rows(kind):
    large = largest_tensor(kind, 256, 8192)
    assert large < 256 * 256 / 2 and large <= 2 * largest_tensor(kind, 128, 8192)
    assert largest_tensor(kind, 256, 2**22) >= 256 * 256, "what the blocks save is seen"


# Processes


def two_process_batches() -> dict[str, tuple[Batch, Batch]]:
    """The batches of the two processes by case, of unequal numbers of rows, words, images; images shared across."""
    none = make_batch([2, 3], [None, None], patches=1, seed=5)
    garbage = none._replace(image_states=none.image_states * math.nan)
    some = make_batch([4, 2, 5, 0], [7, 7, 0, 3], seed=3)
    batches = [
        (make_batch([4, 2, 5], [7, 9, 0], seed=1), make_batch([3, 7, 1, 6, 2], [7, None, 0, 7, 3], seed=2)),
        (make_batch([4, 2, 5], [1, 2, 3], seed=1), make_batch([3, 1, 1], [4, 5, 6], seed=2)),
        (some, garbage),
        (none, some),
        (none, none),
        (make_batch([4, 2], [1, 0], patches=2, seed=6), make_batch([3, 3, 1], [2, 0, None], patches=5, seed=7)),
    ]
    return dict(zip(CASES, batches, strict=True))


def run_process(folder: str) -> None:
    """What each of two processes does; writes what it got to `folder`."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    rank, got = dist.get_rank(), {"world_size": world_size()}
    own = {case: batches[rank] for case, batches in two_process_batches().items()}
    for kind, pooling, case in TWO_PROCESSES:
        batch = own[case].with_leaves()
        module = build(kind, pooling, block_size=2 + 5 * rank)  # unequal numbers of blocks, too
        parallel = DistributedDataParallel(module)  # must live until the backward pass, which averages
        got[kind, pooling, case] = gradients(module, align(parallel, batch), batch)

    # The gather itself: a different weight for each row and process.
    x = torch.arange(float(2 + rank)).add(10 * rank).view(-1, 1).repeat(1, 1 + rank).requires_grad_()
    neighbour = torch.zeros(5, 2, requires_grad=True)
    beside = neighbour * 1  # made first, so it reads its gradient last: the very tensor that the gather got
    (gathered,) = gather_all([x])
    weights = torch.arange(1.0, 11).view(5, 2) * (1 + rank)
    ((gathered + beside) * weights).sum().backward()
    got["gather"] = (gathered.detach(), x.grad, neighbour.grad)

    torch.save(got, Path(folder) / f"{rank}.pt")


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> list[dict]:
    return own_process.run_two(__file__, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize(("kind", "text_pooling", "case"), TWO_PROCESSES)
def test_two_processes_equal_the_slow_loop_over_all_rows(processes, kind, text_pooling, case):
    """The mean loss, DDP's gradients and the states' gradients."""
    assert [p["world_size"] for p in processes] == [2, 2]
    module, batches = build(kind, text_pooling), [batch.with_leaves() for batch in two_process_batches()[case]]
    expected = gradients(module, slow_loss(module, kind, batches, text_pooling), *batches)
    got = [p[kind, text_pooling, case] for p in processes]
    loss = (got[0]["loss"] + got[1]["loss"]).item() / 2
    assert loss == pytest.approx(expected["loss"].item(), abs=1e-6, rel=1e-6)
    assert (loss == 0) == (case == "none at all")
    for rank, result in enumerate(got):
        for name, _ in module.named_parameters():
            torch.testing.assert_close(result[name], expected[name], atol=1e-5, rtol=1e-5)
        for name in ("text_states", "image_states"):
            torch.testing.assert_close(result[f"{name} 0"] / 2, expected[f"{name} {rank}"], atol=1e-5, rtol=1e-5)


def test_gather_concatenates_and_sums_gradients(processes):
    rows = torch.tensor([[0, 0], [1, 0], [10, 10], [11, 11], [12, 12]]).float()  # the first process's padded with 0
    weights = torch.arange(1.0, 11).view(5, 2)
    for rank, process in enumerate(processes):
        assert process["gather"][0].equal(rows)
        assert process["gather"][2].equal((1 + rank) * weights), "the reduction may not write into others' gradients"
    assert processes[0]["gather"][1].equal(3 * weights[:2, :1])  # weight 1 here and 2 there
    assert processes[1]["gather"][1].equal(3 * weights[2:])
