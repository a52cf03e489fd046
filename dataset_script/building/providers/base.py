"""What an image provider is: it finds pictures for the entities that sentences mention, or for whole sentences.

``build`` stages all rows first, then lets the provider ``prepare``, then asks it row by row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Mention:
    """An entity as a sentence names it.

    Attributes:
        surface: its tokens, joined by blanks.
        type: its entity type, after the label map.
        lang: the language of the sentence.
    """

    surface: str
    type: str
    lang: str


@dataclass(frozen=True)
class Picture:
    """A picture on disk, and where it comes from.

    Attributes:
        name: its file name, which no other picture of the provider has.
        path: the file.
        entity: the identity of what it shows, the same for every name and language of it (a Wikidata id, a line of an
            index); ``None`` where it shows no entity that is known.
        types: the entity types that it may stand for; empty where it shows no entity.
        mentions: the names of what it shows, where the provider knows them.
        licence: as its origin states it; ``None`` where none is stated.
        author: likewise.
        source: a URL, or words, that say where it comes from.
    """

    name: str
    path: Path
    entity: str | None = None
    types: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()
    licence: str | None = None
    author: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A picture that shows an entity of a sentence; ``mention`` is ``None`` where it belongs to the whole sentence."""

    name: str
    mention: Mention | None = None


class ImageProvider(Protocol):
    """Where pictures come from. All answers depend on the arguments alone, not on the order of the calls."""

    name: str
    natural: bool
    """Whether pictures belong to sentences: then their relation is not known, and none is drawn at random."""

    def prepare(
        self,
        mentions: Callable[[], Iterator[tuple[Mention, int]]],
        row_ids: Callable[[], Iterator[str]],
    ) -> None:
        """Find and fetch what the rows need; resumable. ``mentions()`` gives each distinct mention with the number of
        rows that have it, the most frequent first; ``row_ids()`` the ids of the rows. Both may be called again."""

    def candidates(self, row_id: str, mentions: Sequence[Mention]) -> list[Candidate]:
        """The pictures that show an entity of a row, or that belong to it; in a fixed order, each name once."""

    def entity(self, mention: Mention) -> str | None:
        """The identity of what is mentioned, where the provider knows it."""

    def names(self) -> Iterator[str]:
        """Every picture that there is, fillers that show no known entity included; in a fixed order."""

    def picture(self, name: str) -> Picture:
        """The picture of a name; ``KeyError`` where there is none."""

    def counts(self) -> dict[str, int]:
        """What happened in ``prepare``, for the report: mentions asked, found, refused and why, files fetched ..."""

    def close(self) -> None:
        """Let go of files and connections; no call may follow."""
