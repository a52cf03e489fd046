"""The recursions of a linear-chain CRF in NumPy, over packed sentences: the fast road of `crf_2mner` on the CPU.

A step over a handful of tags is so little work that what a call costs decides. Here a step is two or three calls of
NumPy, which cost a third of those of torch, and everything that does not have to be a step is done for all words of a
batch at once.
"""

from functools import cached_property

import numpy as np
import torch

# Elements of a step of Viterbi (rows, K, K) from which torch, which shares it among threads, is the faster.
SMALL_STEP = 1 << 14

# Multiplications of a matrix product from which torch does it. NumPy has threads of its own for large ones, which
# wait for a core as long as torch's threads, which do not sleep at once, hold it.
SMALL_PRODUCT = 1 << 17

# Steps of Viterbi after which the best score of a row is set to zero again.
_LEVELLED_EVERY = 16

# Steps in probability space after which a row's messages are scaled to sum to one: float64 holds the product of many
# more, but not of the rarest paths.
_RENORMALISED_EVERY = 4

# A message this small may have lost digits, or a path: log space is needed.
_SMALLEST = 1e-280

# Scores at most this low are those of what the constraints rule out (crf_2mner.FORBIDDEN).
_FORBIDDEN = -1e29


class Packing:
    """
    The words of a batch (B, T) without its padding: the first words of all rows, the longest row first, then the
    second words of those that have one, and so on. N words, of M rows that have any.

    Args:
        mask: (B, T), bool, True at words, right-padded.

    Attributes:
        sizes: rows that have a first, second, ... word; never rising.
        offsets: where the first, second, ... words begin.
        row: (N,), row in the batch of each word.
        source: (N,), place of each word in the batch, flattened to (B * T,).
        mirror: (N,), packed place of the word as far from the end of its row as this one is from the beginning.
    """

    def __init__(self, mask: np.ndarray):
        lengths = mask.sum(axis=1)
        order = (-lengths).argsort(kind="stable")
        self._lengths = lengths = lengths[order]
        present = mask[order, : lengths[0] if len(lengths) else 0].T
        self._word, place = present.nonzero()
        self._sizes = present.sum(axis=1)
        self._offsets = self._sizes.cumsum() - self._sizes
        self.sizes, self.offsets = self._sizes.tolist(), self._offsets.tolist()
        self.row = order[place]
        self.source = self.row * mask.shape[1] + self._word
        self.mirror = self._offsets[lengths[place] - 1 - self._word] + place

    @cached_property
    def before(self) -> np.ndarray:
        """(N - M,): packed place of the word before, for each that is not its row's first."""
        rows = len(self.last)
        return np.arange(rows, len(self.row)) - self._sizes[self._word[rows:] - 1]

    @cached_property
    def last(self) -> np.ndarray:
        """(M,): packed place of each row's last word, the longest row first."""
        rows = self.sizes[0] if self.sizes else 0
        return self._offsets[self._lengths[:rows] - 1] + np.arange(rows)


