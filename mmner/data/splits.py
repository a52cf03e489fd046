"""The splits of the dataset of a run: loaded, renamed, and reduced to the rows that were asked for."""

import contextlib
import logging
import random
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute as pc

import dataset_script
from dataset_script.formats.readers import is_hub_name
from dataset_script.formats.registry import SPLIT_NAMES
from dataset_script.parquet import attach_report, is_parquet
from mmner.data.shards import ParquetShards, find_shards
from mmner.options import DataArguments
from mmner.probe import dataset as probe

logger = logging.getLogger(__name__)

SPLITS = {"train": "train", "validation": "eval", "test": "test"}
"""The splits of a dataset, and the prefix of the scores and counts of each."""
FOLDER_OPTIONS = (
    *("dataset_lang", "dataset_errors", "dataset_iob2", "image_folder", "captions"),
    *("text_column", "tags_column", "image_column"),
)
"""Options of `DataArguments` that say how to read the files of a folder."""


def load_splits(
    args: DataArguments, needed: Collection[str], cache: str | Path, seed: int = 0, build: bool = True
) -> dict[str, datasets.Dataset | ParquetShards]:
    """
    The splits of the dataset that was asked for: the probe, a folder, or a name on the Hub.

    Args:
        needed: which of `train`, `validation` and `test`; those that there are are returned.
        cache: a folder of the run's own, where the probe is written; with `build=False` by another process.
        seed: of the random subset of `train`; the subsets of dev and test are the same for every seed.

    Returns:
        The splits; with `streaming`, `train` as `ParquetShards`.

    Raises:
        FileNotFoundError: the dataset is neither a folder nor a name that the Hub could have.
        ValueError: a row is malformed, an option does not fit this dataset, or the needed splits are absent.
    """
    loaded = _load_streaming(args, needed) if args.streaming else _renamed(_load(args, Path(cache), build))
    if set(loaded) == {"train"} and "train" not in needed and Path(args.dataset or "").expanduser().is_file():
        logger.warning(f"The name of {args.dataset} says no split: it is scored as test.")
        loaded = {"test": loaded["train"]}
    if others := sorted(set(loaded) - set(SPLITS)):
        logger.warning(f"The splits {', '.join(others)} are not read; {', '.join(SPLITS)} are.")
    if args.validation_share and "validation" in needed and "validation" not in loaded and "train" in loaded:
        loaded |= _with_validation(loaded["train"], args.validation_share)
    absent = [split for split in SPLITS if split in needed and split not in loaded]
    if "train" in absent or len(absent) == len(needed):
        raise ValueError(
            f"{args.dataset} has the splits {', '.join(loaded)}, but {', '.join(needed) or 'none'} would be needed; "
            "see --do_train, --do_eval and --do_predict."
        )
    if absent:
        logger.warning(f"{args.dataset} has no {' and no '.join(absent)} split; its evaluation is skipped.")
    if args.train_languages is not None and "train" in needed:
        loaded["train"] = _in_languages(loaded["train"], args.train_languages.split(","))
    sizes = {"train": args.max_train_samples, "validation": args.max_eval_samples, "test": args.max_predict_samples}
    # Runs of several seeds are scored on the same sentences.
    return {
        split: _subset(loaded[split], sizes[split], seed if split == "train" else 0)
        for split in SPLITS
        if split in needed and split in loaded
    }


def _with_validation(train: datasets.Dataset | ParquetShards, share: float) -> dict[str, datasets.Dataset]:
    """`train` without a random share of its rows, the same for every seed, and these rows as `validation`."""
    if isinstance(train, ParquetShards) or not 0 < share < 1:
        raise ValueError(f"--validation_share is {share}; expected a share between 0 and 1, and no --streaming.")
    order = random.Random(0).sample(range(len(train)), len(train))
    taken = max(1, round(share * len(train)))
    logger.warning(f"There is no validation split: {taken} of {len(train)} training rows are taken for it.")
    return {"validation": train.select(sorted(order[:taken])), "train": train.select(sorted(order[taken:]))}


