"""The rows of a run: found, counted, and cut into windows that fit the text tower, with their own or other images."""

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
import torch
from transformers import EvalPrediction

import dataset_script
from dataset_script.formats.registry import SPLIT_NAMES
from dataset_script.parquet import attach_report, is_parquet
from dataset_script.spans import TagError, check_tokens, iob2_tags, is_unlabelled, mended_tags
from mmner.data.augmentation import augmented, without_mentions
from mmner.data.shards import ParquetShards, find_shards
from mmner.entity_f1 import entity_scores, groups_of
from mmner.options import DataArguments
from mmner.probe import dataset as probe
from processing_2mner import TwoMNERProcessor, Window

logger = logging.getLogger(__name__)

SPLITS = {"train": "train", "validation": "eval", "test": "test"}
"""The splits of a set, and the prefix of the scores and counts of each."""
IMAGES = ("own", "hidden", "shuffled")
IGNORED = -100
REMEDIES = {
    "not IOB2": "Correct the row. If the set is IOB1, or has more such slips, convert it: python -m dataset_script "
    "build SET --provider own --splits source --iob2 repair --output_dir FOLDER, and give --dataset FOLDER.",
    "no gold label": "Give it gold labels or leave it out: only a test split that has none at all is predicted, and "
    "not scored.",
}
"""What to do about a row, by what is wrong with its tags."""


