"""
Sentences a second and peak memory of the pipeline, beside its bare encoders and the stock pipeline.

    python benchmarks/speed/inference.py MODEL_FOLDER DATASET_FOLDER

- "bare": the limit: nothing but the forward passes of the towers, on tensors that are ready before the clock starts.
  The text tower reads sentences sorted by length, in batches of the budget of pieces that is fastest here; with
  images, the image tower also reads each different picture of the whole set once, in batches of the size that is
  fastest. No words, no collaboration, no CRF, no file.
- "pipeline": `TwoMNERPipeline` as it is loaded, from a list of raw strings (and of image files) to entities.
- "stock": transformers' own token-classification pipeline over the same text tower, with the same classifier and
  aggregation_strategy="first", as it is loaded; "stock_best" at the batch size that is fastest here. Without images:
  it reads none.

Each way is a process of its own, so that its peak memory is its own; they take turns, round by round, over the same
sentences of all languages in one mixed order. Ratios are within a round. Prints a table and writes
``benchmarks/results/inference.json``.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import highest_mib  # noqa: E402

WAYS = ("bare", "pipeline", "stock", "stock_best", "bare_images", "pipeline_images")
LIMIT = {"pipeline": "bare", "pipeline_images": "bare_images", "stock": "bare", "stock_best": "bare"}
TRIED_BUDGETS = (256, 512, 1024, 2048, 4096)
TRIED_PICTURES = (1, 2, 4, 8, 16)
TRIED_STOCK_SIZES = (1, 2, 4, 8, 16, 32, 64)
TRIES = 3
PROBE_SENTENCES = 128
PACKAGES = ("torch", "transformers", "tokenizers", "pillow", "numpy")


def fastest(tried: dict[int, Callable[[], float]]) -> tuple[int, dict[int, float]]:
    """The way with the lowest of several times, tried in turns, and these times."""
    best = dict.fromkeys(tried, float("inf"))
    for _ in range(TRIES):
        for name, way in tried.items():
            best[name] = min(best[name], way())
    return min(best, key=best.__getitem__), best


def bare_way(spec: dict, images: bool) -> tuple[Callable[[int], float], dict]:
    """The towers alone: seconds in their forward passes over the first sentences."""
    import torch

    from batching_2mner import packed
    from modeling_2mner import TwoMNERForTokenClassification
    from processing_2mner import TwoMNERProcessor
    from towers_2mner import sequence_of

    model = TwoMNERForTokenClassification.from_pretrained(spec["model"], dtype=torch.float32).eval().model
    processor = TwoMNERProcessor.from_pretrained(spec["model"])
    pieces = processor.pieces([processor.split_words(text)[0] for text in spec["texts"]])
    if any(sum(map(len, sentence)) > processor.max_pieces for sentence in pieces):
        raise SystemExit("A sentence is longer than the text tower takes; the bare towers have no windows.")

    def text_batches(count: int, budget: int) -> list[dict]:
        chosen = [sentence for sentence in pieces[:count] if sentence]
        specials = processor.max_length - processor.max_pieces
        lengths = [sum(map(len, sentence)) + specials for sentence in chosen]
        batches = [processor.encode_pieces([chosen[i] for i in group]) for group in packed(lengths, budget)]
        return [{name: batch[name] for name in ("input_ids", "attention_mask")} for batch in batches]

    def read_texts(batches: list[dict]) -> float:
        seconds = 0.0
        for batch in batches:
            start = time.perf_counter()
            model.text_model(**batch)
            seconds += time.perf_counter() - start
        return seconds

    def read_pictures(paths: list[str], size: int) -> float:
        seconds = 0.0
        for first in range(0, len(paths), size):
            opened = [processor.resized(processor.open_image(path)) for path in paths[first : first + size]]
            pixels = processor.pixel_values(opened)
            start = time.perf_counter()
            sequence_of(model.vision_model, pixels)
            seconds += time.perf_counter() - start
        return seconds

    def distinct(count: int) -> list[str]:
        return list(dict.fromkeys(path for path in spec["images"][:count] if path)) if images else []

    with torch.no_grad(), precision(spec):
        budgets = {budget: text_batches(PROBE_SENTENCES, budget) for budget in TRIED_BUDGETS}
        budget, tried = fastest({n: lambda n=n: read_texts(budgets[n]) for n in TRIED_BUDGETS})
        facts: dict = {"pieces_a_batch": budget, "tried_s": tried}
        size = 1
        if images:
            probe = distinct(PROBE_SENTENCES)[: max(TRIED_PICTURES) * 2]
            size, tried = fastest({n: lambda n=n: read_pictures(probe, n) for n in TRIED_PICTURES})
            facts |= {"pictures_a_batch": size, "tried_pictures_s": tried, "pictures": len(distinct(10**9))}
    known: dict[int, list[dict]] = {}

    def run(count: int) -> float:
        if count not in known:
            known[count] = text_batches(count, budget)
        with torch.no_grad(), precision(spec):
            return read_texts(known[count]) + read_pictures(distinct(count), size)

    return run, facts


def pipeline_way(spec: dict, images: bool) -> tuple[Callable[[int], float], dict]:
    """`TwoMNERPipeline`: seconds of a call with the first sentences."""
    import torch

    from modeling_2mner import TwoMNERForTokenClassification
    from pipeline_2mner import TwoMNERPipeline
    from processing_2mner import TwoMNERProcessor

    model = TwoMNERForTokenClassification.from_pretrained(spec["model"], dtype=torch.float32)
    ner = TwoMNERPipeline(model=model, processor=TwoMNERProcessor.from_pretrained(spec["model"]), device="cpu")
    facts: dict = {}

    def run(count: int) -> float:
        pictures = spec["images"][:count] if images else None
        with precision(spec):
            start = time.perf_counter()
            found = ner(spec["texts"][:count], images=pictures)
            seconds = time.perf_counter() - start
        facts["entities"] = sum(map(len, found))
        return seconds

    return run, facts


def stock_way(spec: dict, best: bool) -> tuple[Callable[[int], float], dict]:
    """The stock pipeline: seconds of a call with the first sentences."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    model = AutoModelForTokenClassification.from_pretrained(spec["stock"])
    tokenizer = AutoTokenizer.from_pretrained(spec["stock"])
    ner = pipeline("ner", model=model, tokenizer=tokenizer, aggregation_strategy="first", device="cpu")

    def read(count: int, **options) -> float:
        with precision(spec):
            start = time.perf_counter()
            ner(spec["texts"][:count], **options)
            return time.perf_counter() - start

    if not best:
        return read, {}
    size, tried = fastest({n: lambda n=n: read(PROBE_SENTENCES, batch_size=n) for n in TRIED_STOCK_SIZES})
    return lambda count: read(count, batch_size=size), {"batch_size": size, "tried_s": tried}


