"""Augmentation of training sentences: typed as in posts, or with their entities masked."""

import random
import string
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


def posted(words: Sequence[str], tags: Sequence[str], rng: random.Random) -> Tagged:
    """
    A sentence as if it had been posted: each of the following with a probability of its own. A name becomes a hashtag;
    a common word does; the sentence is cut, elongated, repeated as RT, gets a handle, hashtags of its names, a link,
    an emoji. Hashtags are one word, or the sign and a word.
    """
    parts = _parts(words, tags)
    for index, (part, kind) in enumerate(parts):
        if kind and rng.random() < 0.2:
            parts[index] = _hashtag(part, rng), kind
        elif not kind and len(part[0]) > 3 and part[0].isalpha() and rng.random() < 0.03:
            parts[index] = [f"#{part[0]}"], None
        elif not kind and len(part[0]) > 2 and part[0].isalpha() and rng.random() < 0.01:
            parts[index] = [part[0] + part[0][-1] * rng.randint(1, 4)], None
    names = [(part, kind) for part, kind in parts if kind and part[0][0] != "#"]
    if len(parts) > 6 and rng.random() < 0.2:
        parts = parts[: rng.randint(5, len(parts) - 1)]
        if parts[-1][1] is None and parts[-1][0][0].isalpha():
            parts[-1] = [parts[-1][0][0][: rng.randint(1, 8)]], None
        parts.append((["…"], None))
    if rng.random() < 0.2:
        parts[:0] = [(["RT"], None), ([_handle(words, rng)], None), ([":"], None)]
    elif rng.random() < 0.15:
        parts.insert(rng.choice((0, len(parts))), ([_handle(words, rng)], None))
    for part, kind in rng.sample(names, min(len(names), rng.choice((0, 0, 0, 1, 2)))):
        parts.append((_hashtag(part, rng), kind))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        parts.append(([f"http://t.co/{''.join(rng.choices(string.ascii_letters + string.digits, k=10))}"], None))
    if rng.random() < 0.15:
        parts.insert(rng.choice((len(parts), rng.randint(0, len(parts)))), ([rng.choice(EMOJI)], None))
    words, tags = [], []
    for part, kind in parts:
        words += part
        sign = len(part) > 1 and part[0] == "#"
        tags += ["O"] * sign + [f"{'B' if i == 0 else 'I'}-{kind}" if kind else "O" for i in range(len(part) - sign)]
    return words, tags


EMOJI = tuple("😀😂😍😭😡😱🙏👏👍💔🔥🎉⚽🚨📸🌊🤔🥳✨😢")


def _parts(words: Sequence[str], tags: Sequence[str]) -> list[tuple[list[str], str | None]]:
    """Entities with their types, and single words between them."""
    starts = {start: (stop, kind) for start, stop, kind in iob2_spans(tags)}
    parts: list[tuple[list[str], str | None]] = []
    place = 0
    while place < len(words):
        stop, kind = starts.get(place, (place + 1, None))
        parts.append((list(words[place:stop]), kind))
        place = stop
    return parts


def _hashtag(name: Sequence[str], rng: random.Random) -> list[str]:
    """A name as a hashtag, in camel case or lower case, as one word or two; unchanged if it has no letters."""
    joined = "".join(
        letters if letters.isupper() else letters[:1].upper() + letters[1:]
        for letters in ("".join(filter(str.isalnum, word)) for word in name)
    )
    if not joined or joined.isdigit():
        return list(name)
    joined = joined.lower() if rng.random() < 0.3 else joined
    return [f"#{joined}"] if rng.random() < 0.75 else ["#", joined]


def _handle(words: Sequence[str], rng: random.Random) -> str:
    """A handle made of words of the sentence, or of letters."""
    letters = "".join(word for word in rng.choices(words, k=rng.randint(1, 2)) if word.isalnum())[:15]
    return (
        "@"
        + (letters or "".join(rng.choices(string.ascii_lowercase, k=rng.randint(4, 12))))
        + rng.choice(("", "", "_", str(rng.randint(1, 99))))
    )


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
