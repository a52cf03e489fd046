"""
Training sentences streamed from Parquet files: read by row groups, shuffled, cut into windows and batched on the way.

Every worker process of every process of a run is a reader. In each epoch the row groups of all files are shuffled and
dealt out to the readers. A reader takes its own in stretches of about `shuffle_buffer` rows and shuffles the windows
of each, so three numbers say where it is, and a resume reads one stretch per reader again.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from mmner.data.sentences import WindowedSentences
from mmner.data.shards import ParquetShards
from mmner.options import DataArguments, TrainingArguments
from processing_2mner import TwoMNERProcessor

POSITION = "stream_position"
"""The key under which a batch carries the `Position` of its reader."""


class Position(NamedTuple):
    """Where a reader is, after a batch."""

    reader: int
    """Of the readers of its process."""
    epoch: int = 0
    stretch: int = 0
    """Of the reader's share in this epoch."""
    batch: int = 0
    """Batches of this stretch that are done."""


def collate_stream(collator: Callable[[list], dict[str, Any]], item: tuple[Position, list]) -> dict[str, Any]:
    """The tensors of a batch, with its position under `POSITION`."""
    position, windows = item
    return collator(windows) | {POSITION: position}


def check_streaming(data_args: DataArguments, args: TrainingArguments) -> None:
    """
    Raises:
        ValueError: an option makes no sense for a stream.
    """
    if args.max_steps <= 0:
        raise ValueError(
            "--streaming needs --max_steps, since a stream has no end. One epoch is about the number of rows divided "
            "by --per_device_train_batch_size, processes and --gradient_accumulation_steps."
        )
    refused = {
        "eval_strategy epoch": args.eval_strategy == "epoch",
        "save_strategy epoch": args.save_strategy == "epoch",
        "dataloader_in_order false": not args.dataloader_in_order,
        "max_train_samples": data_args.max_train_samples is not None,
        "train_languages": data_args.train_languages is not None,
        "repeat_rare_types": data_args.repeat_rare_types != 0,
        "image_feature_store": data_args.image_feature_store != "none",
    }
    if given := [f"--{name}" for name, is_given in refused.items() if is_given]:
        raise ValueError(
            f"--streaming does not go with {', '.join(given)}: the rows are read as they lie, and there are no epochs "
            "to count. Leave it out; count by steps (--eval_strategy steps --eval_steps 500), and choose rows by "
            "--dataset_config."
        )


