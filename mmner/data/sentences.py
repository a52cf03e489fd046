"""The sentences of a split, cut into windows that fit the text tower, with own, hidden or shuffled images."""

import copy
import hashlib
import logging
import math
import random
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from dataset_script.rows import TagError, check_tokens, iob2_tags, is_unlabelled, mended_tags
from mmner.data.augmentation import augmented, posted, without_mentions
from mmner.data.splits import column, image_cells, label_names, rows_with_image
from mmner.entity_f1 import entity_scores, groups_of
from processing_2mner import TwoMNERProcessor, Window

logger = logging.getLogger(__name__)

CAPTION_DROPOUT = 0.5
"""Probability that training hides a caption: a model that always read one would be lost without."""
IGNORED = -100
REMEDIES = {
    "not IOB2": "Correct the row. If the dataset is IOB1, or has more such errors, convert it: mmner "
    "data build SET --provider own --splits source --iob2 repair --output_dir FOLDER, and give --dataset FOLDER.",
    "no gold label": "Give it gold labels or leave it out: only a test split that has none at all is predicted, and "
    "not scored.",
}
"""What to do about a row, by what is wrong with its tags."""


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
        post_augmentation: in training, the probability that a sentence is changed as by `posted`, likewise.
        repeat_rare_types: in training, windows with a type that a smaller share of them than this has come several
            times; see `repeats`.
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
        post_augmentation: float = 0.0,
        repeat_rare_types: float = 0.0,
        seed: int = 0,
        name: str = "the set",
        may_be_unlabelled: bool = False,
    ):
        self.tokens: list[list[str]] = rows["tokens"][:]
        self.ids: list[str] = column(rows, "id") or [str(row) for row in range(len(rows))]
        self.tags = self._gold_tags(rows, name, may_be_unlabelled)
        if unknown := sorted({tag for tags in self.tags or () for tag in tags} - set(label2id)):
            raise ValueError(
                f"The dataset has the tags {', '.join(unknown)}, which the model does not know; it knows "
                f"{', '.join(label2id)}. Rename them in the dataset, or see --new_types."
            )
        self.label2id = dict(label2id)
        self.id2label = {index: label for label, index in label2id.items()}
        self.languages: list[str | None] = column(rows, "lang") or [None] * len(rows)
        self.relations: list[str | None] = column(rows, "image_relation") or [None] * len(rows)
        self._known_types: list[list[str] | None] = column(rows, "known_types") or []

        self._processor, self._budget = processor, processor.token_budget(max_length)
        self.row_of: list[int] = []
        """The row of each window."""
        self.windows: list[Window] = []
        self.lengths: list[int] = []
        """The number of tokens of each window, special tokens excluded."""
        self._cut(training, stride, max_length)

        for option, value in (
            ("repeat_rare_types", repeat_rare_types),
            ("mention_dropout", mention_dropout),
            ("text_augmentation", text_augmentation),
            ("post_augmentation", post_augmentation),
        ):
            if not 0 <= value <= 1:
                raise ValueError(f"--{option} is {value}; expected a number between 0 and 1.")
        if training and repeat_rare_types:
            self._repeat_rare_types(repeat_rare_types, seed, name)
        self._training = training
        self._text_augmentation, self._mention_dropout = text_augmentation, mention_dropout
        self._post_augmentation = post_augmentation
        self._mask = processor.tokenizer.mask_token if training and mention_dropout else None
        if training and mention_dropout and self._mask is None:
            raise ValueError("--mention_dropout needs a tokenizer with a mask token, and this one has none: set 0.")

        self._cells: Any = image_cells(rows)
        self.rows_with_image = rows_with_image(rows)
        self._has_image = frozenset(self.rows_with_image)
        self._captions: list[str | None] | None = None
        if captions:
            self._captions = column(rows, "caption") or []
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
        names, tag_ids = label_names(rows), rows["ner_tags"][:]
        unlabelled = [is_unlabelled(tags) for tags in tag_ids]
        without_tags = (known or len(tags) == 0 for known, tags in zip(unlabelled, tag_ids, strict=True))
        is_unlabelled_split = may_be_unlabelled and any(unlabelled) and all(without_tags)
        gold = []
        for row, (tokens, tags) in enumerate(zip(self.tokens, tag_ids, strict=True)):
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

    def _repeat_rare_types(self, share: float, seed: int, name: str) -> None:
        types = [
            {tag[2:] for tag in (self.tags or [])[row][window.start : window.stop] if tag != "O"}
            for row, window in zip(self.row_of, self.windows, strict=True)
        ]
        counts = Counter(kind for kinds in types for kind in kinds)
        order = [place for place, number in enumerate(repeats(types, share, seed)) for _ in range(number)]
        rare = [f"{kind} ({count})" for kind, count in sorted(counts.items()) if count < share * len(types)]
        logger.info(
            f"{name}: {len(order) - len(types)} of {len(types)} windows come again, for types in fewer than "
            f"{share:.1%} of them: {', '.join(rare) or 'none'}."
        )
        self.row_of = [self.row_of[place] for place in order]
        self.windows = [self.windows[place] for place in order]
        self.lengths = [self.lengths[place] for place in order]

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
            if self._known_types:
                item["unknown_tags"] = self._unknown_tags(self._known_types[row])
        if self._captions is not None:
            item["caption"] = caption
        return item

    def _unknown_tags(self, known_types: list[str] | None) -> list[bool]:
        """For each label, whether the annotators of a row did not tag its type."""
        return [known_types is not None and label != "O" and label[2:] not in known_types for label in self.label2id]

    def _rng(self, purpose: str, index: int) -> random.Random:
        """Random numbers depend on seed, epoch and window alone, so a resumed run repeats the original one."""
        return random.Random(f"{purpose} {self._seed} {int(self._epoch)} {index}")

    def _augmented(self, index: int, tokens: list[str], tags: list[str]) -> tuple[list[str], list[str]]:
        rng = self._rng("text", index)
        changed = tokens, tags
        if self._post_augmentation and rng.random() < self._post_augmentation:
            changed = posted(*changed, rng)
        if self._text_augmentation and rng.random() < self._text_augmentation:
            changed = augmented(*changed, rng)
        # Capitals may take more tokens than the window has room for.
        return changed if sum(self._processor.token_counts(changed[0])) <= self._budget else (tokens, tags)

    def stitch(self, values: np.ndarray) -> list[list[Any]]:
        """For each sentence the value of each word, from the values `(num_windows, num_words)` of the windows."""
        result: list[list[Any]] = [[None] * len(words) for words in self.tokens]
        for row, window, line in zip(self.row_of, self.windows, values, strict=True):
            own = slice(window.keep_start - window.start, window.keep_stop - window.start)
            result[row][window.keep_start : window.keep_stop] = line[own].tolist()
        return result

    def predicted_tags(self, predictions: np.ndarray) -> list[list[str]]:
        """The tags of each sentence, from the tag ids `(num_windows, num_words)` of the windows."""
        return [[self.id2label[index] for index in ids] for ids in self.stitch(predictions)]

    def scores(self, predictions: np.ndarray) -> dict[str, float]:
        """
        The scores of the predicted tag ids `(num_windows, num_words)`; see `entity_scores`. Entities of types that a
        row's annotators did not tag do not count.
        """
        predicted = self.predicted_tags(predictions)
        for tags, known in zip(predicted, self._known_types, strict=bool(self._known_types)):
            if known is not None:
                tags[:] = [tag if tag[2:] in known else "O" for tag in tags]
        return entity_scores(self.tags or [], predicted, self.languages, self.relations)

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


def repeats(types: Sequence[set[str]], share: float, seed: int) -> list[int]:
    """
    How often each sentence comes in an epoch: sqrt(`share` / f) times for its rarest type, which a share f of the
    sentences has, and once where f is larger; fractions are rounded up or down at random, so that the mean is right
    (repeat factor sampling, Gupta et al., LVIS, 2019, section 4.2).

    Args:
        types: of the entities of each sentence.
    """
    counts = Counter(kind for kinds in types for kind in kinds)
    rng = random.Random(f"repeats {seed}")
    factors = [max([1.0, *(math.sqrt(share * len(types) / counts[kind]) for kind in kinds)]) for kinds in types]
    return [math.floor(factor + rng.random()) for factor in factors]


def derangement(contents: Sequence[Hashable], seed: int) -> list[int]:
    """
    For each image another one, of other content: a permutation, unless more than half of the images are equal.

    Args:
        contents: what each image shows; equal for equal images.
        seed: of the order.

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
