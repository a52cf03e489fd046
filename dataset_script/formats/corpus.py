"""A folder of rows and images: its files found, its rows checked, its images looked up, its labels collected."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import PIL
from PIL import Image, ImageFile

from ..files import regular
from ..images import IMAGE_SUFFIXES, ImageFolder, candidates, find_image_root
from ..report import LoadReport
from ..rows import LANGUAGES, NO_LABEL, SPLIT_FILES, MalformedRow, Row, is_unlabelled
from .columns import read_captions
from .label_maps import LabelMap
from .policy import Policy
from .registry import Source, discover

_HERE = Path(__file__).parent
_BESIDE = ("files", "images", "mmner", "report", "rows")
_CODE = (*sorted(_HERE.glob("*.py")), *(_HERE.parent / f"{name}.py" for name in _BESIDE))
"""The modules that decide what a row becomes."""


@dataclass
class Inventory:
    """What a corpus holds, for the languages asked for.

    Attributes:
        labels: IOB2 tags in id order: O, then B-X and I-X for each type X of the folder, sorted by name. All splits
            and languages of a folder have the same, whichever are asked for.
        columns: the optional columns that the folder has: ``caption``, ``image_relation``.
        report: the counts.
    """

    labels: list[str]
    columns: list[str]
    report: LoadReport


@dataclass
class Corpus:
    """A dataset folder in one of the formats of ``formats.READERS``.

    Args:
        folder: the folder.
        lang: the language of files that lie in no language folder and whose rows do not say theirs.
        image_folder: where the images are; by default ``images/`` or ``{name}_images/`` in the folder, or
            ``{name}_images/`` beside it.
        captions: a file of ``file.jpg :caption`` lines; by default the ``.txt`` file of such lines in the folder. This
            path and ``image_folder`` may be relative to the working directory or to the folder.
        errors: ``"raise"`` at the first malformed row, or ``"skip"`` it and count.
        iob2: an I-X that begins an entity is read as B-X and counted (``"repair"``), as conlleval and seqeval read it,
            or makes its row malformed (``"strict"``). ``"auto"`` repairs the slips of a file that otherwise is IOB2,
            and is strict where more than ``policy.MAX_REPAIRED_SHARE`` of its sentences have them. The field's sets
            have such slips: 374 tags in Twitter-2015, in 4 % of its sentences. A file in CoNLL's columns that is IOB1
            throughout, as CoNLL-2003 was published, is converted.
        label_map: the name of a built-in map of entity types, a YAML file, or a mapping (``label_maps``).
        tag_column: as that of ``formats.discover``.

    Raises:
        FileNotFoundError: the folder, or a path given, is not there.
        ValueError: an option makes no sense here, or the files of the folder are ambiguous (``formats.discover``).
    """

    folder: Path
    lang: str | None = None
    image_folder: str | Path | None = None
    captions: str | Path | None = None
    errors: str = "raise"
    iob2: str = "auto"
    label_map: str | Path | Mapping[str, str] | LabelMap | None = None
    tag_column: int | None = None
    policy: Policy = field(init=False)
    sources: list[Source] = field(init=False)
    images: ImageFolder = field(init=False)
    captions_file: Path | None = field(init=False)
    _mended: dict[Path, bool] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.policy = Policy(self.errors, self.iob2, LabelMap.load(self.label_map))
        if self.lang not in (None, *LANGUAGES):
            raise ValueError(f"lang is {self.lang!r}; expected one of {(None, *LANGUAGES)}.")
        self.folder = Path(self.folder).expanduser().resolve()
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder} is not a folder: expected the folder of a dataset.")
        self.sources = discover(self.folder, self.tag_column)
        if self.lang and self.sources[0].lang:
            raise ValueError(
                f"lang={self.lang!r} was given, but {self.folder} has a folder a language, or its file names say it: "
                "leave it out."
            )
        given = self._given(self.image_folder, "image_folder")
        if given and not given.is_dir():
            raise ValueError(f"image_folder is {given}; expected a folder.")
        self.images = ImageFolder(given or find_image_root(self.folder))
        given = self._given(self.captions, "captions")
        self.captions_file = regular(given) if given else self._find_captions()

    def fingerprint(self) -> str:
        """A hash that changes with the options, the code, the rows and captions (their bytes), and the image files
        (their names, sizes and times)."""
        digest = hashlib.sha256()
        facts: list[Any] = [
            str(self.folder),
            self.lang,
            self.errors,
            self.iob2,
            self.tag_column,
            dict(self.policy.label_map.types) if self.policy.label_map else None,
            str(self.images.root),
            self.images.signature(),
        ]
        facts += [PIL.__version__, Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES]
        data = [source.path for source in self.sources] + ([self.captions_file] if self.captions_file else [])
        for path in (*_CODE, *data):
            facts.append([str(path), hashlib.sha256(path.read_bytes()).hexdigest()])
        digest.update(json.dumps(facts).encode())
        return digest.hexdigest()[:16]

    def scan(self, languages: tuple[str, ...]) -> Inventory:
        """Read every row and decode every image of ``languages``, once.

        Raises:
            MalformedRow: a row breaks its format (``errors="raise"``), in any language: labels come from all of them.
            ValueError: no row is left for ``languages``.
        """
        report = LoadReport()
        captions = self._read_captions(report)
        types: set[str] = set()
        columns: set[str] = {"caption"} if captions is not None else set()
        others: Counter[str] = Counter()
        for source in self.sources:
            if source.lang in (None, *languages):
                report.parts.setdefault(source.split, {})
            for row in self.rows(source, report, unlabelled_tests=True):
                types.update(tag[2:] for tag in row.tags if tag != "O" and tag not in NO_LABEL)
                columns.update(name for name in ("caption", "image_relation") if getattr(row, name) is not None)
                report.ignored_keys.update(row.ignored_keys)
                if row.lang in languages:
                    self._count(row, source.split, captions, report)
                else:
                    others[str(row.lang)] += 1
        report = _ordered(report.only(languages))
        if not report.total().rows:
            has = ", ".join(f"{lang} ({number} rows)" for lang, number in others.items()) or "none"
            left_out = report.total().skipped.total()
            flat = " Give lang= if its language is another." if not self.sources[0].lang else ""
            raise ValueError(
                f"{self.folder} has no rows in {', '.join(languages)} ({left_out} were left out as malformed); "
                f"rows in other languages: {has}.{flat}"
            )
        labels = ["O", *(f"{prefix}-{kind}" for kind in sorted(types) for prefix in "BI")]
        return Inventory(labels, sorted(columns), report)

    def examples(self, source: Source, inventory: Inventory, languages: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        """The rows of a file as the dataset has them: tags as label ids (-1: none), the image a path or ``None``."""
        captions = self._read_captions(LoadReport()) or {}
        ids = dict.fromkeys(NO_LABEL, -1) | {label: number for number, label in enumerate(inventory.labels)}
        for row in self.rows(source, LoadReport(), unlabelled_tests=True):
            if row.lang not in languages:
                continue
            image = self.images.find(row.image).path if row.image is not None else None
            example = {
                "id": row.id,
                "lang": row.lang,
                "tokens": row.tokens,
                "ner_tags": [ids[tag] for tag in row.tags],
                "image": str(image) if image else None,
                "caption": _caption(row, captions),
                "image_relation": row.image_relation,
            }
            unused = {"caption", "image_relation"} - set(inventory.columns)
            yield {key: value for key, value in example.items() if key not in unused}

    def rows(self, source: Source, report: LoadReport, unlabelled_tests: bool = False) -> Iterator[Row]:
        """The rows of a file after the policy for malformed ones; what it does is counted in ``report``.

        With ``unlabelled_tests``, those of a test split may have no gold labels, if it has none at all.
        """
        reader = source.reader
        is_unlabelled_test = (
            unlabelled_tests
            and source.split == "test"
            and not any(
                isinstance(item, Row) and item.tags and not is_unlabelled(item.tags)
                for item in reader.read(source.path)
            )
        )
        if source.path not in self._mended:
            self._mended[source.path] = self.policy.mends_file(reader.read(source.path), reader.iob1)
        return self.policy.admit(
            reader.read(source.path),
            report,
            source.split,
            source.lang,
            self.lang or reader.default_lang,
            self._mended[source.path],
            reader.own_ids,
            self._message,
            is_unlabelled_test,
        )

    def _message(self, problem: MalformedRow) -> str:
        return f"{problem.path.relative_to(self.folder).as_posix()}:{problem.line}: {problem.detail}"

    def _count(self, row: Row, split: str, captions: dict[str, str] | None, report: LoadReport) -> None:
        part = report.part(split, str(row.lang))
        part.rows += 1
        part.empty_sentences += not row.tokens
        if row.image is None:
            part.without_image += 1
            return
        part.without_caption += captions is not None and _caption(row, captions) is None
        found = self.images.find(row.image)
        if found.path:
            part.images += 1
        elif found.cause:
            part.unreadable[found.name] += 1
            part.causes[found.name] = found.cause
        else:
            part.missing[found.name] += 1

    def _read_captions(self, report: LoadReport) -> dict[str, str] | None:
        if self.captions_file is None:
            return None
        captions: dict[str, str] = {}
        for item in read_captions(self.captions_file):
            if not isinstance(item, MalformedRow):
                line, name, caption = item
                if captions.setdefault(name, caption) == caption:
                    continue
                detail = f"a second, other caption of {name} came; expected one"
                item = MalformedRow(self.captions_file, line, "duplicate caption", detail)
            if self.errors != "skip":
                raise item
            report.bad_captions[item.reason] += 1
        return captions

    def _find_captions(self) -> Path | None:
        taken = {f"{name}.txt" for names in SPLIT_FILES.values() for name in names}
        taken |= {source.path.name for source in self.sources}
        others = [path for path in sorted(self.folder.glob("*.txt")) if path.name not in taken and path.is_file()]
        found = [path for path in others if path.name == "captions.txt" or _has_captions(path)]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ValueError(f"{self.folder} holds several files of captions ({names}): name one by captions=.")
        return found[0] if found else None

    def _given(self, path: str | Path | None, option: str) -> Path | None:
        if path is None:
            return None
        places = [Path(path).expanduser().absolute(), self.folder / path]
        for place in places:
            if place.exists():
                return place.resolve()
        raise FileNotFoundError(f"{option} is {str(path)!r}, which is neither {places[0]} nor {places[1]}.")


def _caption(row: Row, captions: dict[str, str]) -> str | None:
    if row.caption is not None or row.image is None:
        return row.caption
    return next((captions[name] for name in candidates(row.image) if name in captions), None)


def _has_captions(path: Path) -> bool:
    item = next(read_captions(path), None)
    return isinstance(item, tuple) and Path(item[1]).suffix.lower() in IMAGE_SUFFIXES


def _ordered(report: LoadReport) -> LoadReport:
    """Splits and languages in their own order, whatever the order of the files."""
    parts = {
        split: {lang: report.parts[split][lang] for lang in (*LANGUAGES, "?") if lang in report.parts[split]}
        for split in SPLIT_FILES
        if split in report.parts
    }
    return replace(report, parts=parts)
