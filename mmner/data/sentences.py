"""The sentences of a run: a dataset's splits, cut into windows that fit the text tower, with own or other images."""

import contextlib
import copy
import hashlib
import logging
import random
import re
from collections.abc import Collection, Hashable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
import torch

import dataset_script
from dataset_script.formats.registry import SPLIT_NAMES
from dataset_script.parquet import attach_report, is_parquet
from dataset_script.rows import TagError, check_tokens, iob2_tags, is_unlabelled, mended_tags
from mmner.data.augmentation import augmented, without_mentions
from mmner.data.shards import ParquetShards, find_shards
from mmner.entity_f1 import entity_scores, groups_of
from mmner.options import DataArguments
from mmner.probe import dataset as probe
from processing_2mner import TwoMNERProcessor, Window

logger = logging.getLogger(__name__)

SPLITS = {"train": "train", "validation": "eval", "test": "test"}
"""The splits of a dataset, and the prefix of the scores and counts of each."""
CAPTION_DROPOUT = 0.5
"""Probability that training hides a caption: a model that always read one would be lost without."""
IGNORED = -100
REMEDIES = {
    "not IOB2": "Correct the row. If the dataset is IOB1, or has more such errors, convert it: python -m "
    "dataset_script build SET --provider own --splits source --iob2 repair --output_dir FOLDER, and give --dataset "
    "FOLDER.",
    "no gold label": "Give it gold labels or leave it out: only a test split that has none at all is predicted, and "
    "not scored.",
}
"""What to do about a row, by what is wrong with its tags."""
FOLDER_OPTIONS = ("dataset_lang", "dataset_errors", "dataset_iob2", "image_folder", "captions", "tag_column")
"""Options of `DataArguments` that say how to read the files of a folder."""


def load_splits(
    args: DataArguments, needed: Collection[str], cache: str | Path, seed: int = 0, build: bool = True
) -> dict[str, datasets.Dataset | ParquetShards]:
    """
    The splits of the dataset that was asked for: the probe, a folder, or a name on the Hub.

    Args:
        args: which dataset, and how much of it.
        needed: which of `train`, `validation` and `test`.
        cache: a folder of the run's own, where the probe is written.
        seed: of the random subset of `train`; the subsets of dev and test are the same for every seed.
        build: False on a process that finds the probe written by another.

    Returns:
        The needed splits that there are; with `streaming`, `train` as `ParquetShards`.

    Raises:
        FileNotFoundError: the dataset is neither a folder nor a name that the Hub could have.
        ValueError: a row is malformed, an option does not fit this dataset, or the needed splits are absent.
    """
    loaded = _load_streaming(args, needed) if args.streaming else _renamed(_load(args, Path(cache), build))
    if others := sorted(set(loaded) - set(SPLITS)):
        logger.warning(f"The splits {', '.join(others)} are not read; {', '.join(SPLITS)} are.")
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
    if not args.use_images:
        logger.info("--use_images is false: the images of all rows are left out.")
    splits = {}
    for split, size in zip(
        SPLITS, (args.max_train_samples, args.max_eval_samples, args.max_predict_samples), strict=True
    ):
        if split in needed and split in loaded:
            # Runs of several seeds are scored on the same sentences.
            rows = _subset(loaded[split], size, seed if split == "train" else 0)
            if not args.use_images:
                rows = rows.select_columns([name for name in rows.column_names if name != "image"])
            splits[split] = rows
    return splits


def _load(args: DataArguments, cache: Path, build: bool) -> dict[str, datasets.Dataset]:
    if args.dataset is None:
        raise ValueError("There is no dataset: give --dataset a folder, a name on the Hub, or 'probe'.")
    folder, config = Path(args.dataset).expanduser(), args.dataset_config or "all"
    options = {name.removeprefix("dataset_"): getattr(args, name) for name in FOLDER_OPTIONS}
    if args.dataset == "probe":
        folder = cache / f"probe-{args.probe_sentences}"
        if build:
            probe.build(folder, num_sentences=args.probe_sentences)
        logger.warning("The probe is SYNTHETIC: it shows whether the image is used, nothing about natural text.")
        return dataset_script.load(folder, config, cache_dir=cache / "arrow", **options)
    if folder.is_dir():
        return dataset_script.load(folder, config, **options)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", args.dataset):
        raise FileNotFoundError(
            f"There is no folder {args.dataset}; expected --dataset 'probe', a folder, or a name on the Hub."
        )
    _refuse_folder_options(args, "comes from the Hub")
    return datasets.load_dataset(args.dataset, args.dataset_config)


