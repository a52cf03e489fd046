"""Look for what makes the scores on a dataset worthless: sentences or images that splits share, within it or across
two; tags that break IOB2; images that do not open; images that alone predict the labels."""

import argparse
import hashlib
import json
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import jinja2
import numpy as np

from ..building import similarity
from ..files import claim, regular
from ..formats.readers import rows_with_images
from ..images import IMAGE_SUFFIXES, open_image
from ..publishing.markdown import text
from ..report import LoadReport
from ..rows import Row, iob2_spans, split_order
from .image_kinds import Predictability, features, predictability
from .overlap import Overlap, overlaps

logger = logging.getLogger(__name__)

LEAK, WARNING, NOTE, FINE = "LEAK", "WARNING", "NOTE", "FINE"
TEMPLATE = Path(__file__).with_name("audit_report.md")
MAX_IMAGES = 2000
"""Images of each dataset, drawn at random, whose look is examined."""
MAX_QUOTED_WORDS = 12
MAX_QUOTED_NAMES = 5


@dataclass
class PartCounts:
    """What the rows of one language in one part (a split of a dataset) hold."""

    part: str  # as ``A/test``
    lang: str
    rows: int = 0  # well-formed ones
    tokens: int = 0
    without_entity: int = 0
    entities: Counter[str] = field(default_factory=Counter)  # type -> number
    named: int = 0  # rows that name an image
    opened: int = 0  # rows whose image opens
    slips: int = 0  # tags I-X that begin an entity, which IOB2 does not allow
    malformed: Counter[str] = field(default_factory=Counter)  # reason -> rows that cannot be used


@dataclass(frozen=True)
class Finding:
    """``level`` is ``LEAK``, ``WARNING``, ``NOTE`` or ``FINE``."""

    level: str
    text: str


@dataclass
class AuditReport:
    """What an audit found."""

    datasets: list[str]  # the names of the folders
    parts: list[str]  # their splits, as ``A/test``
    counts: list[PartCounts]  # by part and language
    overlaps: list[Overlap]  # of sentences, and of images
    missing: dict[str, int]  # dataset -> rows whose image file is absent
    unreadable: dict[str, dict[str, str]]  # dataset -> image name -> why it does not open
    predictability: list[Predictability]  # of entity types and of relations, from images alone
    findings: list[Finding] = field(default_factory=list)

    def to_json(self) -> str:
        """Everything, as one JSON object."""
        return json.dumps(self, default=vars, ensure_ascii=False, indent=1)


def audit(
    folder_a: str | Path,
    folder_b: str | Path | None = None,
    *,
    lang: str | None = None,
    image_folders: Sequence[str | Path | None] = (),
    tags_column: int | str | None = None,
) -> AuditReport:
    """Audit a dataset, or two and what they share.

    Args:
        folder_a, folder_b: in any format that the readers know.
        lang, tags_column: as those of ``dataset_script.load``.
        image_folders: where the images of each lie, if not where the readers look.

    Raises:
        FileNotFoundError: a folder is not there, or holds no dataset.
        ValueError: a folder has no rows, or an option makes no sense.
    """
    folders = [Path(folder).expanduser() for folder in (folder_a, folder_b) if folder is not None]
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{letter}:{name}" for letter, name in zip("AB", names, strict=True)]
    scan = _Scan()
    for name, folder, root in zip(names, folders, (*image_folders, None, None), strict=False):
        scan.add(name, folder, lang=lang, image_folder=root, tags_column=tags_column)
    sentence_pairs = list(similarity.near_duplicate_sentences(scan.sentences.items()))
    logger.info("%d rows, %d images that open", len(scan.rows), len(scan.images.hashes))
    image_pairs = list(similarity.near_duplicate_images(scan.images.hashes.items()))
    report = AuditReport(
        names,
        scan.parts,
        sorted(scan.counts.values(), key=lambda one: scan.parts.index(one.part)),
        scan.overlaps(sentence_pairs, image_pairs),
        {name: scan.images.missing[name] for name in names},
        {name: scan.images.unreadable[name] for name in names},
        list(scan.predictability(names, similarity.groups(image_pairs))),
    )
    report.findings = list(_findings(report))
    return report


def markdown(report: AuditReport) -> str:
    """The report for people: what was found in words first, then the tables."""
    before = {part: number for number, part in enumerate(report.parts)}
    template = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), trim_blocks=True, keep_trailing_newline=True)
    return template.render(
        report=report,
        types=sorted({kind for one in report.counts for kind in one.entities}),
        overlaps=[one for one in report.overlaps if before[one.other] <= before[one.part]],
        near_duplicate=similarity.NEAR_DUPLICATE,
        image_distance=similarity.IMAGE_DISTANCE,
        text=text,
    )


class _Row(NamedTuple):
    part: str
    id: str
    words: str
    image_name: str | None
    image: str | None
    labels: dict[str, list[str]]
    """Target of prediction -> labels."""