def load_splits(
    args: DataArguments, needed: Collection[str], cache: str | Path, seed: int = 0, build: bool = True
) -> dict[str, datasets.Dataset | ParquetShards]:
    """
    The splits of the set that was asked for, of the probe, a folder, or the Hub, and of each the part asked for.

    Args:
        args: which set, and how much of it.
        needed: which of `train`, `validation` and `test`.
        cache: a folder of the run's own, where the probe is written.
        seed: of the random subset of `train`; those of dev and test are the same for every seed.
        build: False on a process that finds the probe written by another.

    Returns:
        The needed splits that the set has; what it lacks is logged. With `use_images=False`, without their images.
        With `streaming`, `train` is where it lies.

    Raises:
        FileNotFoundError: the set is neither a folder nor a name that the Hub could have.
        ValueError: a row is malformed, an option makes no sense for this set, it has none of the splits needed, or no
            `train` where that is needed.
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
        logger.warning(f"{args.dataset} has no {' and no '.join(absent)}: what it is for is left out.")
    if args.train_languages is not None and "train" in needed:
        loaded["train"] = _in_languages(loaded["train"], args.train_languages.split(","))
    sizes = {
        "train": args.max_train_samples,
        "validation": args.max_eval_samples,
        "test": args.max_predict_samples,
    }
    # Runs of several seeds are scored on the same sentences.
    seeds = {"train": seed, "validation": 0, "test": 0}
    splits = {
        split: _subset(loaded[split], sizes[split], seeds[split])
        for split in SPLITS
        if split in needed and split in loaded
    }
    if not args.use_images:
        logger.info("use_images is false: the images of all rows are left out.")
        splits = {
            split: rows.select_columns([name for name in rows.column_names if name != "image"])
            for split, rows in splits.items()
        }
    return splits


def _load(args: DataArguments, cache: Path, build: bool) -> datasets.DatasetDict:
    if args.dataset is None:
        raise ValueError("There is no dataset: give --dataset a folder, a name on the Hub, or 'probe'.")
    name, folder = args.dataset, Path(args.dataset).expanduser()
    given = {
        "dataset_lang": args.dataset_lang,
        "dataset_errors": args.dataset_errors,
        "dataset_iob2": args.dataset_iob2,
        "image_folder": args.image_folder,
        "captions": args.captions,
        "tag_column": args.tag_column,
    }
    options = {option.removeprefix("dataset_"): value for option, value in given.items()}
    if name == "probe":
        folder = cache / f"probe-{args.probe_sentences}"
        if build:
            probe.build(folder, num_sentences=args.probe_sentences)
        logger.warning("The probe is SYNTHETIC: it shows whether the image is used, nothing about natural text.")
        loaded = dataset_script.load(folder, args.dataset_config or "all", cache_dir=cache / "arrow", **options)
    elif folder.is_dir():
        loaded = dataset_script.load(folder, args.dataset_config or "all", **options)
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not name.startswith("."):
        if unused := [option for option, value in given.items() if value not in (None, "raise", "auto")]:
            raise ValueError(f"{name} comes from the Hub, where {', '.join(unused)} mean nothing: leave them out.")
        loaded = datasets.load_dataset(name, args.dataset_config)
    else:
        raise FileNotFoundError(f"There is no folder {name}; expected 'probe', a folder, or a name on the Hub.")
    return loaded


def _renamed(splits: dict[str, Any]) -> dict[str, Any]:
    """The splits by their names here: where there is no `validation`, that is what `dev` is, and so on."""
    renamed = dict(splits)
    for name in splits:
        split = SPLIT_NAMES.get(name, name)
        if split in splits:
            continue
        if split in renamed:
            names = [other for other in splits if SPLIT_NAMES.get(other) == split]
            raise ValueError(
                f"The set has the splits {', '.join(names)}, which all are {split}: expected one of them."
            )
        logger.info(f"The split {name} is read as {split}.")
        renamed[split] = renamed.pop(name)
    return renamed


def _load_streaming(
    args: DataArguments, needed: Collection[str]
) -> dict[str, datasets.Dataset | ParquetShards | None]:
    """The same of a set in Parquet: `train` where it lies, and `None` for a split that is not needed."""
    if args.dataset in (None, "probe"):
        raise ValueError(
            f"--streaming reads Parquet files, and the dataset is {args.dataset}: give --dataset a folder of them or "
            "a name on the Hub, or leave --streaming out."
        )
    given = ("dataset_lang", "dataset_errors", "dataset_iob2", "image_folder", "captions", "tag_column")
    if unused := [name for name in given if getattr(args, name) not in (None, "raise", "auto")]:
        raise ValueError(f"{args.dataset} is read as Parquet, where {', '.join(unused)} mean nothing: leave them out.")
    folder = Path(args.dataset).expanduser()
    config = args.dataset_config or ("all" if is_parquet(folder) else None)
    files, features = find_shards(args.dataset, config)
    files = _renamed(files)
    loaded: dict[str, datasets.Dataset | ParquetShards | None] = dict.fromkeys(files)
    if others := {split: files[split] for split in files if split in needed and split != "train"}:
        loaded.update(datasets.load_dataset("parquet", data_files=others, features=features))
        if is_parquet(folder):
            attach_report({split: loaded[split] for split in others}, folder, config)
    if "train" in needed and "train" in files:
        loaded["train"] = ParquetShards(files["train"], features)
    return loaded


def count_images(rows: datasets.Dataset) -> dict[str, int]:
    """How many `samples` there are, `samples_with_image`, and, where it is known of these rows, `missing_images` (rows
    whose image was not there or did not open when the set was loaded)."""
    counts = {"samples": len(rows), "samples_with_image": len(_image_cells(rows)[1])}
    if "image" in rows.column_names:  # else the images were left out, the missing with the others
        with contextlib.suppress(ValueError):  # from the Hub: a set of which we know only what it holds
            missing = _missing_images(rows, counts["samples"] - counts["samples_with_image"])
            counts |= {} if missing is None else {"missing_images": missing}
    return counts


def _missing_images(rows: datasets.Dataset, without_image: int) -> int | None:
    """Of the rows without an image, those that name one; the report tells it by language, not by row."""
    report, split = dataset_script.load_report(rows), str(rows.split)
    languages = set(_column(rows, "lang") or ())
    parts = [report.total(split, lang) for lang in sorted(languages, key=str)] if languages else [report.total(split)]
    missing = sum(part.missing_rows + part.unreadable_rows for part in parts)
    if missing == 0 or sum(part.rows for part in parts) == len(rows):
        return missing
    # Some of the rows of these languages: where no row is without a name of an image, none of these is.
    return None if any(part.without_image for part in parts) else without_image


def _in_languages(rows: datasets.Dataset, languages: Sequence[str]) -> datasets.Dataset:
    """The rows of some languages, in their order."""
    found = _column(rows, "lang") or []
    if missing := sorted(set(languages) - set(found)):
        raise ValueError(
            f"train_languages names {', '.join(missing)}, and the training rows have "
            f"{', '.join(sorted(set(filter(None, found)))) or 'no languages'}: name some of these, parted by commas."
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
    The tags of a set, in id order.

    Raises:
        ValueError: there is no column of tokens or tags, or the tags are not class labels.
    """
    missing = [name for name in ("tokens", "ner_tags") if name not in rows.column_names]
    if missing:
        raise ValueError(
            f"The set has no column {' or '.join(missing)}; it has {', '.join(rows.column_names)}. Rename them: "
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
    The sentences of a split, cut where the text tower's length demands it; what the collator makes batches of.

    For training the windows do not overlap and, where that is possible, none cuts an entity. For evaluation they
    overlap by `stride` pieces, each word is read from one of them, and they are ordered from long to short, so that a
    batch holds sentences of about one length. No word of a sentence is ever left out. No image is decoded here.

    Args:
        rows: columns `tokens`, `ner_tags` and, if there are any, `id`, `lang`, `image`, `image_relation`.
        processor: of the model; knows the pieces of a word.
        label2id: of the model; holds every tag of the rows.
        training: cut for training, not evaluation.
        images: `"own"`; `"hidden"`: no row has one; `"shuffled"`: a row with an image has another row's, of other
            content, one without has none.
        stride: pieces that the windows of a long sentence share in evaluation; by default the processor's choice.
        max_length: pieces in a window, special tokens included. Default: all the tower takes.
        captions: read each image's caption; it is hidden and shuffled with the image, or for it where images are
            missing.
        mention_dropout: in training, the probability that the words of an entity are hidden behind the tokenizer's
            mask in a row with an image: the sentence around it and the image are left to tell its type. The rows are
            the same for a model that reads no image, so that it remains a fair baseline.
        text_augmentation: in training, the probability that a sentence is read as it could have been typed in a post:
            in lower case, in capitals or without punctuation. One that would no longer fit its window stays as it is.
        seed: of the shuffled images, the hidden mentions and the augmented sentences.
        name: of the set, in messages.
        may_be_unlabelled: the rows may have no gold labels (null, -1 or -100 for all tags of all rows). Then they can
            be predicted, not scored: `tags` is `None`, and a window has no `labels`.

    Raises:
        ValueError: a row has null tokens, not as many tags as tokens, a tag of no name, or tags that are not IOB2 or
            that the model does not know; no two different images to shuffle; or captions are to be read and the rows
            have none.
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
                f"The set has the tags {', '.join(unknown)}, which the model does not know; it knows "
                f"{', '.join(label2id)}. Rename them in the set, or train a new model from towers."
            )
        self.label2id = dict(label2id)
        self.id2label = {index: label for label, index in label2id.items()}
        self.languages: list[str | None] = _column(rows, "lang") or [None] * len(rows)
        self.relations: list[str | None] = _column(rows, "image_relation") or [None] * len(rows)

        self.row_of: list[int] = []
        """The row of each window."""
        self.windows: list[Window] = []
        self.lengths: list[int] = []
        """The pieces of each window, special tokens excluded."""
        self._cut(processor, training, stride, max_length)

        for name, value in (("mention_dropout", mention_dropout), ("text_augmentation", text_augmentation)):
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` is {value}; expected a probability between 0 and 1.")
        self.text_augmentation = text_augmentation if training else 0.0
        self.mention_dropout = mention_dropout if training else 0.0
        self._mask = processor.tokenizer.mask_token if self.mention_dropout else None
        if self.mention_dropout and self._mask is None:
            raise ValueError(
                "`mention_dropout` hides words behind the tokenizer's mask token, and it has none: set 0."
            )

        self._cells, self.rows_with_image = _image_cells(rows)
        self._has_image = frozenset(self.rows_with_image)
        self._captions: list[str | None] | None = None
        if captions:
            self._captions = _column(rows, "caption")
            if self._captions is None or not any(self._captions):
                raise ValueError(
                    "`image_as_text` reads the captions of images, and the set has none: give it a column `caption`, "
                    "or name its file of captions by --captions."
                )
            captioned = {row for row, caption in enumerate(self._captions) if caption}
            self.rows_with_image = sorted(self._has_image | captioned)
        self._seed = seed
        # Shared, because a data loader's workers have copies of the rest.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self._image_row: dict[int, int] = {}
        self._image_ids: dict[int, int] | None = None
        self._show(images)

    def _gold_tags(self, rows: datasets.Dataset, name: str, may_be_unlabelled: bool) -> list[list[str]] | None:
        """The tags of each sentence by name, or `None` where none has gold labels and that may be."""
        names, column = label_names(rows), rows["ner_tags"][:]
        is_unlabelled_set = (
            may_be_unlabelled
            and any(map(is_unlabelled, column))
            and all(is_unlabelled(tags) or len(tags) == 0 for tags in column)
        )
        gold = []
        for row, (tokens, tags) in enumerate(zip(self.tokens, column, strict=True)):
            try:
                if is_unlabelled_set:
                    check_tokens(tokens)
                else:
                    gold.append(iob2_tags(tokens, tags, names))
            except TagError as error:
                remedy = REMEDIES.get(error.reason, "Correct the row, or leave it out.")
                raise ValueError(f"{name}, row {self.ids[row]}: {error}. {remedy}") from None
        if not is_unlabelled_set:
            return gold
        logger.warning(f"{name}: no gold labels: predicted, not scored.")
        return None

    def _cut(self, processor: TwoMNERProcessor, training: bool, stride: int | None, max_length: int | None) -> None:
        budget = processor.token_budget(max_length)
        self._processor, self._budget = processor, budget
        found = []
        for row, words in enumerate(self.tokens):
            counts = processor.token_counts(words)
            if sum(counts) <= budget:
                windows = [Window(0, len(words), 0, len(words))]
            elif training:
                windows = training_windows(counts, self.tags[row], budget)
            else:
                windows = processor.windows(words, stride=stride, max_length=max_length)
            found += [(row, window, sum(counts[window.start : window.stop])) for window in windows]
        if not training:
            found.sort(key=lambda item: -item[2])
        for row, window, length in found:
            self.row_of.append(row)
            self.windows.append(window)
            self.lengths.append(length)
        if len(found) > len(self.tokens):
            logger.info(f"{len(self.tokens)} sentences in {len(found)} windows of at most {budget} pieces.")

    def _show(self, images: str) -> None:
        if images not in IMAGES:
            raise ValueError(f"`images` is {images!r}; expected one of {', '.join(IMAGES)}.")
        self.images = images
        if images == "own":
            self._image_row = {row: row for row in self.rows_with_image}
        elif images == "hidden":
            self._image_row = {}
        else:
            contents = [self._content_of(row) for row in self.rows_with_image]
            order = derangement(contents, self._seed)
            self._image_row = {
                row: self.rows_with_image[other] for row, other in zip(self.rows_with_image, order, strict=True)
            }

    def with_images(self, images: str) -> "WindowedSentences":
        """The same windows with other images: `"own"`, `"hidden"` or `"shuffled"`."""
        other = copy.copy(self)
        other._show(images)
        return other

    def shown_images(self) -> dict[int, bytes]:
        """The rows whose image is shown with a sentence, and a 16-byte hash of its file, equal for equal files."""
        shown = sorted(self._has_image.intersection(self._image_row.values()))
        return {row: _content(self.image_file(row)) for row in shown}

    def _content_of(self, row: int) -> bytes:
        if row in self._has_image:
            return _content(self.image_file(row))
        return hashlib.blake2b(self._captions[row].encode(), digest_size=16).digest()

    def image_file(self, row: int) -> dict[str, Any]:
        """The image of a row that has one, as `datasets` stores it, not decoded."""
        return self._cells[row]["image"]

    def set_epoch(self, epoch: int) -> None:
        """Another epoch: other mentions are hidden and other sentences augmented, in worker processes too."""
        self._epoch.fill_(epoch)

    def use_image_ids(self, image_ids: dict[int, int]) -> None:
        """From now on a window's `image` is the id of its row's picture (0: it does not open), not its file."""
        self._image_ids = image_ids

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`tokens` and `labels` of a window, its row's `image`, not decoded (or its id), or `None`; and `caption`."""
        row, window = self.row_of[index], self.windows[index]
        # Where a window begins inside an entity, its rest is one of its own.
        tags = mended_tags(self.tags[row][window.start : window.stop]) if self.tags is not None else None
        source = self._image_row.get(row)
        tokens = self.tokens[row][window.start : window.stop]
        if self.text_augmentation:
            tokens, tags = self._augmented(index, tokens, tags)
        if self.mention_dropout and source is not None:
            tokens = without_mentions(tokens, tags, self.mention_dropout, self._mask, self._rng("mentions", index))
        image = None
        if source in self._has_image:
            image = self.image_file(source) if self._image_ids is None else self._image_ids[source]
        window = {"tokens": tokens, "image": image}
        if tags is not None:
            window["labels"] = [self.label2id[tag] for tag in tags]
        if self._captions is not None:
            window["caption"] = None if source is None else self._captions[source]
        return window

    def _rng(self, purpose: str, index: int) -> random.Random:
        """Draws by seed, epoch and window alone: the same for whoever reads it, in whatever order, after a resume."""
        return random.Random(f"{purpose} {self._seed} {int(self._epoch)} {index}")

    def _augmented(self, index: int, tokens: list[str], tags: list[str]) -> tuple[list[str], list[str]]:
        rng = self._rng("text", index)
        if rng.random() >= self.text_augmentation:
            return tokens, tags
        changed = augmented(tokens, tags, rng)
        # Capitals have more pieces.
        return changed if sum(self._processor.token_counts(changed[0])) <= self._budget else (tokens, tags)

    def stitch(self, values: np.ndarray) -> list[list[Any]]:
        """
        What was computed for each word of each window, sentence by sentence.

        Args:
            values: `(num_windows, num_words)` or wider, in the order of the windows.

        Returns:
            For each sentence, the value of each of its words, from the window that keeps it.

        Raises:
            ValueError: there are not as many rows of values as windows.
        """
        if len(values) != len(self):
            raise ValueError(f"Values of {len(values)} windows; expected {len(self)}, one for each window, in order.")
        result: list[list[Any]] = [[None] * len(words) for words in self.tokens]
        for row, window, line in zip(self.row_of, self.windows, values, strict=True):
            own = slice(window.keep_start - window.start, window.keep_stop - window.start)
            result[row][window.keep_start : window.keep_stop] = line[own].tolist()
        return result

    @property
    def has_long_sentences(self) -> bool:
        """Whether a sentence takes more than one window."""
        return len(self.windows) > len(self.tokens)

    def predicted_tags(self, predictions: np.ndarray) -> list[list[str]]:
        """The tags of each sentence, from the tag ids `(num_windows, num_words)` of the windows."""
        return [[self.id2label[index] for index in ids] for ids in self.stitch(predictions)]

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """The scores of these sentences, of what a `Trainer` gathered for them; see `entity_scores`."""
        predictions = prediction.predictions
        if isinstance(predictions, (tuple, list)):
            predictions = predictions[0]
        return entity_scores(self.tags, self.predicted_tags(predictions), self.languages, self.relations)

    @property
    def score_names(self) -> set[str]:
        """The names of the scores that `compute_metrics` gives, whatever is predicted; none without a gold entity."""
        return set(entity_scores(self.tags, self.tags, self.languages, self.relations))

    @property
    def groups(self) -> dict[str, list[str]]:
        """The languages, types and image relations of these sentences."""
        return groups_of(self.tags or (), self.languages, self.relations)


def training_windows(piece_counts: Sequence[int], tags: Sequence[str], budget: int) -> list[Window]:
    """
    Cuts a sentence into consecutive windows of at most `budget` pieces, before an entity rather than inside it. A word
    of more pieces than that is a window of its own; an entity of more is cut.
    """
    windows, start = [], 0
    while start < len(piece_counts):
        stop, used = start, 0
        while stop < len(piece_counts) and (stop == start or used + piece_counts[stop] <= budget):
            used += piece_counts[stop]
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
    For each image another one, of other content: a permutation, unless more than half of the images are one and the
    same, which is then replaced by the others in turn.

    Args:
        contents: what each image shows; equal for equal images.
        seed: of the order.

    Returns:
        For each position, the position of the image to show instead.

    Raises:
        ValueError: no two images differ.
    """
    positions: dict[Hashable, list[int]] = {}
    for position, content in enumerate(contents):
        positions.setdefault(content, []).append(position)
    if len(positions) < 2:
        raise ValueError(f"Cannot shuffle {len(contents)} images of {len(positions)} contents; expected two or more.")
    rng = random.Random(seed)
    groups = list(positions.values())
    rng.shuffle(groups)
    for group in groups:
        rng.shuffle(group)
    # Equal images side by side, and a step as long as the longest such stretch: it always leads out of the stretch.
    order = [position for group in groups for position in group]
    step = max(map(len, groups))
    if 2 * step <= len(order):
        result = {position: order[(place + step) % len(order)] for place, position in enumerate(order)}
    else:
        longest = max(groups, key=len)
        others = [position for group in groups if group is not longest for position in group]
        result = {position: others[place % len(others)] for place, position in enumerate(longest)}
        result |= {position: longest[place] for place, position in enumerate(others)}
    return [result[position] for position in range(len(contents))]


def _column(rows: datasets.Dataset, name: str) -> list | None:
    return rows[name][:] if name in rows.column_names else None


def _image_cells(rows: datasets.Dataset) -> tuple[datasets.Dataset | list[dict], list[int]]:
    """The column of images, not decoded, and the rows that have one."""
    if "image" not in rows.column_names:
        return [], []
    cells = rows.select_columns("image").cast_column("image", datasets.Image(decode=False))
    present = []
    for batch in cells.with_format("arrow").iter(batch_size=1000):
        column = batch["image"].combine_chunks()
        content, path = column.field("bytes").is_valid(), column.field("path").is_valid()
        present += [
            valid.as_py() and (has_bytes.as_py() or has_path.as_py())
            for valid, has_bytes, has_path in zip(column.is_valid(), content, path, strict=True)
        ]
    return cells, [row for row, has_image in enumerate(present) if has_image]


def _content(cell: dict[str, Any]) -> bytes:
    """A hash of an image's file, which is equal for copies of one under different names."""
    try:
        content = cell["bytes"] if cell.get("bytes") is not None else Path(cell["path"]).read_bytes()
    except OSError:  # told by whoever opens it
        content = str(cell["path"]).encode()
    return hashlib.blake2b(content, digest_size=16).digest()