def _load_streaming(
    args: DataArguments, needed: Collection[str]
) -> dict[str, datasets.Dataset | ParquetShards | None]:
    """The same of a dataset in Parquet: `train` stays in its files; `None` for a split that is not needed."""
    if args.dataset in (None, "probe"):
        raise ValueError(
            f"--streaming reads Parquet files, and the dataset is {args.dataset}: give --dataset a folder of them or "
            "a name on the Hub, or leave --streaming out."
        )
    _refuse_folder_options(args, "is read as Parquet")
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


def _refuse_folder_options(args: DataArguments, reason: str) -> None:
    if unused := [f"--{name}" for name in FOLDER_OPTIONS if getattr(args, name) not in (None, "raise", "auto")]:
        raise ValueError(f"{args.dataset} {reason}, where {', '.join(unused)} do not apply: leave them out.")


def _renamed(splits: dict[str, Any]) -> dict[str, Any]:
    """The splits by the names of `SPLITS`: `dev` becomes `validation`, unless there is a `validation`, and so on."""
    renamed = dict(splits)
    for name in splits:
        split = SPLIT_NAMES.get(name, name)
        if split in splits:
            continue
        if split in renamed:
            names = [other for other in splits if SPLIT_NAMES.get(other) == split]
            raise ValueError(f"The splits {', '.join(names)} all stand for {split}: expected one of them.")
        logger.info(f"The split {name} is read as {split}.")
        renamed[split] = renamed.pop(name)
    return renamed


def count_images(rows: datasets.Dataset) -> dict[str, int]:
    """
    Counts `samples`, `samples_with_image` and, where the report of the dataset tells them of just these rows,
    `missing_images`: rows whose image was not there or did not open when the dataset was loaded.
    """
    counts = {"samples": len(rows), "samples_with_image": len(_image_cells(rows)[1])}
    if "image" not in rows.column_names:  # left out, those that are missing too
        return counts
    with contextlib.suppress(ValueError):  # a dataset on the Hub has no report
        report = dataset_script.load_report(rows)
        parts = [report.total(str(rows.split), lang) for lang in set(_column(rows, "lang") or [None])]
        missing = sum(part.missing_rows + part.unreadable_rows for part in parts)
        if missing == 0 or sum(part.rows for part in parts) == len(rows):  # else these are a subset of its rows
            counts["missing_images"] = missing
    return counts


def _in_languages(rows: datasets.Dataset, languages: Sequence[str]) -> datasets.Dataset:
    found = _column(rows, "lang") or []
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


