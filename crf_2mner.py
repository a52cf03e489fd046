"""Linear-chain conditional random field, the tagging head of 2M-NER (arXiv 2404.17122).

Lafferty et al. 2001 for the model, Rabiner 1989 for the forward-backward and Viterbi recursions.
"""

import contextlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

try:
    from .crf_numpy_2mner import Likelihood, Packing, viterbi
except ImportError:
    from crf_numpy_2mner import Likelihood, Packing, viterbi

# The score of a forbidden step. Finite, so that no infinity minus infinity ever makes a NaN gradient; and far enough
# from the limit of float32 that a few of them may be added up.
FORBIDDEN = -1e30

# Elements of the largest temporary of a backward sweep: large steps, bounded memory.
_CHUNK_ELEMENTS = 1 << 18

# Steps of Viterbi after which the best score of a row is set to zero again.
_LEVELLED_EVERY = 8


class TagConstraints(NamedTuple):
    """Which tags may start a sentence and which may follow each other; True is allowed."""

    start: Tensor
    """Bool tensor of shape (K,)."""

    transitions: Tensor
    """Bool tensor of shape (K, K), `[from, to]`."""


def iob2_constraints(labels: Sequence[str]) -> TagConstraints:
    """The IOB2 rules over `labels`: `I-X` comes only after `B-X` or `I-X`, hence never first.

    Args:
        labels: tag names in id order: `O`, `B-X`, `I-X` for entity types X of any name.

    Raises:
        ValueError: a label is not one of these, is there twice, or is an `I-X` whose `B-X` is missing.
    """
    labels = list(labels)
    if not labels:
        raise ValueError("IOB2 constraints need at least one label, got none.")
    for position, label in enumerate(labels):
        is_tag = isinstance(label, str) and (label == "O" or (label[:2] in ("B-", "I-") and len(label) > 2))
        if not is_tag or not label.isprintable():
            raise ValueError(
                f"Label {position} is {label!r}; an IOB2 label is 'O', 'B-<type>' or 'I-<type>', on one line."
            )
    duplicates = sorted({label for label in labels if labels.count(label) > 1})
    if duplicates:
        raise ValueError(f"Labels must be distinct, but {duplicates} occur more than once in {labels}.")
    orphans = [label for label in labels if label[0] == "I" and "B" + label[1:] not in labels]
    if orphans:
        raise ValueError(f"Labels {orphans} can never be reached: add the 'B-' label of each to {labels}.")
    return TagConstraints(
        start=torch.tensor([label[0] != "I" for label in labels]),
        transitions=torch.tensor(
            [[after[0] != "I" or before[1:] == after[1:] for after in labels] for before in labels]
        ),
    )


