"""Linear-chain conditional random field, the tagging head of 2M-NER (arXiv 2404.17122).

Lafferty et al. 2001 for the model, Rabiner 1989 for the forward-backward and Viterbi recursions.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

# Score of a forbidden step. It is finite, so that no difference of infinities makes a NaN gradient, and far enough
# from the limit of float32 that several may be added.
FORBIDDEN = -1e30

# Smaller probabilities count as underflow.
LEAST = {torch.float32: 1e-34, torch.float64: 1e-277}


class TagConstraints(NamedTuple):
    """Which tags may start a sentence and which may follow each other; True is allowed."""

    start: Tensor  # bool (K,)
    transitions: Tensor  # bool (K, K), `[from, to]`


def iob2_constraints(labels: Sequence[str]) -> TagConstraints:
    """The IOB2 rules over `labels`: `I-X` comes only after `B-X` or `I-X`, hence never first.

    Args:
        labels: tag names in id order: `O`, `B-X`, `I-X` for entity types X of any name.

    Raises:
        ValueError: a label is not one of these, is there twice, or is an `I-X` whose `B-X` is missing.
    """
    labels = list(labels)
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
    right-padded; T may be 0 and so may a row's length. They compute in float64 (float32 on Apple's GPUs), with or
    without autocast, and return float32 (float64 if emissions or parameters are). Values at masked positions, NaN
    included, reach neither results nor gradients. Everything but `decode` is differentiable, once. The values of
    `mask` and `tags` are checked on the CPU only.

    Args:
        num_tags: K, at least 1.
        constraints: which steps are allowed; all others have probability zero. They follow from the label names, so
            the state dict does not hold them: build the CRF with the same constraints before loading one. None
            allows every step.
    """

    def __init__(self, num_tags: int, constraints: TagConstraints | None = None):
        super().__init__()
        self.num_tags = num_tags
        self.start_transitions = nn.Parameter(torch.empty(num_tags))
        self.transitions = nn.Parameter(torch.empty(num_tags, num_tags))  # [from, to]
        self.end_transitions = nn.Parameter(torch.empty(num_tags))
        allowed_start, allowed_transitions = (None, None) if constraints is None else constraints
        self.register_buffer("allowed_start", allowed_start, persistent=False)
        self.register_buffer("allowed_transitions", allowed_transitions, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero scores: every allowed step is as likely as any other."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    # Compiled, the loop over words would be unrolled, and compiled again for every length.
    @torch.compiler.disable
    def log_likelihood(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Log-probability of each row's gold tags, shape (B,), natural logarithm; 0 for an empty row.

        Args:
            tags: integers of shape (B, T), anything (such as -100) where masked. For partly labelled words bool of
                shape (B, T, K), True at each tag that the word may have: the result is the log-probability of all
                sequences of such tags together (Tsuboi et al., 2008).

        Raises:
            TypeError: an argument of the wrong dtype.
            ValueError: shapes that do not fit; on the CPU also a gold tag outside 0..K-1 or a gold path that the
                constraints forbid. On an accelerator such a row's result is NaN, and its gradient too: reject such
                data where it is read.
        """
        self._check(emissions, mask)
        if tags.is_floating_point() or (tags.dtype == torch.bool and tags.dim() != 3):
            raise TypeError(f"tags must hold integers, or bool of shape (B, T, K), got {tags.dtype}.")
        expected = emissions.shape if tags.dtype == torch.bool else mask.shape
        if tags.shape != expected:
            raise ValueError(f"tags must have shape {tuple(expected)}, got {tuple(tags.shape)}.")
        with _full_precision(emissions):
            scores, mask = self._time_first(emissions, mask)  # (T, K, B), (T, B)
            tags = (tags if tags.shape[1] else tags.new_zeros(len(tags), 1, *tags.shape[2:])).movedim(0, -1)
            if tags.dtype == torch.bool:
                gold = self._log_partition(scores.masked_fill(~tags & mask[:, None], FORBIDDEN), mask)
                good = gold > FORBIDDEN / 2
                if good.device.type == "cpu" and not good.all():
                    row = int((~good).nonzero()[0])
                    raise ValueError(f"No sequence of the tags that row {row} may have keeps to the constraints.")
            else:
                gold, good = self._path_score(scores, tags, mask)
            result = gold - self._log_partition(scores, mask)
            return result.masked_fill(~good, torch.nan).masked_fill(~mask[0], 0).to(self._dtype(emissions))

    @torch.compiler.disable
    @torch.no_grad()
    def decode(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """The most probable tag sequences (Viterbi), int64 of shape (B, T), -100 where masked.

        Raises:
            TypeError, ValueError: as in `log_likelihood`.
        """
        with _full_precision(emissions):
            scores, mask = self._time_first(emissions, mask)
            start, transitions, end = self(scores.dtype)
            steps = scores.new_empty(len(end), *scores.shape[1:])  # (K from, K to, B)
            previous = torch.empty_like(scores, dtype=torch.int64)  # (T, K, B): best tag before each tag
            scores[0] += start[:, None]  # becomes the score of the best sequence that ends with each tag
            transitions = transitions[:, :, None].contiguous()
            best_step = torch.empty_like(scores[0])
            words = zip(scores.unsqueeze(2).unbind(), scores[1:].unbind(), previous[1:].unbind(), strict=False)
            for before, here, pointer in words:
                torch.add(before, transitions, out=steps)
                torch.max(steps, dim=0, out=(best_step, pointer))
                here.add_(best_step)
            # From the last word of each row to its first; padding points at the same tag.
            last = (scores.gather(0, _last_word(mask, scores))[0] + end[:, None]).argmax(dim=0, keepdim=True)
            tag = torch.arange(len(end), device=mask.device)[:, None]
            previous = torch.where(mask[:, None], previous, tag)
            path = [last]
            for pointer in previous[1:].flip(0):
                path.append(pointer.gather(0, path[-1]))
            return torch.cat(path[::-1]).masked_fill(~mask, -100).T[:, : emissions.shape[1]].contiguous()

    @torch.compiler.disable
    def marginals(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Posterior probability of each tag at each word, shape (B, T, K); zeros where masked.

        Raises:
            TypeError, ValueError: as in `log_likelihood`.
        """
        with _full_precision(emissions):
            scores, mask = self._time_first(emissions, mask)
            posterior = self._posterior_scores(scores, self._continuations(scores, mask)).softmax(dim=1)
            posterior = posterior.masked_fill(~mask[:, None], 0).permute(2, 0, 1)[:, : emissions.shape[1]]
            return posterior.to(self._dtype(emissions)).contiguous()

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
            TypeError, ValueError: as in `log_likelihood`. Spans are not checked.
        """
        self._check(emissions, mask)
        with _full_precision(emissions):
            scores, mask = self._time_first(emissions, mask)
            spans = spans.to(device=mask.device, dtype=torch.int64)
            lengths = mask.sum(dim=0)
            if not len(spans):
                return emissions.new_zeros(0, dtype=self._dtype(emissions))
            row, start, end, begin, inside = spans.T
            _, transitions, _ = self(scores.dtype)
            right = self._continuations(scores, mask)
            onward = scores + right  # (T, K, B)

            def next_tag(tag: Tensor, word: Tensor, row: Tensor) -> Tensor:
                """Log-probabilities (N, K) of the tags of `word`, after `tag` at the word before."""
                return (transitions[tag] + onward[word, :, row]).log_softmax(dim=1)

            # Chain rule from left to right.
            result = self._posterior_scores(scores, right).log_softmax(dim=1)[start, begin, row]
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
            result = result + stop.masked_fill(end >= lengths[row], 0)
            return result.clamp(max=0).to(self._dtype(emissions))

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

    def _dtype(self, emissions: Tensor) -> torch.dtype:
        """Of the results: float32, or float64 where something is."""
        return torch.promote_types(torch.promote_types(emissions.dtype, self.transitions.dtype), torch.float32)

    def _time_first(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Emissions (T, K, B) in float64 (float32 where the device has no more) with zeros where masked, and the mask
        (T, B); T at least 1.

        With the batch innermost, a step over a handful of tags is a few long vectors instead of many short ones.
        """
        self._check(emissions, mask)
        dtype = torch.float32 if emissions.device.type == "mps" else torch.float64
        if not mask.shape[1]:
            emissions, mask = pad(emissions, (0, 0, 0, 1)), pad(mask, (0, 1))
        scores = emissions.permute(1, 2, 0).to(dtype, memory_format=torch.contiguous_format, copy=True)
        return scores.masked_fill(~mask.T.unsqueeze(1), 0), mask.T

    def forward(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Start (K,), transition (K, K) and end (K,) scores with the constraints in them. It is `forward`, for which
        Accelerate loads weights that `device_map` has put elsewhere."""
        start, transitions, end = (
            parameter.to(dtype) for parameter in (self.start_transitions, self.transitions, self.end_transitions)
        )
        if self.allowed_start is not None:
            start = start.masked_fill(~self.allowed_start, FORBIDDEN)
            transitions = transitions.masked_fill(~self.allowed_transitions, FORBIDDEN)
        return start, transitions, end

    def _path_score(self, scores: Tensor, tags: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The scores (B,) of the gold tags (T, B), and which rows are valid."""
        good = (tags >= 0) & (tags < self.num_tags)
        path = tags.long().masked_fill(~(good & mask), 0)
        if self.allowed_start is not None:
            good &= torch.cat([self.allowed_start[path[:1]], self.allowed_transitions[path[:-1], path[1:]]])
        good = (good | ~mask).all(dim=0)
        if good.device.type == "cpu" and not good.all():
            row = int((~good).nonzero()[0])
            raise ValueError(
                f"The gold tags of row {row}, {tags[mask[:, row], row].tolist()}, must all be in "
                f"0..{self.num_tags - 1} and keep to the constraints: mask out words without a tag, and mend tag "
                "sequences where the data is read."
            )
        start, transitions, end = self(scores.dtype)
        steps = transitions.flatten()[path[:-1] * self.num_tags + path[1:]].masked_fill(~mask[1:], 0).sum(dim=0)
        words = scores.gather(1, path[:, None])[:, 0].sum(dim=0)  # emissions of padding are 0
        last = path.gather(0, _last_word(mask, path[:, None])[:, 0])[0]
        return start[path[0]] + words + steps + end[last], good

    def _log_partition(self, scores: Tensor, mask: Tensor) -> Tensor:
        """The log-sum (B,) of the scores of all tag sequences."""
        start, transitions, end = self(scores.dtype)
        ends = _messages(scores, start, transitions) + scores
        return (ends.gather(0, _last_word(mask, scores))[0] + end[:, None]).logsumexp(dim=0)

    def _continuations(self, scores: Tensor, mask: Tensor) -> Tensor:
        """The backward messages (T, K, B): the log-sum over all that may follow each tag."""
        _, transitions, end = self(scores.dtype)
        return _reverse(_messages(_reverse(scores, mask), end, transitions.T), mask)

    def _posterior_scores(self, scores: Tensor, right: Tensor) -> Tensor:
        """Log-posteriors of the tags (T, K, B), up to a constant of the row."""
        start, transitions, _ = self(scores.dtype)
        return _messages(scores, start, transitions) + scores + right


def _messages(emissions: Tensor, start: Tensor, transitions: Tensor) -> Tensor:
    """The forward messages of the forward-backward recursion (Rabiner 1989): `emissions` (T, K, B), `start` (K,),
    `transitions` (K, K) -> (T, K, B): `start`, then `logsumexp_from(message + emission + transitions)`."""
    messages, is_exact = _ScaledMessages.apply(emissions, start, transitions)
    if is_exact:
        return messages
    # A probability has underflowed: the same in logarithms, slower.
    steps = [start[:, None].expand_as(emissions[0])]
    for emission in emissions[:-1]:
        steps.append(((steps[-1] + emission)[:, None] + transitions[:, :, None]).logsumexp(dim=0))
    return torch.stack(steps)


class _ScaledMessages(torch.autograd.Function):
    """`_messages` by probabilities that are scaled to sum to 1 at each word, several times as fast as logarithms; and
    whether they are exact, that is, whether none has underflowed.

    Autograd would keep a graph of small steps; the backward pass here is the same recursion from right to left.
    """

    @staticmethod
    def forward(ctx: Any, emissions: Tensor, start: Tensor, transitions: Tensor) -> tuple[Tensor, bool]:
        highest = emissions.amax(dim=1, keepdim=True)  # (T, 1, B)
        likelihoods = (emissions - highest).exp_()
        start_highest, step_highest = start.amax(), transitions.amax()
        step = (transitions - step_highest).exp_()
        to_from = step.T.contiguous()
        messages = torch.empty_like(emissions)
        sums = torch.ones_like(highest)  # of each word's messages, before they are scaled
        messages[0] = (start - start_highest).exp_()[:, None]
        words = zip(messages.unbind(), messages[1:].unbind(), likelihoods.unbind(), sums[1:].unbind(), strict=False)
        for before, here, likelihood, total in words:
            torch.mm(to_from, before * likelihood, out=here)
            torch.sum(here, dim=0, keepdim=True, out=total)
            here.div_(total)
        least = LEAST[messages.dtype]
        is_forbidden = (start < FORBIDDEN / 2)[:, None]
        is_exact = bool((messages[1:] > least).all() and ((messages[0] > least) | is_forbidden).all())
        ctx.save_for_backward(messages, likelihoods, sums, step)
        scale = sums.log()
        scale[1:] += highest[:-1] + step_highest
        scale[0] = start_highest
        return messages.clamp(min=least).log_() + scale.cumsum_(dim=0), is_exact

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor, Tensor, Tensor]:
        messages, likelihoods, sums, step = ctx.saved_tensors
        ratio = gradient / messages.clamp(min=LEAST[messages.dtype])  # becomes total gradient / message
        scaled = likelihoods[:-1] / sums[1:]
        for word in range(len(scaled) - 1, -1, -1):
            torch.addcmul(ratio[word], scaled[word], step @ ratio[word + 1], out=ratio[word])
        emission_gradient = messages * ratio - gradient
        outgoing = messages[:-1] * scaled
        transition_gradient = step * torch.einsum("tib,tjb->ij", outgoing, ratio[1:])
        return emission_gradient, (messages[0] * ratio[0]).sum(dim=-1), transition_gradient


def _last_word(mask: Tensor, x: Tensor) -> Tensor:
    """The index (1, K, B) of each row's last word, to gather from `x` (T, K, B) with."""
    return (mask.sum(dim=0) - 1).clamp(min=0).expand(1, *x.shape[1:])


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
