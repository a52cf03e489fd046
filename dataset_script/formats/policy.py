"""What is done about malformed rows and tags that break IOB2; whatever it is, it is counted."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..report import LoadReport
from ..rows import LANGUAGES, MalformedRow, Row, check, iob2_problems, is_iob1, is_unlabelled, mended_tags
from .label_maps import LabelMap

ERRORS = ("raise", "skip")
IOB2 = ("auto", "repair", "strict")
MAX_REPAIRED_SHARE = 0.1
"""Share of a file's sentences: where more break IOB2, its tags are most likely of another scheme."""

_ID_REMEDY = (
    "Give each row its own (where several sentences share an image: in JSONL, which names the image apart), or load "
    "with errors='skip' to leave the repetitions out and count them."
)


@dataclass(frozen=True)
class Policy:
    """``errors``, ``iob2`` and ``label_map`` of ``dataset_script.load``, applied to rows in this order."""

    errors: str = "raise"
    iob2: str = "auto"
    label_map: LabelMap | None = None

    def __post_init__(self) -> None:
        for option, expected in (("errors", ERRORS), ("iob2", IOB2)):
            if getattr(self, option) not in expected:
                raise ValueError(f"{option} is {getattr(self, option)!r}; expected one of {expected}.")

    def repairs_file(self, items: Iterable[Row | MalformedRow], may_be_iob1: bool) -> bool:
        """Whether an I-X that begins an entity is read as B-X in the file that ``items`` are of.

        ``iob2="auto"`` repairs a file where at most ``MAX_REPAIRED_SHARE`` of the sentences have such a tag (374
        tags of Twitter-2015, in 4 %), and one whose format was published as IOB1 if as few of its sentences are not
        IOB1.
        """
        if self.iob2 != "auto":
            return self.iob2 == "repair"
        rows = [item.tags for item in items if isinstance(item, Row) and not is_unlabelled(item.tags)]
        with_entities = sum(any(tag != "O" for tag in tags) for tags in rows)
        if may_be_iob1 and sum(not is_iob1(tags) for tags in rows) <= MAX_REPAIRED_SHARE * with_entities:
            return True
        return sum(map(needs_repair, rows)) <= MAX_REPAIRED_SHARE * len(rows)

    def admit(
        self,
        items: Iterable[Row | MalformedRow],
        report: LoadReport,
        split: str,
        *,
        lang: str | None = None,
        default_lang: str | None = None,
        repair: bool = False,
        own_ids: bool = False,
        unlabelled: bool = False,
    ) -> Iterator[Row]:
        """The rows that are taken, with their language; what is repaired or skipped is counted in ``report``.

        Args:
            lang, default_lang: the language that all rows must have; else that of rows that do not state theirs.
            repair: whether an I-X that begins an entity is read as B-X.
            own_ids: whether the file states ids, which must not repeat.
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
                repairs = repair_tags(row) if repair and labelled else []
                check(row, labelled)
                if own_ids and row.id in seen:
                    raise row.problem("duplicate id", f"id {row.id!r} came before in this file", None, _ID_REMEDY)
            except MalformedRow as problem:
                if self.errors == "raise":
                    raise
                part.skip(problem.reason, _short(problem))
                continue
            seen.add(row.id)
            for repaired in repairs:
                part.repair(_short(repaired))
            if self.label_map and labelled:
                row.tags = self.label_map.tags(row)
                if row.known_types is not None:
                    row.known_types = [kind for old in row.known_types if (kind := self.label_map.types.get(old, old))]
            yield row


def needs_repair(tags: Iterable[str]) -> bool:
    """Whether an I-X begins an entity."""
    return any(mended is not None for _, _, mended in iob2_problems(tags))


def repair_tags(row: Row) -> list[MalformedRow]:
    """Mend the tags of ``row`` in place, and return what was wrong."""
    repairs = [
        row.problem("not IOB2", f"{tag!r} begins an entity", position)
        for position, tag, mended in iob2_problems(row.tags)
        if mended is not None
    ]
    row.tags = mended_tags(row.tags)
    return repairs


def _short(problem: MalformedRow) -> str:
    return f"{Path(*problem.path.parts[-2:]).as_posix()}:{problem.line}: {problem.detail}"


def _with_language(row: Row, lang: str | None, default: str | None) -> Row:
    if row.lang in LANGUAGES and lang not in (None, row.lang):
        raise row.problem("wrong language", f"language {row.lang!r} came; expected {lang!r}, as its file")
    if row.lang is None and default is None:
        remedy = "Add it, or give lang= (on the command line --dataset_lang or --lang) for the rows without."
        raise row.problem("missing key", "no lang came; expected one in each row outside a folder", None, remedy)
    return replace(row, lang=row.lang if row.lang is not None else default)
