"""IOB2, written once: the tags of a row by name, the entities that they are, and where they break the scheme."""

import functools
import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from typing import Any

NO_LABEL = (None, -1, -100)
"""What stands for the tag of a token that has no gold label."""


class TagError(ValueError):
    """What is wrong with the tokens or tags of a row; where the row stands, the caller says.

    Attributes:
        reason: the kind of the problem in a few words.
        position: the token, from 0, or ``None`` where it is the row as a whole.
        mended: the tag that would be IOB2 there, or ``None``.
    """

    def __init__(self, reason: str, detail: str, position: int | None = None, mended: str | None = None):
        self.reason, self.position, self.mended = reason, position, mended
        super().__init__(detail)


def iob2_tags(tokens: Any, tags: Any, names: Sequence[str] = ()) -> list[str]:
    """The tags of a row by name, one for each token, IOB2.

    Args:
        tokens: of the row, as a file or ``datasets`` gives them.
        tags: names, or numbers that stand for ``names``.
        names: of the numbers, in their order.

    Raises:
        TagError: as ``tag_names``, or the tags are not IOB2.
    """
    tags = tag_names(tokens, tags, names)
    for position, tag, mended in iob2_problems(tags):
        came = f"{tag!r} came as tag {position + 1} (token {tokens[position]!r})"
        if mended is None:
            raise TagError("not IOB2", f"{came}; expected O, B-TYPE or I-TYPE", position)
        before = f"after {tags[position - 1]!r}" if position else "at the start of the sentence"
        raise TagError("not IOB2", f"{came} {before}; in IOB2 an entity begins with B-", position, mended)
    return tags


def tag_names(tokens: Any, tags: Any, names: Sequence[str] = ()) -> list[str]:
    """The tags of a row by name, whatever the scheme.

    Raises:
        TagError: the tokens are no text, the tags are not as many, or one is neither a name nor a number of ``names``.
    """
    check_tokens(tokens)
    if tags is None:
        raise TagError("no gold label", "ner_tags is None; expected a tag for each token")
    if not _is_list(tags):
        raise TagError("wrong value", f"ner_tags is {reprlib.repr(tags)}; expected a list")
    if len(tokens) != len(tags):
        detail = f"{len(tokens)} tokens and {len(tags)} ner_tags came; expected as many tags as tokens"
        raise TagError("length mismatch", detail)
    return [tag if isinstance(tag, str) else _name(position, tag, tokens, names) for position, tag in enumerate(tags)]


def check_tokens(tokens: Any) -> None:
    """Raise a ``TagError`` unless the tokens of a row are a list of text."""
    if not _is_list(tokens):
        raise TagError("wrong value", f"tokens is {reprlib.repr(tokens)}; expected a list")
    for position, token in enumerate(tokens):
        if not isinstance(token, str):
            raise TagError("wrong value", f"token {position + 1} is {token!r}; expected text", position)


def is_unlabelled(tags: Sequence[Any] | None) -> bool:
    """Whether a row has tokens and no gold label at all."""
    return tags is None or (len(tags) > 0 and all(tag in NO_LABEL for tag in tags))


def iob2_spans(tags: Iterable[str]) -> Iterator[tuple[int, int, str]]:
    """The entities of IOB2 ``tags``, in order: first token, token after the last, type.

    Read strictly, as seqeval does: an I-X that does not go on with an entity of type X is in none.
    """
    start, kind = None, ""
    for position, tag in enumerate((*tags, "O")):
        if start is not None and tag != f"I-{kind}":
            yield start, position, kind
            start = None
        if tag.startswith("B-"):
            start, kind = position, tag[2:]


def iob2_problems(tags: Iterable[str]) -> Iterator[tuple[int, str, str | None]]:
    """Where the tags break IOB2: the position, the tag, and the tag that would mend it or ``None``."""
    previous = "O"
    for position, tag in enumerate(tags):
        if tag != "O":
            kind = entity_type(tag)
            if kind is None:
                yield position, tag, None
            elif tag[0] == "I" and previous[2:] != kind:
                yield position, tag, f"B-{kind}"
        previous = tag


def mended_tags(tags: Sequence[str]) -> list[str]:
    """The tags with each I-X that begins an entity as B-X.

    This also converts from IOB1, where B- stands only between two entities of one type that touch: both schemes then
    name the same entities.
    """
    mended = {position: tag for position, _, tag in iob2_problems(tags) if tag is not None}
    return [mended.get(position, tag) for position, tag in enumerate(tags)]


def is_iob1(tags: Sequence[str]) -> bool:
    """Whether the tags may be IOB1: no B-X but right after an X."""
    pairs = zip(("O", *tags), tags, strict=False)
    return not any(tag.startswith("B-") and previous[2:] != tag[2:] for previous, tag in pairs)


@functools.lru_cache(maxsize=1024)
def entity_type(tag: Any) -> str | None:
    """``X`` of ``B-X`` and ``I-X``; ``None`` for anything else."""
    match = re.fullmatch(r"[BI]-(\S|\S.*\S)", tag) if isinstance(tag, str) else None
    return match[1] if match else None


def is_tag(text: str) -> bool:
    """Whether ``text`` is a tag: ``O``, ``B-TYPE`` or ``I-TYPE``."""
    return text == "O" or entity_type(text) is not None


def _is_list(values: Any) -> bool:
    return isinstance(values, Iterable) and not isinstance(values, (str, bytes))


def _name(position: int, tag: Any, tokens: Sequence[str], names: Sequence[str]) -> str:
    if isinstance(tag, Integral) and not isinstance(tag, bool) and 0 <= tag < len(names):
        return names[tag]
    expected = f"a number from 0 ({names[0]}) to {len(names) - 1} ({names[-1]})" if names else "O, B-TYPE or I-TYPE"
    came = f"{tag} came as tag {position + 1} (token {tokens[position]!r})"
    if tag in NO_LABEL:
        raise TagError("no gold label", f"{came}, which is no gold label; expected {expected}", position)
    raise TagError("wrong value", f"{came}; expected {expected}", position)
