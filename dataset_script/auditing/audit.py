"""Look for what makes the scores on a dataset worthless: sentences or pictures that splits share, within it or across
two; tags that break IOB2; pictures that do not open; pictures whose look alone gives the labels away."""

import argparse
import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..building import similarity
from ..files import claim
from ..rows import LANGUAGES, SPLIT_FILES, iob2_spans
from .image_kinds import Predictability, told_by_look, told_by_memory
from .images import NO_PICTURE, AuditedPictures
from .overlap import Occurrences, Overlap, overlaps
from .report import FINE, LEAK, NOTE, WARNING, AuditReport, PartCounts, Verdict
from .rows import AuditedFolder, AuditRow
from .tables import markdown

logger = logging.getLogger(__name__)

MAX_QUOTED_WORDS = 12
MAX_QUOTED_NAMES = 5
RELATIONS = ("depicts", "unrelated")


def audit(
    folder_a: str | Path,
    folder_b: str | Path | None = None,
    *,
    lang: str | None = None,
    image_folders: Sequence[str | Path | None] = (None, None),
    tag_column: int | None = None,
    near_duplicate: float = 0.8,
    image_distance: int = 6,
    max_images: int = 2000,
    seed: int = 0,
) -> AuditReport:
    """Audit a dataset, or two and what they share.

    Memory holds some bytes a row and a picture, and the look of ``max_images`` pictures a dataset.

    Args:
        folder_a, folder_b: in any format that the readers know.
        lang: the language of rows that do not say theirs.
        image_folders: where the pictures of each lie, if not where the readers look.
        tag_column: of files in columns, as that of ``dataset_script.load``.
        near_duplicate: the Jaccard similarity of word pairs from which sentences are nearly the same.
        image_distance: the bits of 64 in which the perceptual hashes of nearly the same pictures may differ.
        max_images: pictures of each dataset, drawn at random, whose look is examined.
        seed: of that sample, of folds and clusters.

    Raises:
        FileNotFoundError: a folder is not there, or holds no dataset.
        ValueError: an option makes no sense.
    """
    if lang is not None and lang not in LANGUAGES:
        raise ValueError(f"lang is {lang!r}; expected one of {', '.join(LANGUAGES)}.")
    if max_images < 0:
        raise ValueError(f"max_images is {max_images}; expected a number of pictures, 0 or more.")
    given = [Path(folder) for folder in (folder_a, folder_b) if folder is not None]
    roots = [Path(root) if root else None for root in (*image_folders, None, None)]
    named = [
        AuditedFolder(folder, name, lang, root, tag_column)
        for folder, name, root in zip(given, _names(given), roots, strict=False)
    ]
    scan = _Scan(named, AuditedPictures(len(named), max_images, seed))
    pairs = list(similarity.near_duplicate_sentences(scan.sentences(), near_duplicate))
    logger.info("%d rows, %d pictures", len(scan.part), len(scan.pictures))
    near_pictures = list(similarity.near_duplicate_images(scan.pictures.hashes.items(), image_distance))
    found = overlaps("sentences", scan.sentence_occurrences(pairs))
    found += overlaps("pictures", scan.picture_occurrences(near_pictures))
    _quote(found, named)
    groups = similarity.groups(near_pictures)
    options = {
        "near_duplicate": near_duplicate,
        "image_distance": image_distance,
        "max_images": max_images,
        "seed": seed,
    }
    report = AuditReport(
        [one.name for one in named],
        scan.parts,
        list(scan.counts.values()),
        found,
        {one.name: missing.total() for one, missing in zip(named, scan.pictures.missing, strict=True)},
        {one.name: problems for one, problems in zip(named, scan.pictures.problems, strict=True)},
        _predictability(scan, groups, seed),
        options,
    )
    report.verdicts = list(_verdicts(report))
    return report


