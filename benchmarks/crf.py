"""Speed, error and memory of the CRF against pytorch-crf: ``python benchmarks/crf.py``.

Both libraries take the same ragged batches with the same parameters, turn and turn about, in one process. Times are
medians over ``--rounds`` turns, in milliseconds; a ratio above 1 says that ours is faster. Errors are the largest
difference from ours in float64, as a share of the likelihood. Writes ``benchmarks/results/crf.json``.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torchcrf import CRF

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from crf_2mner import LinearChainCRF  # noqa: E402

SHARED_RANGE = 0.1


def pair(num_tags: int) -> tuple[LinearChainCRF, CRF]:
    """The two CRFs with the same parameters."""
    ours, other = LinearChainCRF(num_tags), CRF(num_tags, batch_first=True)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.uniform_(-SHARED_RANGE, SHARED_RANGE)
        ours.start_transitions.copy_(other.start_transitions)
        ours.transitions.copy_(other.transitions)
        ours.end_transitions.copy_(other.end_transitions)
    return ours, other


def medians(turns: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """The median time of each function in ms; each is called once a round, after two calls that do not count."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(rounds + 2):
        for name, function in turns.items():
            start = time.perf_counter()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def cell(num_tags: int, length: int, batch: int, rounds: int, device: str) -> dict[str, float]:
    """One size: lengths are drawn from a quarter of the longest up."""
    ours, other = (crf.to(device) for crf in pair(num_tags))
    lengths = torch.randint(max(1, length // 4), length + 1, (batch,))
    lengths[0] = length
    mask = (torch.arange(length)[None] < lengths[:, None]).to(device)
    tags = torch.randint(num_tags, (batch, length)).to(device)
    emissions = torch.randn(batch, length, num_tags).to(device).requires_grad_()

    def train_ours() -> None:
        emissions.grad = None
        ours.zero_grad()
        (-ours.log_likelihood(emissions, tags, mask).sum()).backward()

    def train_other() -> None:
        emissions.grad = None
        other.zero_grad()
        (-other(emissions, tags, mask, reduction="sum")).backward()

    fixed = emissions.detach()
    turns = {
        "ours_train": train_ours,
        "other_train": train_other,
        "ours_decode": lambda: ours.decode(fixed, mask),
        "other_decode": lambda: other.decode(fixed, mask),
    }
    found = medians(turns, rounds, device)
    with torch.no_grad():
        exact = ours.double().log_likelihood(fixed.double(), tags, mask)
        ours.float()
        errors = {
            "ours_error": ours.log_likelihood(fixed, tags, mask).double() - exact,
            "other_error": other(fixed, tags, mask, reduction="none").double() - exact,
        }
    return {
        "tags": num_tags,
        "length": length,
        "batch": batch,
        **{name: round(value, 3) for name, value in found.items()},
        "train_ratio": round(found["other_train"] / found["ours_train"], 2),
        "decode_ratio": round(found["other_decode"] / found["ours_decode"], 2),
        **{name: float((error / exact).abs().max()) for name, error in errors.items()},
    }


def main() -> None:
    """Measure the grid."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tags", type=int, nargs="+", default=[9, 17, 37])
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32, 256])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--output", type=Path, default=None, help="benchmarks/results/crf[_cuda].json")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    results = []
    for num_tags in arguments.tags:
        for length in arguments.lengths:
            for batch in arguments.batches:
                results.append(cell(num_tags, length, batch, arguments.rounds, arguments.device))
                print(" ".join(f"{key}={value:.3g}" for key, value in results[-1].items()), flush=True)
    facts = {
        "command": "python benchmarks/crf.py" + (" --device cuda" if arguments.device == "cuda" else ""),
        "rounds": arguments.rounds,
        "machine": {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "processor": platform.machine()},
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "pytorch-crf", "numpy")},
        "results": results,
    }
    suffix = "_cuda" if arguments.device == "cuda" else ""
    output = arguments.output or ROOT / "benchmarks" / "results" / f"crf{suffix}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(facts, indent=1) + "\n")
    for what in ("train_ratio", "decode_ratio"):
        ratios = [result[what] for result in results]
        print(f"{what}: lowest {min(ratios)}, median {statistics.median(ratios)}, highest {max(ratios)}")


if __name__ == "__main__":
    main()
