"""What is done about malformed rows and tags that break IOB2; whatever it is, it is counted."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..report import LoadReport
from ..rows import (
    LANGUAGE,
    UNKNOWN_LANGUAGE,
    MalformedRow,
    Row,
    check,
    iob2_problems,
    is_iob1,
    is_unlabelled,
)
from .label_maps import LabelMap
from .schemes import IOB, scheme_of, to_iob2

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
                came = f"{option} (--dataset_{option}, --{option}) is {getattr(self, option)!r}"
                raise ValueError(f"{came}; expected one of {', '.join(expected)}.")

    def scheme(self, path: Path, items: Iterable[Row | MalformedRow]) -> tuple[str, bool]:
        """The tag scheme of the file that ``items`` are of (``schemes.scheme_of``), and whether rows that break it are
        repaired: in IOB, whether an I-X that begins an entity is read as B-X.

        ``iob2="auto"`` repairs a file where at most ``MAX_REPAIRED_SHARE`` of the sentences need it (374 tags of
        Twitter-2015, in 4 %), and one of which as few sentences are not IOB1.

        Raises:
            ValueError: the tags are of no one scheme.
        """
        rows = []
        for item in items:
            if isinstance(item, Row) and not is_unlabelled(item.tags):
                item.image_bytes = None  # the images of a file may not fit in memory
                rows.append(item)
        scheme = scheme_of(path, rows, MAX_REPAIRED_SHARE)
        if self.iob2 != "auto":
            return scheme, self.iob2 == "repair"
        if scheme != IOB:
            return scheme, True  # scheme_of has counted
        with_entities = sum(any(tag != "O" for tag in row.tags) for row in rows)
        if sum(not is_iob1(row.tags) for row in rows) <= MAX_REPAIRED_SHARE * with_entities:
            return scheme, True
        return scheme, sum(needs_repair(row.tags) for row in rows) <= MAX_REPAIRED_SHARE * len(rows)

    def admit(
        self,
        items: Iterable[Row | MalformedRow],
        report: LoadReport,
        split: str,
        *,
        lang: str | None = None,
        default_lang: str | None = None,
        scheme: str = IOB,
        repair: bool = False,
        own_ids: bool = False,
        unlabelled: bool = False,
    ) -> Iterator[Row]:
        """The rows that are taken, with their language; what is repaired or skipped is counted in ``report``.

        Args:
            lang, default_lang: the language that all rows must have; else that of rows that do not state theirs.
            scheme, repair: as of ``Policy.scheme``.
            own_ids: whether the file states ids, which must not repeat.
            unlabelled: whether a row may have no gold labels at all.
        """
        default = lang or default_lang
        seen: set[str] = set()
        for item in items:
            own = (item.lang or default or UNKNOWN_LANGUAGE) if isinstance(item, Row) else default or "?"
            part = report.part(split, lang or (own if LANGUAGE.fullmatch(own) else default or "?"))
            try:
                if isinstance(item, MalformedRow):
                    raise item
                row = _with_language(item, lang, default)
                labelled = not (unlabelled and is_unlabelled(row.tags))
                repairs = _as_iob2(row, scheme, repair) if labelled else []
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
            part.converted.update([scheme] if labelled and scheme != IOB else [])
            if self.label_map and labelled:
                row.tags = self.label_map.tags(row)
                if row.known_types is not None:
                    row.known_types = [kind for old in row.known_types if (kind := self.label_map.types.get(old, old))]
            yield row


def needs_repair(tags: Iterable[str]) -> bool:
    """Whether an I-X begins an entity."""
    return any(mended is not None for _, _, mended in iob2_problems(tags))


def _as_iob2(row: Row, scheme: str, repair: bool) -> list[MalformedRow]:
    """Turn the tags of ``row`` into IOB2 in place, and return what was wrong; if not to ``repair``, raise it."""
    if scheme == IOB and not repair:
        return []  # left to ``check``
    tags, broken = to_iob2(row.tags, scheme)  # ``check`` looks at tags of none
    problems = [
        row.problem(f"not {scheme}", f"{tag!r} came as tag {place + 1} against {scheme}, read as {mended!r}", place)
        for place, tag, mended in broken
    ]
    if problems and not repair:
        raise problems[0]
    row.tags = tags
    return problems


def _short(problem: MalformedRow) -> str:
    return f"{Path(*problem.path.parts[-2:]).as_posix()}:{problem.line}: {problem.detail}"


def _with_language(row: Row, lang: str | None, default: str | None) -> Row:
    if row.lang is not None and LANGUAGE.fullmatch(row.lang) and lang not in (None, row.lang):
        raise row.problem("wrong language", f"language {row.lang!r} came; expected {lang!r}, as its file")
    return replace(row, lang=row.lang if row.lang is not None else default or UNKNOWN_LANGUAGE)
