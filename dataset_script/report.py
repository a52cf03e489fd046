"""What became of the rows and images of a dataset while it was loaded: counts, and the names behind them."""

import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

logger = logging.getLogger(__name__)

MAX_EXAMPLES = 5
"""Names or messages quoted in a warning, and messages kept in a part; names and counts are kept in full."""

_MARK = "load_report="


@dataclass
class ReportPart:
    """Counts over some rows: those of one language in one split, or a sum of such parts.

    Attributes:
        rows: rows loaded.
        images: of them, rows with an image that opens.
        without_image: of them, rows for which the source names no image.
        missing: image name -> rows whose image file was not there.
        unreadable: image name -> rows whose image file did not open.
        causes: image name -> why it did not open.
        empty_sentences: rows of no token, loaded as they are.
        without_caption: rows with an image name that the captions file does not have.
        repaired_tags: I-X tags that began an entity and were read as B-X (``iob2="repair"``).
        skipped: reason -> rows left out (``errors="skip"``).
        repair_examples, skip_examples: the first messages behind these two.
    """

    rows: int = 0
    images: int = 0
    without_image: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    causes: dict[str, str] = field(default_factory=dict)
    empty_sentences: int = 0
    without_caption: int = 0
    repaired_tags: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    repair_examples: list[str] = field(default_factory=list)
    skip_examples: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Plain dictionaries when read back from JSON.
        for name in ("missing", "unreadable", "skipped"):
            setattr(self, name, Counter(getattr(self, name)))

    @property
    def missing_rows(self) -> int:
        """Rows whose image file was not there."""
        return self.missing.total()

    @property
    def unreadable_rows(self) -> int:
        """Rows whose image file did not open."""
        return self.unreadable.total()

    def skip(self, reason: str, message: str) -> None:
        """Count a row left out, and keep the message while there are few."""
        self.skipped[reason] += 1
        if len(self.skip_examples) < MAX_EXAMPLES:
            self.skip_examples.append(message)

    def repair(self, message: str) -> None:
        """Count a tag repaired, and keep the message while there are few."""
        self.repaired_tags += 1
        if len(self.repair_examples) < MAX_EXAMPLES:
            self.repair_examples.append(message)

    def warnings(self) -> list[str]:
        """A line for each kind of loss or change; none when everything was loaded as it stands."""
        lines = []
        if self.missing:
            lines.append(
                f"{len(self.missing)} images of {self.missing_rows} rows are missing, these rows have no image: "
                f"{_some(self.missing)}"
            )
        if self.unreadable:
            quoted = _some([f"{name} ({self.causes[name]})" for name in self.unreadable])
            lines.append(
                f"{len(self.unreadable)} images of {self.unreadable_rows} rows do not open, these rows have no image: "
                f"{quoted}"
            )
        if self.empty_sentences:
            lines.append(f"{self.empty_sentences} rows have no tokens")
        if self.without_caption:
            lines.append(f"{self.without_caption} rows name an image for which the captions file has no line")
        if self.repaired_tags:
            lines.append(
                f"{self.repaired_tags} I- tags begin an entity, which is not IOB2, and were read as B-, for example "
                f"{self.repair_examples[0]}"
            )
        if self.skipped:
            reasons = ", ".join(f"{reason}: {number}" for reason, number in self.skipped.most_common())
            lines.append(f"{self.skipped.total()} rows were left out ({reasons}), for example {self.skip_examples[0]}")
        return lines


