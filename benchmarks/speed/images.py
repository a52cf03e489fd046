"""
What pictures cost a training step: from their pixels, from the store of a frozen tower's vectors, and left out.

    python benchmarks/speed/images.py --text_model FOLDER --vision_model FOLDER --dataset FOLDER

The three take the same sentences, batch by batch, turn and turn about in one process: collating (the pictures opened
and resized there), forward, backward and optimizer. "text" is the text-only baseline, a model without image tower or
collaboration; "hidden" the multimodal model that is shown no picture, and so has its collaboration's weights to train.
Without towers and a set: tiny towers and the synthetic probe. Writes ``benchmarks/results/images.json``.
"""

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mmner.arguments import parse_arguments  # noqa: E402
from mmner.collator import MultimodalCollator  # noqa: E402
from mmner.data import WindowedSentences, label_names, load_splits  # noqa: E402
from mmner.image_features import store_image_features  # noqa: E402
from mmner.model import build_model  # noqa: E402
from mmner.trainer import LengthGroupedSampler, TwoMNERTrainer  # noqa: E402


class Turn:
    """One way to train, with its own model and optimizer."""

    def __init__(self, argv: list[str], scratch: Path, images: str = "own", store: bool = False):
        AcceleratorState._reset_state(True)  # of another turn, which may have another precision
        model_args, data_args, args = parse_arguments([*argv, "--output_dir", str(scratch)])
        rows = load_splits(data_args, ["train"], scratch / "_data")["train"]
        labels, words = label_names(rows), rows["tokens"][:]
        torch.manual_seed(args.seed)
        model, processor = build_model(model_args, labels, words, scratch / "_towers", True)
        self.sentences = WindowedSentences(rows, processor, model.config.label2id, training=True, images=images)
        self.collator = MultimodalCollator(processor, model.config.uses_images)
        self.trainer = TwoMNERTrainer(
            model=model, args=args, data_collator=self.collator, train_dataset=self.sentences
        )
        start = time.perf_counter()
        if store:
            store_image_features(self.trainer, [self.sentences], data_args)
        self.fill_s = time.perf_counter() - start
        self.optimizer = self.trainer.create_optimizer()
        if args.activation_checkpointing:
            model.activation_checkpointing_enable()
        self.model = torch.compile(model.train()) if args.torch_compile else model.train()

    def whole(self, rows: Sequence[int]) -> float:
        """Seconds of a step with all that goes with it."""
        return self.step(rows)[1]

    def step(self, rows: Sequence[int]) -> tuple[float, float]:
        """Seconds for the batch's tensors, and for all."""
        start = time.perf_counter()
        batch = self.collator([self.sentences[row] for row in rows])
        collated = time.perf_counter()
        batch = self.trainer._prepare_inputs(batch)
        with self.trainer.accelerator.autocast():
            loss = self.model(**batch).loss
        self.trainer.accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.trainer.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if loss.is_cuda:
            torch.cuda.synchronize()
        return collated - start, time.perf_counter() - start


def recipe_argv(arguments: argparse.Namespace, scratch: Path) -> list[str]:
    """The options of a run of `recipes/local.yaml` that saves and evaluates nothing."""
    argv = [str(ROOT / "recipes" / "local.yaml"), "--dataset", arguments.dataset]
    argv += ["--text_model", arguments.text_model, "--vision_model", arguments.vision_model]
    argv += ["--max_train_samples", str(arguments.sentences), "--eval_strategy", "no", "--save_strategy", "no"]
    argv += ["--load_best_model_at_end", "false", "--per_device_train_batch_size", str(arguments.batch)]
    argv += ["--image_feature_store", str(scratch / "store"), "--disable_tqdm", "true"]
    return argv + (["--freeze_text_model", "none"] if arguments.text_model == "tiny" else [])


def main() -> None:
    """Measures, prints a line a way, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--text_model", default="tiny")
    parser.add_argument("--vision_model", default="tiny")
    parser.add_argument("--dataset", default="probe")
    parser.add_argument("--sentences", type=int, default=320, help="of which batches are made")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "images.json")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)

    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        argv = [*recipe_argv(arguments, scratch), "--bf16", str(arguments.bf16)]
        turns = {
            "pixels": Turn(argv, scratch),
            "store": Turn(argv, scratch, store=True),
            "hidden": Turn(argv, scratch, images="hidden"),
            "text": Turn([*argv, "--collaboration", "none", "--alignment", "none"], scratch),
        }
        sentences = turns["store"].sentences
        sampler = list(LengthGroupedSampler(sentences.lengths, arguments.batch))
        batches = [sampler[at : at + arguments.batch] for at in range(0, len(sampler), arguments.batch)]
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
        for number in range(arguments.rounds + 2):
            for name, turn in turns.items():
                took = turn.step(batches[number % len(batches)])
                if number >= 2:
                    times[name].append(took)
        store_bytes = sum(path.stat().st_size for path in (scratch / "store").glob("*/*"))
        pictures = len(turns["store"].collator.features)

    text = [whole for _, whole in times["text"]]
    ways = {}
    for name, taken in times.items():
        ratios = [whole / base for (_, whole), base in zip(taken, text, strict=True)]
        quarters = statistics.quantiles(ratios, n=4)
        ways[name] = {
            "collate_ms": round(1e3 * statistics.median(part for part, _ in taken), 2),
            "step_ms": round(1e3 * statistics.median(whole for _, whole in taken), 2),
            "times_text_median": round(statistics.median(ratios), 3),
            "times_text_quartiles": [round(quarters[0], 3), round(quarters[2], 3)],
        }
        print(name, " ".join(f"{key}={value}" for key, value in ways[name].items()), flush=True)
    facts = {
        "command": " ".join(["python benchmarks/speed/images.py", *(["--bf16"] if arguments.bf16 else [])]),
        "towers": [Path(arguments.text_model).name, Path(arguments.vision_model).name],
        "set": Path(arguments.dataset).name,
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "machine": {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "processor": platform.machine()},
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "pillow")},
        "sentences_with_a_picture": round(len(sentences.rows_with_image) / len(sentences.tokens), 3),
        "store": {
            "pictures": pictures,
            "kib_a_picture": round(store_bytes / pictures / 1024, 1),
            "fill_ms_a_picture": round(1e3 * turns["store"].fill_s / pictures, 2),
        },
        "ways": ways,
    }
    print(facts["store"])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(arguments.output.read_text()) if arguments.output.exists() else []
    known = [run for run in known if any(run[key] != facts[key] for key in ("command", "towers", "batch"))]
    arguments.output.write_text(json.dumps([*known, facts], indent=1) + "\n")


if __name__ == "__main__":
    main()
