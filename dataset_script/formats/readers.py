"""Reading the sentences of a source, whatever its format: a folder, or a dataset on the Hub by name."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from ..building.row_images import PictureFiles
from ..parquet import is_parquet
from ..report import LoadReport
from ..rows import LANGUAGES, MalformedRow, Row, iob2_problems
from .corpus import Corpus
from .hub_sources import open_hub_source
from .label_maps import LabelMap
from .policy import MAX_REPAIRED_SHARE, Policy

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def read_source(
    source: str | Path,
    languages: Sequence[str] = LANGUAGES,
    lang: str | None = None,
    label_map: str | Path | Mapping[str, str] | LabelMap | None = None,
    errors: str = "raise",
    iob2: str = "auto",
    report: LoadReport | None = None,
    revision: str | None = None,
    pictures: str | Path | None = None,
    tag_column: int | None = None,
) -> Iterator[tuple[str, Row]]:
    """The rows of a source, checked, with the split that they have there; no image is opened.

    Args:
        source: a folder in one of the formats of ``formats.READERS``, a finished dataset, or ``org/name`` on the Hub,
            which is streamed.
        languages: those wanted.
        lang: the language of rows that nothing says the language of.
        label_map: as that of ``dataset_script.load``.
        errors, iob2: as those of ``dataset_script.load``. What comes from the Hub is read once: with ``iob2="auto"``
            slips are mended as they come, and it is an error at the end of a split if too many sentences had one.
        report: where rows are counted, and what is mended or left out.
        revision: of a dataset on the Hub.
        pictures: a folder, into which the pictures inside the rows of a finished dataset or of one on the Hub are
            written, and ``Row.image`` is their name there; if ``None``, they are not taken.
        tag_column: as that of ``dataset_script.load``.

    Raises:
        FileNotFoundError: there is no such folder, and it is no name on the Hub; or the folder holds no dataset.
        MalformedRow: a row breaks its format (``errors="raise"``).
        ValueError: an option makes no sense here, the label map does not name a type, or the source has no rows in
            ``languages``.
    """
    report = LoadReport() if report is None else report
    unknown = [language for language in languages if language not in LANGUAGES]
    if unknown or not languages or isinstance(languages, str):
        raise ValueError(f"languages are {languages!r}; expected some of {', '.join(LANGUAGES)}.")
    folder = Path(source).expanduser()
    if folder.is_dir() and not is_parquet(folder):
        corpus = Corpus(folder, lang, errors=errors, iob2=iob2, label_map=label_map, tag_column=tag_column)
        policy, rows = corpus.policy, _folder_rows(corpus, languages, report)
    elif folder.is_dir() or _HUB_NAME.fullmatch(str(source)):
        if tag_column is not None:
            raise ValueError(f"{source} holds no files in columns: tag_column has no use there, leave it out.")
        policy = Policy(errors, iob2, LabelMap.load(label_map))
        files = None if pictures is None else PictureFiles(Path(pictures))
        name = str(folder if folder.is_dir() else source)
        rows = _hub_rows(name, languages, lang, policy, report, revision, files)
    else:
        raise FileNotFoundError(f"{source} is neither a folder nor the name of a dataset on the Hub (org/name).")
    return _counted(rows, str(source), languages, report, policy)


def _folder_rows(corpus: Corpus, languages: Sequence[str], report: LoadReport) -> Iterator[tuple[str, Row]]:
    for source in corpus.sources:
        if source.lang in (None, *languages):
            for row in corpus.rows(source, report):
                yield source.split, row


def _hub_rows(
    name: str,
    languages: Sequence[str],
    lang: str | None,
    policy: Policy,
    report: LoadReport,
    revision: str | None,
    pictures: PictureFiles | None,
) -> Iterator[tuple[str, Row]]:
    pairs = open_hub_source(name, languages, revision, lang, pictures)
    # One stream of rows a split and language: pairs come split by split.
    for (split, path), group in groupby(pairs, key=lambda pair: (pair[0], pair[1].path)):
        slips = _Slips(policy.iob2 == "auto", str(path))
        rows = slips.watch(row for _, row in group)
        for row in policy.admit(rows, report, split, None, lang, policy.iob2 != "strict", own_ids=False):
            yield split, row


class _Slips:
    """How many sentences break IOB2; where it is to be so, an error if at the end these are too many."""

    def __init__(self, limited: bool, name: str):
        self._limited, self._name = limited, name

    def watch(self, rows: Iterable[Row | MalformedRow]) -> Iterator[Row | MalformedRow]:
        sentences = slips = 0
        for row in rows:
            sentences += 1
            if isinstance(row, Row):
                slips += any(mended is not None for _, _, mended in iob2_problems(row.tags))
            yield row
        if self._limited and slips > MAX_REPAIRED_SHARE * sentences:
            raise ValueError(
                f"{self._name}: in {slips} of {sentences} sentences an I- tag begins an entity, which is not IOB2; "
                "read it with iob2='repair' if they are IOB1, or leave this source out."
            )


def _counted(
    rows: Iterator[tuple[str, Row]], name: str, languages: Sequence[str], report: LoadReport, policy: Policy
) -> Iterator[tuple[str, Row]]:
    number = 0
    for split, row in rows:
        if row.lang not in languages:
            continue
        part = report.part(split, str(row.lang))
        part.rows += 1
        part.empty_sentences += not row.tokens
        part.without_image += row.image is None and row.image_url is None
        report.ignored_keys.update(row.ignored_keys)
        number += 1
        yield split, row
    policy.log_dropped()
    if not number:
        left_out = report.total().skipped.total()
        raise ValueError(f"{name} has no rows in {', '.join(languages)} ({left_out} were left out as malformed).")