class _Scan:
    """One pass over all rows, and what is kept of them."""

    def __init__(self, folders: Sequence[AuditedFolder], pictures: AuditedPictures):
        self.folders, self.pictures = folders, pictures
        self.parts: list[str] = []
        self.dataset_of_part: list[int] = []
        self.counts: dict[tuple[str, str], PartCounts] = {}
        self.part, self.picture, self.comparable = array("b"), array("q"), array("b")
        # Labels beside pictures: part, picture, class.
        self.labels = {"entity type": array("q"), "relation": array("q")}
        self.classes: dict[str, dict[str, int]] = {target: {} for target in self.labels}

    def sentences(self) -> Iterator[tuple[int, list[str]]]:
        """The sentences to compare, by the numbers of their rows; counts all rows on the way."""
        for dataset, folder in enumerate(self.folders):
            for row in folder.rows():
                self._take(row, dataset, folder.name)
                if self.comparable[-1]:
                    yield len(self.part) - 1, row.tokens

    def sentence_occurrences(self, pairs: Iterable[tuple[int, int, float]]) -> Occurrences:
        pairs = list(pairs)
        same = similarity.groups(pair for pair in pairs if pair[2] == 1)
        thing = np.where(np.frombuffer(self.comparable, np.int8), np.arange(len(self.part)), -1)
        for row, first in same.items():
            thing[row] = first
        near = [(int(thing[one]), int(thing[other])) for one, other, measure in pairs if measure < 1]
        return Occurrences(thing, np.frombuffer(self.part, np.int8), self.parts, near)

    def picture_occurrences(self, near: Iterable[tuple[int, int, int]]) -> Occurrences:
        thing = np.frombuffer(self.picture, np.int64)
        pairs = [(one, other) for one, other, _ in near]
        return Occurrences(thing, np.frombuffer(self.part, np.int8), self.parts, pairs)

    def label_counts(self, target: str, numbers: np.ndarray, parts: Sequence[int]) -> np.ndarray:
        """(things, classes) how often pictures stand beside each label in ``parts``, the labels sorted; ``numbers``
        maps pictures to things."""
        triples = np.frombuffer(self.labels[target], np.int64).reshape(-1, 3)
        triples = triples[np.isin(triples[:, 0], parts)]
        table = np.zeros((int(numbers.max(initial=-1)) + 1, len(self.classes[target])), int)
        np.add.at(table, (numbers[triples[:, 1]], triples[:, 2]), 1)
        return table[:, [self.classes[target][label] for label in sorted(self.classes[target])]]

    def _take(self, row: AuditRow, dataset: int, name: str) -> None:
        part = f"{name}/{row.split}"
        if part not in self.parts:
            self.parts.append(part)
            self.dataset_of_part.append(dataset)
        counts = self.counts.setdefault((part, row.lang), PartCounts(part, row.lang))
        number = self.parts.index(part)
        self.part.append(number)
        self.comparable.append(row.problem is None and bool(row.tokens))
        if row.problem is not None:
            counts.malformed[row.problem] += 1
            self.picture.append(NO_PICTURE)
            return
        picture = self.pictures.look_at(row, dataset)
        self.picture.append(picture)
        counts.rows += 1
        counts.tokens += len(row.tokens)
        counts.slips += row.slips
        counts.slip_rows += row.slips > 0
        counts.named += picture != NO_PICTURE
        counts.opened += picture in self.pictures.opened[dataset]
        if row.relation:
            counts.relations[row.relation] += 1
        types = [kind for _, _, kind in iob2_spans(row.tags)]
        counts.entities.update(types)
        counts.without_entity += not types
        if picture != NO_PICTURE:
            self._label("entity type", number, picture, types)
            self._label("relation", number, picture, [row.relation] if row.relation in RELATIONS else [])

    def _label(self, target: str, part: int, picture: int, labels: Iterable[str]) -> None:
        classes = self.classes[target]
        for label in labels:
            self.labels[target].extend((part, picture, classes.setdefault(label, len(classes))))


def _names(folders: Sequence[Path]) -> list[str]:
    names = [folder.expanduser().resolve().name for folder in folders]
    return (
        names
        if len(set(names)) == len(names)
        else [f"{letter}:{name}" for letter, name in zip("AB", names, strict=True)]
    )