class WindowedSentences(torch.utils.data.Dataset):
    """
    The sentences of a split, cut where the text tower's length demands it; the collator makes batches of them.

    For training the windows do not overlap and, where that is possible, none cuts an entity. For evaluation they
    overlap by `stride` tokens, each word is read from one of them, and long ones come first, so that a batch holds
    sentences of about one length. No word is ever left out. No image is decoded here.

    Args:
        rows: columns `tokens` (words), `ner_tags` and, if there are any, `id`, `lang`, `image`, `image_relation`.
        processor: of the model; knows the tokens of a word.
        label2id: of the model; holds every tag of the rows.
        training: cut for training, not evaluation.
        images: `"own"`; `"hidden"`: no row has one; `"shuffled"`: each row with an image has another row's, of other
            content.
        stride: tokens that the windows of a long sentence share in evaluation; by default the processor's choice.
        max_length: tokens in a window, special tokens included. Default: all the tower takes.
        captions: read each image's caption. It is hidden and shuffled with the image, and hidden at random in training
            (`CAPTION_DROPOUT`).
        mention_dropout: in training, the probability that the words of an entity are masked in a row with an image, so
            that the context and the image tell its type. A model that reads no image gets the same rows, so that it
            remains a fair baseline.
        text_augmentation: in training, the probability that a sentence is changed as by `augmented`; one that would
            no longer fit its window stays as it is.
        seed: of the shuffled images and all that is random in training.
        name: of the split, in messages.
        may_be_unlabelled: the rows may have no gold labels (null, -1 or -100 for all tags of all rows). Then `tags` is
            `None`, and a window has no `labels`: they can be predicted, not scored.

    Raises:
        ValueError: a row has null tokens, not as many tags as tokens, a tag of no name, or tags that are not IOB2 or
            that the model does not know; no two different images to shuffle; or there are no captions to read.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        processor: TwoMNERProcessor,
        label2id: dict[str, int],
        *,
        training: bool = False,
        images: str = "own",
        stride: int | None = None,
        max_length: int | None = None,
        captions: bool = False,
        mention_dropout: float = 0.0,
        text_augmentation: float = 0.0,
        seed: int = 0,
        name: str = "the set",
        may_be_unlabelled: bool = False,
    ):
        self.tokens: list[list[str]] = rows["tokens"][:]
        self.ids: list[str] = _column(rows, "id") or [str(row) for row in range(len(rows))]
        self.tags = self._gold_tags(rows, name, may_be_unlabelled)
        if unknown := sorted({tag for tags in self.tags or () for tag in tags} - set(label2id)):
            raise ValueError(
                f"The dataset has the tags {', '.join(unknown)}, which the model does not know; it knows "
                f"{', '.join(label2id)}. Rename them in the dataset, or train a new model from towers."
            )
        self.label2id = dict(label2id)
        self.id2label = {index: label for label, index in label2id.items()}
        self.languages: list[str | None] = _column(rows, "lang") or [None] * len(rows)
        self.relations: list[str | None] = _column(rows, "image_relation") or [None] * len(rows)

        self._processor, self._budget = processor, processor.token_budget(max_length)
        self.row_of: list[int] = []
        """The row of each window."""
        self.windows: list[Window] = []
        self.lengths: list[int] = []
        """The number of tokens of each window, special tokens excluded."""
        self._cut(training, stride, max_length)

        for option, value in (("mention_dropout", mention_dropout), ("text_augmentation", text_augmentation)):
            if not 0 <= value <= 1:
                raise ValueError(f"--{option} is {value}; expected a probability between 0 and 1.")
        self._training = training
        self._text_augmentation, self._mention_dropout = text_augmentation, mention_dropout
        self._mask = processor.tokenizer.mask_token if training and mention_dropout else None
        if training and mention_dropout and self._mask is None:
            raise ValueError("--mention_dropout needs a tokenizer with a mask token, and this one has none: set 0.")

        self._cells, self.rows_with_image = _image_cells(rows)
        self._has_image = frozenset(self.rows_with_image)
        self._captions: list[str | None] | None = None
        if captions:
            self._captions = _column(rows, "caption") or []
            if not any(self._captions):
                raise ValueError(
                    "--image_as_text reads the captions of images, and the dataset has none: give it a column "
                    "`caption`, or name its file of captions by --captions."
                )
            captioned = {row for row, caption in enumerate(self._captions) if caption}
            self.rows_with_image = sorted(self._has_image | captioned)
        self._seed = seed
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # seen by data loader workers, too
        self._image_row: dict[int, int] = {}  # the row whose image is shown with a row
        self._image_ids: dict[int, int] | None = None
        self._show(images)

    def _gold_tags(self, rows: datasets.Dataset, name: str, may_be_unlabelled: bool) -> list[list[str]] | None:
        """The tags of each sentence by name, or `None` where none has gold labels and that is allowed."""
        names, column = label_names(rows), rows["ner_tags"][:]
        unlabelled = [is_unlabelled(tags) for tags in column]
        without_tags = (known or len(tags) == 0 for known, tags in zip(unlabelled, column, strict=True))
        is_unlabelled_split = may_be_unlabelled and any(unlabelled) and all(without_tags)
        gold = []
        for row, (tokens, tags) in enumerate(zip(self.tokens, column, strict=True)):
            try:
                if is_unlabelled_split:
                    check_tokens(tokens)
                else:
                    gold.append(iob2_tags(tokens, tags, names))
            except TagError as error:
                remedy = REMEDIES.get(error.reason, "Correct the row, or leave it out.")
                raise ValueError(f"{name}, row {self.ids[row]}: {error}. {remedy}") from None
        if not is_unlabelled_split:
            return gold
        logger.warning(f"{name}: no gold labels: predicted, not scored.")
        return None

    def _cut(self, training: bool, stride: int | None, max_length: int | None) -> None:
        found = []
        for row, words in enumerate(self.tokens):
            counts = self._processor.token_counts(words)
            if sum(counts) <= self._budget:
                windows = [Window(0, len(words), 0, len(words))]
            elif training:
                windows = training_windows(counts, self.tags[row] if self.tags else [], self._budget)
            else:
                windows = self._processor.windows(words, stride=stride, max_length=max_length)
            found += [(row, window, sum(counts[window.start : window.stop])) for window in windows]
        if not training:
            found.sort(key=lambda item: -item[2])
        for row, window, length in found:
            self.row_of.append(row)
            self.windows.append(window)
            self.lengths.append(length)
        if len(found) > len(self.tokens):
            logger.info(f"{len(self.tokens)} sentences in {len(found)} windows of at most {self._budget} tokens.")

    def _show(self, images: str) -> None:
        self.images = images
        rows = [] if images == "hidden" else self.rows_with_image
        others = rows
        if images == "shuffled":
            others = [rows[place] for place in derangement([self._content_of(row) for row in rows], self._seed)]
        self._image_row = dict(zip(rows, others, strict=True))

    def with_images(self, images: str) -> "WindowedSentences":
        """The same windows with other images: `"own"`, `"hidden"` or `"shuffled"`."""
        other = copy.copy(self)
        other._show(images)
        return other

    def shown_images(self) -> dict[int, bytes]:
        """The rows whose image is shown with a sentence, and a 16-byte hash of its file, equal for equal files."""
        return {row: self._content_of(row) for row in sorted(self._has_image.intersection(self._image_row.values()))}

    def _content_of(self, row: int) -> bytes:
        """A hash of the image's file, or of the caption where there is no image."""
        if row not in self._has_image:
            content = str(self._captions and self._captions[row]).encode()
        else:
            cell = self.image_file(row)
            try:
                content = cell["bytes"] if cell.get("bytes") is not None else Path(cell["path"]).read_bytes()
            except OSError:  # the collator counts and names it
                content = str(cell["path"]).encode()
        return hashlib.blake2b(content, digest_size=16).digest()

    def image_file(self, row: int) -> dict[str, Any]:
        """The image of a row that has one, as `datasets` stores it, not decoded."""
        return self._cells[row]["image"]

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, of which augmentation and dropout depend, in worker processes too."""
        self._epoch.fill_(epoch)

    def use_image_ids(self, image_ids: dict[int, int]) -> None:
        """From now on a window's `image` is the id of its row's image in the store (0: it does not open)."""
        self._image_ids = image_ids

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`tokens` and `labels` of a window, its row's `image`, not decoded (or its id), or `None`; and `caption`."""
        row, window = self.row_of[index], self.windows[index]
        # Where a window begins inside an entity, the rest of it becomes an entity.
        tags = None if self.tags is None else mended_tags(self.tags[row][window.start : window.stop])
        tokens = self.tokens[row][window.start : window.stop]
        source = self._image_row.get(row)
        caption = self._captions[source] if self._captions and source is not None else None
        if self._training and tags is not None:
            tokens, tags = self._augmented(index, tokens, tags)
            if self._mask is not None and source is not None:
                tokens = without_mentions(
                    tokens, tags, self._mention_dropout, self._mask, self._rng("mentions", index)
                )
            if caption and self._rng("caption", index).random() < CAPTION_DROPOUT:
                caption = None
        image = None
        if source in self._has_image:
            image = self.image_file(source) if self._image_ids is None else self._image_ids[source]
        item: dict[str, Any] = {"tokens": tokens, "image": image}
        if tags is not None:
            item["labels"] = [self.label2id[tag] for tag in tags]
        if self._captions is not None:
            item["caption"] = caption
        return item

    def _rng(self, purpose: str, index: int) -> random.Random:
        """Random numbers depend on seed, epoch and window alone, so a resumed run repeats the original one."""
        return random.Random(f"{purpose} {self._seed} {int(self._epoch)} {index}")

    def _augmented(self, index: int, tokens: list[str], tags: list[str]) -> tuple[list[str], list[str]]:
        rng = self._rng("text", index)
        if not self._text_augmentation or rng.random() >= self._text_augmentation:
            return tokens, tags
        changed = augmented(tokens, tags, rng)
        # Capitals may take more tokens than the window has room for.
        return changed if sum(self._processor.token_counts(changed[0])) <= self._budget else (tokens, tags)

    def stitch(self, values: np.ndarray) -> list[list[Any]]:
        """
        Puts together, for each sentence, what was computed for each word of each window.

        Args:
            values: `(num_windows, num_words)` or wider, in the order of the windows.

        Returns:
            For each sentence, the value of each of its words, from the window that keeps it.
        """
        result: list[list[Any]] = [[None] * len(words) for words in self.tokens]
        for row, window, line in zip(self.row_of, self.windows, values, strict=True):
            own = slice(window.keep_start - window.start, window.keep_stop - window.start)
            result[row][window.keep_start : window.keep_stop] = line[own].tolist()
        return result

    def predicted_tags(self, predictions: np.ndarray) -> list[list[str]]:
        """The tags of each sentence, from the tag ids `(num_windows, num_words)` of the windows."""
        return [[self.id2label[index] for index in ids] for ids in self.stitch(predictions)]

    def scores(self, predictions: np.ndarray) -> dict[str, float]:
        """The scores of the predicted tag ids `(num_windows, num_words)`; see `entity_scores`."""
        return entity_scores(self.tags or [], self.predicted_tags(predictions), self.languages, self.relations)

    @property
    def score_names(self) -> set[str]:
        """The names of the scores that `scores` gives, whatever is predicted; none without a gold entity."""
        return set(entity_scores(self.tags or [], self.tags or [], self.languages, self.relations))

    @property
    def groups(self) -> dict[str, list[str]]:
        """The languages, types and image relations of these sentences."""
        return groups_of(self.tags or (), self.languages, self.relations)