class LinearChainCRF(nn.Module):
    """A linear-chain CRF over a batch of sentences of different lengths.

    The score of a tag sequence is
    `start[y_0] + sum_t emissions[t, y_t] + sum_t transitions[y_t, y_t+1] + end[y_last]`;
    its probability is the softmax over all sequences of the sentence's length.

    All methods take `emissions` (B, T, K), finite floating point, and `mask` (B, T), bool, True at words and
    right-padded; T may be 0 and so may a row's length. They compute in float32 (float64 if emissions or parameters
    are), autocast or not. What stands at masked positions, NaN included, reaches neither results nor gradients.
    Everything but `decode` is differentiable, twice too. No method waits for an accelerator except `span_log_prob`;
    checks of *values* that would have to wait are made on the CPU only.

    Args:
        num_tags: K, at least 1.
        constraints: which steps are allowed; all others have probability zero. They follow from the label names,
            so they are not kept in the state dict: whoever loads one builds the CRF with the same constraints. None
            allows every step.

    Raises:
        ValueError: `num_tags` below 1, or constraints of another shape or type than bool (K,) and (K, K).
    """

    def __init__(self, num_tags: int, constraints: TagConstraints | None = None):
        super().__init__()
        if num_tags < 1:
            raise ValueError(f"A CRF needs at least one tag, got num_tags={num_tags}.")
        self.num_tags = num_tags
        self.start_transitions = nn.Parameter(torch.empty(num_tags))
        self.transitions = nn.Parameter(torch.empty(num_tags, num_tags))  # [from, to]
        self.end_transitions = nn.Parameter(torch.empty(num_tags))
        allowed_start, allowed_transitions = (None, None) if constraints is None else constraints
        for name, allowed, shape in (
            ("start", allowed_start, (num_tags,)),
            ("transitions", allowed_transitions, (num_tags, num_tags)),
        ):
            if allowed is not None and (allowed.dtype != torch.bool or tuple(allowed.shape) != shape):
                raise ValueError(
                    f"constraints.{name} must be a bool tensor of shape {shape} for {num_tags} tags, "
                    f"got {allowed.dtype} of shape {tuple(allowed.shape)}."
                )
        self.register_buffer("allowed_start", allowed_start, persistent=False)
        self.register_buffer("allowed_transitions", allowed_transitions, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero scores: every allowed step is as likely as any other."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def extra_repr(self) -> str:
        return f"num_tags={self.num_tags}, constrained={self.allowed_start is not None}"

    # A loop over words inside a compiled graph would be unrolled, and compiled again for every length.
    @torch.compiler.disable
    def log_likelihood(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Log-probability of each row's gold tags, shape (B,), natural logarithm; 0 for an empty row.

        Args:
            tags: integers of shape (B, T); anything (such as -100) where masked.

        Raises:
            TypeError: an argument of the wrong dtype.
            ValueError: shapes that do not fit; on the CPU also a gold tag outside 0..K-1 or a gold path that the
                constraints forbid. On an accelerator, where looking would mean waiting, such a row's result is NaN
                (and its gradient zero): reject such data where it is read.
        """
        self._check(emissions, mask)
        if tags.is_floating_point() or tags.dtype == torch.bool:
            raise TypeError(f"tags must hold integers, got {tags.dtype}.")
        if tags.shape != mask.shape:
            raise ValueError(f"tags must have the mask's shape {tuple(mask.shape)}, got {tuple(tags.shape)}.")
        parameters = (self.start_transitions, self.transitions, self.end_transitions)
        return _LogLikelihood.apply(emissions, *parameters, tags, mask, self)

    @torch.compiler.disable
    @torch.no_grad()
    def decode(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """The most probable tag sequences (Viterbi), int64 of shape (B, T), -100 where masked.

        Of several equally good sequences the first in the order of tag ids is taken.

        Raises:
            TypeError, ValueError: as in `log_likelihood`.
        """
        self._check(emissions, mask)
        if emissions.device.type == "cpu":
            dtype = self._dtype(emissions)
            packing = Packing(mask.numpy())
            packed = _packed(emissions, packing, dtype)
            tags = mask.new_full(mask.shape, -100, dtype=torch.int64)
            scores = (score.numpy() for score in self._step_scores(dtype))
            tags.numpy().reshape(-1)[packing.source] = viterbi(packed, packing, *scores)
            return tags
        num_words = mask.shape[1]
        with _full_precision(emissions):
            scores, mask = self._time_first(emissions, mask)
            start, transitions, end = self._step_scores(scores.dtype)
            # From the last word to the first, so that the paths are then read off from the first word on, where all
            # rows begin together. What all tags have in common is taken off: float32 keeps its digits for the rest.
            best = _reverse(scores - scores.amax(dim=1, keepdim=True), mask)
            best[0] += end[:, None]
            _add_continuations(best, transitions)
            best = _reverse(best, mask).transpose(1, 2)  # (T, B, K): best continuation from each tag
            path = [(best[0] + start).argmax(dim=1)]
            for here in best[1:]:
                path.append((here + transitions[path[-1]]).argmax(dim=1))
            return torch.stack(path).masked_fill(~mask, -100).T[:, :num_words].contiguous()

    @torch.compiler.disable
    def marginals(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Posterior probability of each tag at each word, shape (B, T, K); zeros where masked.

        Raises:
            TypeError, ValueError: as in `log_likelihood`.
        """
        self._check(emissions, mask)
        num_words = mask.shape[1]
        with _full_precision(emissions):
            scores, mask = self._time_first(emissions, mask)
            left, right = self._messages(scores, mask)
            posterior = (left + scores + right).softmax(dim=1).masked_fill(~mask[:, None], 0)
            return posterior.permute(2, 0, 1)[:, :num_words].contiguous()

    def divergence(self, teacher: Tensor, student: Tensor, mask: Tensor) -> Tensor:
        """
        `KL(teacher || student)` of the marginals of two emissions (B, T, K), summed over words, (B,). Only the student
        gets a gradient.

        Raises:
            TypeError, ValueError: as in `log_likelihood`.
        """
        with torch.no_grad():
            known = self.marginals(teacher, mask)
        learning = self.marginals(student, mask)
        smallest = torch.finfo(learning.dtype).tiny
        return (known * (known.clamp(min=smallest).log() - learning.clamp(min=smallest).log())).sum(dim=(1, 2))

    @torch.compiler.disable
    def span_log_prob(self, emissions: Tensor, mask: Tensor, spans: Tensor) -> Tensor:
        """Log-probability that exactly these words form an entity, shape (N,), at most 0.

        That is `log P(y_start = begin, y_start+1..end-1 = inside, y_end != inside)`, the last condition only where the
        sentence goes on at `end`. A span that the constraints forbid gets about `-1e30`.

        Args:
            spans: integers of shape (N, 5): row, start, end (exclusive), begin tag, inside tag. An inside tag of -1
                says that the type has none: spans of one word only, and any tag may follow.

        Raises:
            TypeError, ValueError: as in `log_likelihood`; also a span that is empty, leaves its sentence or names a
                tag that does not exist (this check waits for an accelerator).
        """
        self._check(emissions, mask)
        if spans.is_floating_point() or spans.dtype == torch.bool:
            raise TypeError(f"spans must hold integers, got {spans.dtype}.")
        if spans.dim() != 2 or spans.shape[1] != 5:
            raise ValueError(
                f"spans must have shape (N, 5): row, start, end, begin tag, inside tag; got {tuple(spans.shape)}."
            )
        with _full_precision(emissions):
            scores, mask = self._time_first(emissions, mask)
            spans = spans.to(device=mask.device, dtype=torch.int64)
            lengths = mask.sum(dim=0)
            self._check_spans(spans, lengths)
            if not len(spans):
                return scores.new_zeros(0)
            row, start, end, begin, inside = spans.T
            _, transitions, _ = self._step_scores(scores.dtype)
            left, right = self._messages(scores, mask)
            # Chain rule from left to right, each factor normalised at its own word: P(start = begin), then
            # P(next | this) = exp(transitions[this, next] + onward[t + 1, next] - right[t, this]).
            result = (left + scores + right).log_softmax(dim=1)[start, begin, row]
            onward = right + scores  # (T, K, B)
            onward = onward - onward.amax(dim=1, keepdim=True).detach()

            several = end - start > 1
            second = (start + 1).clamp(max=len(scores) - 1)
            step = transitions[begin, inside] + onward[second, inside, row] - right[start, begin, row]
            result = result + step.masked_fill(~several, 0)

            stay = transitions.diagonal()[:, None] + onward[1:] - right[:-1]  # (T - 1, K, B)
            # The words from the second of each span to the last but one, span by span: (sum of their numbers,).
            inner = (end - start - 2).clamp(min=0)
            span = torch.arange(len(spans), device=mask.device).repeat_interleave(inner)
            word = torch.arange(len(span), device=mask.device) - (inner.cumsum(0) - inner)[span] + start[span] + 1
            result = result.index_add(0, span, stay[word, inside[span], row[span]])

            goes_on = end < lengths[row]
            tail = torch.where(several, inside, begin)
            next_tag = transitions[tail] + onward[end.clamp(max=len(scores) - 1), :, row]  # (N, K)
            is_inside = torch.arange(self.num_tags, device=mask.device) == inside[:, None]
            stop = next_tag.masked_fill(is_inside, FORBIDDEN).logsumexp(dim=1) - right[end - 1, tail, row]
            return (result + stop.masked_fill(~goes_on, 0)).clamp(max=0)

    def _check(self, emissions: Tensor, mask: Tensor) -> None:
        if not emissions.is_floating_point():
            raise TypeError(f"emissions must be floating point, got {emissions.dtype}.")
        if mask.dtype != torch.bool:
            raise TypeError(f"mask must be bool, True at words; got {mask.dtype}: convert it with mask.bool().")
        if emissions.dim() != 3 or emissions.shape[2] != self.num_tags:
            raise ValueError(
                f"emissions must have shape (batch, words, {self.num_tags}), got {tuple(emissions.shape)}."
            )
        if mask.shape != emissions.shape[:2]:
            raise ValueError(
                f"mask must have shape {tuple(emissions.shape[:2])} as the emissions have, got {tuple(mask.shape)}."
            )
        if mask.device.type == "cpu" and (mask.numpy()[:, 1:] > mask.numpy()[:, :-1]).any():
            raise ValueError("mask must be right-padded: each row True at its words, False after the last of them.")

    def _check_spans(self, spans: Tensor, lengths: Tensor) -> None:
        row, start, end, begin, inside = spans.T
        known_row = (row >= 0) & (row < len(lengths))
        # A row without words at the end stands for every row that does not exist.
        length = pad(lengths, (0, 1))[torch.where(known_row, row, len(lengths))]
        good = (start >= 0) & (start < end) & (end <= length)
        good &= (begin >= 0) & (begin < self.num_tags) & (inside >= -1) & (inside < self.num_tags)
        good &= (inside >= 0) | (end - start == 1)
        if not bool(good.all()):
            first = int((~good).nonzero()[0])
            raise ValueError(
                f"Span {first} (row, start, end, begin tag, inside tag) = {tuple(spans[first].tolist())} must satisfy "
                f"0 <= row < {len(lengths)}, 0 <= start < end <= length of the row ({int(length[first])}), 0 <= tag < "
                f"{self.num_tags}; inside tag -1 only for one word."
            )

    def _dtype(self, emissions: Tensor) -> torch.dtype:
        """What is computed with: float32, or float64 where something is."""
        return torch.promote_types(torch.promote_types(emissions.dtype, self.transitions.dtype), torch.float32)

    def _time_first(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Emissions (T, K, B) in full precision with zeros where masked, and the mask (T, B); T at least 1.

        With the batch innermost, a step over a handful of tags is a few long vectors instead of many short ones.
        """
        dtype = self._dtype(emissions)
        if not mask.shape[1]:
            emissions, mask = pad(emissions, (0, 0, 0, 1)), pad(mask, (0, 1))
        scores = emissions.to(dtype).masked_fill(~mask.unsqueeze(-1), 0)
        return scores.permute(1, 2, 0).contiguous(), mask.T

    def _step_scores(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Start (K,), transition (K, K) and end (K,) scores with the constraints in them."""
        parameters = (self.start_transitions, self.transitions, self.end_transitions)
        return self._constrained(*(parameter.to(dtype) for parameter in parameters))

    def _constrained(self, start: Tensor, transitions: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.allowed_start is not None:
            start = start.masked_fill(~self.allowed_start, FORBIDDEN)
            transitions = transitions.masked_fill(~self.allowed_transitions, FORBIDDEN)
        return start, transitions, end

    def _log_likelihood_in_log_space(
        self, emissions: Tensor, tags: Tensor, mask: Tensor, start: Tensor, transitions: Tensor, end: Tensor
    ) -> Tensor:
        """`log_likelihood` on any device and of any range, with parameters to differentiate by."""
        with _full_precision(emissions):
            scores, mask = self._time_first(emissions, mask)
            tags = tags.T if len(tags.T) else tags.new_zeros(mask.shape)
            known = (tags >= 0) & (tags < self.num_tags)
            good, tags = known, tags.long().masked_fill(~(known & mask), 0)
            if self.allowed_start is not None:
                steps = torch.cat([self.allowed_start[tags[:1]], self.allowed_transitions[tags[:-1], tags[1:]]])
                good = known & steps
            # Over a long sentence, gold score and log-partition grow so large that float32 has no digits left for
            # their difference.
            dtype, widest = scores.dtype, _widest(scores.device)
            scores = scores.to(widest)
            start, transitions, end = self._constrained(start.to(widest), transitions.to(widest), end.to(widest))
            gold = scores.gather(1, tags[:, None]).squeeze(1)
            gold = gold + torch.cat([start[tags[:1]], transitions[tags[:-1], tags[1:]]])
            last = (mask.sum(dim=0) - 1).clamp(min=0)
            gold = gold.masked_fill(~mask, 0).sum(dim=0) + end[tags.gather(0, last[None]).squeeze(0)]
            result = (gold - _log_partition(scores, start, transitions, end, mask)).to(dtype)
            return result.masked_fill(~mask[0], 0).masked_fill((~good & mask).any(dim=0), torch.nan)

    def _check_gold(self, gold: np.ndarray, packing: Packing, tags: Tensor) -> None:
        good = (gold >= 0) & (gold < self.num_tags)
        if self.allowed_start is not None and good.all():
            rows = len(packing.last)
            good[:rows] = self.allowed_start.numpy()[gold[:rows]]
            good[rows:] = self.allowed_transitions.numpy()[gold[packing.before], gold[rows:]]
        if not good.all():
            row = int(packing.row[~good].min())
            raise ValueError(
                f"The gold tags of row {row}, {tags[row, : int((packing.row == row).sum())].tolist()}, must all be in "
                f"0..{self.num_tags - 1} and keep to the constraints: mask out words without a tag, and mend tag "
                f"sequences where the data is read."
            )

    def _messages(self, scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the words left and right of each word say about its tag: two log-messages of shape (T, K, B).

        Both run from their end of the sentence as one sweep of twice the batch. Each is known up to a constant for
        each word and row.
        """
        start, transitions, end = self._step_scores(scores.dtype)
        left, right = _Sweep.apply(
            torch.stack([scores, _reverse(scores, mask)], dim=2),
            torch.stack([start, end], dim=1),
            torch.stack([transitions, transitions.T], dim=2),
        ).unbind(dim=2)
        return left, _reverse(right, mask)


class _LogLikelihood(torch.autograd.Function):
    """The log-likelihood as one node: (B,), in the precision of `LinearChainCRF._dtype`.

    Its gradient is what the gold tags have less what is to be expected of them, which forward and backward messages
    give at once, without a graph of small steps. On the CPU the messages are computed in probability space
    (`crf_numpy_2mner`); where that would lose a path that may count, and on accelerators, where looking would mean
    waiting, in log space (`_Sweep`).
    """

    @staticmethod
    def forward(
        ctx: Any,
        emissions: Tensor,
        start: Tensor,
        transitions: Tensor,
        end: Tensor,
        tags: Tensor,
        mask: Tensor,
        crf: LinearChainCRF,
    ) -> Tensor:
        ctx.save_for_backward(emissions, start, transitions, end, tags, mask)
        ctx.crf, ctx.likelihood = crf, None
        if emissions.device.type == "cpu":
            packing = Packing(mask.numpy())
            gold = tags.reshape(-1).numpy()[packing.source].astype(np.int64, copy=False)
            crf._check_gold(gold, packing, tags)
            scores = (score.numpy() for score in crf._step_scores(torch.float64))
            packed = _packed(emissions, packing, crf._dtype(emissions)).astype(np.float64, copy=False)
            both = any(ctx.needs_input_grad)
            likelihood = Likelihood(packed, gold, packing, len(mask), *scores, both)
            if likelihood.value is not None:
                ctx.likelihood = likelihood
                return torch.from_numpy(likelihood.value).to(crf._dtype(emissions))
        return crf._log_likelihood_in_log_space(emissions, tags, mask, start, transitions, end)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, tags, mask = ctx.saved_tensors
        emissions, likelihood = inputs[0], ctx.likelihood
        if likelihood is None or torch.is_grad_enabled():  # or a graph of the gradient is wanted
            create_graph = torch.is_grad_enabled()
            with torch.enable_grad():
                tracked = [x if create_graph and x.requires_grad else x.detach().requires_grad_() for x in inputs]
                result = ctx.crf._log_likelihood_in_log_space(tracked[0], tags, mask, *tracked[1:])
                # In sentences of one word there is no step.
                gradients = torch.autograd.grad(
                    result, tracked, gradient, create_graph=create_graph, allow_unused=True, materialize_grads=True
                )
            return *gradients, None, None, None
        packed, *others = map(torch.from_numpy, likelihood.gradients(gradient.double().numpy()))
        by_emission = torch.zeros_like(emissions, memory_format=torch.contiguous_format)
        by_emission.view(-1, emissions.shape[2])[torch.from_numpy(likelihood.packing.source)] = packed.to(emissions)
        others = [found.to(x) for found, x in zip(others, inputs[1:], strict=True)]
        return by_emission, *others, None, None, None


def _packed(emissions: Tensor, packing: Packing, dtype: torch.dtype) -> np.ndarray:
    """The emissions (N, K) of the words of a batch on the CPU."""
    return emissions.detach().to(dtype).reshape(-1, emissions.shape[2]).numpy().take(packing.source, 0)


def _log_partition(scores: Tensor, start: Tensor, transitions: Tensor, end: Tensor, mask: Tensor) -> Tensor:
    """The logarithm of the sum over all tag sequences, (B,), of `scores` (T, K, B), whatever their range."""
    incoming = _Sweep.apply(scores[:, :, None], start[:, None], transitions[:, :, None])[:, :, 0]
    forward = incoming + scores  # (T, K, B)
    # `_Sweep` takes the highest entry off each word: it is added again here, for all words but the last.
    highest = forward.amax(dim=1).detach()  # (T, B)
    last = (mask.sum(dim=0) - 1).clamp(min=0)[None]  # (1, B)
    at_end = forward.gather(0, last[:, None].expand(1, len(start), -1)).squeeze(0)  # (K, B)
    words = highest.masked_fill(~mask, 0).sum(dim=0) - highest.gather(0, last).squeeze(0)
    return (at_end + end[:, None]).logsumexp(dim=0) + words


class _Sweep(torch.autograd.Function):
    """One direction of the forward-backward recursion in log space, over D independent chains of B rows at once.

    `emissions` (T, K, D, B), `start` (K, D), `transitions` (K, K, D) -> `incoming` (T, K, D, B):
    `incoming[0] = start`, `incoming[t + 1] = logsumexp_from(outgoing[t] + transitions)`, where
    `outgoing[t] = incoming[t] + emissions[t]` less its highest entry. That shift keeps the digits of float32 for what
    matters, over any length; it is treated as a constant, which is exact for any use that does not depend on it, such
    as a probability.

    Autograd would keep a graph of 3 T small steps; here the backward pass sends the gradient back through the
    transition posteriors `P(from | to)`, which are recomputed from `incoming` in large pieces. They are normalised
    numbers in [0, 1]: nothing can overflow, and a forbidden step is exactly zero.
    """

    @staticmethod
    def forward(ctx: Any, emissions: Tensor, start: Tensor, transitions: Tensor) -> Tensor:
        incoming = torch.empty_like(emissions)
        incoming[0] = start.unsqueeze(-1)
        outgoing = torch.empty_like(emissions[0])
        steps = outgoing.new_empty(len(start), *outgoing.shape)  # (K from, K to, D, B)
        for t in range(1, len(emissions)):
            torch.add(incoming[t - 1], emissions[t - 1], out=outgoing)
            outgoing -= outgoing.amax(dim=0)
            torch.add(outgoing.unsqueeze(1), transitions.unsqueeze(-1), out=steps)
            highest = steps.amax(dim=0)
            torch.sum(steps.sub_(highest).exp_(), dim=0, out=incoming[t]).log_().add_(highest)
        ctx.save_for_backward(emissions, start, transitions, incoming)
        return incoming

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        emissions, start, transitions, incoming = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradient is wanted: take the slow road, which autograd can follow
            inputs = [x if x.requires_grad else x.detach().requires_grad_() for x in (emissions, start, transitions)]
            incoming = _sweep_by_autograd(*inputs)
            return torch.autograd.grad(incoming, inputs, gradient, create_graph=True, allow_unused=True)
        gradient = gradient.clone()  # becomes the total gradient of `incoming`
        emission_gradient = torch.zeros_like(emissions)
        transition_gradient = torch.zeros_like(transitions)
        chunk = max(1, _CHUNK_ELEMENTS // max(1, incoming[0].numel() * len(start)))
        for stop in range(len(incoming), 1, -chunk):
            first = max(1, stop - chunk)
            outgoing = incoming[first - 1 : stop - 1] + emissions[first - 1 : stop - 1]
            outgoing -= outgoing.amax(dim=1, keepdim=True)
            steps = (outgoing.unsqueeze(2) + transitions.unsqueeze(-1)).softmax(dim=1)  # (t, K from, K to, D, B)
            for t in range(stop - 1, first - 1, -1):
                torch.sum(steps[t - first].mul_(gradient[t]), dim=1, out=emission_gradient[t - 1])
                gradient[t - 1] += emission_gradient[t - 1]
            transition_gradient += steps.sum(dim=(0, -1))
        return emission_gradient, gradient[0].sum(dim=-1), transition_gradient


def _sweep_by_autograd(emissions: Tensor, start: Tensor, transitions: Tensor) -> Tensor:
    """`_Sweep` in steps that autograd knows: the plain definition, for gradients of gradients."""
    incoming = [start.unsqueeze(-1).expand_as(emissions[0])]
    for emission in emissions[:-1]:
        outgoing = incoming[-1] + emission
        outgoing = outgoing - outgoing.amax(dim=0).detach()
        incoming.append((outgoing.unsqueeze(1) + transitions.unsqueeze(-1)).logsumexp(dim=0))
    return torch.stack(incoming)


def _add_continuations(best: Tensor, transitions: Tensor) -> None:
    """Viterbi from the last word on: to each score in `best` (T, K, B), in place, the best of what may follow it."""
    backward = transitions.T[:, :, None].contiguous()  # [to, from]
    steps = best.new_empty(len(backward), *best.shape[1:])  # to, from, row
    highest = torch.empty_like(best[0])
    for step, (later, here) in enumerate(pairwise(best.unbind())):
        if step % _LEVELLED_EVERY == 0:
            later -= later.amax(dim=0)
        torch.add(later[:, None], backward, out=steps)
        torch.amax(steps, dim=0, out=highest)
        here += highest


def _reverse(x: Tensor, mask: Tensor) -> Tensor:
    """Each row of `x` (T, K, B) with its words in reverse order, padding where it was."""
    word = torch.arange(len(x), device=x.device)[:, None]
    source = torch.where(mask, mask.sum(dim=0) - 1 - word, word)  # (T, B)
    return x.gather(0, source.unsqueeze(1).expand_as(x))


def _widest(device: torch.device) -> torch.dtype:
    """The floating point type with the most digits that a device has: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _full_precision(x: Tensor) -> contextlib.AbstractContextManager:
    """Switches autocast off on the device of `x`."""
    if torch.amp.is_autocast_available(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()
