"""Construct an MMNER dataset: sentences of any source, pictures of a provider, splits that do not leak, one folder.

``python -m dataset_script build SOURCE ... --provider NAME --output_dir FOLDER``, or ``build()``. Sentences are staged
on disk; memory holds some bytes a row, the pictures' names, and a hundred rows at a time. The same sources, pictures,
options and seed give the same bytes.
"""

import argparse
import contextlib
import hashlib
import importlib
import importlib.metadata
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ..files import check_replaceable, regular, replacing, scratch
from ..formats.hub_sources import stated_facts
from ..formats.readers import read_source
from ..images import find_image_root, image_problem
from ..mmner import features
from ..parquet import REPORT_FILE, ROWS_PER_GROUP, ShardWriter, is_parquet
from ..publishing import card
from ..publishing.push import push
from ..report import LoadReport
from ..rows import LANGUAGES
from . import pairing, similarity, splits
from .pairing import NONE, UNKNOWN, Pairs, Shares
from .providers import fetching
from .providers.base import ImageProvider
from .providers.folder import Folder, name_key
from .providers.own import Own
from .splits import SPLITS, Assignment
from .stage import Stage, StagedRow

logger = logging.getLogger(__name__)

PROVIDERS = ("folder", "wikimedia", "urls")
"""Modules of ``providers`` with ``add_arguments`` and ``from_arguments``; ``own`` and ``none`` are beside them."""
FROM_SOURCE = "source"
DEFAULT_SPLITS = (0.8, 0.1, 0.1)
PICTURES_FILE = "pictures.jsonl"
BUILD_FILE = "build.json"


@dataclass(frozen=True)
class Plan:
    """How a dataset is made of rows and pictures.

    Attributes:
        shares: of unrelated and missing pictures.
        split_shares: of train, validation and test, or ``None`` to keep the splits of the sources.
        unseen: what of validation and test no other split has: ``none``, ``images``, ``entities`` or ``both``.
            Near-duplicate pictures count as one picture.
        near_duplicate: sentences of at least this Jaccard similarity of their word shingles never cross a split.
        image_distance: pictures whose perceptual hashes differ in at most so many of 64 bits are near-duplicates.
        seed: of every choice.
    """

    shares: Shares = field(default_factory=Shares)
    split_shares: tuple[float, float, float] | None = DEFAULT_SPLITS
    unseen: str = "images"
    near_duplicate: float = 0.8
    image_distance: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.unseen not in splits.UNSEEN:
            raise ValueError(f"unseen is {self.unseen!r}; expected one of {', '.join(splits.UNSEEN)}.")
        given = self.split_shares
        if given is not None and (len(given) != len(SPLITS) or min(given) < 0 or not sum(given) > 0):
            raise ValueError(f"The shares of train, validation and test are {given}; expected three of 0 or more.")

    @property
    def images_unseen(self) -> bool:
        """Whether no picture is in two splits."""
        return self.unseen in ("images", "both")

    @property
    def entities_unseen(self) -> bool:
        """Whether no entity of validation or test is in another split."""
        return self.unseen in ("entities", "both")