def with_known_types(rows: datasets.Dataset, types: list[str]) -> datasets.Dataset:
    """The rows with these as the types that their annotators tagged, where a row names none itself."""
    known = column(rows, "known_types") or [None] * len(rows)
    rows = rows.remove_columns("known_types") if "known_types" in rows.column_names else rows
    feature = datasets.List(datasets.Value("string"))
    return rows.add_column("known_types", [types if own is None else own for own in known], feature=feature)


def _load(args: DataArguments, cache: Path, build: bool) -> dict[str, datasets.Dataset]:
    if args.dataset is None:
        raise ValueError("There is no dataset: give --dataset a folder, a file, a name on the Hub, or 'probe'.")
    folder, config = Path(args.dataset).expanduser(), args.dataset_config or "all"
    options = {name.removeprefix("dataset_"): getattr(args, name) for name in FOLDER_OPTIONS}
    if args.dataset == "probe":
        folder = cache / f"probe-{args.probe_sentences}"
        if build:
            probe.build(folder, num_sentences=args.probe_sentences)
        logger.warning("The probe is SYNTHETIC: it shows whether the image is used, nothing about natural text.")
        return dataset_script.load(folder, config, cache_dir=cache / "arrow", **options)
    if folder.exists():
        return dataset_script.load(folder, config, **options)
    if not is_hub_name(args.dataset, owner=False):
        raise FileNotFoundError(
            f"There is no folder or file {args.dataset}; expected 'probe', a folder, a file or a name on the Hub."
        )
    loaded = datasets.load_dataset(args.dataset, args.dataset_config)
    if not _folder_options(args) and all(map(_is_ours, loaded.values())):
        return loaded
    if build:
        loaded.save_to_disk(cache / "hub")
    return dataset_script.load(cache / "hub", cache_dir=cache / "arrow", **options)


def _is_ours(rows: datasets.Dataset) -> bool:
    """Whether there are tokens, and tags with names."""
    with contextlib.suppress(ValueError):
        return bool(label_names(rows))
    return False


def _load_streaming(
    args: DataArguments, needed: Collection[str]
) -> dict[str, datasets.Dataset | ParquetShards | None]:
    """The same of a dataset in Parquet: `train` stays in its files; `None` for a split that is not needed."""
    if args.dataset in (None, "probe"):
        raise ValueError(
            f"--streaming reads Parquet files, and the dataset is {args.dataset}: give --dataset a folder of them or "
            "a name on the Hub, or leave --streaming out."
        )
    if unused := _folder_options(args):
        raise ValueError(f"{args.dataset} is read as Parquet, where {', '.join(unused)} do not apply: leave them out.")
    folder = Path(args.dataset).expanduser()
    config = args.dataset_config or ("all" if is_parquet(folder) else None)
    files, features = find_shards(args.dataset, config)
    files = _renamed(files)
    loaded: dict[str, datasets.Dataset | ParquetShards | None] = dict.fromkeys(files)
    if others := {split: files[split] for split in files if split in needed and split != "train"}:
        loaded.update(datasets.load_dataset("parquet", data_files=others, features=features))
        if is_parquet(folder):
            attach_report({split: loaded[split] for split in others}, folder, config or "all")
    if "train" in needed and "train" in files:
        loaded["train"] = ParquetShards(files["train"], features)
    return loaded


def _folder_options(args: DataArguments) -> list[str]:
    return [f"--{name}" for name in FOLDER_OPTIONS if getattr(args, name) not in (None, "raise", "auto")]


def _renamed(splits: dict[str, Any]) -> dict[str, Any]:
    """The splits by the names of `SPLITS`: `dev` becomes `validation`, unless there is a `validation`, and so on."""
    renamed = dict(splits)
    for name in splits:
        split = SPLIT_NAMES.get(name, name)
        if split in splits:
            continue
        if split in renamed:
            raise ValueError(f"Of the splits {', '.join(splits)}, several stand for {split}: expected one of them.")
        logger.info(f"The split {name} is read as {split}.")
        renamed[split] = renamed.pop(name)
    return renamed