class _Images:
    """Which image each row has. An image is known by its bytes, or by its name where no file is there."""

    def __init__(self) -> None:
        self.hashes: dict[str, int] = {}
        """Of those that open: key -> perceptual hash."""
        self.features: dict[str, np.ndarray] = {}
        self.missing: Counter[str] = Counter()
        self.unreadable: dict[str, dict[str, str]] = defaultdict(dict)
        self._problems: dict[str, str] = {}
        self._by_path: dict[Path, str] = {}
        self._by_name: dict[str, str] = {}

    def key(self, row: Row, image: Path | bytes | None, dataset: str) -> str | None:
        """The image of a row: the digest of its bytes, its name where no file is there, or ``None``."""
        if row.image is None:
            return None
        if image is None:
            self.missing[dataset] += 1
            return _stem(row.image)
        key = self._by_path.get(image) if isinstance(image, Path) else None
        if key is None:
            data = regular(image).read_bytes() if isinstance(image, Path) else image
            key = hashlib.sha256(data).hexdigest()
            if isinstance(image, Path):
                self._by_path[image] = key
            if key not in self.hashes and key not in self._problems:
                try:
                    opened = open_image(data)
                    self.hashes[key], self.features[key] = similarity.image_hash(opened), features(opened)
                except OSError as error:
                    self._problems[key] = str(error)
        if key in self._problems:
            self.unreadable[dataset][row.image] = self._problems[key]
        self._by_name.setdefault(_stem(row.image), key)
        return key

    def resolve(self, key: str | None) -> str | None:
        """The image of that name where another row has its file; call it after all rows."""
        return self._by_name.get(key, key) if key else None


class _Scan:
    """One pass over all rows, and what is kept of them."""

    def __init__(self) -> None:
        self.images = _Images()
        self.rows: list[_Row] = []
        self.sentences: dict[int, list[str]] = {}
        """Those to compare, by the numbers of their rows."""
        self.counts: dict[tuple[str, str], PartCounts] = {}

    @property
    def parts(self) -> list[str]:
        """The names of the parts."""
        return list(dict.fromkeys(part for part, _ in self.counts))

    def add(self, dataset: str, folder: Path, **options: Any) -> None:
        """Take in the rows of a folder."""
        report = LoadReport()
        for split, row, image in rows_with_images(folder, report, **options):
            if row.tokens:
                self.sentences[len(self.rows)] = row.tokens
            self.rows.append(self._take(row, image, f"{dataset}/{split}", dataset))
        for split, parts in report.parts.items():
            for lang, part in parts.items():
                counts = self._counts(f"{dataset}/{split}", lang)
                counts.slips, counts.malformed = part.repaired_tags, part.skipped
        self.rows = [row._replace(image=self.images.resolve(row.image)) for row in self.rows]

    def overlaps(
        self, sentence_pairs: Sequence[tuple[int, int, float]], image_pairs: Sequence[tuple[str, str, int]]
    ) -> list[Overlap]:
        """Of sentences and of images, with examples in words."""
        parts = [row.part for row in self.rows]
        same = similarity.groups(pair for pair in sentence_pairs if pair[2] == 1)
        sentences = [same.get(number, number) if row.words else None for number, row in enumerate(self.rows)]
        near = [(sentences[one], sentences[other]) for one, other, measure in sentence_pairs if measure < 1]
        found = overlaps("sentences", sentences, parts, near)
        images = [row.image for row in self.rows]
        found += overlaps("images", images, parts, [(one, other) for one, other, _ in image_pairs])
        for overlap in found:
            for pair in overlap.pairs:
                rows = [self.rows[number] for number in pair]
                shown = [f"{row.id}: {row.words if overlap.kind == 'sentences' else row.image_name}" for row in rows]
                overlap.examples.append(" | ".join(shown))
        return found

    def predictability(self, datasets: Sequence[str], groups: Mapping[str, str]) -> Iterator[Predictability]:
        """What the look of images predicts in each dataset; images of a group are nearly the same."""
        for target in ("entity type", "relation"):
            for dataset in datasets:
                labels: dict[str, Counter[str]] = defaultdict(Counter)
                for row in self.rows:
                    if row.image in self.images.features and row.part.rpartition("/")[0] == dataset:
                        labels[row.image].update(row.labels[target])
                images = sorted(image for image, mine in labels.items() if mine)
                images = random.Random(0).sample(images, min(MAX_IMAGES, len(images)))
                look = [self.images.features[image] for image in images]
                same = [groups.get(image, image) for image in images]
                if found := predictability(target, dataset, look, [labels[image] for image in images], same):
                    yield found

    def _counts(self, part: str, lang: str) -> PartCounts:
        return self.counts.setdefault((part, lang), PartCounts(part, lang))

    def _take(self, row: Row, file: Path | bytes | None, part: str, dataset: str) -> _Row:
        counts = self._counts(part, str(row.lang))
        image = self.images.key(row, file, dataset)
        types = [kind for _, _, kind in iob2_spans(row.tags)]
        counts.rows += 1
        counts.tokens += len(row.tokens)
        counts.entities.update(types)
        counts.without_entity += not types
        counts.named += image is not None
        counts.opened += image in self.images.hashes
        more = " ..." if len(row.tokens) > MAX_QUOTED_WORDS else ""
        words = " ".join(row.tokens[:MAX_QUOTED_WORDS]) + more
        relation = [row.image_relation] if row.image_relation in ("depicts", "unrelated") else []
        return _Row(part, row.id, words, row.image, image, {"entity type": types, "relation": relation})


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix in (*IMAGE_SUFFIXES, ".*") else name