def build(
    sources: Sequence[str | Path],
    output_dir: str | Path,
    provider: ImageProvider | Callable[[Stage], ImageProvider] | None,
    plan: Plan | None = None,
    *,
    languages: Sequence[str] = LANGUAGES,
    workspace: str | Path | None = None,
    licences: Sequence[str] = (),
    source_options: dict[str, Any] | None = None,
    own_pictures: bool = False,
    command: Sequence[str] = (),
) -> Path:
    """Build a dataset.

    Args:
        sources: folders in any format that ``readers`` knows, or names of datasets on the Hub.
        output_dir: new, empty, or a dataset that this package wrote and nobody added to, which is replaced when the
            new one is complete.
        provider: of the pictures, or what makes it of the staged rows; ``None`` for a set of text.
        plan: how; see ``Plan``.
        languages: those of the rows to take.
        workspace: scratch and the provider's downloads; ``{output_dir}.work`` if left out. A build that was killed
            goes on from the downloads.
        licences: of the sentences, one for each of ``sources``, where it is not one whose licence is known.
        source_options: of ``readers.read_source``: ``lang``, ``label_map``, ``errors``, ``iob2``,
            ``tag_column``.
        own_pictures: take the pictures inside the rows of finished datasets and of those on the Hub, for ``Own``; they
            are written to ``stage.pictures / source``.
        command: the words of the command line, for the card's instructions.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds something else.
        MalformedRow: a row breaks its format and ``errors`` is ``"raise"``.
        ValueError: an option makes no sense, or no row is left.
    """
    plan = plan or Plan()
    output_dir = Path(output_dir).expanduser().absolute()
    check_replaceable(output_dir.resolve(), card.KIND)
    if licences and len(licences) != len(sources):
        raise ValueError(f"{len(licences)} licences came for {len(sources)} sources; expected one for each, or none.")
    work = _workspace(output_dir, workspace)
    work.mkdir(parents=True, exist_ok=True)
    report = LoadReport()
    with contextlib.ExitStack() as stack:
        stage = stack.enter_context(contextlib.closing(Stage(stack.enter_context(scratch(work, "build")))))
        pictures = stage.pictures if own_pictures else None
        described = _stage(stage, sources, languages, source_options or {}, report, pictures)
        for source, licence in zip(described, licences, strict=False):
            source["licence"] = licence
        if not stage.rows:
            raise ValueError(f"{', '.join(map(str, sources))} have no rows in {', '.join(languages)}.")
        report.log()
        made: ImageProvider | None = provider(stage) if callable(provider) else provider
        if made is not None:
            stack.callback(made.close)
        if stage.own_images() and (made is None or made.name != Own.name):
            logger.warning(
                "%d rows name a picture of their own, which --provider %s does not take.",
                stage.own_images(), made.name if made else "none",
            )  # fmt: skip
        if made is not None:
            made.prepare(stage.mentions, stage.row_ids)
        gallery = _Gallery(made)
        pairs = _pair(stage, made, plan, gallery)
        assignment = _split(stage, made, plan, pairs, gallery)
        if made is not None and not made.natural:
            fillers = _fillers(made, plan, pairs, gallery)
            pairing.draw_unrelated(
                stage, made, plan.seed, pairs, assignment.split, fillers, lambda row: _identities(made, row)
            )
        facts = {
            "command": [*command],
            "options": {
                "provider": made.name if made else "none",
                "languages": [*languages],
                "unrelated_share": plan.shares.unrelated,
                "missing_share": plan.shares.missing,
                "splits": list(plan.split_shares) if plan.split_shares else FROM_SOURCE,
                "unseen": plan.unseen,
                "near_duplicate": plan.near_duplicate,
                "image_distance": plan.image_distance,
                **{key: _public(value) for key, value in (source_options or {}).items() if value is not None},
            },
            "seed": plan.seed,
            "sources": described,
            "counts": {
                "rows read": stage.rows,
                "rows written": int((assignment.split >= 0).sum()),
                "frequent entities and pictures given a split of their own": assignment.hubs,
                "provider": made.counts() if made else {},
                "pairing": dict(pairs.counts),
                "pictures that do not open": gallery.problems,
            },
            "left_out": dict(_skipped(report) + assignment.left_out),
            "versions": _versions(),
        }
        with replacing(output_dir, card.KIND) as written:
            _write(written, stage, made, pairs, assignment, gallery, report)
            (written / BUILD_FILE).write_text(_json(facts, indent=1) + "\n", encoding="utf-8")
            card.write_card(written)
    return output_dir


_PICTURES_AT_ONCE = 64
_VERSIONS = ("2m-ner", "datasets", "datasketch", "imagehash", "numpy", "pillow", "pyarrow", "scipy")


