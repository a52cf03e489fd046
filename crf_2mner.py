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

# The score of a forbidden step. Finite, so that no infinity minus infinity ever makes a NaN gradient; and far enough
# from the limit of float32 that a few of them may be added up.
FORBIDDEN = -1e30

# Elements of the largest temporary of a backward sweep: large steps, bounded memory.
_CHUNK_ELEMENTS = 1 << 18


# Elements of a step of Viterbi (K, K, B) from which torch, which shares it among threads, is the faster.
_SMALL_STEP = 1 << 14

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
        if not isinstance(label, str) or not (label == "O" or (label[:2] in ("B-", "I-") and len(label) > 2)):
            raise ValueError(f"Label {position} is {label!r}; an IOB2 label is 'O', 'B-<type>' or 'I-<type>'.")
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
        with _full_precision(emissions):
            scores, mask = self._time_first(emissions, mask)
            tags = tags.T if len(tags.T) else tags.new_zeros(mask.shape)
            tags, broken = self._gold_path(tags, mask)
            # Over a long sentence, gold score and log-partition grow so large that float32 has no digits left for
            # their difference.
            dtype, scores = scores.dtype, scores.double()
            start, transitions, end = self._step_scores(torch.float64)
            gold = scores.gather(1, tags[:, None]).squeeze(1)
            gold = gold + torch.cat([start[tags[:1]], transitions[tags[:-1], tags[1:]]])
            last = (mask.sum(dim=0) - 1).clamp(min=0)
            gold = gold.masked_fill(~mask, 0).sum(dim=0) + end[tags.gather(0, last[None]).squeeze(0)]
            log_partition = _LogPartition.apply(scores.transpose(1, 2), start, transitions, end, mask)
            result = (gold - log_partition).to(dtype)
            return result.masked_fill(~mask[0], 0).masked_fill(broken, torch.nan)

    @torch.compiler.disable
    @torch.no_grad()
    def decode(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """The most probable tag sequences (Viterbi), int64 of shape (B, T), -100 where masked.

        Of several equally good sequences the first in the order of tag ids is taken.

        Raises:
            TypeError, ValueError: as in `log_likelihood`.
        """
        self._check(emissions, mask)
        num_words = mask.shape[1]
        with _full_precision(emissions):
            scores, mask = self._time_first(emissions, mask)
            start, transitions, end = self._step_scores(scores.dtype)
            # From the last word to the first, so that the paths are then read off from the first word on, where all
            # rows begin together. What all tags have in common is taken off: float32 keeps its digits for the rest.
            best = _reverse(scores - scores.amax(dim=1, keepdim=True), mask)
            best[0] += end[:, None]
            # NumPy takes a third of the time of torch for a small step on the CPU, and longer for a large one.
            if best.device.type == "cpu" and best[0].numel() * self.num_tags < _SMALL_STEP:
                _add_continuations_in_numpy(best.numpy(), transitions.numpy())
            else:
                _add_continuations(best, transitions)
            best = _reverse(best, mask).transpose(1, 2).contiguous()  # (T, B, K): best continuation from each tag
            if best.device.type == "cpu":
                tags = torch.from_numpy(_paths_on_cpu(best.numpy(), start.numpy(), transitions.numpy()))
            else:
                path = [(best[0] + start).argmax(dim=1)]
                for here in best[1:]:
                    path.append((here + transitions[path[-1]]).argmax(dim=1))
                tags = torch.stack(path)
            return tags.masked_fill(~mask, -100).T[:, :num_words].contiguous()

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
        if mask.device.type == "cpu" and bool((mask[:, 1:] & ~mask[:, :-1]).any()):
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

    def _time_first(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Emissions (T, K, B) in full precision with zeros where masked, and the mask (T, B); T at least 1.

        With the batch innermost, a step over a handful of tags is a few long vectors instead of many short ones.
        """
        dtype = torch.promote_types(torch.promote_types(emissions.dtype, self.transitions.dtype), torch.float32)
        if not mask.shape[1]:
            emissions, mask = pad(emissions, (0, 0, 0, 1)), pad(mask, (0, 1))
        scores = emissions.to(dtype).masked_fill(~mask.unsqueeze(-1), 0)
        return scores.permute(1, 2, 0).contiguous(), mask.T

    def _step_scores(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Start (K,), transition (K, K) and end (K,) scores with the constraints in them."""
        start, transitions = self.start_transitions.to(dtype), self.transitions.to(dtype)
        if self.allowed_start is not None:
            start = start.masked_fill(~self.allowed_start, FORBIDDEN)
            transitions = transitions.masked_fill(~self.allowed_transitions, FORBIDDEN)
        return start, transitions, self.end_transitions.to(dtype)

    def _gold_path(self, tags: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tags (T, B) that are safe to index with, and the rows (B,) whose gold tags are unknown or forbidden."""
        known = (tags >= 0) & (tags < self.num_tags)
        given, tags = tags, tags.long().masked_fill(~(known & mask), 0)
        good = known
        if self.allowed_start is not None:
            steps = torch.cat([self.allowed_start[tags[:1]], self.allowed_transitions[tags[:-1], tags[1:]]])
            good = known & steps
        broken = (~good & mask).any(dim=0)
        if broken.device.type == "cpu" and bool(broken.any()):
            row = int(broken.nonzero()[0])
            raise ValueError(
                f"The gold tags of row {row}, {given[mask[:, row], row].tolist()}, must all be in "
                f"0..{self.num_tags - 1} and keep to the constraints: mask out words without a tag, and mend tag "
                f"sequences where the data is read."
            )
        return tags, broken

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


class _LogPartition(torch.autograd.Function):
    """log of the sum over all tag sequences, (B,), of `scores` (T, B, K), all in float64.

    Its gradient is the expected number of times that each tag and each step occurs: posteriors, which the messages
    from both sides give at once, without a graph of small steps. On the CPU the messages are computed in probability
    space, where a step is one matrix product; where that would lose a path that counts, and on accelerators, where
    looking would mean waiting, in log space (`_Sweep`).
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, start: Tensor, transitions: Tensor, end: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(scores, start, transitions, end, mask)
        needed = any(ctx.needs_input_grad)
        ctx.messages = _scaled_messages(scores, start, transitions, end, mask, both=needed)
        if ctx.messages is not None:
            return ctx.messages.log_partition
        return _log_partition_in_log_space(scores, start, transitions, end, mask)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, mask = ctx.saved_tensors
        if ctx.messages is None or torch.is_grad_enabled():  # or a graph of the gradient is wanted
            create_graph = torch.is_grad_enabled()
            with torch.enable_grad():
                tracked = [x if create_graph and x.requires_grad else x.detach().requires_grad_() for x in inputs]
                result = _log_partition_in_log_space(*tracked, mask)
                # In sentences of one word there is no step.
                gradients = torch.autograd.grad(
                    result, tracked, gradient, create_graph=create_graph, allow_unused=True, materialize_grads=True
                )
            return *gradients, None
        posterior, steps = ctx.messages.posteriors(gradient, inputs[2], mask)
        last = (mask.sum(dim=0) - 1).clamp(min=0)
        at_end = posterior[last, torch.arange(len(last))]
        return posterior, posterior[0].sum(dim=0), steps, at_end.sum(dim=0), None


class _ScaledMessages(NamedTuple):
    """Forward and backward messages in probability space; each is known up to a factor for each word and row."""

    log_partition: Tensor  # (B,)
    probabilities: Tensor  # (T, B, K), of the emissions, the highest of each word 1
    left: Tensor  # (T, B, K), what the words before say
    right: Tensor | None  # (T, B, K), what the words after say
    scale: Tensor  # (T, B), what `left` was divided by at each word

    def posteriors(self, gradient: Tensor, transitions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Of each tag (T, B, K) and of each step (K, K), summed over rows with the weights `gradient` (B,)."""
        here = self.probabilities * self.right
        joint = self.left * here
        total = joint.sum(dim=2, keepdim=True)
        weight = gradient[:, None].masked_fill(~mask[:, :, None], 0) / total  # (T, B, 1)
        before = self.left[:-1] * self.probabilities[:-1] * (weight[1:] / self.scale[1:, :, None])
        tags = transitions.shape[0]
        steps = before.reshape(-1, tags).T @ here[1:].reshape(-1, tags) * _step_probabilities(transitions)[0]
        return joint * weight, steps


_RENORMALISED_EVERY = 4  # steps: float64 holds the product of many more, but not of the rarest paths
_SMALLEST = 1e-280


def _scaled_messages(
    scores: Tensor, start: Tensor, transitions: Tensor, end: Tensor, mask: Tensor, both: bool
) -> _ScaledMessages | None:
    """The messages of a batch, from the left or from `both` sides; None where log space is needed."""
    if scores.device.type != "cpu":
        return None
    length = len(scores)
    peak = scores.amax(dim=2)  # (T, B)
    probabilities = (scores - peak[:, :, None]).exp_()
    step, step_peak = _step_probabilities(transitions)
    start_peak, end_peak = start.amax(), end.amax()
    first, final = (start - start_peak).exp(), (end - end_peak).exp()
    if both:
        emitted = torch.stack([probabilities, _reverse(probabilities, mask, rows=1)], dim=1)  # (T, 2, B, K)
        begin, step_both = torch.stack([first, final])[:, None], torch.stack([step, step.T])
    else:
        emitted, begin, step_both = probabilities[:, None], first[None, None], step[None]
    outgoing = torch.empty_like(emitted)  # less than `incoming` by the emission
    incoming = torch.empty_like(emitted)
    incoming[0] = begin
    scale = torch.ones(length, *emitted.shape[1:3], 1, dtype=scores.dtype)
    into, out, weights = incoming.unbind(0), outgoing.unbind(0), emitted.unbind(0)
    for t in range(1, length):
        torch.mul(into[t - 1], weights[t - 1], out=out[t - 1])
        torch.bmm(out[t - 1], step_both, out=into[t])
        if t % _RENORMALISED_EVERY == 0:
            torch.sum(into[t], dim=2, keepdim=True, out=scale[t])
            into[t].div_(scale[t])
    torch.mul(into[-1], weights[-1], out=out[-1])
    if not _is_exact(outgoing, first > 0, step > 0, both):
        return None
    last = (mask.sum(dim=0) - 1).clamp(min=0)[None]  # (1, B)
    rows = torch.arange(scores.shape[1])
    at_end = (outgoing[last[0], 0, rows] * final).sum(dim=1).log()
    words = (peak + scale[:, 0, :, 0].log()).masked_fill(~mask, 0).sum(dim=0)
    log_partition = at_end + words + start_peak + end_peak + last[0] * step_peak
    right = _reverse(incoming[:, 1], mask, rows=1) if both else None
    return _ScaledMessages(log_partition, probabilities, incoming[:, 0], right, scale[:, 0, :, 0])


def _step_probabilities(transitions: Tensor) -> tuple[Tensor, Tensor]:
    """`exp` of the transitions with the highest 1, and the logarithm of what they were divided by."""
    peak = transitions.amax()
    return (transitions - peak).exp(), peak


def _is_exact(outgoing: Tensor, first: Tensor, step: Tensor, both: bool) -> bool:
    """Whether no tag that can be reached (T, D, B, K) came near the smallest float64: then nothing was lost."""
    forward = [(first, step)] + ([(torch.ones_like(first), step.T)] if both else [])
    for side, (reached, allowed) in enumerate(forward):
        for t in range(len(outgoing)):
            after = (reached[:, None] & allowed).any(dim=0)
            same = bool((after == reached).all())
            messages = outgoing[t:, side] if same else outgoing[t, side]
            if not bool((messages >= _SMALLEST).logical_or_(~reached).all()):
                return False
            if same:
                break
            reached = after
    return True


def _log_partition_in_log_space(
    scores: Tensor, start: Tensor, transitions: Tensor, end: Tensor, mask: Tensor
) -> Tensor:
    """What `_LogPartition` computes, whatever the range of the scores."""
    scores = scores.transpose(1, 2)
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


def _add_continuations_in_numpy(best: np.ndarray, transitions: np.ndarray) -> None:
    """The same in NumPy."""
    _, tags, rows = best.shape
    # The longer of the two stands last: long vectors, not many.
    wide = rows >= tags
    backward = transitions.T[:, :, None] if wide else transitions.T[:, None, :]
    steps = np.empty((tags, tags, rows) if wide else (tags, rows, tags), best.dtype)  # to, then from and row
    highest = np.empty(steps.shape[1:], best.dtype)
    more = highest if wide else highest.T
    add, reduce = np.add, np.maximum.reduce
    for step, (later, here) in enumerate(pairwise([*best])):
        if step % _LEVELLED_EVERY == 0:
            later -= reduce(later, axis=0)
        add(later[:, None] if wide else later[:, :, None], backward, out=steps)
        reduce(steps, axis=0, out=highest)
        add(here, more, out=here)


def _paths_on_cpu(best: np.ndarray, start: np.ndarray, transitions: np.ndarray) -> np.ndarray:
    """The best path (T, B) through `best` (T, B, K), which has all that follows in it."""
    path = np.empty(best.shape[:2], np.int64)
    before = start
    for here, tags in zip([*best], [*path], strict=True):
        (here + before).argmax(1, out=tags)
        before = transitions.take(tags, 0)
    return path


def _reverse(x: Tensor, mask: Tensor, rows: int = 2) -> Tensor:
    """Each row of `x` (T, K, B), or (T, B, K) with `rows=1`, with its words in reverse order, padding where it was."""
    word = torch.arange(len(x), device=x.device)[:, None]
    source = torch.where(mask, mask.sum(dim=0) - 1 - word, word)  # (T, B)
    return x.gather(0, source.unsqueeze(3 - rows).expand_as(x))


def _full_precision(x: Tensor) -> contextlib.AbstractContextManager:
    """Switches autocast off on the device of `x`."""
    if torch.amp.is_autocast_available(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()
