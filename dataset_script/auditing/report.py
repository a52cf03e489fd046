"""What an audit found: counts, overlaps, and verdicts in words."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .image_kinds import Predictability
from .overlap import Overlap

LEAK, WARNING, NOTE, FINE = "LEAK", "WARNING", "NOTE", "FINE"


@dataclass
class PartCounts:
    """What the rows of one language in one part (a split of a dataset) hold.

    Attributes:
        part: as ``A/test``.
        rows: well-formed ones.
        entities: type -> number.
        named, opened: rows that name a picture, and rows whose picture opens.
        slips: tags I-X that begin an entity, which IOB2 does not allow.
        slip_rows: rows that have such.
        malformed: reason -> rows that cannot be used.
    """

    part: str
    lang: str
    rows: int = 0
    tokens: int = 0
    without_entity: int = 0
    entities: Counter[str] = field(default_factory=Counter)
    named: int = 0
    opened: int = 0
    relations: Counter[str] = field(default_factory=Counter)
    slips: int = 0
    slip_rows: int = 0
    malformed: Counter[str] = field(default_factory=Counter)


@dataclass
class Verdict:
    """A finding in words. ``level`` is ``LEAK``, ``WARNING``, ``NOTE`` or ``FINE``."""

    level: str
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.text}"


@dataclass
class AuditReport:
    """What an audit found.

    Attributes:
        datasets: the names of the folders.
        parts: their splits, as ``A/test``, in the order of the overlaps.
        counts: by part and language.
        overlaps: of sentences, and of pictures.
        missing: dataset -> rows whose picture's file is absent.
        unreadable: dataset -> picture -> why it does not open.
        predictability: of entity types and of relations, from pictures alone.
        options: how it was audited.
    """

    datasets: list[str]
    parts: list[str]
    counts: list[PartCounts]
    overlaps: list[Overlap]
    missing: dict[str, int]
    unreadable: dict[str, dict[str, str]]
    predictability: list[Predictability]
    options: dict[str, Any]
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def leaks(self) -> bool:
        """Whether something of a training set, or of validation, is in what is tested."""
        return any(verdict.level == LEAK for verdict in self.verdicts)

    def to_json(self) -> str:
        """Everything, as one JSON object."""
        return json.dumps(self, default=vars, ensure_ascii=False, indent=1)
