"""Augmentation of training sentences: typed as in posts, or with their entities masked."""

import random
import unicodedata
from collections.abc import Sequence

from dataset_script.rows import iob2_spans

Tagged = tuple[list[str], list[str]]  # words, and the tag of each


def lower(words: Sequence[str], tags: Sequence[str]) -> Tagged:
    """All letters in lower case."""
    return [word.lower() for word in words], list(tags)


def upper(words: Sequence[str], tags: Sequence[str]) -> Tagged:
    """All letters in capitals."""
    return [word.upper() for word in words], list(tags)


def no_punctuation(words: Sequence[str], tags: Sequence[str]) -> Tagged:
    """Without words that are nothing but punctuation, except inside entities; unless no word would be left."""
    kept = [i for i, word in enumerate(words) if tags[i] != "O" or not all(map(_is_punctuation, word))]
    kept = kept or list(range(len(words)))
    return [words[i] for i in kept], [tags[i] for i in kept]


STYLES = ((lower,), (upper,), (no_punctuation,), (no_punctuation, lower))
"""The ways to type a sentence; one of them is drawn."""


def augmented(words: Sequence[str], tags: Sequence[str], rng: random.Random) -> Tagged:
    """
    A sentence as it could have been typed in a post, in one of `STYLES`. Without it, a tagger trained on edited text
    relies on capital letters (Mayhew et al., EMNLP 2019, who train on both). Entities stay whole.
    """
    for change in rng.choice(STYLES):
        words, tags = change(words, tags)
    return list(words), list(tags)


def without_mentions(
    words: Sequence[str], tags: Sequence[str], probability: float, mask: str, rng: random.Random
) -> list[str]:
    """A copy of the words in which each entity is replaced, with this probability, by one mask per word."""
    words = list(words)
    for start, stop, _ in iob2_spans(tags):
        if rng.random() < probability:
            words[start:stop] = [mask] * (stop - start)
    return words


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"
