"""Speed of the CRF against pytorch-crf: ``python benchmarks/speed/crf.py``.

Both libraries take the same ragged batches with the same parameters, in turns of ``CALLS`` calls; the first call of a
turn does not count, because it pays for what the other library left in the caches. Times are medians in milliseconds;
a ratio above 1 says that ours is faster. Writes ``benchmarks/results/crf.json``.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torchcrf import CRF

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import RESULTS, about, write  # noqa: E402
from crf_2mner import LinearChainCRF  # noqa: E402

CALLS = 4


def medians_ms(ways: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """The median time of each function; two rounds before the others do not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):
        for name, function in ways.items():
            for call in range(CALLS):
                start = time.perf_counter()
                function()
                if device == "cuda":
                    torch.cuda.synchronize()
                if number >= 2 and call:
                    times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def cell(num_tags: int, length: int, batch: int, rounds: int, device: str) -> dict[str, float]:
    """Times and ratios of one size: K tags, T words in the longest sentence, B sentences."""
    ours, other = LinearChainCRF(num_tags).to(device), CRF(num_tags, batch_first=True).to(device)
    with torch.no_grad():
        ours.start_transitions.copy_(other.start_transitions)
        ours.transitions.copy_(other.transitions)
        ours.end_transitions.copy_(other.end_transitions)
    lengths = torch.randint(max(1, length // 4), length + 1, (batch,))
    lengths[0] = length
    mask = (torch.arange(length)[None] < lengths[:, None]).to(device)  # (B, T)
    tags = torch.randint(num_tags, (batch, length)).to(device)  # (B, T)
    fixed = torch.randn(batch, length, num_tags).to(device)  # (B, T, K)
    emissions = fixed.clone().requires_grad_()

    def train(loss: Callable[[], torch.Tensor]) -> None:
        emissions.grad = None
        ours.zero_grad()
        other.zero_grad()
        loss().backward()

    found = medians_ms(
        {
            "ours_train": lambda: train(lambda: -ours.log_likelihood(emissions, tags, mask).sum()),
            "other_train": lambda: train(lambda: -other(emissions, tags, mask, reduction="sum")),
            "ours_decode": lambda: ours.decode(fixed, mask),
            "other_decode": lambda: other.decode(fixed, mask),
        },
        rounds,
        device,
    )
    ratios = {
        f"{what}_ratio": round(found[f"other_{what}"] / found[f"ours_{what}"], 2) for what in ("train", "decode")
    }
    sizes = {"tags": num_tags, "length": length, "batch": batch}
    return sizes | {name: round(value, 3) for name, value in found.items()} | ratios


def main() -> None:
    """Measures the grid, prints a line per size, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tags", type=int, nargs="+", default=[9, 17, 37])
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--output", type=Path, default=RESULTS / "crf.json")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    results = []
    for num_tags in arguments.tags:
        for length in arguments.lengths:
            for batch in arguments.batches:
                results.append(cell(num_tags, length, batch, arguments.rounds, arguments.device))
                print(" ".join(f"{key}={value:g}" for key, value in results[-1].items()), flush=True)
    for what in ("train_ratio", "decode_ratio"):
        ratios = [result[what] for result in results]
        print(f"{what}: {min(ratios)} to {max(ratios)}, median {statistics.median(ratios)}")
    write(arguments.output, about(["torch", "pytorch-crf"]) | {"rounds": arguments.rounds, "results": results})


if __name__ == "__main__":
    main()
