"""Construct an MMNER dataset: sentences of any source, images of a provider, splits that do not leak, one folder.

Memory holds the rows, but not their images. The same sources, images, options and seed give the same bytes.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace
from importlib.metadata import distributions
from itertools import chain, product
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ..files import DATASET, check_replaceable, regular, replacing, scratch
from ..formats.hub_sources import stated_facts
from ..formats.readers import read_source
from ..images import find_image_root
from ..mmner import features
from ..parquet import REPORT_FILE, ROWS_PER_GROUP, ShardWriter, is_parquet
from ..report import LoadReport
from ..rows import LANGUAGES
from . import pairing, similarity, splits
from .plan import FROM_SOURCE, UNKNOWN, Plan
from .providers import folder, urls
from .providers.base import ImageProvider
from .providers.fetching import Politeness
from .providers.folder import Folder, name_key
from .providers.own import Own
from .providers.wikimedia import Wikimedia
from .splits import SPLITS, Assignment
from .stage import Stage, StagedRow

logger = logging.getLogger(__name__)

PROVIDERS = ("folder", "wikimedia", "urls", "own", "none")
IMAGES_FILE = "pictures.jsonl"
BUILD_FILE = "build.json"
_VERSIONS = ("2m-ner", "datasets", "datasketch", "ImageHash", "numpy", "pillow", "pyarrow", "scipy")


def build(
    sources: Sequence[str | Path],
    output_dir: str | Path,
    provider: ImageProvider | None = None,
    plan: Plan | None = None,
    *,
    write_card: Callable[[Path], object],
    languages: Sequence[str] = LANGUAGES,
    workspace: str | Path | None = None,
    licences: Sequence[str] = (),
    source_options: dict[str, Any] | None = None,
) -> Path:
    """Build a dataset.

    Args:
        sources: folders in any format that ``readers`` knows, or names of datasets on the Hub.
        output_dir: new, empty, or a dataset that this package wrote and nobody added to (else ``FileExistsError``),
            which is replaced when the new one is complete.
        provider: of the images; none for a set of text. It is closed at the end.
        write_card: ``publishing.card.write_card``.
        languages: those of the rows to take.
        workspace: for temporary files; ``{output_dir}.work`` if left out.
        licences: of the sentences, one for each of ``sources``, where it is not one whose licence is known.
        source_options: of ``readers.read_source``: ``lang``, ``label_map``, ``errors``, ``iob2``, ``tags_column``.
    """
    provider, plan, options = provider or ImageProvider(), plan or Plan(), source_options or {}
    output_dir = Path(output_dir).expanduser().absolute()
    check_replaceable(output_dir.resolve(), DATASET, sources)
    if licences and len(licences) != len(sources):
        raise ValueError(f"--licences are {len(licences)} for {len(sources)} sources; expected one for each, or none.")
    work = _workspace(output_dir, workspace)
    work.mkdir(parents=True, exist_ok=True)
    report = LoadReport()
    with contextlib.ExitStack() as stack:
        stack.callback(provider.close)
        stage = Stage(stack.enter_context(scratch(work, "build")) / "images")
        described = []
        for source, name in zip(sources, source_names(sources), strict=True):
            rows = read_source(
                source, tuple(languages), report=report, with_images=isinstance(provider, Own), **options
            )
            counts = stage.add(rows, name)
            logger.info("%s: %s", name, ", ".join(f"{lang} {number}" for lang, number in counts.items()) or "no rows")
            facts = {"name": name, "rows": counts.total(), "languages": dict(sorted(counts.items()))}
            described.append(facts | stated_facts(str(source)))
        for facts, licence in zip(described, licences, strict=False):
            facts["licence"] = licence
        if not stage.rows:
            raise ValueError(f"{', '.join(map(str, sources))} have no rows in {', '.join(languages)}.")
        report.log()
        named = sum(row.image is not None for row in stage.rows)
        if named and not isinstance(provider, Own):
            message = "%d rows name an image of their own, which --provider %s does not take."
            logger.warning(message, named, provider.name)
        provider.prepare(stage)
        draft = _Draft(stage, provider, plan)
        record = {
            "options": {
                "provider": provider.name,
                "languages": [*languages],
                **{key: value for key, value in asdict(plan).items() if key != "seed"},
                **{key: _public(value) for key, value in options.items() if value is not None},
            },
            "seed": plan.seed,
            "sources": described,
            "counts": {
                "rows read": len(stage.rows),
                "rows written": int((draft.assignment.split >= 0).sum()),
                "frequent entities and images given a split of their own": draft.assignment.hubs,
                "provider": provider.counts,
                "pairing": dict(draft.pairs.counts),
                "images that do not open": draft.problems,
            },
            "left_out": {f"skipped: {reason}": number for reason, number in report.total().skipped.items()}
            | draft.assignment.left_out,
            "versions": {one.name: one.version for one in distributions() if one.name in _VERSIONS},
        }
        with replacing(output_dir, DATASET) as new:
            draft.write_rows(new, report)
            draft.write_images(new / IMAGES_FILE)
            (new / BUILD_FILE).write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
            write_card(new)
    return output_dir


def source_names(sources: Sequence[str | Path]) -> list[str]:
    """A name for each source that is no path of this machine, each different."""
    names = [Path(source).resolve().name if Path(source).exists() else str(source) for source in sources]
    for position, name in enumerate(names):
        others, number = {*names[:position], *names[position + 1 :]}, 1
        while names[position] in (names[:position] if number == 1 else others):
            number += 1
            names[position] = f"{name}-{number}"
    return names


class _Draft:
    """The images and splits of staged rows.

    Attributes:
        problems: image name -> why the image cannot be used.
    """

    def __init__(self, stage: Stage, provider: ImageProvider, plan: Plan):
        self.stage, self.provider, self.plan = stage, provider, plan
        self.problems: dict[str, str] = {}
        self._sha256: dict[str, str] = {}
        hashes: dict[str, int] = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            opened = pool.map(_opened, [image.path for image in provider.images.values()])
            for name, (problem, sha256, perceptual) in zip(provider.images, opened, strict=True):
                if problem:
                    self.problems[name] = problem
                else:
                    self._sha256[name], hashes[name] = sha256, perceptual
        near = similarity.near_duplicate_images(hashes.items())
        self._clusters = {name: name for name in hashes} | similarity.groups(near)
        self.pairs = pairing.draw_depicting(stage, provider, plan, list(hashes))
        self.assignment = self._split()
        if not provider.natural:
            pairing.draw_unrelated(stage, provider, plan.seed, self.pairs, self.assignment.split)

    def _split(self) -> Assignment:
        stage, plan, pairs = self.stage, self.plan, self.pairs
        near = similarity.near_duplicate_sentences((row.key, row.tokens) for row in stage.rows)
        together = np.array([(first, second) for first, second, _ in near], np.int64).reshape(-1, 2)
        images, _ = splits.numbered(self._clusters[name] for name in pairs.names)
        ties = self._entity_ties(images) if plan.entities_unseen else np.zeros((0, 2), np.int64)
        if not isinstance(plan.splits, str):
            # Where entities are told apart by their images, a row is tied to its image by what it names.
            if plan.images_unseen and (self.provider.natural or not plan.entities_unseen):
                rows = np.flatnonzero(pairs.image >= 0)
                first = int(ties[:, 1].max()) + 1 if len(ties) else 0
                ties = np.concatenate([ties, np.stack([rows, first + images[pairs.image[rows]]], axis=1)])
            return splits.resplit(len(stage.rows), plan.splits, plan.seed, together, ties)
        given = np.fromiter((SPLITS.index(row.split) for row in stage.rows), np.int8)
        assignment = splits.keep_given(given, together, ties)
        if plan.images_unseen:
            # An image that two splits drew stays with the later one: what is tested is scarcer than what trains.
            owner = np.full(int(images.max(initial=-1)) + 1, -1, np.int8)
            drawn = np.flatnonzero((pairs.image >= 0) & (assignment.split >= 0))
            np.maximum.at(owner, images[pairs.image[drawn]], assignment.split[drawn])

            def may_have(row: int, image: int) -> bool:
                return owner[images[image]] == assignment.split[row]

            pairing.keep_to_own(stage, self.provider, plan, pairs, may_have)
        return assignment

    def _entity_ties(self, clusters: np.ndarray) -> np.ndarray:
        """(N, 2): a row and the number of an entity that it names. Names of one entity have one number, and so have,
        where images are to be unseen, entities whose images are near-duplicates."""
        named = (self.provider.entity(mention) or name_key(mention.surface) for mention in self.stage.names())
        shown = (self.provider.images[name].entity or f"image {name}" for name in self.pairs.names)
        numbers, count = splits.numbered(chain(named, shown))
        names = len(numbers) - len(self.pairs.names)
        if self.plan.images_unseen and self.pairs.names:
            numbers = splits.joined(count, np.stack([numbers[names:], count + clusters], axis=1))[numbers]
        mentions = self.stage.mention_pairs()
        return np.unique(np.stack([mentions[:, 0], numbers[:names][mentions[:, 1]]], axis=1), axis=0)

    def write_rows(self, folder: Path, report: LoadReport) -> None:
        """Write the Parquet files, and the report: what reading changed, and the numbers of rows written."""
        stage, pairs, split_of = self.stage, self.pairs, self.assignment.split
        labels = ["O", *(f"{prefix}-{kind}" for kind in stage.types() for prefix in "BI")]
        shown = pairs.relation[pairs.image >= 0]
        columns = [] if len(shown) and (shown == UNKNOWN).all() else ["image_relation"]
        if self.provider.natural and len(shown) and any(row.caption is not None for row in stage.rows):
            columns.append("caption")
        schema = features(labels, columns)
        schema["image_name"] = datasets.Value("string")
        for lang, (number, split) in product(LANGUAGES, enumerate(SPLITS)):
            rows = [row for row in stage.rows if row.lang == lang and split_of[row.key] == number]
            if rows or lang in report.parts.get(split, ()):
                part = report.part(split, lang)
                part.rows, part.empty_sentences = len(rows), sum(not row.tokens for row in rows)
                part.images = int((pairs.image[np.array([row.key for row in rows], int)] >= 0).sum())
                part.without_image = part.rows - part.images
            if rows:
                with ShardWriter(folder / lang, split, schema) as writer:
                    for start in range(0, len(rows), ROWS_PER_GROUP):
                        few = [self._record(row, labels, schema) for row in rows[start : start + ROWS_PER_GROUP]]
                        writer.write(pa.Table.from_pylist(few, writer.schema))
        (folder / REPORT_FILE).write_text(report.to_json() + "\n", encoding="utf-8")

    def _record(self, row: StagedRow, labels: list[str], schema: datasets.Features) -> dict[str, Any]:
        number = self.pairs.image[row.key]
        name = self.pairs.names[number] if number >= 0 else None
        image = None
        if name:
            data = regular(self.provider.images[name].path).read_bytes()
            image = {"bytes": data, "path": Path(name).name}
        values = {
            "id": row.id,
            "lang": row.lang,
            "tokens": row.tokens,
            "ner_tags": [labels.index(tag) for tag in row.tags],
            "image": image,
            "caption": row.caption if name else None,
            "image_relation": (*pairing.RELATIONS, None)[self.pairs.relation[row.key]],
            "image_name": name,
        }
        return {key: values[key] for key in schema}

    def write_images(self, path: Path) -> None:
        """Write what is known of each image that a row has."""
        names, has_image = self.pairs.names, (self.pairs.image >= 0) & (self.assignment.split >= 0)
        used = np.bincount(self.pairs.image[has_image], minlength=len(names))
        with path.open("w", encoding="utf-8") as file:
            for number in np.flatnonzero(used):
                facts = asdict(self.provider.images[names[number]])
                facts |= {"sha256": self._sha256[names[number]], "rows": int(used[number])}
                order = ("name", "types", "entity", "mentions", "licence", "author", "source", "sha256", "rows")
                file.write(json.dumps({key: facts[key] for key in order}, ensure_ascii=False) + "\n")


def _opened(path: Path) -> tuple[str | None, str, int]:
    """Why an image cannot be used, or its SHA-256 and perceptual hash."""
    try:
        data = regular(path).read_bytes()
        return None, hashlib.sha256(data).hexdigest(), similarity.image_hash(data)
    except OSError as error:
        return str(error), "", 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``mmner data build``."""
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="folder of sentences, or dataset on the Hub")
    parser.add_argument("--output_dir", required=True, help="folder of the finished dataset")
    parser.add_argument("--provider", required=True, choices=PROVIDERS, help="of the images")
    parser.add_argument("--languages", nargs="+", default=list(LANGUAGES), choices=LANGUAGES, metavar="LANG")
    parser.add_argument("--lang", choices=LANGUAGES, help="language of rows that do not say theirs")
    parser.add_argument("--label_map", help="name of a built-in map of entity types, or a YAML file")
    parser.add_argument("--licences", nargs="+", default=[], help="of the sentences, one for each SOURCE")
    parser.add_argument("--errors", choices=("raise", "skip"), default="raise", help="at a malformed row")
    parser.add_argument("--iob2", choices=("auto", "repair", "strict"), default="auto")
    parser.add_argument("--tags_column", metavar="COLUMN", help="that of the tags: a name or a number (-1: last)")
    for name, kind, text in (
        ("unrelated_share", float, "of all rows"),
        ("missing_share", float, "of all rows"),
        ("splits", _splits, f"shares of train, validation and test, as 0.8,0.1,0.1, or '{FROM_SOURCE}'"),
        ("unseen", str, f"in other splits: {', '.join(splits.UNSEEN)}"),
        ("seed", int, "of every choice"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=getattr(Plan, name), help=f"{text} (%(default)s)")
    parser.add_argument("--workspace", help="for temporary files and downloads; OUTPUT_DIR.work if left out")
    group = parser.add_argument_group("--provider folder, own")
    group.add_argument("--image_index", type=Path, help="TSV or JSONL of the images: " + ", ".join(folder.COLUMNS))
    group.add_argument("--image_folder", type=Path, help="where they lie; images/ beside the index if left out")
    group = parser.add_argument_group("--provider wikimedia, urls")
    group.add_argument("--image_urls", type=Path, help="TSV or JSONL of the images' URLs: " + ", ".join(urls.COLUMNS))
    text = "your mail address or URL, sent to servers with every request; or $MMNER_CONTACT"
    group.add_argument("--contact", default=os.environ.get("MMNER_CONTACT"), help=text)
    for name, kind, text in (
        ("requests_per_second", float, "to any one host"),
        ("workers", int, "requests at a time"),
    ):
        group.add_argument(f"--{name}", type=kind, default=getattr(Politeness, name), help=f"{text} (%(default)s)")


def run(arguments: argparse.Namespace, write_card: Callable[[Path], object]) -> int:
    """Build what the command line asks for; ``write_card`` as for ``build``."""
    work = _workspace(Path(arguments.output_dir).expanduser().absolute(), arguments.workspace)
    plan = Plan(**{field.name: getattr(arguments, field.name) for field in fields(Plan)})
    output_dir = build(
        arguments.sources,
        arguments.output_dir,
        _provider(arguments, work),
        plan,
        languages=arguments.languages,
        workspace=work,
        licences=arguments.licences,
        source_options={
            key: getattr(arguments, key) for key in ("lang", "label_map", "errors", "iob2", "tags_column")
        },
        write_card=write_card,
    )
    print((output_dir / "README.md").as_posix())
    return 0


def _workspace(output_dir: Path, workspace: str | Path | None) -> Path:
    return Path(workspace).expanduser().absolute() if workspace else output_dir.with_name(output_dir.name + ".work")


def _provider(arguments: argparse.Namespace, work: Path) -> ImageProvider:
    if arguments.provider == ImageProvider.name:
        return ImageProvider()
    if arguments.provider == "own":
        folders = {}
        for source, name in zip(arguments.sources, source_names(arguments.sources), strict=True):
            folder = Path(source).expanduser().resolve()
            has_files = folder.exists() and not is_parquet(folder)  # beside the rows, not inside them
            folders[name] = (arguments.image_folder or find_image_root(folder)) if has_files else None
        if arguments.image_folder and not arguments.image_folder.is_dir():
            raise ValueError(f"--image_folder is {arguments.image_folder}; expected a folder.")
        return Own(folders, Folder(arguments.image_index, arguments.image_folder) if arguments.image_index else None)
    if arguments.provider == "folder":
        if arguments.image_index is None:
            raise ValueError(
                "--provider folder needs --image_index, the TSV or JSONL file that says what images show."
            )
        return Folder(arguments.image_index, arguments.image_folder)
    rate = {"requests_per_second": arguments.requests_per_second, "workers": arguments.workers}
    if arguments.provider == "urls":
        polite = replace(urls.PATIENCE, **rate)
        return urls.Urls(work / "urls", arguments.contact, arguments.image_urls, polite)
    return Wikimedia(work / "wikimedia", arguments.contact, Politeness(**rate))


def _public(value: Any) -> Any:
    """The value of an option, a path by its name alone: the record goes to the Hub."""
    is_path = isinstance(value, str) and os.sep in value and os.path.exists(os.path.expanduser(value))
    return Path(value).resolve().name if is_path else value


def _splits(text: str) -> tuple[float, ...] | str:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        return text
