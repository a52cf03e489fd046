"""Training sentences otherwise than they were written: as they are typed in posts, or with their entities hidden."""

import random
import unicodedata
from collections.abc import Callable, Sequence

from dataset_script.rows import iob2_spans

Tagged = tuple[list[str], list[str]]  # tokens, and the tag of each


def lower(tokens: Sequence[str], tags: Sequence[str]) -> Tagged:
    """All letters in lower case."""
    return [token.lower() for token in tokens], list(tags)


def upper(tokens: Sequence[str], tags: Sequence[str]) -> Tagged:
    """All letters in capitals."""
    return [token.upper() for token in tokens], list(tags)


def no_punctuation(tokens: Sequence[str], tags: Sequence[str]) -> Tagged:
    """Without the words outside of entities that are nothing but punctuation; a row of these alone stays."""
    kept = [i for i, token in enumerate(tokens) if tags[i] != "O" or not all(map(_is_punctuation, token))]
    kept = kept or list(range(len(tokens)))
    return [tokens[i] for i in kept], [tags[i] for i in kept]


WAYS: tuple[tuple[Callable[[Sequence[str], Sequence[str]], Tagged], ...], ...] = (
    (lower,),
    (upper,),
    (no_punctuation,),
    (no_punctuation, lower),
)
"""How a sentence is typed; one of them is drawn."""


def augmented(tokens: Sequence[str], tags: Sequence[str], rng: random.Random) -> Tagged:
    """
    A sentence as it could have been typed in a post: in one of `WAYS`. A tagger that was trained on well-kept text
    alone takes capitals for names and their lack for none (Mayhew et al., EMNLP 2019, whose remedy is the same).

    Args:
        tokens: words.
        tags: of the words, IOB2.
        rng: draws the way.

    Returns:
        The words and tags that are left, at least one if there was one; entities whole.
    """
    for change in rng.choice(WAYS):
        tokens, tags = change(tokens, tags)
    return list(tokens), list(tags)


def without_mentions(
    tokens: Sequence[str], tags: Sequence[str], probability: float, mask: str, rng: random.Random
) -> list[str]:
    """A copy of the words in which those of each entity are, with the probability, the mask."""
    tokens = list(tokens)
    for start, stop, _ in iob2_spans(tags):
        if rng.random() < probability:
            tokens[start:stop] = [mask] * (stop - start)
    return tokens


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"


__all__ = ["lower", "no_punctuation", "augmented", "upper", "without_mentions"]