def _quote(found: Iterable[Overlap], folders: Iterable[AuditedFolder]) -> None:
    """Put the examples of overlaps into words, in a second pass over the rows."""
    wanted = {row for overlap in found for pair in overlap.pairs for row in pair}
    quoted: dict[int, AuditRow] = {}
    rows = (row for folder in folders for row in folder.rows(pictures=False)) if wanted else ()
    for number, row in enumerate(rows):
        if number in wanted:
            quoted[number] = row
    for overlap in found:
        for pair in overlap.pairs:
            mine, theirs = (_in_words(overlap.kind, quoted[row]) for row in pair)
            overlap.examples.append(f"{mine} | {theirs}")


def _in_words(kind: str, row: AuditRow) -> str:
    if kind == "pictures":
        return f"{row.id}: {row.image or 'a picture'}"
    more = " ..." if len(row.tokens) > MAX_QUOTED_WORDS else ""
    return f"{row.id}: {' '.join(row.tokens[:MAX_QUOTED_WORDS])}{more}"


def _predictability(scan: _Scan, groups: dict[int, int], seed: int) -> list[Predictability]:
    """What pictures alone tell: by their look within each dataset, and by having been seen in a training set."""
    found = []
    own = np.arange(len(scan.pictures))
    group = np.array([groups.get(number, number) for number in range(len(own))], int)
    for target in scan.classes:
        classes = sorted(scan.classes[target])
        for dataset, folder in enumerate(scan.folders):
            numbers, look = scan.pictures.samples[dataset].features()
            parts = [part for part, of in enumerate(scan.dataset_of_part) if of == dataset]
            counts = scan.label_counts(target, own, parts)
            told = told_by_look(target, folder.name, classes, look, counts[numbers], group[numbers], seed)
            if told:
                found.append(told)
        for train, train_name in enumerate(scan.parts):
            for test, test_name in enumerate(scan.parts):
                if _split(train_name) != "train" or _split(test_name) == "train":
                    continue
                seen, asked = (scan.label_counts(target, group, [part]) for part in (train, test))
                told = told_by_memory(target, f"{train_name} -> {test_name}", classes, seen, asked)
                if told and len(classes) > 1:
                    found.append(told)
    return found


def _split(part: str) -> str:
    return part.rpartition("/")[2]


def _order(part: str) -> int:
    split = _split(part)
    return list(SPLIT_FILES).index(split) if split in SPLIT_FILES else len(SPLIT_FILES)


def _verdicts(report: AuditReport) -> Iterator[Verdict]:
    leaking = 0
    with_files = {name for name in report.datasets if sum(c.opened for c in report.counts if _of(c.part) == name)}
    for overlap in report.overlaps:
        by_name = overlap.kind == "pictures" and not {_of(overlap.part), _of(overlap.other)} <= with_files
        one = overlap.kind.removesuffix("s")
        what = _number(overlap.things, "image named" if by_name else one, "images named" if by_name else overlap.kind)
        rows = f"{overlap.shared} of {overlap.rows} rows, {overlap.shared / overlap.rows:.1%}"
        occur = "occurs" if overlap.things == 1 else "occur"
        nearly = f", {overlap.near} of them nearly the same" if overlap.near else ""
        if _order(overlap.other) < _order(overlap.part):
            leaking += 1
            yield Verdict(LEAK, f"{what} in {overlap.part} {occur} in {overlap.other} ({rows}{nearly}).")
        elif overlap.part == overlap.other and overlap.kind == "sentences":
            yield Verdict(NOTE, f"{what} {occur} more than once in {overlap.part} ({rows}{nearly}).")
        elif _order(overlap.other) == _order(overlap.part) and overlap.part < overlap.other:
            yield Verdict(NOTE, f"{what} in {overlap.part} {occur} in {overlap.other} as well ({rows}{nearly}).")
    if not leaking:
        yield Verdict(FINE, "No sentence and no picture of a test or validation set occurs in what comes before it.")
    for told in report.predictability:
        yield _judge(told)
    for name in report.datasets:
        mine = [counts for counts in report.counts if _of(counts.part) == name]
        yield from _tag_verdicts(name, mine)
        yield from _picture_verdicts(name, mine, report)


