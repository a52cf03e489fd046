"""Cost of large contrastive batches and of a step of the recommended model: ``python benchmarks/speed/scaling.py``.

Each loss takes ``--rows`` pairs in one process of its own: seconds of forward and backward, and the peak memory beyond
inputs and gradients, which a whole matrix of similarities would let grow with the square of the rows. A training step
is forward and backward of the model of ``recipes/base.yaml``, with random weights, in float32. All on one thread.
Writes ``benchmarks/results/scaling.json``; ``docs/scaling.md`` says what follows.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import SiglipVisionConfig, XLMRobertaConfig

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from alignment_2mner import build_alignment  # noqa: E402
from benchmarks.measuring import RESULTS, about, peak_mib, write  # noqa: E402
from configuration_2mner import TwoMNERConfig  # noqa: E402
from modeling_2mner import TwoMNERForTokenClassification  # noqa: E402

WIDTH = 256
TYPES = ("PER", "LOC", "ORG", "MISC")


def seconds_of(step: Callable[[], torch.Tensor], rounds: int) -> float:
    """The median time of forward and backward; the first does not count."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        step().backward()
        seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds[1:]), 3)


def loss_cell(kind: str, rows: int, rounds: int) -> dict[str, float]:
    """Seconds and added memory of one loss over pairs of one vector per sentence and one per image."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    alignment = build_alignment(kind, WIDTH, WIDTH, WIDTH)

    def inputs(count: int) -> tuple[torch.Tensor, ...]:
        states = [torch.randn(count, 1, WIDTH).requires_grad_() for _ in range(2)]
        for x in states:
            x.grad = torch.ones_like(x)  # resident before the memory is read
        here = torch.ones(count, dtype=torch.bool)
        return states[0], here[:, None], states[1], torch.arange(count), torch.arange(count)

    alignment(*inputs(8)).backward()  # loads what the libraries load on the first call
    batch = inputs(rows)
    before = peak_mib()
    seconds = seconds_of(lambda: alignment(*batch), rounds)
    return {"seconds": seconds, "added_mib": round(peak_mib() - before)}


def step_cell(rows: int, rounds: int) -> dict[str, float]:
    """Seconds of a training step: 32 tokens, 20 words and one image of 224 x 224 pixels per row."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    labels = ["O"] + [f"{prefix}-{name}" for name in TYPES for prefix in "BI"]
    text = XLMRobertaConfig(vocab_size=250002, max_position_embeddings=514, type_vocab_size=1)
    config = TwoMNERConfig(
        text_config=text.to_dict(),
        vision_config=SiglipVisionConfig().to_dict(),
        alignment="token",
        collaboration="gated",
        projection_dim=WIDTH,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    model = TwoMNERForTokenClassification(config).train()
    model.model.vision_model.requires_grad_(False)
    texts = {
        "input_ids": torch.randint(5, 1000, (rows, 32)),
        "attention_mask": torch.ones(rows, 32, dtype=torch.long),
        "word_starts": torch.arange(1, 21).expand(rows, 20),
        "labels": torch.zeros(rows, 20, dtype=torch.long),
    }
    images = {"pixel_values": torch.randn(rows, 3, 224, 224), "image_index": torch.arange(rows)}
    return {
        "rows": rows,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "with_images_seconds": seconds_of(lambda: model(**texts, **images).loss, rounds),
        "text_only_seconds": seconds_of(lambda: model(**texts).loss, rounds),
    }


def main() -> None:
    """Measures, prints, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", nargs="+", default=["clip", "siglip", "nt_xent"])
    parser.add_argument("--rows", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step_rows", type=int, default=8, help="0: no training step")
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling.json")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        print(json.dumps(loss_cell(arguments.cell[0], int(arguments.cell[1]), arguments.rounds)))
        return
    cells = []
    for kind in arguments.kinds:
        for rows in arguments.rows:
            command = [sys.executable, __file__, "--rounds", str(arguments.rounds), "--cell", kind, str(rows)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            cells.append({"kind": kind, "rows": rows} | json.loads(done.stdout.splitlines()[-1]))
            print(cells[-1], flush=True)
    step = step_cell(arguments.step_rows, arguments.rounds) if arguments.step_rows else None
    print(step)
    write(arguments.output, about(["torch", "transformers"]) | {"width": WIDTH, "cells": cells, "step": step})


if __name__ == "__main__":
    main()