def _findings(report: AuditReport) -> Iterator[Finding]:
    yield from _overlap_findings(report)
    for one in report.predictability:
        what = "the type of an entity" if one.target == "entity type" else "whether an image depicts or is unrelated"
        score = f"{one.accuracy:.1%} right, the most frequent label {one.majority:.1%}, of {one.labels} labels"
        found = f"The look of the image {'' if one.predicts else 'hardly '}predicts {what} in {one.dataset}: {score}."
        yield Finding(WARNING, f"{found} A model can score without reading.") if one.predicts else Finding(FINE, found)
    for name in report.datasets:
        counts = [one for one in report.counts if one.part.rpartition("/")[0] == name]
        slips, named = sum(one.slips for one in counts), sum(one.named for one in counts)
        malformed = sum((one.malformed for one in counts), Counter())
        missing, unreadable = report.missing[name], list(report.unreadable[name])
        if slips:
            yield Finding(WARNING, f"{slips} tags of {name} break IOB2: an I-X begins an entity.")
        if malformed:
            reasons = ", ".join(f"{reason} {number}" for reason, number in malformed.most_common())
            yield Finding(WARNING, f"{malformed.total()} rows of {name} are malformed and were left out: {reasons}.")
        if not slips and not malformed:
            yield Finding(FINE, f"All rows of {name} are well-formed IOB2.")
        if missing:
            yield Finding(WARNING, f"{missing} of the {named} rows of {name} that name an image have no file.")
        if unreadable:
            some = ", ".join(unreadable[:MAX_QUOTED_NAMES]) + (" ..." if len(unreadable) > MAX_QUOTED_NAMES else "")
            yield Finding(WARNING, f"Images of {name} that do not open, {len(unreadable)}: {some}.")
        if named and not missing and not unreadable:
            yield Finding(FINE, f"All images of {name} open ({named} rows).")


def _overlap_findings(report: AuditReport) -> Iterator[Finding]:
    leaking = False
    for one in report.overlaps:
        what = f"{one.items} {one.kind if one.items > 1 else one.kind.removesuffix('s')}"
        nearly = f", {one.near} of them nearly the same" if one.near else ""
        shared = one.exact + one.near
        rows = f"{shared} of {one.rows} rows, {shared / one.rows:.1%}{nearly}"
        mine, theirs = (split_order(part.rpartition("/")[2]) for part in (one.part, one.other))
        if theirs < mine:
            leaking = True
            yield Finding(LEAK, f"{what} of {one.part} in {one.other} ({rows}).")
        elif one.part == one.other and one.kind == "sentences":
            yield Finding(NOTE, f"{what} of {one.part} more than once ({rows}).")
        elif theirs == mine and one.part < one.other:
            yield Finding(NOTE, f"{what} of {one.part} in {one.other} as well ({rows}).")
    if not leaking:
        yield Finding(FINE, "No sentence and no image of a test or validation set occurs in what comes before it.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``mmner data audit``."""
    parser.add_argument("folder_a", metavar="A", help="folder of a dataset")
    parser.add_argument("folder_b", metavar="B", nargs="?", help="another, to compare")
    parser.add_argument("--output_dir", type=Path, help="write audit.json and audit.md there")
    parser.add_argument("--lang", metavar="CODE", help="language of rows that do not state theirs")
    parser.add_argument("--image_folder", nargs="+", default=[], help="of the images of A, and of B")
    parser.add_argument("--tags_column", metavar="COLUMN", help="that of the tags: a name or a number (-1: last)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a leak is found")


def run(arguments: argparse.Namespace) -> int:
    """Audit, print the report, and write it if asked to."""
    if len(arguments.image_folder) > 2:
        raise ValueError(f"--image_folder has {len(arguments.image_folder)} values; expected one for A, one for B.")
    output_dir = arguments.output_dir and arguments.output_dir.expanduser()
    if output_dir:
        claim(output_dir, "audit")
    report = audit(
        arguments.folder_a,
        arguments.folder_b,
        lang=arguments.lang,
        image_folders=arguments.image_folder,
        tags_column=arguments.tags_column,
    )
    shown = markdown(report)
    if output_dir:
        (output_dir / "audit.json").write_text(report.to_json() + "\n", encoding="utf-8")
        (output_dir / "audit.md").write_text(shown, encoding="utf-8")
    print(shown, end="")
    return int(arguments.strict and any(finding.level == LEAK for finding in report.findings))