class SentenceStream(IterableDataset):
    """
    Endless batches of windows of training sentences: each row once an epoch, and then the next epoch.

    The windows are those of `WindowedSentences` (no word is left out, no image is decoded here), and so are the
    errors about a bad row, which come when it is read. The last batch of a stretch may be smaller than the others.

    Args:
        order: `group_by_length`: row groups and windows shuffled, the windows of a batch of about one length;
            `random`: only shuffled; `sequential`: as they lie in the files.
        shuffle_buffer: rows among which windows are shuffled, which a reader holds in memory (a row group more at
            most).
        options: those of `WindowedSentences` about training.

    Raises:
        ValueError: an option makes no sense.
    """

    def __init__(
        self,
        shards: ParquetShards,
        processor: TwoMNERProcessor,
        label2id: dict[str, int],
        *,
        order: str = "group_by_length",
        shuffle_buffer: int = 2048,
        seed: int = 0,
        **options: Any,
    ):
        if shuffle_buffer < 1:
            raise ValueError(f"--shuffle_buffer is {shuffle_buffer}; expected 1 row or more.")
        self.shards = shards
        self.processor = processor
        self.label2id = dict(label2id)
        self.order = order
        self.shuffle_buffer = shuffle_buffer
        self.options = options
        self.seed = seed
        self.use_batches(1, 0, 1, 0)
        self._windows([0], seed)  # what is wrong with the first rows is said now, not by a worker

    def use_batches(self, batch_size: int, process: int, processes: int, workers: int) -> None:
        """
        Begins the stream of one of the `processes` of a run, whose data loader has so many `workers`.

        Raises:
            ValueError: there is not a row group for each reader.
        """
        self.batch_size, self.process, self.workers = batch_size, process, max(1, workers)
        self.readers = processes * self.workers
        if self.readers > len(self.shards.group_rows):
            raise ValueError(
                f"{self.readers} readers (processes x workers), but the Parquet files have only "
                f"{len(self.shards.group_rows)} row groups. Write smaller ones (dataset_script.write_parquet makes "
                "them of 100 rows), or lower --dataloader_num_workers."
            )
        # The positions of the readers of this process, the one whose batch comes next first.
        self._turns = [Position(reader) for reader in range(self.workers)]

    def advance(self, position: Position) -> None:
        """Notes that a batch was used, after which its reader is at this position."""
        self._turns = [*self._turns[1:], Position(*position)]

    def state_dict(self) -> dict[str, Any]:
        """What the order depends on, and the positions of the readers of this process."""
        facts = {"shards": self.shards.fingerprint, "order": self.order, "shuffle_buffer": self.shuffle_buffer}
        facts |= self.options | {"seed": self.seed, "batch_size": self.batch_size, "readers": self.readers}
        return facts | {"turns": [list(position) for position in self._turns]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Continues where another stream was.

        Raises:
            ValueError: its order was another one.
        """
        own = self.state_dict()
        if differing := [name for name in own if name != "turns" and state.get(name) != own[name]]:
            raise ValueError(
                "The stream is not that of the checkpoint, so its batches would be others: "
                + "; ".join(f"{name} was {state.get(name)}, is {own[name]}" for name in differing)
                + ". Give the options of the checkpoint, and as many processes and workers."
            )
        self._turns = [Position(*position) for position in state["turns"]]

    def __iter__(self) -> Iterator[tuple[Position, list[dict[str, Any]]]]:
        info = get_worker_info()
        # A data loader takes batches from its workers in turn, from the first worker first.
        yield from self.batches(self._turns[0 if info is None else info.id])

    def batches(self, start: Position) -> Iterator[tuple[Position, list[dict[str, Any]]]]:
        """The batches of one reader from a position on, each with the position after it."""
        reader, epoch, first, done = start
        while True:
            stretches = self._stretches(epoch, self.process * self.workers + reader)
            for stretch in range(first, len(stretches)):
                seed = [self.seed, epoch, *map(int, stretches[stretch])]
                windows = self._windows(stretches[stretch], int(np.random.SeedSequence(seed).generate_state(1)[0]))
                batches = self._batches(windows.lengths, np.random.default_rng(seed))
                for number in range(done, len(batches)):
                    yield Position(reader, epoch, stretch, number + 1), [windows[index] for index in batches[number]]
                done = 0
            epoch, first = epoch + 1, 0

    def _stretches(self, epoch: int, reader: int) -> list[np.ndarray]:
        """The row groups of a reader in an epoch, in parts of `shuffle_buffer` rows or more (the last one less)."""
        groups = np.arange(len(self.shards.group_rows))
        if self.order != "sequential":
            groups = np.random.default_rng([self.seed, epoch]).permutation(groups)
        own = groups[reader :: self.readers]
        rows = np.cumsum(self.shards.group_rows[own])
        part = (rows - self.shards.group_rows[own]) // self.shuffle_buffer
        return np.split(own, np.flatnonzero(np.diff(part)) + 1)

    def _windows(self, numbers: Iterable[int], seed: int) -> WindowedSentences:
        groups = [int(number) for number in numbers]
        try:
            return WindowedSentences(
                self.shards.read(groups), self.processor, self.label2id, training=True, seed=seed, **self.options
            )
        except ValueError as error:
            raise ValueError(f"{error} (Read from {', '.join(self.shards.files_of(groups))}.)") from error

    def _batches(self, lengths: list[int], rng: np.random.Generator) -> list[list[int]]:
        order = list(range(len(lengths))) if self.order == "sequential" else rng.permutation(len(lengths)).tolist()
        if self.order == "group_by_length":
            order.sort(key=lambda index: -lengths[index])
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        if self.order == "group_by_length":
            batches = [batches[number] for number in rng.permutation(len(batches))]
        return batches
