"""What a large contrastive batch and one training step cost one process: ``python benchmarks/speed/scaling.py``.

One process with ``--local_rows`` rows stands for one of many: the columns are the rows of all of them, as the gather
would have brought them. By blocks (ours) against whole matrices and the library's cross entropy, each in a process of
its own, whose highest resident memory is read before and after. ``--step_rows`` rows go through forward and backward
of a model with the towers, frozen and trained parts of ``recipes/base.yaml``, at random weights, in float32. Writes
``benchmarks/results/scaling.json``.
"""

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import SiglipVisionConfig, XLMRobertaConfig

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from alignment_2mner import build_alignment, find_candidates  # noqa: E402
from configuration_2mner import TwoMNERConfig  # noqa: E402
from modeling_2mner import TwoMNERForTokenClassification  # noqa: E402

WIDTH = 256


def dense_row_losses(module, local, everywhere) -> torch.Tensor:
    """The same losses over whole matrices, every row usable and with an image of its own."""
    own = torch.arange(len(local[0]))
    if type(module).__name__ == "NTXentAlignment":
        logits = torch.cat(local) @ torch.cat(everywhere).T / module.temperature
        rows = torch.arange(len(logits))
        count = len(everywhere[0])
        logits = logits.index_put((rows, torch.cat([own, own + count])), torch.tensor(-math.inf))
        return F.cross_entropy(logits, torch.cat([own + count, own]), reduction="none")
    if type(module).__name__ == "SigLIPAlignment":
        logits = module.scale() * (local[0] @ everywhere[1].T) + module.logit_bias
        signs = torch.full_like(logits, -1.0).scatter_(1, own[:, None], 1.0)
        return -F.logsigmoid(signs * logits).sum(dim=1)
    scale = module.scale()
    return (
        F.cross_entropy(scale * (local[0] @ everywhere[1].T), own, reduction="none")
        + F.cross_entropy(scale * (local[1] @ everywhere[0].T), own, reduction="none")
    ) / 2


def highest_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cell(kind: str, way: str, local_rows: int, global_rows: int, rounds: int) -> dict[str, float]:
    """Seconds of forward and backward (median), the memory they add to what holds inputs and gradients, the loss."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module = build_alignment(kind, 8, 8, WIDTH)
    everywhere = [F.normalize(torch.randn(global_rows, WIDTH), dim=1).requires_grad_() for _ in range(2)]
    for x in everywhere:
        x.grad = torch.ones_like(x)  # touched, so that it is resident before the count begins
    rows = torch.stack([torch.ones(global_rows), torch.zeros(global_rows), torch.zeros(global_rows)], 1).long()
    module.row_losses(  # libraries load what they need on the first call
        [x[:4] for x in everywhere],
        [x[:8] for x in everywhere],
        find_candidates(rows[:8], rows[:4, 1], 0, torch.float),
    ).sum().backward()
    before, seconds = highest_mib(), []
    for _ in range(rounds):
        start = time.perf_counter()
        local = [x[:local_rows] for x in everywhere]
        if way == "blocks":
            candidates = find_candidates(rows, rows[:local_rows, 1], 0, torch.float)
            losses = module.row_losses(local, everywhere, candidates)
        else:
            losses = dense_row_losses(module, local, everywhere)
        loss = losses.mean()
        loss.backward()
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds),
        "slowest_seconds": max(seconds),
        "added_mib": highest_mib() - before,
        "loss": loss.item(),
    }


def step(rows: int, rounds: int) -> dict[str, float]:
    """Seconds of forward and backward of the recommended model: 32 pieces, 20 words, one 224 x 224 image a row."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    labels = ["O"] + [f"{side}-{name}" for name in ("PER", "LOC", "ORG", "MISC") for side in "BI"]
    text = XLMRobertaConfig(vocab_size=250002, max_position_embeddings=514, type_vocab_size=1)
    model = TwoMNERForTokenClassification(
        TwoMNERConfig(
            text_config=text.to_dict(),
            vision_config=SiglipVisionConfig().to_dict(),
            alignment="token",
            collaboration="gated",
            projection_dim=WIDTH,
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
        )
    ).train()
    model.model.vision_model.requires_grad_(False)
    texts = {
        "input_ids": torch.randint(5, 1000, (rows, 32)),
        "attention_mask": torch.ones(rows, 32, dtype=torch.long),
        "word_starts": torch.arange(1, 21).expand(rows, 20),
        "labels": torch.zeros(rows, 20, dtype=torch.long),
    }
    images = {"pixel_values": torch.randn(rows, 3, 224, 224), "image_ids": torch.arange(1, rows + 1)}
    result: dict[str, float] = {
        "rows": rows,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    for name, batch in (("with_images", texts | images), ("text_only", texts)):
        seconds = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            model.zero_grad(set_to_none=True)
            model(**batch).loss.backward()
            seconds.append(time.perf_counter() - start)
        result[f"{name}_seconds"] = statistics.median(seconds[1:])
        result[f"{name}_slowest_seconds"] = max(seconds[1:])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", nargs="+", default=["clip", "siglip", "nt_xent"])
    parser.add_argument("--ways", nargs="+", default=["blocks", "dense"])
    parser.add_argument("--local_rows", type=int, nargs="+", default=[512])
    parser.add_argument("--global_rows", type=int, nargs="+", default=[32768])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step_rows", type=int, default=8, help="0: no training step")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "scaling.json")
    parser.add_argument("--cell", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        kind, way, local_rows, global_rows = args.cell
        print(json.dumps(cell(kind, way, int(local_rows), int(global_rows), args.rounds)))
        return
    results = []
    print("kind     way     local   global   seconds   added MiB   loss")
    for kind in args.kinds:
        for global_rows in args.global_rows:
            for local_rows in args.local_rows:
                for way in args.ways:
                    sizes = [kind, way, str(local_rows), str(global_rows)]
                    command = [sys.executable, __file__, "--rounds", str(args.rounds), "--cell", *sizes]
                    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                    results.append(
                        {"kind": kind, "way": way, "local_rows": local_rows, "global_rows": global_rows} | found
                    )
                    print(
                        f"{kind:8} {way:7} {local_rows:5} {global_rows:8} {found['seconds']:9.3f} "
                        f"{found['added_mib']:11.0f}   {found['loss']:.5f}",
                        flush=True,
                    )
    measured_step = step(args.step_rows, args.rounds) if args.step_rows else None
    print(measured_step)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "command": " ".join(["python", "benchmarks/speed/scaling.py", *sys.argv[1:]]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread a process",
        "projection_dim": WIDTH,
    }
    args.output.write_text(json.dumps(about | {"cells": results, "step": measured_step}, indent=1) + "\n")


if __name__ == "__main__":
    main()
