"""Linear-chain conditional random field, the tagging head of 2M-NER (arXiv 2404.17122).

Lafferty et al. 2001 for the model, Rabiner 1989 for the forward-backward and Viterbi recursions.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

# Score of a forbidden step. It is finite, so that no difference of infinities makes a NaN gradient, and far enough
# from the limit of float32 that several may be added.
FORBIDDEN = -1e30

# Largest number of elements of a temporary in the backward pass: it bounds the memory of long batches.
_BACKWARD_ELEMENTS = 1 << 22

# Words after which a recursion subtracts its largest score, so that float32 keeps its digits for the differences.
_LEVEL_EVERY = 8


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
    are), with or without autocast. Values at masked positions, NaN included, reach neither results nor gradients.
    Everything but `decode` is differentiable, once. Methods other than `span_log_prob` do not synchronise with an
    accelerator; checks of *values* that would have to synchronise are made on the CPU only.

    Args:
        num_tags: K, at least 1.
        constraints: which steps are allowed; all others have probability zero. They follow from the label names, so
            the state dict does not hold them: build the CRF with the same constraints before loading one. None
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

    # Compiled, the loop over words would be unrolled, and compiled again for every length.
    @torch.compiler.disable
    def log_likelihood(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Log-probability of each row's gold tags, shape (B,), natural logarithm; 0 for an empty row.

        Args:
            tags: integers of shape (B, T); anything (such as -100) where masked.

        Raises:
            TypeError: an argument of the wrong dtype.
            ValueError: shapes that do not fit; on the CPU also a gold tag outside 0..K-1 or a gold path that the
                constraints forbid. On an accelerator such a row's result is NaN, and its gradient too: reject such
                data where it is read.
        """
        self._check(emissions, mask)
        if tags.is_floating_point() or tags.dtype == torch.bool:
            raise TypeError(f"tags must hold integers, got {tags.dtype}.")
        if tags.shape != mask.shape:
            raise ValueError(f"tags must have the mask's shape {tuple(mask.shape)}, got {tuple(tags.shape)}.")
        with _full_precision(emissions):
            scores, mask = self._time_first(emissions, mask)  # (T, K, B), (T, B)
            given = tags = tags.T if len(tags.T) else tags.new_zeros(mask.shape)
            good = (tags >= 0) & (tags < self.num_tags)
            tags = tags.long().masked_fill(~(good & mask), 0)
            if self.allowed_start is not None:
                good &= torch.cat([self.allowed_start[tags[:1]], self.allowed_transitions[tags[:-1], tags[1:]]])
            good |= ~mask
            if good.device.type == "cpu" and not good.all():
                self._raise_bad_gold(given, mask, good)
            # Chain rule: P(first tag), then P(tag | tag before), each normalised at its own word, so that float32
            # keeps its digits over any length.
            start, transitions, _ = self._step_scores(scores.dtype)
            onward = scores + self._continuations(scores, mask)  # (T, K, B)
            steps = torch.cat(
                [start[None, None].expand(1, mask.shape[1], -1), embedding(tags[:-1], transitions)]
            )  # (T, B, K)
            chosen = (steps.transpose(1, 2) + onward).log_softmax(dim=1).gather(1, tags[:, None]).squeeze(1)
            return chosen.masked_fill(~good, torch.nan).masked_fill(~mask, 0).sum(dim=0)

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
            # From the last word to the first, so that paths are read off from the first word, where all rows begin.
            emission = _reverse(scores - scores.amax(dim=1, keepdim=True), mask).unbind()
            following = torch.zeros_like(scores, dtype=torch.int64)  # (T, K, B): best tag after each tag
            best = torch.empty_like(scores)  # (T, K, B): score of the best sequence that begins with each tag
            best[0] = emission[0] + end[:, None]
            steps = scores.new_empty(len(end), *best.shape[1:])  # (K to, K from, B)
            to_from = transitions.T[:, :, None].contiguous()
            for word, (later, here, next_tag) in enumerate(zip(best, best[1:], following[1:], strict=False), start=1):
                torch.add(later[:, None], to_from, out=steps)
                torch.max(steps, dim=0, out=(here, next_tag))
                here += emission[word]
                if word % _LEVEL_EVERY == 0:
                    here -= here.amax(dim=0)
            first = best.gather(0, (mask.sum(dim=0) - 1).clamp(min=0).expand(1, len(end), -1))[0]  # (K, B)
            path = [(first + start[:, None]).argmax(dim=0, keepdim=True)]
            for next_tag in _reverse(following, mask)[:-1]:
                path.append(next_tag.gather(0, path[-1]))
            return torch.cat(path).masked_fill(~mask, -100).T[:, :num_words].contiguous()

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
            posterior = self._posterior_scores(scores, mask, self._continuations(scores, mask)).softmax(dim=1)
            return posterior.masked_fill(~mask[:, None], 0).permute(2, 0, 1)[:, :num_words].contiguous()

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
                tag that does not exist (this check synchronises with an accelerator).
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
            right = self._continuations(scores, mask)
            onward = scores + right  # (T, K, B)

            def next_tag(tag: Tensor, word: Tensor, row: Tensor) -> Tensor:
                """Log-probabilities (N, K) of the tags of `word`, after `tag` at the word before."""
                return (transitions[tag] + onward[word, :, row]).log_softmax(dim=1)

            # Chain rule from left to right, as in `log_likelihood`.
            result = self._posterior_scores(scores, mask, right).log_softmax(dim=1)[start, begin, row]
            several = end - start > 1
            last = len(scores) - 1
            second = next_tag(begin, (start + 1).clamp(max=last), row).gather(1, inside.clamp(min=0)[:, None])[:, 0]
            result = result + second.masked_fill(~several, 0)
            # The words from the third of each span to its last, span by span: (sum of their numbers,).
            inner = (end - start - 2).clamp(min=0)
            span = torch.arange(len(spans), device=mask.device).repeat_interleave(inner)
            word = torch.arange(len(span), device=mask.device) - (inner.cumsum(0) - inner)[span] + start[span] + 2
            stay = next_tag(inside[span], word, row[span]).gather(1, inside[span][:, None])[:, 0]
            result = result.index_add(0, span, stay)

            after = next_tag(torch.where(several, inside, begin), end.clamp(max=last), row)  # (N, K)
            is_inside = torch.arange(self.num_tags, device=mask.device) == inside[:, None]
            stop = after.masked_fill(is_inside, FORBIDDEN).logsumexp(dim=1)
            return (result + stop.masked_fill(end >= lengths[row], 0)).clamp(max=0)

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
        if mask.device.type == "cpu" and (mask[:, 1:] & ~mask[:, :-1]).any():
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
        start, transitions, end = (
            parameter.to(dtype) for parameter in (self.start_transitions, self.transitions, self.end_transitions)
        )
        if self.allowed_start is not None:
            start = start.masked_fill(~self.allowed_start, FORBIDDEN)
            transitions = transitions.masked_fill(~self.allowed_transitions, FORBIDDEN)
        return start, transitions, end

    def _raise_bad_gold(self, tags: Tensor, mask: Tensor, good: Tensor) -> None:
        row = int((~good).any(dim=0).nonzero()[0])
        raise ValueError(
            f"The gold tags of row {row}, {tags[mask[:, row], row].tolist()}, must all be in 0..{self.num_tags - 1} "
            "and keep to the constraints: mask out words without a tag, and mend tag sequences where the data is read."
        )

    def _continuations(self, scores: Tensor, mask: Tensor) -> Tensor:
        """The backward messages (T, K, B): of each tag, the log-sum over all that may follow it, up to a constant of
        the word and row."""
        _, transitions, end = self._step_scores(scores.dtype)
        return _reverse(_Sweep.apply(_reverse(scores, mask), end, transitions.T), mask)

    def _posterior_scores(self, scores: Tensor, mask: Tensor, right: Tensor) -> Tensor:
        """Log-posteriors of the tags (T, K, B), up to a constant of the word and row."""
        start, transitions, _ = self._step_scores(scores.dtype)
        return _Sweep.apply(scores, start, transitions) + scores + right


