"""Reading training rows from Parquet files as they lie, against a loaded set: ``python benchmarks/speed/streaming.py``.

The rows are the synthetic probe's, pictures inside, repeated to ``--rows`` of each size, in files of 5,000 rows and
row groups of 100. Each cell is a process of its own, with one reader and no workers: it gives ``--read`` rows, half of
them as windows (what the collator is handed), half as batches of 32 (pictures decoded, words tokenized), and its
highest resident memory is read before and after. Then what going on costs: the first batch of a stream that begins,
of one that goes on in the middle of its epoch, and each batch that the trainer leaves out. Writes
``benchmarks/results/streaming.json``.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import dataset_script  # noqa: E402
from benchmarks.measuring import highest_mib  # noqa: E402
from dataset_script import probe  # noqa: E402
from mmner.collator import MultimodalCollator  # noqa: E402
from mmner.data import WindowedSentences, label_names  # noqa: E402
from mmner.shards import ParquetShards  # noqa: E402
from mmner.streaming import START, BatchReader, Position, SentenceStream, StreamCollator  # noqa: E402
from mmner.tiny_towers import make_tiny_towers  # noqa: E402
from processing_2mner import TwoMNERProcessor  # noqa: E402

ROWS_PER_FILE, ROWS_PER_GROUP, BATCH = 5000, 100, 32


def write_rows(folder: Path, rows: datasets.Dataset, count: int) -> None:
    """So many rows, those given again and again, each under a name of its own."""
    table = rows.with_format("arrow")[:]
    folder.mkdir()
    for number, start in enumerate(range(0, count, ROWS_PER_FILE)):
        size = min(ROWS_PER_FILE, count - start)
        part = pa.concat_tables([table] * (size // len(table) + 1)).slice(0, size)
        ids = pa.array([f"row-{start + row}" for row in range(size)])
        part = part.set_column(part.column_names.index("id"), "id", ids)
        pq.write_table(part, folder / f"train-{number:05d}.parquet", row_group_size=ROWS_PER_GROUP)


def cell(way: str, folder: Path, towers: Path, read: int, buffer: int) -> dict[str, float]:
    """Rows a second and memory of one way to read."""
    torch.set_num_threads(1)
    processor = TwoMNERProcessor.from_towers(towers / "text", towers / "vision")
    collator = MultimodalCollator(processor)
    files = sorted(map(str, folder.glob("*.parquet")))
    before, started = highest_mib(), time.perf_counter()
    if way == "stream":
        shards = ParquetShards(files)
        labels = {name: index for index, name in enumerate(label_names(shards))}
        stream = SentenceStream(shards, processor, labels, shuffle_buffer=buffer)
        opened = time.perf_counter() - started
        batches = (windows for _, windows in stream.batches(0, 1, BATCH))
    else:
        # Into a cache that lies beside the files, as `load_dataset` does it the first time.
        rows = datasets.load_dataset("parquet", data_files={"train": files}, cache_dir=str(folder / "cache"))["train"]
        labels = {name: index for index, name in enumerate(label_names(rows))}
        sentences = WindowedSentences(rows, processor, labels, training=True)
        opened = time.perf_counter() - started
        order = torch.randperm(len(sentences), generator=torch.Generator().manual_seed(0)).tolist()
        starts = itertools.cycle(range(0, len(order) - BATCH + 1, BATCH))
        batches = ([sentences[index] for index in order[start : start + BATCH]] for start in starts)
    result = {"opening_seconds": opened}
    for name in ("windows", "batches"):
        count, started = 0, time.perf_counter()
        while count < read // 2:
            batch = next(batches)
            if name == "batches":
                collator(batch)
            count += len(batch)
        result[f"{name}_rows_per_second"] = count / (time.perf_counter() - started)
    result["added_mib"] = highest_mib() - before
    return result


def resume(folder: Path, towers: Path, buffer: int, rounds: int) -> dict[str, float]:
    """Seconds to the first batch, and of each batch that is left out, in process and from two workers."""
    torch.set_num_threads(1)
    processor = TwoMNERProcessor.from_towers(towers / "text", towers / "vision")
    shards = ParquetShards(sorted(map(str, folder.glob("*.parquet"))))
    labels = {name: index for index, name in enumerate(label_names(shards))}
    stream = SentenceStream(shards, processor, labels, shuffle_buffer=buffer)
    middle = Position(0, len(shards) // buffer // 2, 0, buffer // 2)
    result = {}
    for name, start in (("beginning", START), ("middle_of_an_epoch", middle)):
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            next(stream.batches(0, 1, BATCH, start))
            seconds.append(time.perf_counter() - started)
        result[f"first_batch_seconds_{name}"] = statistics.median(seconds)
    collate = StreamCollator(MultimodalCollator(processor))
    for workers in (0, 2):
        reader = BatchReader(stream, BATCH, 0, 1, workers)
        skipped = 20_000
        reader.skip(skipped, list(reader.turns))
        loader = torch.utils.data.DataLoader(reader, batch_size=None, collate_fn=collate, num_workers=workers)
        batches = iter(loader)
        next(batches)
        started = time.perf_counter()
        for _ in itertools.islice(batches, skipped - 1):
            pass
        result[f"skipped_batches_per_second_{workers}_workers"] = (skipped - 1) / (time.perf_counter() - started)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="sizes of the set")
    parser.add_argument("--read", type=int, default=10_000, help="rows to read of each")
    parser.add_argument("--shuffle_buffer", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "streaming.json")
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        way, folder, towers = args.cell
        if way == "resume":
            found = resume(Path(folder), Path(towers), args.shuffle_buffer, args.rounds)
        else:
            found = cell(way, Path(folder), Path(towers), args.read, args.shuffle_buffer)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as scratch:
        cells, resumed = measure(Path(scratch), args)
    about = {
        "command": " ".join(["python", "benchmarks/speed/streaming.py", *sys.argv[1:]]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "datasets": datasets.__version__,
        "pyarrow": pa.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread a process",
        "shuffle_buffer": args.shuffle_buffer,
        "rows_read": args.read,
        "batch_size": BATCH,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(about | {"cells": cells, "resume": resumed}, indent=1) + "\n")


def measure(scratch: Path, args: argparse.Namespace) -> tuple[list[dict], dict[str, float]]:
    """All cells, and what going on costs in the largest set."""
    probe.build(scratch / "probe", num_sentences=2000)
    dataset_script.load(scratch / "probe", cache_dir=scratch / "arrow", parquet_dir=scratch / "once")
    files = sorted(map(str, (scratch / "once").glob("*/train-*.parquet")))
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(scratch / "arrow")).shuffle(
        0
    )
    make_tiny_towers(scratch / "towers", rows["tokens"][:])
    cells = []
    print("rows     way       opened in s   windows/s   rows/s in batches   added MiB")
    for count in args.rows:
        folder = scratch / str(count)
        write_rows(folder, rows, count)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
        for way in ("stream", "loaded"):
            found = [call(args, way, folder, scratch / "towers") for _ in range(args.rounds)]
            middle = {name: statistics.median(one[name] for one in found) for name in found[0]}
            most = {"most_added_mib": max(one["added_mib"] for one in found)}
            cells.append({"rows": count, "files_mib": size, "way": way} | middle | most)
            print(
                f"{count:7}  {way:8} {middle['opening_seconds']:12.2f} {middle['windows_rows_per_second']:11.0f} "
                f"{middle['batches_rows_per_second']:19.0f} {middle['added_mib']:11.0f}",
                flush=True,
            )
    resumed = call(args, "resume", folder, scratch / "towers")
    print(resumed)
    return cells, resumed


def call(args: argparse.Namespace, way: str, folder: Path, towers: Path) -> dict[str, float]:
    """A cell in a process of its own; the loaded set is loaded anew each time."""
    sizes = ["--read", str(args.read), "--shuffle_buffer", str(args.shuffle_buffer), "--rounds", str(args.rounds)]
    command = [sys.executable, __file__, *sizes, "--cell", way, str(folder), str(towers)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    for path in sorted((folder / "cache").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