def count_images(rows: datasets.Dataset) -> dict[str, int]:
    """
    Counts `samples`, `samples_with_image` and, where the report of the dataset tells them of just these rows,
    `missing_images`: rows whose image was not there or did not open when the dataset was loaded.
    """
    counts = {"samples": len(rows), "samples_with_image": len(rows_with_image(rows))}
    with contextlib.suppress(ValueError):  # a dataset on the Hub has no report
        report = dataset_script.load_report(rows)
        parts = [report.total(str(rows.split), lang) for lang in set(column(rows, "lang") or [None])]
        missing = sum(part.missing.total() + part.unreadable.total() for part in parts)
        if missing == 0 or sum(part.rows for part in parts) == len(rows):  # else these are a subset of its rows
            counts["missing_images"] = missing
    return counts


def _in_languages(rows: datasets.Dataset, languages: Sequence[str]) -> datasets.Dataset:
    found = column(rows, "lang") or []
    if missing := sorted(set(languages) - set(found)):
        raise ValueError(
            f"--train_languages names {', '.join(missing)}, and the training rows have "
            f"{', '.join(sorted(set(filter(None, found)))) or 'no languages'}: name some of these, joined by commas."
        )
    return rows.select([row for row, lang in enumerate(found) if lang in languages])


def _subset(rows: datasets.Dataset, size: int | None, seed: int) -> datasets.Dataset:
    """A random subset of the rows, in their order; all of them for a size of `None` or more than there are."""
    if size is None or size >= len(rows):
        return rows
    if size < 1:
        raise ValueError(f"A subset of {size} rows was asked for; expected 1 or more, or the option left out.")
    logger.info(f"A random {size} of the {len(rows)} rows of {rows.split} are used (seed {seed}).")
    return rows.select(sorted(random.Random(seed).sample(range(len(rows)), size)))


def label_names(rows: datasets.Dataset) -> list[str]:
    """
    The tags of a dataset, in id order.

    Raises:
        ValueError: there is no column of tokens or tags, or the tags are not class labels.
    """
    if missing := [name for name in ("tokens", "ner_tags") if name not in rows.column_names]:
        raise ValueError(
            f"The dataset has no column {' or '.join(missing)}; it has {', '.join(rows.column_names)}. Rename them: "
            "tokens (words), ner_tags (class labels, IOB2) and, if it has them, id, lang, image, image_relation."
        )
    names = getattr(getattr(rows.features["ner_tags"], "feature", None), "names", None)
    if names is None:
        raise ValueError(
            f"The column ner_tags is {rows.features['ner_tags']}; expected a list of class labels whose names are the "
            'tags: cast it to List(ClassLabel(names=["O", "B-PER", "I-PER", ...])).'
        )
    return list(names)


def column(rows: datasets.Dataset, name: str) -> list | None:
    """The values of a column; `None` if there is no such column."""
    return rows[name][:] if name in rows.column_names else None


def image_cells(rows: datasets.Dataset) -> datasets.Dataset | None:
    """The column of images, not decoded; `None` if there is no such column."""
    if "image" not in rows.column_names:
        return None
    return rows.select_columns("image").cast_column("image", datasets.Image(decode=False))


def rows_with_image(rows: datasets.Dataset) -> list[int]:
    """The numbers of the rows that have an image."""
    if (cells := image_cells(rows)) is None:
        return []
    present: list[bool] = []
    for batch in cells.with_format("arrow").iter(batch_size=1000):
        has_bytes, has_path = (pc.struct_field(batch["image"], part).is_valid() for part in ("bytes", "path"))
        present += pc.or_(has_bytes, has_path).to_pylist()
    return [row for row, has_image in enumerate(present) if has_image]
