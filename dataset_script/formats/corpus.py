"""A folder of rows and images: its files found, its rows checked, its images looked up, its labels collected."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL
from datasets import __version__ as datasets_version
from PIL import Image, ImageFile

from ..files import regular
from ..images import FoundImage, ImageFolder, candidates, find_image_root
from ..report import LoadReport
from ..rows import LANGUAGE, NO_LABEL, SPLIT_FILES, MalformedRow, Row, is_unlabelled, language_order
from .columns import read_captions
from .label_maps import LabelMap
from .policy import Policy
from .records import OPTIONS, labels_file
from .registry import Source, discover

_HERE = Path(__file__).parent
_BESIDE = ("files", "images", "mmner", "report", "rows")
_CODE = (*sorted(_HERE.glob("*.py")), *(_HERE.parent / f"{name}.py" for name in _BESIDE))
"""The modules that decide what a row becomes."""
_OPTIONAL = ("caption", "image_relation", "known_types")


@dataclass
class Inventory:
    """What a corpus holds, for the languages asked for.

    ``labels``: IOB2 tags in id order: O, then B-X and I-X for each type X of the folder, sorted by name; all splits
    and languages of a folder have the same. ``columns``: the optional ones that the folder has.
    """

    labels: list[str]
    columns: list[str]
    report: LoadReport


@dataclass(kw_only=True)
class Options:
    """How to read a folder; as ``dataset_script.load``."""

    lang: str | None = None
    image_folder: str | Path | None = None
    captions: str | Path | None = None
    errors: str = "raise"
    iob2: str = "auto"
    label_map: str | Path | Mapping[str, str] | None = None
    text_column: str | None = None
    tags_column: int | str | None = None
    image_column: str | None = None


@dataclass
class Corpus(Options):
    """A dataset folder, or a file, in one of the formats of ``registry.READERS``; errors as of ``load``."""

    folder: Path
    path: Path = field(init=False)  # what was given: the folder, or a file in it
    policy: Policy = field(init=False)
    sources: list[Source] = field(init=False)
    images: ImageFolder = field(init=False)
    captions_file: Path | None = field(init=False)
    _schemes: dict[Path, tuple[str, bool]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.policy = Policy(self.errors, self.iob2, LabelMap.load(self.label_map))
        if self.lang is not None and not LANGUAGE.fullmatch(self.lang):
            raise ValueError(
                f"lang (--dataset_lang, --lang) is {self.lang!r}; expected a code such as en, it or pt-BR."
            )
        path = Path(self.folder).expanduser().resolve()
        if not path.exists():
            raise FileNotFoundError(f"{path} is neither a folder nor a file: expected a dataset.")
        if isinstance(self.tags_column, str) and re.fullmatch(r"-?\d+", self.tags_column):
            self.tags_column = int(self.tags_column)
        columns = {name: getattr(self, name) for name in OPTIONS}
        self.sources = discover(path, columns)
        self.path, self.folder = path, path if path.is_dir() else path.parent
        if self.lang and self.sources[0].lang:
            raise ValueError(
                f"lang={self.lang!r} was given, but {self.path} has a folder a language, or its file names say it: "
                "leave it out."
            )
        images = self._given("image_folder")
        if images and not images.is_dir():
            raise ValueError(f"image_folder is {images}; expected a folder.")
        self.images = ImageFolder(images or find_image_root(path))
        captions = self._given("captions")
        self.captions_file = regular(captions) if captions else None

    def fingerprint(self) -> str:
        """A hash that changes with the options, the code, the rows and captions (their bytes), and the image files
        (their names, sizes and times)."""
        types = dict(self.policy.label_map.types) if self.policy.label_map else None
        facts: list[Any] = [str(self.path), self.lang, self.errors, self.iob2, types, datasets_version]
        facts += [getattr(self, name) for name in OPTIONS]
        facts += [str(self.images.root), self.images.signature()]
        facts += [PIL.__version__, Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES]
        data = [path for source in self.sources for path in source.files()]
        data += [self.captions_file] if self.captions_file else []
        data += sorted({path for source in self.sources if (path := labels_file(source.path))})
        for path in (*_CODE, *data):
            with path.open("rb") as file:
                facts.append([str(path), hashlib.file_digest(file, "sha256").hexdigest()])
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def scan(self, languages: tuple[str, ...] | None = None) -> Inventory:
        """Read every row and decode every image of ``languages`` (all if ``None``), once. Labels come from the rows of
        all languages.
        """
        report = LoadReport()
        captions = self._read_captions(report)
        types: set[str] = set()
        columns: set[str] = {"caption"} if captions is not None else set()
        others: Counter[str] = Counter()
        splits = {source.split for source in self.sources}
        report.parts = {split: {} for split in SPLIT_FILES if split in splits}
        for source in self.sources:
            for row in self.rows(source, report, unlabelled_tests=True):
                types.update(tag[2:] for tag in row.tags if tag != "O" and tag not in NO_LABEL)
                columns.update(name for name in _OPTIONAL if getattr(row, name) is not None)
                report.ignored_keys.update(row.ignored_keys)
                if languages is None or row.lang in languages:
                    self._count(row, source.split, captions, report)
                else:
                    others[str(row.lang)] += 1
        found = {lang for parts in report.parts.values() for lang in parts} - {"?"}
        report = report.only(sorted(found if languages is None else found & {*languages}, key=language_order))
        if not report.total().rows:
            has = ", ".join(f"{lang} ({number} rows)" for lang, number in others.items()) or "none"
            left_out = report.total().skipped.total()
            flat = " Give lang= (--dataset_lang) if its language is another." if not self.sources[0].lang else ""
            raise ValueError(
                f"{self.path} has no rows in {', '.join(languages or ('any language',))} ({left_out} were left out as "
                "malformed); "
                f"rows in other languages: {has}.{flat}"
            )
        labels = ["O", *(f"{prefix}-{kind}" for kind in sorted(types) for prefix in "BI")]
        return Inventory(labels, sorted(columns), report)

    def examples(
        self, source: Source, inventory: Inventory, languages: tuple[str, ...] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The rows of a file as the dataset has them: tags as label ids (-1: none), the image a path or ``None``."""
        captions = self._read_captions(LoadReport()) or {}
        ids = dict.fromkeys(NO_LABEL, -1) | {label: number for number, label in enumerate(inventory.labels)}
        for row in self.rows(source, LoadReport(), unlabelled_tests=True):
            if languages is None or row.lang in languages:
                found = self._image(row) if row.image is not None else FoundImage("")
                image: Any = str(found.path) if found.path else None
                if row.image_bytes is not None and not found.cause:
                    image = {"bytes": row.image_bytes, "path": row.image}
                optional = {name: getattr(row, name) for name in _OPTIONAL} | {"caption": _caption(row, captions)}
                yield {
                    "id": row.id,
                    "lang": row.lang,
                    "tokens": row.tokens,
                    "ner_tags": [ids[tag] for tag in row.tags],
                    "image": image,
                } | {name: optional[name] for name in inventory.columns}

    def rows(self, source: Source, report: LoadReport, unlabelled_tests: bool = False) -> Iterator[Row]:
        """The rows of a file after the policy for malformed ones; what it does is counted in ``report``.

        With ``unlabelled_tests``, those of a test split may have no gold labels, if it has none at all.
        """
        reader = source.reader
        if source.path not in self._schemes:
            self._schemes[source.path] = self.policy.scheme(source.path, reader.read(source.path))
        scheme, repair = self._schemes[source.path]
        return self.policy.admit(
            reader.read(source.path),
            report,
            source.split,
            lang=source.lang,
            default_lang=self.lang or reader.default_lang,
            scheme=scheme,
            repair=repair,
            own_ids=reader.own_ids,
            unlabelled=unlabelled_tests and source.split == "test" and not _has_gold_labels(source),
        )

    def _count(self, row: Row, split: str, captions: dict[str, str] | None, report: LoadReport) -> None:
        part = report.part(split, str(row.lang))
        part.rows += 1
        part.empty_sentences += not row.tokens
        if row.image is None:
            part.without_image += 1
            return
        part.without_caption += captions is not None and _caption(row, captions) is None
        found = self._image(row)
        if found.path or (row.image_bytes is not None and not found.cause):
            part.images += 1
        elif found.cause:
            part.unreadable[found.name] += 1
            part.causes[found.name] = found.cause
        else:
            part.missing[found.name] += 1

    def _image(self, row: Row) -> FoundImage:
        name, content = row.image or "", row.image_bytes
        return self.images.find(name) if content is None else self.images.opened(content, name)

    def _read_captions(self, report: LoadReport) -> dict[str, str] | None:
        if self.captions_file is None:
            return None
        captions: dict[str, str] = {}
        for item in read_captions(self.captions_file):
            if not isinstance(item, MalformedRow):
                captions.update([item])
            elif self.errors != "skip":
                raise item
            else:
                report.bad_captions[item.reason] += 1
        return captions

    def _given(self, option: str) -> Path | None:
        path = getattr(self, option)
        if path is None:
            return None
        places = [Path(path).expanduser().absolute(), self.folder / path]
        for place in places:
            if place.exists():
                return place.resolve()
        raise FileNotFoundError(f"{option} is {str(path)!r}, which is neither {places[0]} nor {places[1]}.")


def _has_gold_labels(source: Source) -> bool:
    items = source.reader.read(source.path)
    return any(isinstance(item, Row) and item.tags and not is_unlabelled(item.tags) for item in items)


def _caption(row: Row, captions: dict[str, str]) -> str | None:
    if row.caption is not None or row.image is None:
        return row.caption
    return next((captions[name] for name in candidates(row.image) if name in captions), None)