def _number(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _of(part: str) -> str:
    return part.rpartition("/")[0]


def _judge(told: Predictability) -> Verdict:
    what = "the type of an entity" if told.target == "entity type" else "whether a picture depicts or is unrelated"
    how = "The look of the picture alone" if told.how == "look" else "The picture as training had it"
    score = f"{told.accuracy:.1%} right, the most frequent label {told.majority:.1%}, of {told.labels} labels"
    if told.tells:
        text = f"{how} tells {what} in {told.where}: {score}. A model can score without reading the sentence."
        return Verdict(WARNING, text)
    return Verdict(FINE, f"{how} hardly tells {what} in {told.where}: {score}.")


def _tag_verdicts(name: str, counts: list[PartCounts]) -> Iterator[Verdict]:
    slips, rows = sum(part.slips for part in counts), sum(part.slip_rows for part in counts)
    if slips:
        share = rows / max(1, sum(part.rows for part in counts))
        text = f"{slips} tags of {name} break IOB2: an I-X begins an entity ({rows} rows, {share:.1%})."
        yield Verdict(WARNING, text)
    malformed = sum((part.malformed for part in counts), Counter())
    if malformed:
        reasons = ", ".join(f"{reason} {number}" for reason, number in malformed.most_common())
        yield Verdict(WARNING, f"{malformed.total()} rows of {name} are malformed and were left out: {reasons}.")
    if not slips and not malformed:
        yield Verdict(FINE, f"All rows of {name} are well-formed IOB2.")


def _picture_verdicts(name: str, counts: list[PartCounts], report: AuditReport) -> Iterator[Verdict]:
    named, opened = sum(part.named for part in counts), sum(part.opened for part in counts)
    missing, unreadable = report.missing[name], report.unreadable[name]
    if missing:
        yield Verdict(WARNING, f"{missing} of the {named} rows of {name} that name a picture have no file.")
    if unreadable:
        some = ", ".join([*unreadable][:MAX_QUOTED_NAMES]) + (" ..." if len(unreadable) > MAX_QUOTED_NAMES else "")
        yield Verdict(WARNING, f"{len(unreadable)} pictures of {name} do not open: {some}.")
    if named and not missing and not unreadable:
        yield Verdict(FINE, f"All pictures of {name} open ({opened} rows).")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m dataset_script audit``."""
    parser.add_argument("folder_a", metavar="A", help="folder of a dataset")
    parser.add_argument("folder_b", metavar="B", nargs="?", help="another, to compare")
    parser.add_argument("--output_dir", type=Path, help="write audit.json, audit.md and plots there")
    parser.add_argument("--lang", choices=LANGUAGES, help="language of rows that do not say theirs")
    parser.add_argument("--image_folder", nargs="+", default=[], help="of the pictures of A, and of B")
    parser.add_argument("--tag_column", type=int, metavar="N", help="of files in columns: that of the tags (-1: last)")
    parser.add_argument("--near_duplicate", type=float, default=0.8, help="Jaccard of word pairs (%(default)s)")
    parser.add_argument("--image_distance", type=int, default=6, help="of 64 bits (%(default)s)")
    parser.add_argument("--max_images", type=int, default=2000, help="whose look is examined (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a leak is found")


def run(arguments: argparse.Namespace) -> int:
    """Audit, print the report, and write it if asked to."""
    if len(arguments.image_folder) > 2:
        raise ValueError(f"--image_folder came {len(arguments.image_folder)} times; expected one for A, one for B.")
    if arguments.output_dir is not None:
        claim(arguments.output_dir, "audit")
    report = audit(
        arguments.folder_a,
        arguments.folder_b,
        lang=arguments.lang,
        image_folders=arguments.image_folder,
        tag_column=arguments.tag_column,
        near_duplicate=arguments.near_duplicate,
        image_distance=arguments.image_distance,
        max_images=arguments.max_images,
        seed=arguments.seed,
    )
    text = markdown(report)
    if arguments.output_dir is not None:
        from .plots import plot  # matplotlib takes a second to load, and most runs do not need it

        names = plot(report, arguments.output_dir)
        pictures = "".join(f"\n![{name.removesuffix('.png').replace('_', ' ')}]({name})\n" for name in names)
        (arguments.output_dir / "audit.json").write_text(report.to_json() + "\n", encoding="utf-8")
        (arguments.output_dir / "audit.md").write_text(text + pictures, encoding="utf-8")
    print(text, end="")
    return int(arguments.strict and report.leaks)
