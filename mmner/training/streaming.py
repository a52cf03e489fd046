"""
Training sentences as a stream from Parquet files: read by row groups, shuffled, cut into windows and made batches of
on the way, without an end; and the trainer that goes on in the middle of one.

Every process of a run, and every worker process of its data loader, is a reader. In each epoch the row groups of all
files are shuffled and dealt out to the readers; a reader takes its own in stretches of `shuffle_buffer` rows or so,
and shuffles the windows of each. Where a reader is, is therefore four numbers: going on costs it one stretch, whatever
was read before.
"""

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mmner.data.sentences import WindowedSentences
from mmner.data.shards import ParquetShards
from mmner.options import DataArguments, TrainingArguments
from mmner.training.stop_signals import heed_parent_alone
from mmner.training.trainer import TwoMNERTrainer
from processing_2mner import TwoMNERProcessor

logger = logging.getLogger(__name__)

POSITION = "stream_position"


class Position(NamedTuple):
    """Where a reader is, after a whole batch."""

    epoch: int = 0
    stretch: int = 0
    """Of the reader's share in this epoch."""
    begun: int = 0
    """Windows that the stretch before left for the first batch of this one."""
    taken: int = 0
    """Windows of this stretch that were given."""


START = Position()


def check_streaming(data_args: DataArguments, args: TrainingArguments) -> None:
    """
    Raises:
        ValueError: an option makes no sense for a stream.
    """
    if args.max_steps <= 0:
        raise ValueError(
            f"--streaming needs --max_steps (now {args.max_steps}): a stream has no end, so num_train_epochs cannot "
            "tell how long to train. One pass is about the number of rows by per_device_train_batch_size, processes "
            "and gradient_accumulation_steps."
        )
    for name in ("eval_strategy", "save_strategy"):
        if getattr(args, name) == "epoch":
            raise ValueError(
                f"--streaming has no epochs to count, and {name} is epoch, which would be once, at the end. Count "
                "steps: --eval_strategy steps --eval_steps 500 --save_strategy steps --save_steps 500 (or no)."
            )
    if data_args.max_train_samples is not None:
        raise ValueError(
            "--max_train_samples draws a random subset, which a stream has not: leave it out; --max_steps bounds "
            "what is read."
        )
    if data_args.train_languages is not None:
        raise ValueError(
            "--train_languages picks rows, which a stream reads as they lie: leave it out, and name the part of the "
            "set by --dataset_config (en, de, fr, es)."
        )
    if data_args.image_feature_store != "none":
        raise ValueError(
            "--image_feature_store computes the vectors of all pictures before training begins, which a stream does "
            "not have by then: leave one of --streaming and --image_feature_store out."
        )
    if args.dataloader_in_order is False:
        raise ValueError("--streaming needs dataloader_in_order: without it no run could be resumed exactly.")


