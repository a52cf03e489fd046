"""The CRF against enumeration of all tag sequences, against pytorch-crf, against float64, and against itself."""

import itertools
import math

import pytest
import torch
from torch.autograd import gradcheck

from crf_2mner import LinearChainCRF, iob2_constraints

LABELS = ["O", "B-PER", "I-PER", "B-a-b", "I-a-b"]
TYPES = [(1, 2), (3, 4)]  # begin and inside tag of each type in LABELS
LENGTHS = [4, 1, 0, 3]


def make_crf(num_tags=5, constraints=None, dtype=torch.float64):
    crf = LinearChainCRF(num_tags, constraints).to(dtype)
    crf.rules = constraints
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return crf


def make_batch(lengths, num_tags=5, dtype=torch.float64, seed=1, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    emissions = scale * torch.randn(len(lengths), width, num_tags, generator=generator, dtype=torch.float64)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    return emissions.to(dtype), mask


def enumerate_paths(crf, emissions, rules=None):
    """Every tag sequence of one sentence (L, K) that the rules allow, in the order of tag ids, and its probability."""
    start, transitions, end = (
        p.detach().tolist() for p in (crf.start_transitions, crf.transitions, crf.end_transitions)
    )
    paths, weights = [], []
    for path in itertools.product(range(crf.num_tags), repeat=len(emissions)):
        steps = list(zip(path, path[1:], strict=False))
        if rules and not (rules.start[path[0]] and all(rules.transitions[step] for step in steps)):
            continue
        score = start[path[0]] + end[path[-1]] + sum(transitions[a][b] for a, b in steps)
        paths.append(path)
        weights.append(math.exp(score + sum(float(emissions[t, tag]) for t, tag in enumerate(path))))
    total = math.fsum(weights)
    return paths, [weight / total for weight in weights]


@pytest.fixture(params=["free", "iob2"])
def crf(request):
    return make_crf(constraints=iob2_constraints(LABELS) if request.param == "iob2" else None)


def all_spans(lengths, types=TYPES):
    return [
        (row, start, end, begin, inside)
        for row, length in enumerate(lengths)
        for start, end in itertools.combinations(range(length + 1), 2)
        for begin, inside in types
    ]


def run(crf, emissions, mask, tags, spans) -> list[torch.Tensor]:
    """Log-likelihood, marginals, log-probabilities of spans, best tags, gradients of emissions and parameters."""
    emissions = emissions.detach().clone().requires_grad_()
    likelihood, marginals = crf.log_likelihood(emissions, tags, mask), crf.marginals(emissions, mask)
    spans = crf.span_log_prob(emissions, mask, spans)
    loss = likelihood.sum() + marginals.square().sum() + spans.exp().sum()
    gradients = torch.autograd.grad(loss, [emissions, *crf.parameters()])
    return [likelihood, marginals, spans, crf.decode(emissions, mask), *gradients]


# Enumeration


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_log_likelihood_marginals_and_decode_of_a_ragged_batch(crf, seed, scale):
    emissions, mask = make_batch(LENGTHS, seed=seed, scale=scale)
    tags = torch.full(mask.shape, -100)
    likelihood, marginals, best = torch.zeros(4).double(), torch.zeros(emissions.shape).double(), tags.clone()
    for row, length in enumerate(LENGTHS):
        if not length:
            continue
        paths, probabilities = enumerate_paths(crf, emissions[row, :length], crf.rules)
        tags[row, :length] = torch.tensor(paths[len(paths) // 2])
        likelihood[row] = math.log(probabilities[len(paths) // 2])
        best[row, :length] = torch.tensor(paths[max(range(len(paths)), key=probabilities.__getitem__)])
        for path, probability in zip(paths, probabilities, strict=True):
            for word, tag in enumerate(path):
                marginals[row, word, tag] += probability
    torch.testing.assert_close(crf.log_likelihood(emissions, tags, mask), likelihood, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(crf.marginals(emissions, mask), marginals, rtol=1e-10, atol=1e-10)
    decoded = crf.decode(emissions.requires_grad_(), mask)
    assert decoded.dtype == torch.int64 and not decoded.requires_grad
    assert torch.equal(decoded, best)


def test_span_log_prob_of_every_span(crf):
    emissions, mask = make_batch(LENGTHS)
    # The last two pairs are no entity types: a begin tag that cannot come first, a begin tag that is its own inside.
    spans = all_spans(LENGTHS, TYPES + [(2, 4), (0, 0)])
    spans += [(row, t, t + 1, 1, -1) for row, n in enumerate(LENGTHS) for t in range(n)]  # a type without inside tag
    expected = torch.zeros(len(spans), dtype=torch.float64)
    enumerated = {row: enumerate_paths(crf, emissions[row, :n], crf.rules) for row, n in enumerate(LENGTHS) if n}
    for number, (row, start, end, begin, inside) in enumerate(spans):
        for path, probability in zip(*enumerated[row], strict=True):
            wanted = [begin] + [inside] * (end - start - 1)
            if list(path[start:end]) == wanted and (end == LENGTHS[row] or path[end] != inside):
                expected[number] += probability
    result = crf.span_log_prob(emissions, mask, torch.tensor(spans))
    assert result.isfinite().all()
    torch.testing.assert_close(result.clamp(min=-100), expected.log().clamp(min=-100), rtol=1e-9, atol=1e-9)


def test_span_log_prob_of_certain_spans_is_not_rounded_above_zero():
    crf = make_crf(dtype=torch.float32)
    emissions, mask = make_batch([2] * 200, dtype=torch.float32)
    emissions[:, 0, 1], emissions[:, 1, 2] = 100, -100  # surely B-PER, then surely not I-PER, but any of the others
    spans = torch.tensor([(row, 0, 1, 1, 2) for row in range(200)])
    result = crf.span_log_prob(emissions, mask, spans)
    assert (result <= 0).all()
    torch.testing.assert_close(result, torch.zeros(200), rtol=0, atol=1e-5)


# Invariants


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_batch_equals_single(crf, dtype, tolerance):
    lengths = [6, 1, 11, 0, 3]
    emissions, mask = make_batch(lengths, dtype=dtype)
    crf = crf.to(dtype)
    spans = torch.tensor(all_spans(lengths))
    tags = crf.decode(emissions.flip(2), mask)
    whole = run(crf, emissions, mask, tags, spans)
    for row, length in enumerate(lengths):
        part, own = (slice(row, row + 1), slice(length)), spans[:, 0] == row
        single = run(crf, emissions[part], mask[part], tags[part], spans[own] * torch.tensor([0, 1, 1, 1, 1]))
        together = [whole[0][part[:1]], whole[1][part], whole[2][own], whole[3][part], whole[4][part]]
        torch.testing.assert_close(together, single[:5], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
def test_padding_never_leaks(crf, garbage):
    emissions, mask = make_batch(LENGTHS)
    tags, spans = crf.decode(emissions.flip(2), mask), torch.tensor(all_spans(LENGTHS))
    clean, dirty = (
        run(crf, emissions.masked_fill(~mask[..., None], padding), mask, tags, spans) for padding in (0.0, garbage)
    )
    torch.testing.assert_close(dirty, clean, rtol=0, atol=0)
    assert all(x.isfinite().all() for x in dirty)
    assert not dirty[4][~mask].any()


# pytorch-crf


def test_pytorch_crf_agrees():
    torchcrf = pytest.importorskip("torchcrf")
    lengths = [13, 4, 1, 9]
    emissions, mask = make_batch(lengths, num_tags=7)
    crf, other = make_crf(7), torchcrf.CRF(7, batch_first=True).double()
    other.load_state_dict(crf.state_dict())
    tags = torch.randint(7, mask.shape, generator=torch.Generator().manual_seed(2))
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    emissions.requires_grad_()
    result = crf.log_likelihood(emissions, tags.masked_fill(~mask, -100), mask)
    expected = other(emissions, tags, mask=mask, reduction="none")
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)
    theirs = [emissions, *(other.get_parameter(name) for name, _ in crf.named_parameters())]
    found = torch.autograd.grad((result * weight).sum(), [emissions, *crf.parameters()])
    torch.testing.assert_close(found, torch.autograd.grad((expected * weight).sum(), theirs), rtol=1e-9, atol=1e-9)
    decoded = crf.decode(emissions, mask)
    assert [decoded[row, :n].tolist() for row, n in enumerate(lengths)] == other.decode(emissions, mask=mask)


def test_divergence_is_that_of_independent_words_without_transitions():
    (teacher, mask), (student, _) = make_batch(LENGTHS), make_batch(LENGTHS, seed=2)
    found = LinearChainCRF(5).double().divergence(teacher, student.requires_grad_(), mask)
    word = torch.nn.functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(found, (word * mask).sum(1))
    found.sum().backward()
    assert student.grad[mask].any() and not student.grad[~mask].any()


# Gradients


@pytest.mark.parametrize("method", ["log_likelihood", "marginals", "span_log_prob"])
@pytest.mark.parametrize("lengths", [[3, 0, 2], [1]])
def test_derivatives(method, lengths):
    crf = make_crf(3, iob2_constraints(["O", "B-X", "I-X"]))
    emissions, mask = make_batch(lengths, num_tags=3)
    arguments = {
        "log_likelihood": (crf.decode(emissions.flip(2), mask), mask),
        "marginals": (mask,),
        "span_log_prob": (mask, torch.tensor(all_spans(lengths, [(1, 2)]))),
    }[method]
    # The parameters are changed in place for the numerical derivatives.
    inputs = (emissions.requires_grad_(), *crf.parameters())
    assert gradcheck(lambda emissions, *_: getattr(crf, method)(emissions, *arguments), inputs)


# Numbers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_equal_float32(crf, dtype):
    crf = crf.to(dtype).float()
    emissions, mask = make_batch([30, 12, 5], dtype=dtype, scale=3.0)
    tags, spans = crf.decode(emissions.flip(2), mask), torch.tensor(all_spans([30, 12, 5]))
    expected = run(crf, emissions.float(), mask, tags, spans)
    with torch.autocast("cpu", dtype=dtype):
        result = run(crf, emissions, mask, tags, spans)
    assert all(x.dtype == torch.float32 for x in result[:3])
    torch.testing.assert_close(result[:4] + result[5:], expected[:4] + expected[5:], rtol=0, atol=0)
    result = run(crf.to(dtype), emissions, mask, tags, spans)  # parameters in half precision, too
    torch.testing.assert_close(result[:4], expected[:4], rtol=0, atol=0)


def test_a_path_whose_probability_underflows_on_the_way_is_found():
    # Two ways through: never an entity, or one long entity, which loses 60 nats a word and then wins them back.
    crf = LinearChainCRF(3, iob2_constraints(["O", "B-X", "I-X"])).double()
    length = 60
    emissions = torch.zeros(1, length, 3, dtype=torch.float64)
    emissions[0, 1:, 1] = -4000.0
    emissions[0, 1 : length // 2, 2] = -60.0
    emissions[0, length // 2 + 1 :, 2] = 60.0
    mask = torch.ones(1, length, dtype=torch.bool)
    # All paths but those of a later B-X: an entity from the first word up to any other, or none.
    ends = torch.cat([emissions[0, :1, 1], emissions[0, 1:, 2]]).cumsum(0)
    expected = -torch.cat([ends, torch.zeros(1, dtype=torch.float64)]).logsumexp(0)
    assert ends[-1] == 0, "the whole entity is as good as none"
    for tags in (torch.tensor([[1] + [2] * (length - 1)]), torch.zeros(1, length, dtype=torch.long)):
        torch.testing.assert_close(crf.log_likelihood(emissions, tags, mask)[0], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_long_sentences_and_large_emissions(scale):
    crf = make_crf(constraints=iob2_constraints(LABELS), dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    emissions = scale * (2 * torch.rand(2, 4096, 5, generator=generator) - 1)
    mask = torch.arange(4096) < torch.tensor([[4096], [4000]])
    tags = crf.decode(emissions, mask)
    random_tags = crf.decode(torch.randn(emissions.shape, generator=generator), mask)
    spans = torch.tensor([(0, t, t + 1 + t % 3, 1, 2) for t in range(0, 4000, 7)])

    results = []
    for dtype in (torch.float32, torch.float64):
        found = run(crf.to(dtype), emissions.to(dtype), mask, tags, spans)
        found[2] = found[2].clamp(min=-50)
        results.append([*found, crf.log_likelihood(emissions.to(dtype), random_tags, mask)])
    digit = scale * torch.finfo(torch.float32).eps  # the last digit of one emission
    rounding = 4096**0.5 * 4 * digit + 1e-4  # of as many words, of either sign
    tolerances = [rounding, 4 * digit + 1e-4, 16 * digit + 1e-4, 0, 16 * digit + 1e-4, 0.1, 0.1, 0.1, 1e-3]
    for mine, true, tolerance in zip(*results, tolerances, strict=True):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine.double(), true.double(), rtol=1e-6, atol=tolerance)


# Degenerate sizes


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (2, 3)])
def test_nothing_to_tag(crf, shape):
    emissions = torch.randn(*shape, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(shape, dtype=torch.bool)
    result = crf.log_likelihood(emissions, torch.full(shape, -100), mask)
    assert result.tolist() == [0.0] * shape[0]
    marginals = crf.marginals(emissions, mask)
    assert marginals.shape == emissions.shape and not marginals.any()
    assert crf.decode(emissions, mask).equal(torch.full(shape, -100))
    assert crf.span_log_prob(emissions, mask, torch.zeros(0, 5, dtype=torch.int64)).shape == (0,)
    (result.sum() + marginals.sum()).backward()
    assert not emissions.grad.any()
    assert not any(parameter.grad.any() for parameter in crf.parameters())


# Constraints and state


def test_iob2_constraints_read_any_order_and_types():
    labels = ["I-O", "B-O", "B-日本", "O", "I-日本", "B-a-b", "I-a-b"]
    start, transitions = iob2_constraints(tuple(labels))
    for column, label in enumerate(labels):
        before = {label, f"B{label[1:]}"} if label[0] == "I" else {*labels}
        assert {labels[row] for row in range(7) if transitions[row, column]} == before
        assert start[column] == (label[0] != "I")


@pytest.mark.parametrize(
    "labels, message",
    [
        (["O", "B-X", "I-X", "X"], "Label 3 is 'X'"),
        (["O", "B-a\nb"], r"Label 1 is 'B-a\\nb'; an IOB2 label is .* on one line"),
        (["O", "I-X", "B-Y"], r"\['I-X'\] can never be reached"),
        (["O", "B-X", "O"], r"\['O'\] occur more than once"),
    ],
)
def test_iob2_constraints_refuse(labels, message):
    with pytest.raises(ValueError, match=message):
        iob2_constraints(labels)


def test_state_dict_holds_the_parameters_alone_which_start_at_zero():
    before = torch.get_rng_state()
    loaded = LinearChainCRF(5, iob2_constraints(LABELS)).double()
    assert torch.equal(torch.get_rng_state(), before) and not any(p.any() for p in loaded.parameters())
    crf = make_crf(constraints=iob2_constraints(LABELS))
    assert list(crf.state_dict()) == ["start_transitions", "transitions", "end_transitions"]
    loaded.load_state_dict(crf.state_dict())
    emissions, mask = make_batch(LENGTHS)
    assert torch.equal(loaded.marginals(emissions, mask), crf.marginals(emissions, mask))


# Bad input

OK_EMISSIONS, OK_MASK = make_batch([3, 2])


@pytest.mark.parametrize(
    "emissions, mask, error, message",
    [
        (OK_EMISSIONS[..., :4], OK_MASK, ValueError, r"\(batch, words, 5\), got \(2, 3, 4\)"),
        (OK_EMISSIONS, OK_MASK[:, :2], ValueError, r"shape \(2, 3\) as the emissions have, got \(2, 2\)"),
        (OK_EMISSIONS, OK_MASK.long(), TypeError, "mask must be bool"),
        (OK_EMISSIONS.long(), OK_MASK, TypeError, "emissions must be floating point"),
        (OK_EMISSIONS, OK_MASK.flip(1), ValueError, "right-padded"),
    ],
)
def test_every_method_refuses_bad_emissions_and_masks(emissions, mask, error, message):
    crf, no_tags = LinearChainCRF(5), torch.zeros(2, 3, dtype=torch.int64)
    for call in (
        lambda: crf.log_likelihood(emissions, no_tags, mask),
        lambda: crf.decode(emissions, mask),
        lambda: crf.marginals(emissions, mask),
        lambda: crf.span_log_prob(emissions, mask, torch.tensor([[0, 0, 1, 1, 2]])),
    ):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize(
    "tags, error, message",
    [
        (torch.zeros(2, 3), TypeError, "tags must hold integers"),
        (torch.zeros(2, 4, dtype=torch.int64), ValueError, r"shape \(2, 3\), got \(2, 4\)"),
        (torch.tensor([[0, 0, 0], [0, -100, -100]]), ValueError, r"row 1, \[0, -100\]"),
        (torch.tensor([[0, 5, 0], [0, 0, -100]]), ValueError, r"row 0, \[0, 5, 0\]"),
        (torch.tensor([[0, 0, 0], [1, 4, -100]]), ValueError, r"row 1, \[1, 4\].*constraints"),
    ],
)
def test_log_likelihood_refuses_bad_tags(tags, error, message):
    with pytest.raises(error, match=message):
        LinearChainCRF(5, iob2_constraints(LABELS)).log_likelihood(OK_EMISSIONS, tags, OK_MASK)


# Accelerators


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_and_does_not_wait():
    crf = make_crf(constraints=iob2_constraints(LABELS))
    emissions, mask = make_batch([20, 5, 0, 13])
    tags = crf.decode(emissions.flip(2), mask)
    expected = crf.log_likelihood(emissions, tags, mask), crf.marginals(emissions, mask), crf.decode(emissions, mask)
    crf, emissions, mask, tags = crf.cuda(), emissions.cuda().requires_grad_(), mask.cuda(), tags.cuda()
    bad = tags.index_put((torch.tensor(1), torch.tensor(0)), torch.tensor(2))
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = crf.log_likelihood(emissions, tags, mask), crf.marginals(emissions, mask), crf.decode(emissions, mask)
        (found[0].sum() + found[1].square().sum()).backward()
        broken = crf.log_likelihood(emissions, bad, mask)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close([x.cpu() for x in found], [*expected], rtol=1e-9, atol=1e-9)
    assert broken.isnan().tolist() == [False, True, False, False]