class _Gallery:
    """What was found out about the pictures that were drawn, each opened once.

    Attributes:
        problems: name -> why a picture cannot be used.
    """

    def __init__(self, provider: ImageProvider | None):
        self._provider = provider
        self.problems: dict[str, str] = {}
        self.sha256: dict[str, str] = {}
        self.hashes: dict[str, int] = {}

    def inspect(self, names: Sequence[str]) -> bool:
        """Open those that were not opened yet. Returns whether all of ``names`` can be used."""
        new = [name for name in names if name not in self.sha256 and name not in self.problems]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for first in range(0, len(new), _PICTURES_AT_ONCE):
                few = new[first : first + _PICTURES_AT_ONCE]
                # Paths are asked for here: a provider may have a database, which other threads must not touch.
                paths = [self._provider.picture(name).path for name in few] if self._provider else []
                for name, (problem, sha256, perceptual) in zip(few, pool.map(_opened, paths), strict=True):
                    if problem:
                        self.problems[name] = problem
                    else:
                        self.sha256[name], self.hashes[name] = sha256, perceptual
        return all(name in self.sha256 for name in names)

    def clusters(self, distance: int) -> dict[str, str]:
        """Name -> the name that stands for all near-duplicates of it; names without any are left out."""
        pairs = similarity.near_duplicate_images(self.hashes.items(), max_distance=distance)
        linked = [(first, second) for first, second, _ in pairs]
        by_bytes: dict[str, str] = {}
        linked += [(by_bytes.setdefault(sha256, name), name) for name, sha256 in self.sha256.items()]
        return similarity.groups(linked)


def _opened(path: Path) -> tuple[str | None, str, int]:
    """Why a picture cannot be used, or its SHA-256 and perceptual hash."""
    problem = image_problem(path)
    if problem:
        return problem, "", 0
    data = path.read_bytes()
    return None, hashlib.sha256(data).hexdigest(), similarity.image_hash(data)


def _workspace(output_dir: Path, workspace: str | Path | None) -> Path:
    return Path(workspace).expanduser().absolute() if workspace else output_dir.with_name(output_dir.name + ".work")


def _stage(
    stage: Stage,
    sources: Sequence[str | Path],
    languages: Sequence[str],
    options: dict[str, Any],
    report: LoadReport,
    pictures: Path | None,
) -> list[dict[str, Any]]:
    """Read the sources; what they are called and how many rows each gave."""
    names = _source_names(sources)
    described = []
    for source, name in zip(sources, names, strict=True):
        place = None if pictures is None else pictures / name
        rows = read_source(source, tuple(languages), report=report, image_dir=place, **options)
        counts = stage.add(rows, name)
        logger.info("%s: %s", name, ", ".join(f"{lang} {number}" for lang, number in counts.items()) or "no rows")
        facts = {"name": name, "rows": counts.total(), "languages": dict(sorted(counts.items()))}
        described.append(facts | stated_facts(str(source)))
    return described


def _source_names(sources: Sequence[str | Path]) -> list[str]:
    """A name for each source that is no path of this machine."""
    names = [Path(source).resolve().name if Path(source).exists() else str(source) for source in sources]
    seen: Counter[str] = Counter()
    for position, name in enumerate(names):
        seen[name] += 1
        names[position] = name if seen[name] == 1 else f"{name}-{seen[name]}"
    return names


def _pair(stage: Stage, provider: ImageProvider | None, plan: Plan, gallery: _Gallery) -> Pairs:
    if provider is None:
        return Pairs([], np.full(stage.rows, -1, np.int32), np.full(stage.rows, NONE, np.int8))
    while True:
        usable = [name for name in provider.names() if name not in gallery.problems]
        pairs = pairing.draw_depicting(stage, provider, plan.shares, plan.seed, usable)
        drawn = [pairs.names[number] for number in np.unique(pairs.picture[pairs.picture >= 0])]
        if gallery.inspect(drawn):
            return pairs


def _split(stage: Stage, provider: ImageProvider | None, plan: Plan, pairs: Pairs, gallery: _Gallery) -> Assignment:
    sentences = ((row.key, row.tokens) for row in stage.read())
    near = similarity.near_duplicate_sentences(sentences, threshold=plan.near_duplicate)
    together = np.array([(first, second) for first, second, _ in near], np.int64).reshape(-1, 2)
    pictures = _cluster_numbers(pairs, gallery, plan)
    ties = _entity_ties(stage, provider, plan, pairs, pictures) if plan.entities_unseen else np.zeros((0, 2), np.int64)
    if plan.split_shares is not None:
        # Where entities are told apart by their pictures, a row is tied to its picture by what it names.
        if plan.images_unseen and not (plan.entities_unseen and provider is not None and not provider.natural):
            rows = np.flatnonzero(pairs.picture >= 0)
            first = int(ties[:, 1].max()) + 1 if len(ties) else 0
            ties = np.concatenate([ties, np.stack([rows, first + pictures[pairs.picture[rows]]], axis=1)])
        return splits.resplit(stage.rows, plan.split_shares, plan.seed, together, ties)
    given = np.fromiter((SPLITS.index(row.split) for row in stage.read()), np.int8, stage.rows)
    assignment = splits.keep_given(given, together, ties)
    if plan.images_unseen and provider is not None:
        # A picture that two splits drew stays with the later one: what is tested is scarcer than what trains.
        owner = np.full(int(pictures.max(initial=-1)) + 1, -1, np.int8)
        drawn = np.flatnonzero((pairs.picture >= 0) & (assignment.split >= 0))
        np.maximum.at(owner, pictures[pairs.picture[drawn]], assignment.split[drawn])

        def mine(row: int, picture: int) -> bool:
            return owner[pictures[picture]] == assignment.split[row]

        pairing.keep_to_own(stage, provider, plan.shares, plan.seed, pairs, mine)
    return assignment