def precision(spec: dict):
    """Autocast, where bfloat16 is asked for."""
    import torch

    if spec["dtype"] == "float32":
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)


def work(way: str, spec: dict) -> None:
    """One way's process: a number of sentences in by line, seconds out; at the end facts and peak memory."""
    answers, sys.stdout = sys.stdout, sys.stderr
    import torch

    torch.set_num_threads(spec["threads"])
    make = {"bare": bare_way, "pipeline": pipeline_way, "stock": stock_way}[way.split("_")[0]]
    run, facts = make(spec, "_" in way)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(run(int(line)), file=answers, flush=True)
    facts["peak_mib"] = round(highest_mib())
    print(json.dumps(facts), file=answers, flush=True)


def sentences(folder: str, split: str, count: int, scratch: Path) -> tuple[list[str], list[str | None]]:
    """Texts and image files, as many of each language, in one mixed order."""
    from datasets import Image

    from dataset_script import load

    rows = load(folder)[split]
    rows = rows.cast_column("image", Image(decode=False))
    places: dict[str, list[int]] = {}
    for place, lang in enumerate(rows["lang"]):
        places.setdefault(lang, []).append(place)
    chosen = [place for group in places.values() for place in group[: -(-count // len(places))]]
    random.Random(0).shuffle(chosen)
    texts, images = [], []
    for place in chosen[:count]:
        row = rows[place]
        texts.append(" ".join(row["tokens"]))
        image, path = row["image"], None
        if image is not None:
            content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
            path = scratch / f"{hashlib.blake2b(content, digest_size=16).hexdigest()}.jpg"
            path.write_bytes(content)
        images.append(None if path is None else str(path))
    return texts, images


def save_stock(model_folder: str, folder: Path) -> None:
    """The text tower under a stock token classifier with the tagger's own classifier."""
    import torch
    from transformers import AutoModelForTokenClassification

    from modeling_2mner import TwoMNERForTokenClassification
    from processing_2mner import TwoMNERProcessor

    tagger = TwoMNERForTokenClassification.from_pretrained(model_folder, dtype=torch.float32)
    config = tagger.config.text_config
    config.id2label, config.label2id = dict(tagger.config.id2label), dict(tagger.config.label2id)
    stock = AutoModelForTokenClassification.from_config(config)
    stock.base_model.load_state_dict(tagger.model.text_model.state_dict())
    stock.classifier.load_state_dict(tagger.classifier.state_dict())
    stock.save_pretrained(folder)
    TwoMNERProcessor.from_pretrained(model_folder).tokenizer.save_pretrained(folder)


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": round(statistics.median(values), 3), "low": round(min(values), 3), "high": round(max(values), 3)}


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("model", help="folder of a trained tagger")
    parser.add_argument("dataset", help="folder of a dataset")
    parser.add_argument("--split", default="test")
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16: by autocast")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "inference.json")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker[0], json.loads(Path(arguments.worker[1]).read_text()))
        return

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        scratch = Path(folder)
        texts, images = sentences(arguments.dataset, arguments.split, arguments.sentences, scratch)
        save_stock(arguments.model, scratch / "stock")
        spec = {"model": str(Path(arguments.model).resolve()), "stock": str(scratch / "stock")}
        spec |= {"texts": texts, "images": images, "threads": arguments.threads, "dtype": arguments.dtype}
        (scratch / "spec.json").write_text(json.dumps(spec))
        environment = os.environ | {f"{name}_NUM_THREADS": str(arguments.threads) for name in ("OMP", "RAYON")}
        workers: dict[str, subprocess.Popen] = {}
        for way in arguments.ways:
            command = [sys.executable, __file__, "-", "-", "--worker", way, str(scratch / "spec.json")]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            workers[way] = worker = subprocess.Popen(command, env=environment, text=True, **pipes)
            stack.callback(worker.kill)
            if worker.stdout.readline().strip() != "ready":
                raise SystemExit(f"{way} did not start: {' '.join(command)}")

        def turn(way: str, count: int) -> float:
            workers[way].stdin.write(f"{count}\n")
            workers[way].stdin.flush()
            return float(workers[way].stdout.readline())

        seconds: dict[str, list[float]] = {way: [] for way in workers}
        for way in workers:
            turn(way, min(64, len(texts)))  # warm
        for number in range(arguments.rounds):
            for way in workers:
                seconds[way].append(turn(way, len(texts)))
            print(number, {way: round(taken[-1], 2) for way, taken in seconds.items()}, flush=True)
        facts = {way: json.loads(worker.communicate()[0]) for way, worker in workers.items()}

    results: dict[str, dict] = {}
    for way, taken in seconds.items():
        results[way] = {"sentences_per_s": spread([len(texts) / second for second in taken])} | facts[way]
        if LIMIT.get(way) in seconds:
            bare = seconds[LIMIT[way]]
            results[way]["of_bare"] = spread([limit / second for limit, second in zip(bare, taken, strict=True)])
            results[way]["peak_of_bare"] = round(facts[way]["peak_mib"] / facts[LIMIT[way]]["peak_mib"], 3)
        if way.startswith("stock") and "pipeline" in seconds:
            ours = seconds["pipeline"]
            results[way]["pipeline_is_faster_by"] = spread([mine / own for mine, own in zip(taken, ours, strict=True)])
    about = {
        "command": f"python benchmarks/speed/inference.py MODEL DATASET --sentences {arguments.sentences} "
        f"--threads {arguments.threads} --rounds {arguments.rounds} --dtype {arguments.dtype}",
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "system": platform.system()},
        "date": time.strftime("%Y-%m-%d"),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "sentences": len(texts),
        "with_image": sum(image is not None for image in images),
        "different_images": len(set(images) - {None}),
        "threads": arguments.threads,
        "dtype": arguments.dtype,
        "ways": results,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(arguments.output.read_text()) if arguments.output.exists() else []
    known = [run for run in known if run["command"] != about["command"]]
    arguments.output.write_text(json.dumps([*known, about], indent=1) + "\n")
    print("\n| way | sentences/s (low - high) | of bare | pipeline is faster by | peak MiB | of bare |")
    print("|---|---:|---:|---:|---:|---:|")
    for way, found in results.items():
        speed, of_bare, faster = (found.get(key) for key in ("sentences_per_s", "of_bare", "pipeline_is_faster_by"))
        cells = [
            way,
            f"{speed['median']:.1f} ({speed['low']:.1f} - {speed['high']:.1f})",
            f"{of_bare['median']:.3f} ({of_bare['low']:.3f} - {of_bare['high']:.3f})" if of_bare else "-",
            f"{faster['median']:.2f} ({faster['low']:.2f} - {faster['high']:.2f})" if faster else "-",
            str(found["peak_mib"]),
            str(found.get("peak_of_bare", "-")),
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