@dataclass
class LoadReport:
    """The parts by split and language, and what concerns the folder as a whole.

    A split of no rows is here, with no rows, but not in the dataset: ``datasets`` cannot hold it.

    Attributes:
        parts: split -> language -> ``ReportPart``. Rows left out before their language was known are under ``"?"``.
        ignored_keys: keys of the source rows that no column takes -> rows that have them.
        bad_captions: reason -> lines of the captions file left out (``errors="skip"``).
    """

    parts: dict[str, dict[str, ReportPart]] = field(default_factory=dict)
    ignored_keys: Counter[str] = field(default_factory=Counter)
    bad_captions: Counter[str] = field(default_factory=Counter)

    def part(self, split: str, lang: str) -> ReportPart:
        """The part of a split and language, made if there is none."""
        return self.parts.setdefault(split, {}).setdefault(lang, ReportPart())

    def total(self, split: str | None = None, lang: str | None = None) -> ReportPart:
        """The sum over a split, a language, or everything."""
        total = ReportPart()
        for split_name, parts in self.parts.items():
            for part_lang, part in parts.items():
                if split in (None, split_name) and lang in (None, part_lang):
                    _add(total, part)
        return total

    def only(self, languages: Iterable[str]) -> "LoadReport":
        """The report without the other languages."""
        keep = {*languages, "?"}
        parts = {
            split: {lang: part for lang, part in parts.items() if lang in keep} for split, parts in self.parts.items()
        }
        return LoadReport(parts, self.ignored_keys, self.bad_captions)

    def warnings(self) -> list[str]:
        """A line for each split and kind of loss or change."""
        lines = [f"{split}: {line}" for split in self.parts for line in self.total(split).warnings()]
        lines += [f"{split}: no rows, so there is no such split" for split in self.parts if not self.total(split).rows]
        if self.ignored_keys:
            keys = ", ".join(f"{key} ({number} rows)" for key, number in self.ignored_keys.items())
            lines.append(f"keys that no column takes were ignored: {keys}")
        if self.bad_captions:
            reasons = ", ".join(f"{reason}: {number}" for reason, number in self.bad_captions.items())
            lines.append(f"{self.bad_captions.total()} lines of the captions file were left out ({reasons})")
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
        parts = {
            split: {lang: ReportPart(**part) for lang, part in parts.items()}
            for split, parts in record["parts"].items()
        }
        return cls(parts, Counter(record["ignored_keys"]), Counter(record["bad_captions"]))

    def describe(self) -> str:
        """The text for ``DatasetInfo.description``: a sentence to read, then the report for ``load_report``.

        The description is the one place that the cache, ``select``, ``map`` and ``save_to_disk`` all carry along.
        """
        total = self.total()
        splits = ", ".join(f"{split} {self.total(split).rows}" for split in self.parts)
        return (
            f"Rows: {splits}. Images: {total.images} rows with one, {total.without_image} without, "
            f"{total.missing_rows} missing, {total.unreadable_rows} unreadable.\n{_MARK}{self.to_json()}"
        )


def load_report(dataset: Dataset | DatasetDict | IterableDataset | IterableDatasetDict) -> LoadReport:
    """The report of a dataset from ``load``, also after ``select``, ``map``, ``filter`` or ``save_to_disk``.

    It tells of the rows as they were loaded, whatever was done to them since.

    Raises:
        ValueError: the dataset carries no report.
    """
    one = next(iter(dataset.values()), None) if isinstance(dataset, dict) else dataset
    description = one.info.description if one is not None else ""
    for line in (description or "").split("\n"):
        if line.startswith(_MARK):
            return LoadReport.from_json(line.removeprefix(_MARK))
    raise ValueError("The dataset carries no load report: expected one that dataset_script.load returned.")


def _add(total: ReportPart, part: ReportPart) -> None:
    for name in ("rows", "images", "without_image", "empty_sentences", "without_caption", "repaired_tags"):
        setattr(total, name, getattr(total, name) + getattr(part, name))
    for name in ("missing", "unreadable", "skipped", "causes"):
        getattr(total, name).update(getattr(part, name))
    for name in ("repair_examples", "skip_examples"):
        setattr(total, name, (getattr(total, name) + getattr(part, name))[:MAX_EXAMPLES])


def _some(names: Iterable[str]) -> str:
    names = list(names)
    rest = len(names) - MAX_EXAMPLES
    return ", ".join(names[:MAX_EXAMPLES]) + (f" and {rest} more" if rest > 0 else "")
