"""Parity and speed of the ONNX export: ``python benchmarks/speed/onnx_runtime.py MODEL_FOLDER DATASET_FOLDER``.

The first sentences of a split, in each of its languages, are tagged by the PyTorch model, by its float32 export and by
its int8 export, turn by turn over the same batches, so that all three see the same machine. A measurement is from the
batch of tensors to the tags; reading pictures and splitting words is not in it. Prints a table and writes
``benchmarks/results/onnx_runtime.json``.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from dataset_script import load  # noqa: E402
from mmner.entity_f1 import entity_scores, find_entities  # noqa: E402
from modeling_2mner import TwoMNERForTokenClassification  # noqa: E402
from onnx_2mner import OnnxEmissions, export_onnx  # noqa: E402
from processing_2mner import TwoMNERProcessor  # noqa: E402

ENGINES = ("torch_float32", "onnx_float32", "onnx_int8")
PACKAGES = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript", "numpy")


def engines(model, processor, scratch: Path, threads: int) -> tuple[dict[str, Callable], dict[str, float]]:
    """Batch to emissions and tags, by each engine; and the exports' sizes in MB and the seconds they took."""
    facts, run = {}, {}

    @torch.inference_mode()
    def torch_float32(batch):
        output = model(**batch)
        return output.logits.numpy(), output.predictions.numpy()

    run["torch_float32"] = torch_float32
    for name in ENGINES[1:]:
        start = time.perf_counter()
        folder = export_onnx(model, processor, scratch / name, quantize=name.endswith("int8"))
        facts[f"{name}_export_s"] = round(time.perf_counter() - start, 1)
        facts[f"{name}_mb"] = round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6, 1)
        emissions = OnnxEmissions(folder, threads=threads)

        def onnx(batch, emissions=emissions):
            logits = emissions(**batch)
            return logits, emissions.crf.decode(logits, batch["word_starts"].numpy() >= 0)

        run[name] = onnx
    return run, facts


def measure(rows, run: dict[str, Callable], processor, labels, names, batch_size: int, images: bool) -> dict:
    """One language's figures. `names` are the tags of the dataset, `labels` those of the model, both in id order."""
    fits = [row for row in rows if len(processor.windows(row["tokens"])) == 1 and row["tokens"]]
    fits.sort(key=lambda row: len(row["tokens"]))  # sentences of about one length in a batch
    seconds, errors = Counter(), Counter()
    tags: dict[str, list[list[str]]] = {name: [] for name in run}
    for first in range(0, len(fits), batch_size):
        part = fits[first : first + batch_size]
        pictures = [row["image"] for row in part] if images else None
        batch = dict(processor([row["tokens"] for row in part], images=pictures))
        mask = batch["word_starts"].numpy() >= 0
        exact = None
        for name, engine in run.items():
            if not first:
                engine(batch)  # warm
            start = time.perf_counter()
            logits, predicted = engine(batch)
            seconds[name] += time.perf_counter() - start
            exact = logits if exact is None else exact
            errors[name] = max(errors[name], float(np.abs(logits - exact)[mask].max()))
            tags[name] += [[labels[tag] for tag in line[seen]] for line, seen in zip(predicted, mask, strict=True)]
    gold = [[names[tag] for tag in row["ner_tags"]] for row in fits]
    entities = {name: find_entities(lines) for name, lines in tags.items()}
    result: dict = {
        "sentences": len(fits),
        "sentences_left_out_as_too_long_or_empty": len(rows) - len(fits),
        "with_image": sum(row["image"] is not None for row in fits) if images else 0,
        "entities": sum(map(len, entities["torch_float32"])),
    }
    for name in run:
        same = zip(entities[name], entities["torch_float32"], strict=True)
        result[name] = {
            "sentences_with_other_entities": sum(mine != reference for mine, reference in same),
            "largest_logit_difference": errors[name],
            "f1": entity_scores(gold, tags[name]).get("f1"),
            "sentences_per_s": round(len(fits) / seconds[name], 2),
        }
    for name in ENGINES[1:]:
        if result[name]["f1"] is not None:
            result[name]["f1_difference"] = result[name]["f1"] - result["torch_float32"]["f1"]
    return result


def main() -> None:
    """Measure every language of the split, with the rows' own images and with none."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="folder of a trained tagger")
    parser.add_argument("dataset", help="folder of a dataset")
    parser.add_argument("--split", default="test")
    parser.add_argument("--sentences", type=int, default=1000, help="of each language")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--images", nargs="+", choices=("own", "hidden"), default=["own", "hidden"])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "onnx_runtime.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = TwoMNERForTokenClassification.from_pretrained(arguments.model, dtype=torch.float32).eval()
    processor = TwoMNERProcessor.from_pretrained(arguments.model)
    split = load(arguments.dataset)[arguments.split]
    names = split.features["ner_tags"].feature.names
    results: dict[str, dict[str, dict]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        run, export = engines(model, processor, Path(scratch), arguments.threads)
        by_language: dict[str, list[int]] = {}
        for index, lang in enumerate(split["lang"]):
            by_language.setdefault(lang, []).append(index)
        for images in arguments.images:
            for lang, indices in by_language.items():
                rows = [split[index] for index in indices[: arguments.sentences]]
                labels = model.config.labels
                figures = measure(rows, run, processor, labels, names, arguments.batch_size, images == "own")
                results.setdefault(images, {})[lang] = figures
                print(images, lang, json.dumps(figures), flush=True)
    facts = {
        "command": f"python benchmarks/speed/onnx_runtime.py MODEL DATASET --sentences {arguments.sentences} "
        f"--batch_size {arguments.batch_size} --threads {arguments.threads}",
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "system": platform.system()},
        "date": time.strftime("%Y-%m-%d"),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "export": export,
        "results": results,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(facts, indent=1) + "\n")
    print("\n| images | language | sentences | other entities | F1 | int8 - float32 | torch/s | onnx/s | int8/s |")
    print("|---|---|" + "---:|" * 7)
    for images, languages in results.items():
        for lang, figures in languages.items():
            torch32, onnx32, int8 = (figures[name] for name in ENGINES)
            scores = ("-", "-") if int8["f1"] is None else (f"{torch32['f1']:.4f}", f"{int8['f1_difference']:+.4f}")
            speeds = (f"{figures[name]['sentences_per_s']:.1f}" for name in ENGINES)
            cells = (images, lang, figures["sentences"], onnx32["sentences_with_other_entities"], *scores, *speeds)
            print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
