"""Speed, error and memory of the CRF against pytorch-crf: ``python benchmarks/speed/crf.py``.

Both libraries take the same ragged batches with the same parameters, turn and turn about, in one process. A turn is
``CALLS`` calls in a row, of which the first does not count: it pays for what the other library left in the caches.
Times are medians over all calls of ``--rounds`` turns, in milliseconds; a ratio above 1 says that ours is faster.
Errors are the largest difference from pytorch-crf in float64, as a share of the likelihood. Memory is what a process
of its own needs at most, beyond what it had before, for one forward and backward pass of the largest size. Writes
``benchmarks/results/crf.json``.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torchcrf import CRF

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import about, highest_mib, write  # noqa: E402
from crf_2mner import LinearChainCRF  # noqa: E402

SHARED_RANGE = 0.1
CALLS = 4
LIBRARIES = ("ours", "other")


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
    """The median time of each function in ms; two turns before the others do not count."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(rounds + 2):
        for name, function in turns.items():
            for call in range(CALLS):
                start = time.perf_counter()
                function()
                if device == "cuda":
                    torch.cuda.synchronize()
                if turn >= 2 and call:
                    times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def batch_of(num_tags: int, length: int, batch: int, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Emissions (that want a gradient), tags and mask; lengths are drawn from a quarter of the longest up."""
    lengths = torch.randint(max(1, length // 4), length + 1, (batch,))
    lengths[0] = length
    mask = (torch.arange(length)[None] < lengths[:, None]).to(device)
    tags = torch.randint(num_tags, (batch, length)).to(device)
    return torch.randn(batch, length, num_tags).to(device).requires_grad_(), tags, mask


def trainers(crfs: tuple[LinearChainCRF, CRF], emissions, tags, mask) -> dict[str, Callable[[], None]]:
    """Forward and backward of each library."""
    ours, other = crfs

    def train_ours() -> None:
        emissions.grad = None
        ours.zero_grad()
        (-ours.log_likelihood(emissions, tags, mask).sum()).backward()

    def train_other() -> None:
        emissions.grad = None
        other.zero_grad()
        (-other(emissions, tags, mask, reduction="sum")).backward()

    return dict(zip(LIBRARIES, (train_ours, train_other), strict=True))


def peak_memory(size: tuple[int, int, int], library: str) -> float:
    """MiB that a process of its own needs for one pass of this size; the smallest pass comes before, for the code."""
    command = [sys.executable, __file__, "--memory_of", library, *map(str, size)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def own_peak_memory(size: tuple[int, int, int], library: str) -> float:
    """What `peak_memory` has a process do."""
    crfs = pair(size[0])
    trainers(crfs, *batch_of(size[0], 2, 2, "cpu"))[library]()
    train = trainers(crfs, *batch_of(*size, "cpu"))[library]
    before = highest_mib()
    train()
    return highest_mib() - before


def cell(num_tags: int, length: int, batch: int, rounds: int, device: str) -> dict[str, float]:
    """One size."""
    ours, other = crfs = tuple(crf.to(device) for crf in pair(num_tags))
    emissions, tags, mask = batch_of(num_tags, length, batch, device)
    fixed = emissions.detach()
    turns = {
        **{f"{name}_train": train for name, train in trainers(crfs, emissions, tags, mask).items()},
        "ours_decode": lambda: ours.decode(fixed, mask),
        "other_decode": lambda: other.decode(fixed, mask),
    }
    found = medians(turns, rounds, device)
    with torch.no_grad():
        exact = other.double()(fixed.double(), tags, mask, reduction="none")
        other.float()
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
    parser.add_argument("--memory_of", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=None, help="benchmarks/results/crf[_cuda].json")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.memory_of:
        print(own_peak_memory(tuple(map(int, arguments.memory_of[1:])), arguments.memory_of[0]))
        return
    results = []
    for num_tags in arguments.tags:
        for length in arguments.lengths:
            for batch in arguments.batches:
                results.append(cell(num_tags, length, batch, arguments.rounds, arguments.device))
                print(" ".join(f"{key}={value:.3g}" for key, value in results[-1].items()), flush=True)
    largest = (max(arguments.tags), max(arguments.lengths), max(arguments.batches))
    memory = {name: round(peak_memory(largest, name)) for name in LIBRARIES} if arguments.device == "cpu" else {}
    print("MiB at most, beyond what was there:", memory)
    facts = about(["torch", "pytorch-crf", "numpy"]) | {
        "rounds": arguments.rounds,
        "peak_memory_mib": memory,
        "results": results,
    }
    suffix = "_cuda" if arguments.device == "cuda" else ""
    write(arguments.output or ROOT / "benchmarks" / "results" / f"crf{suffix}.json", facts)
    for what in ("train_ratio", "decode_ratio"):
        ratios = [result[what] for result in results]
        print(f"{what}: lowest {min(ratios)}, median {statistics.median(ratios)}, highest {max(ratios)}")


if __name__ == "__main__":
    main()
