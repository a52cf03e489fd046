"""
Speed, peak memory and F1 of the pipeline with PyTorch and ONNX Runtime, beside the stock pipeline of transformers.

    python benchmarks/speed/pipeline.py MODEL_FOLDER DATASET_FOLDER [--against CHECKOUT]

A call takes a list of raw texts (and image files) and returns entities. ``torch``, ``onnx`` and ``onnx_int8`` are
`TwoMNERPipeline`, with the images of the dataset or without (``_images``). ``stock`` is transformers' own
token-classification pipeline over the same text tower and classifier, which reads no images and knows no CRF, at the
batch size ``--stock_batch_size``. ``--against`` adds our ways of another checkout of this
repository. Each way is a process of its own; they take turns over the same sentences of all languages. Writes
``benchmarks/results/pipeline.json``.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import RESULTS, about, peak_mib, spread, write  # noqa: E402

WAYS = ("torch", "torch_images", "onnx", "onnx_images", "onnx_int8", "onnx_int8_images", "stock")
WARM_UP_SENTENCES = 128
Call = Callable[[list[str], list[str | None] | None], Any]  # texts, images -> entities of each text


def our_call(way: str, spec: dict[str, Any]) -> Call:
    """`TwoMNERPipeline`, its emissions by PyTorch or by an export of the model."""
    import torch

    from modeling_2mner import TwoMNERForTokenClassification
    from onnx_2mner import export_onnx
    from pipeline_2mner import TwoMNERPipeline
    from processing_2mner import TwoMNERProcessor

    model = TwoMNERForTokenClassification.from_pretrained(spec["model"], dtype=torch.float32)
    processor = TwoMNERProcessor.from_pretrained(spec["model"])
    options = {}
    if way.startswith("onnx"):
        folder = Path(tempfile.mkdtemp(dir=spec["scratch"]), "export")
        options["onnx"] = export_onnx(model, processor, folder, quantize="int8" in way)
    ner = TwoMNERPipeline(model=model, processor=processor, device="cpu", **options)
    return lambda texts, images: ner(texts, images=images)


def stock_call(spec: dict[str, Any]) -> Call:
    """The stock pipeline over the text tower and classifier of the model."""
    import torch
    from transformers import AutoModelForTokenClassification, TokenClassificationPipeline

    from modeling_2mner import TwoMNERForTokenClassification
    from processing_2mner import TwoMNERProcessor

    tagger = TwoMNERForTokenClassification.from_pretrained(spec["model"], dtype=torch.float32)
    config = tagger.config.text_config
    config.id2label, config.label2id = dict(tagger.config.id2label), dict(tagger.config.label2id)
    model = AutoModelForTokenClassification.from_config(config)
    model.base_model.load_state_dict(tagger.model.text_model.state_dict())
    model.classifier.load_state_dict(tagger.classifier.state_dict())
    tokenizer = TwoMNERProcessor.from_pretrained(spec["model"]).tokenizer
    ner = TokenClassificationPipeline(model=model, tokenizer=tokenizer, aggregation_strategy="first", device="cpu")
    return lambda texts, images: ner(texts, batch_size=spec["stock_batch_size"])


def work(way: str, spec_path: str, checkout: str) -> None:
    """The process of one way: a number of sentences comes in by line, seconds go out; at the end entities and peak."""
    answers, sys.stdout = sys.stdout, sys.stderr
    sys.path[0] = checkout
    import torch

    spec = json.loads(Path(spec_path).read_text())
    torch.set_num_threads(spec["threads"])
    call = stock_call(spec) if way == "stock" else our_call(way, spec)
    print("ready", file=answers, flush=True)
    found: list[list[dict[str, Any]]] = []
    for line in sys.stdin:
        count = int(line)
        start = time.perf_counter()
        found = call(spec["texts"][:count], spec["images"][:count] if way.endswith("_images") else None)
        print(time.perf_counter() - start, file=answers, flush=True)
    spans = [[(one["entity_group"], one["start"], one["end"]) for one in sentence] for sentence in found]
    print(json.dumps({"peak_mib": round(peak_mib()), "spans": spans}), file=answers, flush=True)


def sentences(folder: str, count: int, scratch: Path) -> dict[str, list]:
    """Texts, image files and gold spans (type, start, end in characters) of test, as many of each language."""
    from datasets import Image

    from dataset_script import load
    from mmner.entity_f1 import find_entities

    rows = load(folder)["test"].cast_column("image", Image(decode=False))
    names = rows.features["ner_tags"].feature.names
    by_lang: dict[str, list[int]] = {}
    for place, lang in enumerate(rows["lang"]):
        by_lang.setdefault(lang, []).append(place)
    chosen = [place for places in by_lang.values() for place in places[: -(-count // len(by_lang))]]
    random.Random(0).shuffle(chosen)
    found: dict[str, list] = {"texts": [], "images": [], "gold": []}
    for row in (rows[place] for place in chosen[:count]):
        words, image = row["tokens"], row["image"]
        starts = [len(" ".join([*words[:place], ""])) for place in range(len(words))]
        spans = find_entities([[names[tag] for tag in row["ner_tags"]]])[0]
        found["gold"].append([[kind, starts[a], starts[b - 1] + len(words[b - 1])] for kind, a, b in spans])
        found["texts"].append(" ".join(words))
        if image is not None:
            content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
            path = scratch / hashlib.blake2b(content, digest_size=16).hexdigest()
            path.write_bytes(content)
        found["images"].append(None if image is None else str(path))
    return found


def f1(gold: list[list], found: list[list]) -> float:
    """Entity F1; spans are equal by type and characters."""
    sides = [[tuple(span) for span in spans] for spans in gold], [[tuple(span) for span in spans] for spans in found]
    right = sum(len(set(true) & set(own)) for true, own in zip(*sides, strict=True))
    return round(2 * right / max(sum(len(spans) for side in sides for spans in side), 1), 5)


def main() -> None:
    """Measures, prints a line per way, writes the JSON."""
    if sys.argv[1:2] == ["--work"]:
        return work(*sys.argv[2:5])
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("model", help="folder of a trained tagger")
    parser.add_argument("dataset", help="folder of a dataset")
    parser.add_argument("--sentences", type=int, default=2000, help="of test")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stock_batch_size", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--output", type=Path, default=RESULTS / "pipeline.json")
    arguments = parser.parse_args()
    ways = dict.fromkeys(arguments.ways, ROOT)
    if arguments.against:
        ours = [way for way in arguments.ways if way != "stock"]
        ways |= {f"against_{way}": arguments.against.resolve() for way in ours}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        spec: dict[str, Any] = sentences(arguments.dataset, arguments.sentences, Path(folder))
        spec |= {"model": str(Path(arguments.model).resolve()), "threads": arguments.threads, "scratch": folder}
        spec["stock_batch_size"] = arguments.stock_batch_size
        Path(folder, "spec.json").write_text(json.dumps(spec))
        environment = os.environ | {f"{name}_NUM_THREADS": str(arguments.threads) for name in ("OMP", "RAYON")}
        workers: dict[str, subprocess.Popen] = {}
        for way, checkout in ways.items():
            command = [sys.executable, __file__, "--work", way.removeprefix("against_"), f"{folder}/spec.json"]
            workers[way] = worker = subprocess.Popen(
                [*command, str(checkout)],
                env=environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=(stderr := Path(folder, f"{way}.log").open("w+")),
            )
            stack.callback(worker.kill)
            if worker.stdout is None or worker.stdout.readline().strip() != "ready":
                stderr.seek(0)
                raise RuntimeError(f"{way} did not start:\n{stderr.read()[-3000:]}")

        def turn(way: str, count: int) -> float:
            print(count, file=workers[way].stdin, flush=True)
            return float(workers[way].stdout.readline())  # type: ignore[union-attr]

        seconds: dict[str, list[float]] = {way: [] for way in workers}
        for number in range(arguments.rounds + 1):
            for way in workers:
                second = turn(way, len(spec["texts"]) if number else WARM_UP_SENTENCES)
                seconds[way] += [second] if number else []
        facts = {way: json.loads(worker.communicate()[0]) for way, worker in workers.items()}

    results: dict[str, dict[str, Any]] = {}
    for way, taken in seconds.items():
        speed = spread([len(spec["texts"]) / second for second in taken])
        results[way] = {"sentences_per_s": speed, "peak_mib": facts[way]["peak_mib"]}
        results[way]["f1"] = f1(spec["gold"], facts[way]["spans"])
        base = "torch_images" if way.endswith("_images") else "torch"
        if way != base and base in seconds:
            pairs = zip(facts[way]["spans"], facts[base]["spans"], strict=True)
            results[way]["sentences_with_other_entities"] = sum(one != other for one, other in pairs)
            results[way]["times_torch"] = spread([a / b for a, b in zip(taken, seconds[base], strict=True)])
        print(way, json.dumps(results[way]), flush=True)
    images = [image for image in spec["images"] if image]
    counts = {"sentences": len(spec["texts"]), "with_image": len(images), "distinct_images": len(set(images))}
    libraries = ["torch", "transformers", "onnxruntime", "pillow"]
    write(arguments.output, about(libraries) | counts | {"threads": arguments.threads, "ways": results})


if __name__ == "__main__":
    main()