def _entity_ties(
    stage: Stage, provider: ImageProvider | None, plan: Plan, pairs: Pairs, clusters: np.ndarray
) -> np.ndarray:
    """(N, 2): a row and the number of an entity that it names; names of one entity have one number, and so have, where
    pictures are to be unseen, entities whose pictures are near-duplicates."""

    def identities() -> Iterator[str]:
        for _, mention in stage.names():
            yield (provider.entity(mention) if provider else None) or name_key(mention.surface)
        for name in pairs.names:
            yield provider.picture(name).entity or f"picture {name}"

    numbers, count = splits.numbered(identities())
    names = len(numbers) - len(pairs.names)
    if plan.images_unseen and pairs.names:
        same = splits.joined(count, np.stack([numbers[names:], count + clusters], axis=1))
        numbers = same[numbers]
    mentions = stage.mention_pairs()
    if not len(mentions):
        return mentions
    return np.unique(np.stack([mentions[:, 0], numbers[:names][mentions[:, 1] - 1]], axis=1), axis=0)


def _cluster_numbers(pairs: Pairs, gallery: _Gallery, plan: Plan) -> np.ndarray:
    """The number of each picture; near-duplicates have the same."""
    together = gallery.clusters(plan.image_distance)
    numbers, _ = splits.numbered(together.get(name, name) for name in pairs.names)
    return numbers


def _fillers(provider: ImageProvider, plan: Plan, pairs: Pairs, gallery: _Gallery) -> Iterator[tuple[int, int]]:
    """Pictures that show no known entity, each with a split that may have it."""
    names = [name for name in pairs.names if not provider.picture(name).types]
    gallery.inspect(names)
    together = gallery.clusters(plan.image_distance)
    used = {together.get(pairs.names[number], pairs.names[number]) for number in pairs.picture[pairs.picture >= 0]}
    numbers = {name: number for number, name in enumerate(pairs.names)}
    for name in names:
        cluster = together.get(name, name)
        if name in gallery.problems or (plan.images_unseen and cluster in used):
            continue
        if not plan.images_unseen:
            yield from ((numbers[name], split) for split in range(len(SPLITS)))
        else:
            shares = plan.split_shares or DEFAULT_SPLITS
            yield numbers[name], pairing.position(shares, plan.seed, "filler", cluster)


def _identities(provider: ImageProvider, row: StagedRow) -> set[str]:
    return {entity for mention in row.mentions if (entity := provider.entity(mention)) is not None}


def _versions() -> dict[str, str]:
    found = {distribution.name.lower(): distribution.version for distribution in importlib.metadata.distributions()}
    # A checkout that is not installed has no version to tell.
    return {name: found[name] for name in _VERSIONS if name in found}


def _skipped(report: LoadReport) -> Counter[str]:
    return Counter({f"malformed: {reason}": number for reason, number in report.total().skipped.items()})


