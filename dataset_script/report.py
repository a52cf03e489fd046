"""The load report: how many rows, images and tags of a dataset were read, changed, missing or skipped."""

import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

logger = logging.getLogger(__name__)

MAX_EXAMPLES = 5
_MARK = "load_report="


@dataclass
class ReportPart:
    """Counts over some rows: those of one language in one split, or a sum of such parts."""

    rows: int = 0
    images: int = 0  # of ``rows``, those with an image that opens
    without_image: int = 0  # of ``rows``, those for which the source names no image
    missing: Counter[str] = field(default_factory=Counter)  # image name -> rows whose image file was not there
    unreadable: Counter[str] = field(default_factory=Counter)  # image name -> rows whose image file did not open
    causes: dict[str, str] = field(default_factory=dict)  # image name -> why it did not open
    empty_sentences: int = 0  # rows without tokens, loaded as they are
    without_caption: int = 0  # rows whose image name is not in the captions file
    repaired_tags: int = 0  # I-X tags that began an entity and were read as B-X
    converted: Counter[str] = field(default_factory=Counter)  # scheme -> rows whose tags were turned into IOB2
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> rows left out (``errors="skip"``)
    repair_examples: list[str] = field(default_factory=list)  # the first ``MAX_EXAMPLES`` messages
    skip_examples: list[str] = field(default_factory=list)  # likewise

    def skip(self, reason: str, message: str) -> None:
        """Count a row that is left out."""
        self.skipped[reason] += 1
        self.skip_examples = [*self.skip_examples, message][:MAX_EXAMPLES]

    def repair(self, message: str) -> None:
        """Count a tag that is repaired."""
        self.repaired_tags += 1
        self.repair_examples = [*self.repair_examples, message][:MAX_EXAMPLES]

    def add(self, other: "ReportPart") -> None:
        """Add the counts of another part."""
        for name, more in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, dict):
                mine.update(more)  # a Counter adds
            else:
                setattr(self, name, mine + more if isinstance(mine, int) else (mine + more)[:MAX_EXAMPLES])

    def warnings(self) -> list[str]:
        """A line for each kind of loss or change."""
        unreadable = _some([f"{name} ({self.causes[name]})" for name in self.unreadable])
        lines = [
            (self.missing.total(), f"{len(self.missing)} images of {{}} rows are missing: {_some(self.missing)}"),
            (self.unreadable.total(), f"{len(self.unreadable)} images of {{}} rows do not open: {unreadable}"),
            (self.empty_sentences, "{} rows have no tokens"),
            (self.without_caption, "{} rows name an image for which the captions file has no line"),
            (self.repaired_tags, f"{{}} I- tags that begin an entity were read as B-: {_some(self.repair_examples)}"),
            (self.converted.total(), f"tags of {{}} rows were turned into IOB2 (from {_counts(self.converted)})"),
            (self.skipped.total(), f"{{}} rows were skipped ({_counts(self.skipped)}): {_some(self.skip_examples)}"),
            (not self.rows, "no rows, so there is no such split"),
        ]
        return [line.replace("{}", str(number), 1) for number, line in lines if number]


@dataclass
class LoadReport:
    """The counts by split and language, and those of the folder as a whole.

    A split without rows has a part here, but is not in the dataset: ``datasets`` cannot hold it. Rows skipped
    before their language was known are under ``"?"``.
    """

    parts: dict[str, dict[str, ReportPart]] = field(default_factory=dict)  # split -> language
    ignored_keys: Counter[str] = field(default_factory=Counter)  # keys that no column takes -> rows that have them
    bad_captions: Counter[str] = field(default_factory=Counter)  # reason -> lines of the captions file left out

    def part(self, split: str, lang: str) -> ReportPart:
        """The part of a split and language, made if there is none."""
        return self.parts.setdefault(split, {}).setdefault(lang, ReportPart())

    def total(self, split: str | None = None, lang: str | None = None) -> ReportPart:
        """The sum over a split, a language, or everything."""
        total = ReportPart()
        for split_name, parts in self.parts.items():
            for part_lang, part in parts.items():
                if split in (None, split_name) and lang in (None, part_lang):
                    total.add(part)
        return total

    def only(self, languages: Iterable[str]) -> "LoadReport":
        """The report of these languages, in their order."""
        order = [*languages, "?"]
        parts = {split: {lang: parts[lang] for lang in order if lang in parts} for split, parts in self.parts.items()}
        return LoadReport(parts, self.ignored_keys, self.bad_captions)

    def warnings(self) -> list[str]:
        """A line for each split and kind of loss or change."""
        lines = [f"{split}: {line}" for split in self.parts for line in self.total(split).warnings()]
        if self.ignored_keys:
            lines.append(f"keys that no column takes were ignored (rows): {_counts(self.ignored_keys)}")
        if self.bad_captions:
            lines.append(f"lines of the captions file were left out: {_counts(self.bad_captions)}")
        return lines

    def log(self) -> None:
        """Log ``warnings()``."""
        for line in self.warnings():
            logger.warning(line)

    def to_json(self) -> str:
        """One line of JSON; ``from_json`` reads it."""
        return json.dumps(self, default=vars, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "LoadReport":
        """Read what ``to_json`` wrote."""
        record: dict[str, Any] = json.loads(text)
        report = cls({}, Counter(record["ignored_keys"]), Counter(record["bad_captions"]))
        for split, parts in record["parts"].items():
            report.parts[split] = {}
            for lang, part in parts.items():
                report.part(split, lang).add(ReportPart(**part))
        return report

    def describe(self) -> str:
        """The text for ``DatasetInfo.description``, the one place that the cache, ``select``, ``map`` and
        ``save_to_disk`` all keep."""
        return f"{_MARK}{self.to_json()}"


def load_report(dataset: Dataset | DatasetDict | IterableDataset | IterableDatasetDict) -> LoadReport:
    """The report of a dataset from ``load``, also after ``select``, ``map``, ``filter`` or ``save_to_disk``.

    It describes the rows as they were loaded, whatever was done to them since. ``ValueError`` if there is none.
    """
    one = next(iter(dataset.values()), None) if isinstance(dataset, dict) else dataset
    description = (one.info.description or "") if one is not None else ""
    if _MARK in description:
        return LoadReport.from_json(description.partition(_MARK)[2])
    raise ValueError("The dataset carries no load report: expected one that dataset_script.load returned.")


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name}: {number}" for name, number in counter.most_common())


def _some(names: Iterable[str]) -> str:
    names = list(names)
    rest = len(names) - MAX_EXAMPLES
    return ", ".join(names[:MAX_EXAMPLES]) + (f" and {rest} more" if rest > 0 else "")