class SentenceStream:
    """
    The windows of training sentences, in batches, without an end: each row once an epoch, and then the next epoch.

    The windows are those of `WindowedSentences` (no word is left out, no picture is decoded here), and so are the
    errors about a bad row, which come when it is read.

    Args:
        shards: columns `tokens`, `ner_tags` and, if there are any, `id` and `image`.
        processor: of the model; knows the pieces of a word.
        label2id: of the model; holds every tag of the rows.
        order: `"group_by_length"`: row groups and windows shuffled, the windows of a batch of about one length;
            `"random"`: shuffled alone; `"sequential"`: as they lie in the files.
        shuffle_buffer: rows among which windows are shuffled: what a reader holds in memory, up to a row group more.
        max_length, mention_dropout, text_augmentation: as in `WindowedSentences`.
        seed: of all that is random.

    Raises:
        ValueError: the order or the size of the buffer makes no sense.
    """

    def __init__(
        self,
        shards: ParquetShards,
        processor: TwoMNERProcessor,
        label2id: dict[str, int],
        *,
        order: str = "group_by_length",
        shuffle_buffer: int = 2048,
        max_length: int | None = None,
        mention_dropout: float = 0.0,
        text_augmentation: float = 0.0,
        seed: int = 0,
    ):
        if order not in ("group_by_length", "random", "sequential"):
            raise ValueError(f"`order` is {order!r}; expected group_by_length, random or sequential.")
        if shuffle_buffer < 1:
            raise ValueError(f"`shuffle_buffer` is {shuffle_buffer}; expected 1 row or more.")
        self.shards = shards
        self.processor = processor
        self.label2id = dict(label2id)
        self.order = order
        self.shuffle_buffer = shuffle_buffer
        self.max_length = max_length
        self.mention_dropout = mention_dropout
        self.text_augmentation = text_augmentation
        self.seed = seed
        self._windows([0])  # what is wrong with the first rows is told now, not by a worker
        held_rows = max(shuffle_buffer, int(shards.group_rows.max()))
        logger.info(
            f"{len(shards)} rows in {len(shards.group_rows)} row groups of {len(shards.files)} files; each process or "
            f"worker holds {held_rows} rows or so, {shards.num_bytes / len(shards) * held_rows / 2**20:.1f} MiB."
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What its order depends on."""
        options = ("order", "shuffle_buffer", "max_length", "mention_dropout", "text_augmentation", "seed")
        return {"shards": self.shards.fingerprint} | {name: getattr(self, name) for name in options}

    def check_readers(self, readers: int) -> None:
        """
        Raises:
            ValueError: there is not a row group for each reader.
        """
        if readers > len(self.shards.group_rows):
            raise ValueError(
                f"{readers} readers (processes x workers), but the Parquet files have only "
                f"{len(self.shards.group_rows)} row groups to deal out. Write smaller ones, of 100 rows, by "
                "dataset_script.publishing.parquet.write_parquet, or lower --dataloader_num_workers."
            )

    def batches(
        self, reader: int, readers: int, batch_size: int, start: Position = START
    ) -> Iterator[tuple[Position, list[dict[str, Any]]]]:
        """
        The batches of one reader, for ever.

        Args:
            reader: which of the `readers`.
            readers: among whom the row groups are dealt out.
            batch_size: windows in each batch.
            start: the position that came with the last batch before.

        Yields:
            The position after a batch, and its windows: `tokens`, `labels` and `image`, not decoded, or `None`.
        """
        self.check_readers(readers)
        epoch, first, begun, taken = start
        batch: list[dict[str, Any]] = []
        while True:
            stretches = self._stretches(epoch, reader, readers)
            for stretch in range(first, len(stretches)):
                place = (epoch, readers, reader, stretch)
                for window in self._shuffled(stretches[stretch], place, batch_size, begun, taken):
                    batch.append(window)
                    taken += 1
                    if len(batch) == batch_size:
                        yield Position(epoch, stretch, begun, taken), batch
                        batch = []
                begun, taken = len(batch), 0
            epoch, first = epoch + 1, 0

    def _shuffled(
        self, groups: np.ndarray, place: tuple[int, ...], batch_size: int, begun: int, taken: int
    ) -> Iterator[dict[str, Any]]:
        """The windows of a stretch from the one after those taken; its rows are let go of when it is over."""
        windows = self._windows(groups, place)
        order = self._order(windows.lengths, batch_size, begun, np.random.default_rng([self.seed, *place]))
        for index in order[taken:]:
            yield windows[index]  # with mentions hidden by the seed of the place, whatever was drawn before

    def _stretches(self, epoch: int, reader: int, readers: int) -> list[np.ndarray]:
        """The row groups of a reader in an epoch, in pieces of `shuffle_buffer` rows or more (the last one less)."""
        groups = np.arange(len(self.shards.group_rows))
        if self.order != "sequential":
            groups = np.random.default_rng([self.seed, epoch]).permutation(groups)
        own = groups[reader::readers]
        cuts, rows = [], 0
        for place, count in enumerate(self.shards.group_rows[own].tolist()):
            rows += count
            if rows >= self.shuffle_buffer:
                cuts.append(place + 1)
                rows = 0
        return [piece for piece in np.split(own, cuts) if len(piece)]

    def _windows(self, groups: np.ndarray | list[int], place: tuple[int, ...] = ()) -> WindowedSentences:
        rows = self.shards.read(groups)
        try:
            return WindowedSentences(
                rows,
                self.processor,
                self.label2id,
                training=True,
                max_length=self.max_length,
                mention_dropout=self.mention_dropout,
                text_augmentation=self.text_augmentation,
                seed=self._seed(*place),
                name="train",
            )
        except ValueError as error:
            files = self.shards.files_of(groups)
            raise ValueError(f"{error} (Read from {', '.join(files)}.)") from error

    def _order(self, lengths: list[int], batch_size: int, begun: int, rng: np.random.Generator) -> list[int]:
        if self.order == "sequential":
            return list(range(len(lengths)))
        order = rng.permutation(len(lengths)).tolist()
        if self.order == "random":
            return order
        # Long to short, in whole batches; what is left over is short, and shares its batches with other stretches.
        order.sort(key=lambda index: -lengths[index])
        missing = -begun % batch_size
        whole = max(0, len(order) - missing) // batch_size * batch_size
        left = order[whole:]
        batches = [order[start : start + batch_size] for start in range(0, whole, batch_size)]
        shuffled = [index for batch in rng.permutation(len(batches)) for index in batches[batch]]
        return left[:missing] + shuffled + left[missing:]

    def _seed(self, *place: int) -> int:
        return int(np.random.SeedSequence([self.seed, *place]).generate_state(1)[0])


class BatchReader(IterableDataset):
    """
    The batches of one process, in its data loader: each of its workers is a reader. Use `batch_size=None` there.

    Args:
        stream: of the run.
        batch_size: windows in a batch.
        process: which of the `processes`.
        processes: of the run.
        workers: of the data loader; 0 is as 1.
    """

    def __init__(self, stream: SentenceStream, batch_size: int, process: int, processes: int, workers: int):
        stream.check_readers(processes * max(1, workers))
        self.stream = stream
        self.batch_size = batch_size
        self.process = process
        self.processes = processes
        self.workers = max(1, workers)
        self.turns: deque[tuple[int, Position]] = deque((worker, START) for worker in range(self.workers))
        """The readers of this process and their positions, the one whose batch is next first."""
        self._skipped = 0

    def skip(self, batches: int, turns: list[tuple[int, Position]]) -> None:
        """From the beginning of the next iteration, so many empty batches come first, and then those of `turns`."""
        self._skipped = batches
        self.turns = deque(turns)

    def took(self, reader: int, position: Position) -> None:
        """Notes that the batch of a reader, after which it is at a position, was used."""
        expected, _ = self.turns.popleft()
        if reader != expected:
            raise RuntimeError(f"A batch of reader {reader} came where one of reader {expected} was due.")
        self.turns.append((reader, position))

    def __iter__(self) -> Iterator[tuple[int, Position, list[dict[str, Any]]] | None]:
        info = get_worker_info()
        worker = 0 if info is None else info.id
        for _ in range(worker, self._skipped, self.workers):
            yield None
        # Workers give their batches in turn, the first one first, and so it is the first whose turn the first is.
        reader, start = self.turns[(worker - self._skipped) % self.workers]
        number, count = self.process * self.workers + reader, self.processes * self.workers
        for position, windows in self.stream.batches(number, count, self.batch_size, start):
            yield reader, position, windows


class StreamCollator:
    """Batches of a `BatchReader` to tensors; their position comes along as a tuple of numbers under `POSITION`."""

    def __init__(self, collator: Callable[[list[dict[str, Any]]], dict[str, Any]]):
        self.collator = collator

    def __call__(self, batch: tuple[int, Position, list[dict[str, Any]]] | None) -> dict[str, Any]:
        if batch is None:
            return {}
        reader, position, windows = batch
        return self.collator(windows) | {POSITION: (reader, *position)}


class StreamTrainer(TwoMNERTrainer):
    """
    A `TwoMNERTrainer` whose `train_dataset` is a `SentenceStream`.

    A checkpoint has, for each process, the positions of its readers after the last batch that was trained on, however
    many lay ready by then. To the plain Trainer the whole run is one epoch of `max_steps` steps.

    Raises:
        ValueError: a checkpoint is of another stream, or of other processes or workers.
    """

    train_dataset: SentenceStream

    def get_train_dataloader(self) -> DataLoader:
        args, workers = self.args, self.args.dataloader_num_workers
        self._reader = BatchReader(
            self.train_dataset, self._train_batch_size, args.process_index, args.world_size, workers
        )
        loader = DataLoader(
            self._reader,
            batch_size=None,
            collate_fn=StreamCollator(self.data_collator),
            num_workers=workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=heed_parent_alone,
        )
        # Not `accelerator.prepare`: of a stream that knows its process already it would deal out every batch again.
        return prepare_data_loader(
            loader,
            self.accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            dispatch_batches=False,
        )

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args, **kwargs) -> torch.Tensor:
        reader, *position = inputs.pop(POSITION)
        self._reader.took(reader, Position(*position))
        return super().training_step(model, inputs, *args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)  # of each process, too, and for the same purpose
        state = {"stream": self._facts, "turns": list(self._reader.turns)}
        Path(output_dir, self._state_name).write_text(json.dumps(state))

    def _prepare_for_training(self, max_steps: int, train_dataloader: DataLoader, resume_from_checkpoint: str | None):
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if resume_from_checkpoint is not None and not self.args.ignore_data_skip:
            self._go_on(Path(resume_from_checkpoint, self._state_name))
        return prepared

    @property
    def _state_name(self) -> str:
        return f"stream_{self.args.process_index}.json"

    @property
    def _facts(self) -> dict[str, Any]:
        reader = self._reader
        sizes = {"batch_size": reader.batch_size, "processes": reader.processes, "workers": reader.workers}
        return self.train_dataset.facts | sizes

    def _go_on(self, file: Path) -> None:
        if not file.is_file():
            raise ValueError(
                f"There is no {file}, so the place in the stream is not known: the checkpoint was saved without "
                "--streaming, with --save_only_model, or by fewer processes. --ignore_data_skip true goes on with its "
                "weights and begins the stream anew."
            )
        state = json.loads(file.read_text())
        if differing := [name for name, value in self._facts.items() if state["stream"].get(name) != value]:
            raise ValueError(
                "The stream is not the one of the checkpoint: "
                + "; ".join(f"{name} was {state['stream'].get(name)}, is {self._facts[name]}" for name in differing)
                + ". Give the same as then; or --ignore_data_skip true, which goes on with the weights and begins the "
                "stream anew."
            )
        batches = self.state.global_step * self.args.gradient_accumulation_steps
        self._reader.skip(batches, [(reader, Position(*position)) for reader, position in state["turns"]])


__all__ = ["START", "BatchReader", "Position", "SentenceStream", "StreamCollator", "StreamTrainer", "check_streaming"]
