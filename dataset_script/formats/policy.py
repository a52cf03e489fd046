"""Which rows are taken as they are, which are mended, and which are left out; all of it counted."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from ..report import LoadReport
from ..rows import LANGUAGES, MalformedRow, Row, check, iob2_problems, is_iob1, is_unlabelled, mended_tags
from .label_maps import LabelMap

logger = logging.getLogger(__name__)

ERRORS = ("raise", "skip")
IOB2 = ("auto", "repair", "strict")
MAX_REPAIRED_SHARE = 0.1
"""Of a file's sentences: where more break IOB2, its tags are most likely of another scheme, and are not guessed at."""

_ID_REMEDY = (
    "Give each row its own (where several sentences share an image: in JSONL, which names the image apart), or load "
    "with errors='skip' to leave the repetitions out and count them."
)


@dataclass
class Policy:
    """What is done about rows that are not as they should be.

    Args:
        errors: ``"raise"`` at the first malformed row, or ``"skip"`` it and count.
        iob2: an I-X that begins an entity is read as B-X and counted (``"repair"``), or makes its row malformed
            (``"strict"``), or either, as ``mends_file`` says (``"auto"``).
        label_map: for the types of the entities, after that.
        dropped: entity type -> entities that are none after the map.
    """

    errors: str = "raise"
    iob2: str = "auto"
    label_map: LabelMap | None = None
    dropped: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for option, expected in (("errors", ERRORS), ("iob2", IOB2)):
            if getattr(self, option) not in expected:
                raise ValueError(f"{option} is {getattr(self, option)!r}; expected one of {expected}.")

    def mends_file(self, items: Iterable[Row | MalformedRow], iob1: bool) -> bool:
        """Whether slips are mended in the file that ``items`` are of: where at most ``MAX_REPAIRED_SHARE`` of its
        sentences have one, or where the format admits IOB1 (``iob1``) and at most as many of those with entities are
        not IOB1."""
        if self.iob2 != "auto":
            return self.iob2 == "repair"
        sentences = slips = with_entities = not_iob1 = 0
        for item in items:
            if isinstance(item, Row) and not is_unlabelled(item.tags):
                sentences += 1
                slips += any(mended is not None for _, _, mended in iob2_problems(item.tags))
                with_entities += any(tag != "O" for tag in item.tags)
                not_iob1 += not is_iob1(item.tags)
        iob1 = iob1 and not_iob1 <= MAX_REPAIRED_SHARE * with_entities
        return iob1 or slips <= MAX_REPAIRED_SHARE * sentences

    def admit(
        self,
        items: Iterable[Row | MalformedRow],
        report: LoadReport,
        split: str,
        lang: str | None,
        default_lang: str | None,
        mend: bool,
        own_ids: bool,
        message: Callable[[MalformedRow], str] = str,
        unlabelled: bool = False,
    ) -> Iterator[Row]:
        """The rows that are taken, with their language; what is mended or left out is counted in ``report``.

        Args:
            lang: the language that all rows must have.
            default_lang: that of rows that do not say theirs, where ``lang`` is not given.
            mend: whether an I-X that begins an entity is read as B-X.
            own_ids: whether ids may repeat, and must not.
            message: how the report quotes a problem.
            unlabelled: whether a row may have no gold labels at all.
        """
        default = lang or default_lang
        seen: set[str] = set()
        for item in items:
            own = item.lang if isinstance(item, Row) and item.lang in LANGUAGES else None
            part = report.part(split, lang or own or default or "?")
            try:
                if isinstance(item, MalformedRow):
                    raise item
                row = _with_language(item, lang, default)
                labelled = not (unlabelled and is_unlabelled(row.tags))
                repairs = repair_tags(row) if mend and labelled else []
                check(row, labelled)
                if own_ids and row.id in seen:
                    raise row.problem("duplicate id", f"id {row.id!r} came before in this file", None, _ID_REMEDY)
            except MalformedRow as problem:
                if self.errors == "raise":
                    raise
                part.skip(problem.reason, message(problem))
                continue
            if own_ids:
                seen.add(row.id)
            for repair in repairs:
                part.repair(message(repair))
            if self.label_map and labelled:
                self.dropped.update(self.label_map.dropped(row.tags))
                row.tags = self.label_map.tags(row)
            yield row

    def log_dropped(self) -> None:
        """Log how many entities the label map left none of, by type."""
        if self.dropped and self.label_map:
            counts = ", ".join(f"{kind} {number}" for kind, number in self.dropped.most_common())
            logger.info("The label map %s reads entities of these types as none: %s.", self.label_map.name, counts)


def repair_tags(row: Row) -> list[MalformedRow]:
    """Mend the tags of ``row`` in place, and say what was wrong."""
    repairs = [
        row.problem("not IOB2", f"{tag!r} begins an entity", position)
        for position, tag, mended in iob2_problems(row.tags)
        if mended is not None
    ]
    row.tags = mended_tags(row.tags)
    return repairs


def _with_language(row: Row, lang: str | None, default: str | None) -> Row:
    """The row with its own language, or ``default``."""
    if row.lang in LANGUAGES and lang not in (None, row.lang):
        raise row.problem("wrong language", f"language {row.lang!r} came; expected {lang!r}, as its file")
    if row.lang is None and default is None:
        remedy = "Add it, or give lang= for the rows without."
        raise row.problem("missing key", "no lang came; expected one in each row outside a folder", None, remedy)
    return replace(row, lang=row.lang if row.lang is not None else default)