def viterbi(
    emissions: np.ndarray, packing: Packing, start: np.ndarray, transitions: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """
    The most probable tag of each packed word, (N,) int64; of equally good sequences the first in the order of ids.

    Args:
        emissions: (N, K), float32 or float64, packed.
        start, transitions, end: scores (K,), (K, K) `[from, to]`, (K,) of the same type.
    """
    sizes, offsets, mirror = packing.sizes, packing.offsets, packing.mirror
    tags = np.empty(len(emissions), np.int64)
    if not len(emissions):
        return tags
    # From the last word to the first, so that the paths are then read off from the first word on, where all rows
    # begin together. What all tags have in common is taken off: float32 keeps its digits for the rest.
    best = (emissions - emissions.max(axis=1, keepdims=True)).take(mirror, 0)
    rows, num_tags = sizes[0], len(end)
    best[:rows] += end
    # The longer of the two stands last: long vectors, not many.
    wide = rows >= num_tags
    if wide:
        best = np.ascontiguousarray(best.T)
    _add_continuations(best, sizes, offsets, transitions, wide)
    best = (best.T if wide else best).take(mirror, 0)

    arriving = np.empty((rows, num_tags), best.dtype)
    best[:rows] += start
    previous = best[:rows].argmax(1, out=tags[:rows])
    for first, size in zip(offsets[1:], sizes[1:], strict=True):
        stop = first + size
        after = arriving[:size]
        transitions.take(previous[:size], 0, after, "clip")  # "clip" for speed: no tag is out of range
        after += best[first:stop]
        previous = after.argmax(1, tags[first:stop])
    return tags


def _add_continuations(
    best: np.ndarray, sizes: list[int], offsets: list[int], transitions: np.ndarray, wide: bool
) -> None:
    """To the scores of each word, (N, K) or `wide` (K, N), mirrored, in place, the best of what follows it."""
    rows, num_tags = sizes[0], len(transitions)
    size = None
    every_step = np.empty(num_tags * num_tags * rows, best.dtype)
    every_highest = np.empty(num_tags * rows, best.dtype)
    add, reduce = np.add, np.maximum.reduce
    previous = best[:, :rows] if wide else best[:rows]
    for step, (first, now) in enumerate(zip(offsets[1:], sizes[1:], strict=True)):
        if now != size:
            size = now
            large = num_tags * num_tags * size >= SMALL_STEP
            # What a step adds, [to, from], and its result: to, from, row if `wide`, else to, row, from.
            backward = transitions.T[:, :, None] if wide else transitions.T[:, None, :]
            if not wide and not large:  # whole: NumPy then has one axis less to walk over
                backward = backward.repeat(size, axis=1)
            shape = (num_tags, num_tags, size) if wide else (num_tags, size, num_tags)
            steps = every_step[: num_tags * num_tags * size].reshape(shape)
            highest = every_highest[: num_tags * size].reshape(shape[1:])
            if large:
                in_torch = [torch.from_numpy(array) for array in (backward, steps, highest)]
            elif not wide:
                backward, flat = backward.reshape(-1, num_tags), steps.reshape(-1, num_tags)
        later = previous[:, :size] if wide else previous[:size]
        if step % _LEVELLED_EVERY == 0:
            later -= later.max(axis=0) if wide else later.max(axis=1, keepdims=True)
        if large:
            later = torch.from_numpy(later[:, None] if wide else later.T[:, :, None])
            torch.add(later, in_torch[0], out=in_torch[1])
            torch.amax(in_torch[1], dim=0, out=in_torch[2])
        else:
            if wide:
                add(later[:, None], backward, steps)
            else:
                add(later.T.reshape(-1, 1), backward, flat)
            reduce(steps, 0, None, highest)
        previous = best[:, first : first + size] if wide else best[first : first + size]
        previous += highest


class Likelihood:
    """
    Log-probability of the gold tags of packed sentences, and its gradient, in float64 and in probability space, where
    a step is one matrix product and the gradient is the posteriors: those of forward and backward messages.

    Args:
        emissions: (N, K), float64, packed.
        tags: (N,), packed, in 0..K-1.
        packing: of a batch of `num_rows`.
        start, transitions, end: scores (K,), (K, K) `[from, to]`, (K,), float64.
        both: whether `gradients` will be asked for.

    Attributes:
        value: (B,), 0 for a row without words; None where probability space would have lost a path that may count.
    """

    value: np.ndarray | None = None

    def __init__(
        self,
        emissions: np.ndarray,
        tags: np.ndarray,
        packing: Packing,
        num_rows: int,
        start: np.ndarray,
        transitions: np.ndarray,
        end: np.ndarray,
        both: bool,
    ):
        self.packing, self.tags = packing, tags
        peaks = start.max(), transitions.max(), end.max()
        first, self.step, final = np.exp(start - peaks[0]), np.exp(transitions - peaks[1]), np.exp(end - peaks[2])
        if not len(tags):
            self.value = np.zeros(num_rows)
            return
        for scores, weights in ((start, first), (transitions, self.step), (end, final)):
            if ((weights < _SMALLEST) & (scores > _FORBIDDEN)).any():  # a step that is allowed, and lost already
                return
        rows = packing.sizes[0]
        peak = emissions.max(axis=1)
        self.probabilities = np.exp(emissions - peak[:, None])
        if not self._sweep(first, final, both):
            return

        at_end = (self.outgoing[0].take(packing.last, 0) * final).sum(axis=1)
        gold = emissions.take(np.arange(len(tags)) * len(start) + tags)
        # Less what the partition has, word by word: the difference of two large sums would have no digits left.
        words = gold - peak
        words[:rows] += start[tags[:rows]] - peaks[0]
        words[rows:] += transitions[tags[packing.before], tags[rows:]] - peaks[1]
        words[packing.last] += end[tags[packing.last]] - peaks[2] - np.log(at_end)
        for word, scale in self.scales.items():
            offset = packing.offsets[word]
            words[offset : offset + packing.sizes[word]] -= np.log(scale[0, :, 0])
        self.value = np.bincount(packing.row, words, num_rows)

    def _sweep(self, first: np.ndarray, final: np.ndarray, both: bool) -> bool:
        """Messages (D, N, K) from the left and, if `both`, from the right; False if they are not exact."""
        sizes = self.packing.sizes
        rows, length = sizes[0], len(self.probabilities)
        if both:
            weights = np.empty((2, length, len(first)))
            weights[0] = self.probabilities
            self.probabilities.take(self.packing.mirror, 0, weights[1], "clip")
            begin, step = np.stack([first, final])[:, None], np.stack([self.step, self.step.T])
        else:
            weights, begin, step = self.probabilities[None], first[None, None], self.step[None]
        incoming, outgoing = np.empty_like(weights), np.empty_like(weights)
        incoming[:, :rows] = begin
        self.scales = {}
        multiply, matmul = np.multiply, np.matmul
        here, stop = incoming[:, :rows], rows
        sent = outgoing[:, :rows]
        multiply(here, weights[:, :rows], sent)
        for word in range(1, len(sizes)):
            size, offset = sizes[word], stop
            stop = offset + size
            here = incoming[:, offset:stop]
            if size * step[0].size < SMALL_PRODUCT:
                matmul(sent[:, :size], step, here)
            else:
                torch.matmul(*map(torch.from_numpy, (sent[:, :size], step)), out=torch.from_numpy(here))
            if word % _RENORMALISED_EVERY == 0:
                self.scales[word] = scale = here.sum(axis=2, keepdims=True)
                with np.errstate(invalid="ignore"):  # 0 / 0, where every path was lost: found below
                    here /= scale
            sent = outgoing[:, offset:stop]
            multiply(here, weights[:, offset:stop], sent)
        self.incoming, self.outgoing = incoming, outgoing
        return self._is_exact(begin > 0, step > 0)

    def _is_exact(self, begin: np.ndarray, step: np.ndarray) -> bool:
        """Whether no tag that can be reached came near the smallest float64: then nothing was lost."""
        if self.outgoing.min() >= _SMALLEST:
            return True
        packing = self.packing
        for side, outgoing in enumerate(self.outgoing):
            reached = begin[side]  # (1, K)
            for offset, size in zip(packing.offsets, packing.sizes, strict=True):
                after = reached @ step[side]
                same = (after == reached).all()
                sent = outgoing[offset:] if same else outgoing[offset : offset + size]
                if not ((sent >= _SMALLEST) | ~reached).all():
                    return False
                if same:
                    break
                reached = after
        return True

    def gradients(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """
        Args:
            weight: (B,), what the gradient of each row's value is multiplied by.

        Returns:
            The gradients by emissions (N, K), start (K,), transitions (K, K) and end (K,): what the gold tags have
            less what is to be expected of them.
        """
        packing, tags, num_tags = self.packing, self.tags, len(self.step)
        if not len(tags):
            return np.zeros((0, num_tags)), np.zeros(num_tags), np.zeros((num_tags, num_tags)), np.zeros(num_tags)
        rows, last = packing.sizes[0], packing.last
        weight = weight[packing.row]
        right = self.incoming[1].take(packing.mirror, 0)
        outgoing = self.outgoing[0]
        posterior = outgoing * right
        share = weight / posterior.sum(axis=1)
        posterior *= -share[:, None]
        for word, scale in self.scales.items():
            offset = packing.offsets[word]
            share[offset : offset + packing.sizes[word]] /= scale[0, :, 0]
        right *= self.probabilities
        right *= share[:, None]
        steps = outgoing.take(packing.before, 0).T, right[rows:]
        if steps[0].size * num_tags < SMALL_PRODUCT:
            steps = steps[0] @ steps[1]
        else:
            steps = torch.mm(*map(torch.from_numpy, steps)).numpy()
        steps *= -self.step
        places = np.arange(len(tags)) * num_tags + tags
        posterior.reshape(-1)[places] += weight
        pairs = tags[packing.before] * num_tags + tags[rows:]
        steps += np.bincount(pairs, weight[rows:], num_tags * num_tags).reshape(num_tags, num_tags)
        return posterior, posterior[:rows].sum(axis=0), steps, posterior.take(last, 0).sum(axis=0)


__all__ = ["Likelihood", "Packing", "viterbi"]
