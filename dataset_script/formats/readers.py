"""Reading the sentences of a source, whatever its format: a folder, or a dataset on the Hub by name."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from ..images import ImageFolder, find_image_root
from ..parquet import is_parquet
from ..report import LoadReport
from ..rows import LANGUAGE, LANGUAGES, UNKNOWN_LANGUAGE, MalformedRow, Row, is_unlabelled, language_order
from .corpus import Corpus
from .hub_sources import open_hub_source
from .label_maps import LabelMap
from .policy import MAX_REPAIRED_SHARE, Policy, needs_repair

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[\w-][\w.-]*")
_HUB_NAME = re.compile(rf"{_NAME.pattern}/[\w.-]+")
_FILE = re.compile(r"\.(jsonl?|[ct]sv|txt|conllu?|parquet|arrow|spacy|ya?ml)$")


def read_source(
    source: str | Path,
    languages: Sequence[str] | None = None,
    lang: str | None = None,
    label_map: str | Path | Mapping[str, str] | None = None,
    errors: str = "raise",
    iob2: str = "auto",
    report: LoadReport | None = None,
    with_images: bool = False,
    tags_column: int | str | None = None,
    splits: Sequence[str] | None = None,
    unlabelled_tests: bool = False,
) -> Iterator[tuple[str, Row]]:
    """The rows of a source, checked, with the split that they have there; no image is opened.

    Args:
        source: a folder in one of the formats of ``registry.READERS``, a finished dataset, or ``org/name`` on the Hub,
            which is streamed.
        languages: those wanted; all if left out, of a set on the Hub ``LANGUAGES``.
        lang, label_map, errors, iob2, tags_column: as those of ``dataset_script.load``. What comes from the Hub is
            read once: ``iob2="auto"`` repairs its tags, and raises at the end of a split if too many sentences needed
            it.
        report: where rows are counted, and what is repaired or skipped.
        with_images: whether images that lie in the rows of a finished dataset or of one on the Hub are taken.
        splits: those to read.
        unlabelled_tests: whether a test split may have no gold labels.

    Raises:
        FileNotFoundError: there is no such folder, and it is no name on the Hub; or the folder holds no dataset.
        MalformedRow: a row breaks its format (``errors="raise"``).
        ValueError: an option makes no sense here, the label map does not name a type, or the source has no rows in
            ``languages``.
    """
    report = LoadReport() if report is None else report
    rows: Iterator[tuple[str, Row]]
    if languages is not None and (not languages or isinstance(languages, str)):
        raise ValueError(f"languages are {languages!r}; expected a list of codes such as {', '.join(LANGUAGES)}.")
    folder = Path(source).expanduser()
    if folder.exists() and not is_parquet(folder):
        corpus = Corpus(folder, lang=lang, errors=errors, iob2=iob2, label_map=label_map, tags_column=tags_column)
        wanted_files = [file for file in corpus.sources if splits is None or file.split in splits]
        files = [file for file in wanted_files if languages is None or file.lang in (None, *languages)]
        if left_out := [file.path.name for file in wanted_files if file not in files]:
            logger.warning("%s: left out, as of other languages: %s", folder, ", ".join(left_out))
        rows = ((file.split, row) for file in files for row in corpus.rows(file, report, unlabelled_tests))
        if not with_images:
            rows = ((split, _without_bytes(row)) for split, row in rows)
    elif folder.is_dir() or is_hub_name(source):
        if tags_column is not None:
            raise ValueError(f"{source} holds no files in columns: tags_column has no use there, leave it out.")
        policy = Policy(errors, iob2, LabelMap.load(label_map))
        name = str(folder if folder.is_dir() else source)
        wanted = languages or (LANGUAGES if not folder.is_dir() else _languages_of(folder))
        pairs = open_hub_source(name, wanted, lang, with_images)
        pairs = (pair for pair in pairs if splits is None or pair[0] in splits)
        rows = _admitted(pairs, lang, policy, report, unlabelled_tests)
    else:
        raise FileNotFoundError(
            f"{source} is neither a folder nor the name of a dataset on the Hub (org/name, with no folder org here)."
        )
    return _counted(rows, str(source), languages, report)


def is_hub_name(source: str | Path, owner: bool = True) -> bool:
    """Whether a source that is not here may be on the Hub: ``org/name``, or ``name`` where no ``owner`` is needed; not
    the name of a file, and not in a folder that is here.
    """
    name = str(source)
    is_name = _HUB_NAME.fullmatch(name) or (not owner and _NAME.fullmatch(name))
    return bool(is_name) and not _FILE.search(name) and not ("/" in name and Path(name).parent.is_dir())


def _without_bytes(row: Row) -> Row:
    return row if row.image_bytes is None else replace(row, image=None, image_bytes=None)


def _languages_of(folder: Path) -> list[str]:
    """The languages of a finished dataset, each a folder."""
    names = {path.parent.name for path in folder.glob("*/*.parquet")}
    return sorted(filter(LANGUAGE.fullmatch, names), key=language_order)


def rows_with_images(
    folder: Path,
    report: LoadReport,
    lang: str | None = None,
    image_folder: str | Path | None = None,
    tags_column: int | str | None = None,
) -> Iterator[tuple[str, Row, Path | bytes | None]]:
    """Each well-formed row of a dataset folder, with its split and its image as a file or bytes, not opened.

    An I-X that begins an entity is read as B-X. These tags and the malformed rows are counted in ``report``. Rows of a
    test split without gold labels are given as rows without entities, and a warning says how many.
    """
    root = Path(image_folder).expanduser() if image_folder else find_image_root(folder)
    for place in (folder, root):
        if place and not place.is_dir():
            raise FileNotFoundError(f"{place} is not a folder: expected the folder of a dataset, or one of images.")
    images = ImageFolder(root)
    options: dict[str, Any] = {"errors": "skip", "iob2": "repair", "report": report, "tags_column": tags_column}
    options |= {"lang": lang, "unlabelled_tests": True}
    unlabelled = 0
    for split, row in read_source(folder.absolute(), with_images=True, **options):
        if is_unlabelled(row.tags):
            unlabelled += 1
            row = replace(row, tags=["O"] * len(row.tokens))
        image: Path | bytes | None = row.image_bytes
        if image is None and row.image is not None:
            found = images.locate(row.image)
            image = found.path
            if found.cause:
                logger.warning("%s: %s is %s.", row.id, found.name, found.cause)
        yield split, row, image
    if unlabelled:
        logger.warning(
            "%s: %d test rows have no gold labels: they count as rows without entities.", folder, unlabelled
        )


def _admitted(
    pairs: Iterable[tuple[str, Row | MalformedRow]],
    lang: str | None,
    policy: Policy,
    report: LoadReport,
    unlabelled_tests: bool,
) -> Iterator[tuple[str, Row]]:
    # One stream of rows a split and language: pairs come split by split.
    for (split, path), group in groupby(pairs, key=lambda pair: (pair[0], pair[1].path)):
        rows: Iterator[Row | MalformedRow] = (row for _, row in group)
        rows = _limited(rows, path) if policy.iob2 == "auto" else rows
        unlabelled, repair = unlabelled_tests and split == "test", policy.iob2 != "strict"
        for row in policy.admit(rows, report, split, default_lang=lang, repair=repair, unlabelled=unlabelled):
            yield split, row


def _limited(rows: Iterable[Row | MalformedRow], path: Path) -> Iterator[Row | MalformedRow]:
    """The rows; an error at the end if too many of them break IOB2."""
    sentences = broken = 0
    for row in rows:
        sentences += 1
        broken += isinstance(row, Row) and needs_repair(row.tags)
        yield row
    if broken > MAX_REPAIRED_SHARE * sentences:
        raise ValueError(
            f"{path}: in {broken} of {sentences} sentences an I- tag begins an entity, which is not IOB2; "
            "read it with iob2='repair' (--iob2 repair) if they are IOB1, or leave this source out."
        )


def _counted(
    rows: Iterable[tuple[str, Row]], name: str, languages: Sequence[str] | None, report: LoadReport
) -> Iterator[tuple[str, Row]]:
    number = 0
    for split, row in rows:
        if languages is not None and row.lang not in languages:
            hint = " (--lang names it)" if row.lang == UNKNOWN_LANGUAGE else ""
            report.part(split, "?").skip(f"of language {row.lang}{hint}", row.place)
            continue
        part = report.part(split, str(row.lang))
        part.rows += 1
        part.empty_sentences += not row.tokens
        part.without_image += row.image is None and row.image_url is None
        report.ignored_keys.update(row.ignored_keys)
        number += 1
        yield split, row
    if not number:
        left_out = report.total().skipped.total()
        raise ValueError(
            f"{name} has no rows in {', '.join(languages or ('any language',))} ({left_out} were left out)."
        )