def _write(
    folder: Path,
    stage: Stage,
    provider: ImageProvider | None,
    pairs: Pairs,
    assignment: Assignment,
    gallery: _Gallery,
    read_report: LoadReport,
) -> None:
    labels = ["O", *(f"{prefix}-{kind}" for kind in stage.types() for prefix in "BI")]
    natural = provider is not None and provider.natural
    columns = [] if natural and not (pairs.relation[pairs.picture >= 0] != UNKNOWN).any() else ["image_relation"]
    if natural and any(row.caption is not None for row in stage.read()):
        columns.append("caption")
    schema = features(labels, columns)
    schema["image_name"] = datasets.Value("string")
    ids = {label: number for number, label in enumerate(labels)}
    report = LoadReport()
    for lang in LANGUAGES:
        shards: dict[str, _Shard] = {}
        for row in stage.read(lang):
            if assignment.split[row.key] < 0:
                continue
            split = SPLITS[assignment.split[row.key]]
            number = int(pairs.picture[row.key])
            name = pairs.names[number] if number >= 0 else None
            record = {
                "id": row.id,
                "lang": row.lang,
                "tokens": row.tokens,
                "ner_tags": [ids[tag] for tag in row.tags],
                "image": _image(provider.picture(name).path, name) if provider and name else None,
                "caption": row.caption if name else None,
                "image_relation": _RELATIONS[int(pairs.relation[row.key])],
                "image_name": name,
            }
            if split not in shards:
                shards[split] = _Shard(ShardWriter(folder / lang, split, schema))
            shards[split].add({key: record[key] for key in schema})
            part = report.part(split, lang)
            part.rows += 1
            part.images += name is not None
            part.without_image += name is None
            part.empty_sentences += not row.tokens
        for shard in shards.values():
            shard.close()
    _carry_over(read_report, report)
    (folder / REPORT_FILE).write_text(report.to_json() + "\n", encoding="utf-8")
    used = np.bincount(pairs.picture[(pairs.picture >= 0) & (assignment.split >= 0)], minlength=len(pairs.names))
    with (folder / PICTURES_FILE).open("w", encoding="utf-8") as file:
        for number in np.flatnonzero(used):
            picture = provider.picture(pairs.names[number])
            record = {
                "name": picture.name,
                "types": list(picture.types),
                "entity": picture.entity,
                "mentions": list(picture.mentions),
                "licence": picture.licence,
                "author": picture.author,
                "source": picture.source,
                "sha256": gallery.sha256[picture.name],
                "rows": int(used[number]),
            }
            file.write(_json(record) + "\n")


_RELATIONS: tuple[str | None, ...] = (*pairing.RELATIONS, None)


class _Shard:
    """A writer that is given rows one by one."""

    def __init__(self, writer: ShardWriter):
        self._writer = writer
        self._rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write(pa.Table.from_pylist(self._rows, self._writer.schema))
        self._rows = []


def _image(path: Path, name: str) -> dict[str, Any]:
    return {"bytes": regular(path).read_bytes(), "path": Path(name).name}