def training_windows(token_counts: Sequence[int], tags: Sequence[str], budget: int) -> list[Window]:
    """
    Cuts a sentence into consecutive windows of at most `budget` tokens, before an entity rather than inside it. A word
    of more tokens than that is a window of its own; an entity of more is cut.
    """
    windows, start = [], 0
    while start < len(token_counts):
        stop, used = start, 0
        while stop < len(token_counts) and (stop == start or used + token_counts[stop] <= budget):
            used += token_counts[stop]
            stop += 1
        before = stop
        while start < before < len(tags) and tags[before].startswith("I-"):
            before -= 1
        stop = before if before > start else stop
        windows.append(Window(start, stop, start, stop))
        start = stop
    return windows


def derangement(contents: Sequence[Hashable], seed: int) -> list[int]:
    """
    For each image another one, of other content: a permutation, unless more than half of the images are equal.

    Args:
        contents: what each image shows; equal for equal images.
        seed: of the order.

    Returns:
        For each position, the position of the image to show instead.

    Raises:
        ValueError: no two images differ.
    """
    rng = random.Random(seed)
    groups: dict[Hashable, list[int]] = {}
    for position in rng.sample(range(len(contents)), len(contents)):
        groups.setdefault(contents[position], []).append(position)
    if len(groups) < 2:
        raise ValueError(f"Cannot shuffle {len(contents)} images of {len(groups)} contents; expected two or more.")
    # Equal images stand side by side, and a step as long as the largest group leads out of each group.
    order = [position for group in groups.values() for position in group]
    step = max(map(len, groups.values()))
    result = {position: order[(place + step) % len(order)] for place, position in enumerate(order)}
    for position in order:
        while contents[result[position]] == contents[position]:  # only where the largest group is more than half
            result[position] = rng.choice(order)
    return [result[position] for position in range(len(contents))]


def _column(rows: datasets.Dataset, name: str) -> list | None:
    return rows[name][:] if name in rows.column_names else None


def _image_cells(rows: datasets.Dataset) -> tuple[datasets.Dataset | list[dict], list[int]]:
    """The column of images, not decoded, and the rows that have one."""
    if "image" not in rows.column_names:
        return [], []
    cells = rows.select_columns("image").cast_column("image", datasets.Image(decode=False))
    present: list[bool] = []
    for batch in cells.with_format("arrow").iter(batch_size=1000):
        has_bytes, has_path = (pc.struct_field(batch["image"], part).is_valid() for part in ("bytes", "path"))
        present += pc.or_(has_bytes, has_path).to_pylist()
    return cells, [row for row, has_image in enumerate(present) if has_image]