class _Sweep(torch.autograd.Function):
    """One direction of the forward-backward recursion in log space.

    `emissions` (T, K, B), `start` (K,), `transitions` (K, K) -> `incoming` (T, K, B):
    `incoming[0] = start`, `incoming[t + 1] = logsumexp_from(incoming[t] + emissions[t] + transitions)`, each word up
    to a constant that keeps float32 precise over any length. The gradient is exact for every use that does not depend
    on the constants, such as a probability.

    Autograd would keep a graph of small steps. Here the backward pass sends the gradient back through the transition
    posteriors `P(from | to)`, which are computed again from `incoming` for many words at once.
    """

    @staticmethod
    def forward(ctx: Any, emissions: Tensor, start: Tensor, transitions: Tensor) -> Tensor:
        incoming = torch.empty_like(emissions)
        incoming[0] = start[:, None]
        transitions = transitions[:, :, None].contiguous()
        steps = transitions.new_empty(*transitions.shape[:2], emissions.shape[2])  # (K from, K to, B)
        emissions = emissions - emissions.amax(dim=1, keepdim=True)
        words = zip(incoming, incoming[1:], emissions, strict=False)
        for word, (before, here, emission) in enumerate(words, start=1):
            torch.add((before + emission)[:, None], transitions, out=steps)
            highest = steps.amax(dim=0)
            torch.sum(steps.sub_(highest).exp_(), dim=0, out=here).log_().add_(highest)
            if word % _LEVEL_EVERY == 0:
                here -= here.amax(dim=0)
        ctx.save_for_backward(emissions, transitions, incoming)
        return incoming

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        emissions, transitions, incoming = ctx.saved_tensors
        gradient = gradient.clone()  # becomes the total gradient of `incoming`
        emission_gradient = torch.zeros_like(emissions)
        transition_gradient = torch.zeros_like(transitions[..., 0])
        size = max(1, _BACKWARD_ELEMENTS // max(1, transitions.numel() * emissions.shape[2]))
        for stop in range(len(incoming), 1, -size):
            first = max(1, stop - size)
            outgoing = incoming[first - 1 : stop - 1] + emissions[first - 1 : stop - 1]
            steps = (outgoing[:, :, None] + transitions).softmax(dim=1)  # (t, K from, K to, B)
            for t in range(stop - 1, first - 1, -1):
                torch.sum(steps[t - first].mul_(gradient[t]), dim=1, out=emission_gradient[t - 1])
                gradient[t - 1] += emission_gradient[t - 1]
            transition_gradient += steps.sum(dim=(0, -1))
        return emission_gradient, gradient[0].sum(dim=-1), transition_gradient


def _reverse(x: Tensor, mask: Tensor) -> Tensor:
    """Each row of `x` (T, K, B) with its words in reverse order, and its padding where it was."""
    word = torch.arange(len(x), device=x.device)[:, None]
    source = torch.where(mask, mask.sum(dim=0) - 1 - word, word)  # (T, B)
    return x.gather(0, source[:, None].expand_as(x))


def _full_precision(x: Tensor) -> contextlib.AbstractContextManager:
    """Switches autocast off on the device of `x`."""
    if torch.amp.is_autocast_available(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()


__all__ = ["LinearChainCRF", "TagConstraints", "iob2_constraints"]