def _carry_over(read: LoadReport, written: LoadReport) -> None:
    """What reading the sources changed belongs in the report of the dataset too."""
    for split, parts in read.parts.items():
        for lang, part in parts.items():
            if part.repaired_tags or part.skipped:
                mine = written.part(split, lang)
                mine.repaired_tags, mine.repair_examples = part.repaired_tags, part.repair_examples
                mine.skipped, mine.skip_examples = part.skipped, part.skip_examples
    written.ignored_keys.update(read.ignored_keys)


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m dataset_script build``."""
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="folder of sentences, or dataset on the Hub")
    parser.add_argument("--output_dir", required=True, help="folder of the finished dataset")
    parser.add_argument("--provider", required=True, choices=(*PROVIDERS, "own", "none"), help="of the pictures")
    parser.add_argument("--languages", nargs="+", default=list(LANGUAGES), choices=LANGUAGES, metavar="LANG")
    parser.add_argument("--lang", choices=LANGUAGES, help="language of rows that do not say theirs")
    parser.add_argument("--label_map", help="name of a built-in map of entity types, or a YAML file")
    parser.add_argument("--licences", nargs="+", default=[], help="of the sentences, one for each SOURCE")
    parser.add_argument("--errors", choices=("raise", "skip"), default="raise", help="at a malformed row")
    parser.add_argument("--iob2", choices=("auto", "repair", "strict"), default="auto")
    parser.add_argument("--tag_column", type=int, metavar="N", help="of files in columns: that of the tags (-1: last)")
    parser.add_argument("--unrelated_share", type=float, default=Shares.unrelated, help="of all rows (%(default)s)")
    parser.add_argument("--missing_share", type=float, default=Shares.missing, help="of all rows (%(default)s)")
    parser.add_argument(
        "--splits",
        default=",".join(map(str, DEFAULT_SPLITS)),
        help=f"shares of train, validation and test, or '{FROM_SOURCE}' (%(default)s)",
    )
    parser.add_argument("--unseen", choices=splits.UNSEEN, default="images", help="in other splits (%(default)s)")
    parser.add_argument("--near_duplicate", type=float, default=Plan.near_duplicate, help="Jaccard (%(default)s)")
    parser.add_argument("--image_distance", type=int, default=Plan.image_distance, help="of 64 bits (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workspace", help="scratch and downloads; OUTPUT_DIR.work if left out")
    parser.add_argument("--push_to_hub", metavar="ORG/NAME", help="push the finished dataset there")
    parser.add_argument("--private", action="store_true", help="make the repository on the Hub a private one")
    for name in PROVIDERS:
        group = parser.add_argument_group(f"--provider {name}")
        importlib.import_module(f".providers.{name}", __package__).add_arguments(group)
    fetching.add_politeness_arguments(parser.add_argument_group("providers that use the network"))


def run(arguments: argparse.Namespace) -> int:
    """Build, and push if asked to."""
    work = _workspace(Path(arguments.output_dir).expanduser().absolute(), arguments.workspace)
    plan = Plan(
        Shares(arguments.unrelated_share, arguments.missing_share),
        _split_shares(arguments.splits),
        arguments.unseen,
        arguments.near_duplicate,
        arguments.image_distance,
        arguments.seed,
    )
    folder = build(
        arguments.sources,
        arguments.output_dir,
        _provider(arguments, work),
        plan,
        languages=arguments.languages,
        workspace=work,
        licences=arguments.licences,
        source_options={key: getattr(arguments, key) for key in ("lang", "label_map", "errors", "iob2", "tag_column")},
        own_pictures=arguments.provider == "own",
        command=["python", "-m", "dataset_script", *map(_public, _without_places(sys.argv[1:]))],
    )
    print((folder / "README.md").as_posix())
    if arguments.push_to_hub:
        print(push(folder, arguments.push_to_hub, private=arguments.private))
    return 0


def _provider(arguments: argparse.Namespace, work: Path) -> ImageProvider | Callable[[Stage], ImageProvider] | None:
    if arguments.provider == "none":
        return None
    if arguments.provider == "own":
        given = arguments.image_folder
        roots = {
            name: (given or _image_root(source)) if _has_files(source) else None
            for source, name in zip(arguments.sources, _source_names(arguments.sources), strict=True)
        }
        index = Folder(arguments.image_index, given) if arguments.image_index else None
        return lambda stage: Own(
            stage.image_of, {name: root or stage.pictures / name for name, root in roots.items()}, index
        )
    module = importlib.import_module(f".providers.{arguments.provider}", __package__)
    provider = module.from_arguments(arguments, work)
    if arguments.provider != "urls":
        return provider

    def with_rows(stage: Stage) -> ImageProvider:
        for row in stage.read():
            if row.image_url is not None:
                provider.add(row.id, row.image_url)
        return provider

    return with_rows


def _without_places(words: Sequence[str]) -> list[str]:
    """The command without where the dataset and the scratch files lie, which say nothing of how it is made."""
    kept: list[str] = []
    skip = False
    for word in words:
        option = word.partition("=")[0]
        if option in ("--output_dir", "--workspace", "--push_to_hub"):
            skip = "=" not in word
        elif skip:
            skip = False
        else:
            kept.append(word)
    return [*kept, "--output_dir", "mmner"]


def _public(word: str) -> str:
    """A word of the command or the value of an option, a path by its name alone: the card goes to the Hub."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    is_path = os.sep in value and os.path.exists(os.path.expanduser(value))
    return option + equals + (Path(value).resolve().name if is_path else value)


def _has_files(source: str) -> bool:
    """Whether the pictures of a source are files beside its rows, not inside them."""
    folder = Path(source).expanduser()
    return folder.is_dir() and not is_parquet(folder)


def _image_root(source: str) -> Path | None:
    return find_image_root(Path(source).expanduser().resolve())


def _split_shares(text: str) -> tuple[float, float, float] | None:
    if text == FROM_SOURCE:
        return None
    try:
        train, validation, test = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"--splits is {text!r}; expected three numbers as 0.8,0.1,0.1, or {FROM_SOURCE!r}.") from None
    return train, validation, test
