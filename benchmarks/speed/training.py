"""
What a training step costs beside its encoders, and what the switches of a recipe are worth.

    python benchmarks/speed/training.py --text_model FOLDER --vision_model FOLDER --dataset FOLDER

All ways take the same sentences, batch by batch, in one process and in an order drawn anew for each batch (a step is
slower or faster by what ran before it). "bare" is the limit: forward and backward of the text tower (and forward of
the frozen image tower over the distinct pictures) on tensors that lie ready, "bare_optimizer" with the optimizer's
step. "whole" is everything a run does for a batch: sentences to tensors,
pictures opened and resized, forward, backward, clipping, optimizer. "text" has no pictures, "pixels" has them, "store"
has the frozen tower's vectors from a store. The switches are tried on the whole text step, in batches of the first
size. Peak memory is that of a process of its own, beyond what it had with model and optimizer in place, over the
batches of one round.

Without towers and a set: tiny towers and the synthetic probe. Writes ``benchmarks/results/training.json``.
"""

import argparse
import json
import logging
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import about, highest_mib, write  # noqa: E402
from benchmarks.speed.images import Turn, recipe_argv  # noqa: E402
from mmner.trainer import LengthGroupedSampler  # noqa: E402

TEXT_ONLY = ["--collaboration", "none", "--alignment", "none"]
SWITCHES = {
    "float32": ["--bf16", "false"],
    "bfloat16": ["--bf16", "true"],
    "bfloat16, optimizer not fused": ["--bf16", "true", "--optim", "adamw_torch"],
    "bfloat16, activation checkpointing": ["--bf16", "true", "--activation_checkpointing", "true"],
}


class Bare:
    """Forward and backward of a turn's towers on tensors that lie ready, with or without the optimizer's step."""

    def __init__(self, turn: Turn, images: bool, optimizer: bool):
        self.turn, self.images, self.with_optimizer = turn, images, optimizer
        self.ready: dict[tuple[int, ...], dict[str, torch.Tensor]] = {}

    def prepare(self, rows: Sequence[int]) -> None:
        """The tensors of a batch, once."""
        batch = dict(self.turn.collator([self.turn.sentences[row] for row in rows]))
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        if self.images:
            ids = batch["image_ids"].tolist()
            first = [ids.index(image_id) for image_id in sorted(set(ids) - {0})]
            inputs["pixel_values"] = batch["pixel_values"][first]
        self.ready[tuple(rows)] = inputs

    def step(self, rows: Sequence[int]) -> float:
        """Seconds of one step."""
        inputs = dict(self.ready[tuple(rows)])
        model = self.turn.model.model
        start = time.perf_counter()
        pixels = inputs.pop("pixel_values", None)
        with self.turn.trainer.accelerator.autocast():
            loss = model.text_model(**inputs).last_hidden_state.float().square().mean()
            if pixels is not None and len(pixels):
                with torch.no_grad():
                    model.vision_model(pixel_values=pixels)  # in one call, as a batch comes
        loss.backward()
        if self.with_optimizer:
            self.turn.optimizer.step()
        self.turn.model.zero_grad()
        return time.perf_counter() - start


def quartiles(values: Sequence[float]) -> dict[str, list[float] | float]:
    """Median and quartiles, to three digits."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}


def interleaved(
    steps: dict[str, Callable[[Sequence[int]], float]], batches: Sequence[Sequence[int]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each way and round, the same batch for all ways of a round; two rounds before do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name in random.Random(number).sample(sorted(steps), len(steps)):
            took = steps[name](batches[number % len(batches)])
            if number >= 2:
                seconds[name].append(took)
    return seconds


def batches_of(turn: Turn, size: int) -> list[list[int]]:
    """The batches of an epoch, in the order of training."""
    order = list(LengthGroupedSampler(turn.sentences.lengths, size))
    return [order[at : at + size] for at in range(0, len(order) - size + 1, size)]


def padding(turn: Turn, batches: Sequence[Sequence[int]]) -> float:
    """The share of pieces that are padding."""
    masks = [turn.collator([turn.sentences[row] for row in rows])["attention_mask"] for rows in batches]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def compared(turns: dict[str, Turn], batches: Sequence[Sequence[int]], rounds: int) -> dict[str, dict[str, object]]:
    """The samples a second of each way, and its speed by that of its bare encoders."""
    ways = {
        f"{name}: {'bare_optimizer' if optimizer else 'bare'}": Bare(turns[name], name == "pixels", optimizer)
        for name in ("text", "pixels")
        for optimizer in (False, True)
    }
    for way in ways.values():
        for rows in batches[: rounds + 2]:
            way.prepare(rows)
    steps = {name: way.step for name, way in ways.items()}
    steps |= {f"{name}: whole": turn.whole for name, turn in turns.items()}
    seconds = interleaved(steps, batches, rounds)
    found = {}
    for name, taken in seconds.items():
        limit = seconds["pixels: bare" if name.startswith("pixels") else "text: bare"]
        found[name] = {
            "samples_per_second": round(len(batches[0]) / statistics.median(taken), 1),
            "speed_of_bare": quartiles([base / whole for base, whole in zip(limit, taken, strict=True)]),
        }
        print(len(batches[0]), name, found[name], flush=True)
    return found


def peak(arguments: argparse.Namespace, way: str) -> dict[str, float]:
    """What a process of its own says of `way`; see `own_peak`."""
    command = [sys.executable, __file__, *given(arguments), "--peak_of", way]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def own_peak(arguments: argparse.Namespace, way: str) -> dict[str, float]:
    """Highest MiB beyond those of model and optimizer, and seconds a step."""
    kind, _, chunk = way.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        argv = recipe_argv(arguments, Path(folder))
        if kind == "contrastive":
            argv += ["--alignment", "clip", "--freeze_vision_model", "none"]
        turn = Turn([*argv, *(TEXT_ONLY if "text" in kind else [])], Path(folder))
        size = arguments.batch * (4 if kind == "contrastive" else 1)
        batches = batches_of(turn, size)[: arguments.rounds]
        turn.model.model.encoder_chunk_size = int(chunk) if chunk else None
        if kind.startswith("bare"):
            bare = Bare(turn, images="text" not in kind, optimizer=True)
            for rows in batches:
                bare.prepare(rows)
            step = bare.step
        else:
            step = turn.whole
        step_one = min(batches, key=lambda rows: sum(turn.sentences.lengths[row] for row in rows))
        step(step_one)  # the optimizer makes its state in its first step
        before = highest_mib()
        seconds = [step(rows) for rows in batches]
    return {
        "before_mib": round(before),
        "highest_mib": round(highest_mib()),
        "step_s": round(statistics.median(seconds), 3),
    }


def given(arguments: argparse.Namespace) -> list[str]:
    """The command line again."""
    names = ("text_model", "vision_model", "dataset", "sentences", "rounds")
    words = [word for name in names for word in (f"--{name}", str(getattr(arguments, name)))]
    return [*words, "--batches", *map(str, arguments.batches)]


def main() -> None:
    """Measures, prints, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--text_model", default="tiny")
    parser.add_argument("--vision_model", default="tiny")
    parser.add_argument("--dataset", default="probe")
    parser.add_argument("--sentences", type=int, default=960, help="of which batches are made")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32], help="sentences in a batch")
    parser.add_argument("--compile", action="store_true", help="try torch.compile too: minutes of compiling")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "training.json")
    parser.add_argument("--peak_of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.batch = arguments.batches[0]  # of all but the table of steps
    logging.basicConfig(level=logging.WARNING)
    if arguments.peak_of:
        print(json.dumps(own_peak(arguments, arguments.peak_of)))
        return

    facts: dict[str, object] = {"batch": arguments.batch, "rounds": arguments.rounds}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        argv = recipe_argv(arguments, scratch)
        text, pixels = Turn([*argv, *TEXT_ONLY], scratch), Turn(argv, scratch)
        turns = {"text": text, "pixels": pixels, "store": Turn(argv, scratch, store=True)}
        facts["steps"], facts["padding"] = {}, {}
        for size in arguments.batches:
            batches = batches_of(pixels, size)
            facts["steps"][size] = compared(turns, batches, arguments.rounds)
            facts["padding"][size] = round(padding(text, batches), 4)
        print("padding", facts["padding"])

        switches = dict(SWITCHES)
        if arguments.compile:
            switches["bfloat16, compiled"] = ["--bf16", "true", "--torch_compile", "true"]
        turns = {name: Turn([*argv, *TEXT_ONLY, *options], scratch) for name, options in switches.items()}
        batches = batches_of(pixels, arguments.batches[0])
        seconds = interleaved({name: turn.whole for name, turn in turns.items()}, batches, arguments.rounds)
        first = next(iter(SWITCHES))
        facts["switches"] = {
            name: quartiles([base / whole for base, whole in zip(seconds[first], taken, strict=True)])
            for name, taken in seconds.items()
        }
        for name, found in facts["switches"].items():
            print(f"{name}: {found['median']} times the speed of {first}", flush=True)

    ways = ["bare_text", "whole_text", "bare_pixels", "whole_pixels", "contrastive:"]
    facts["memory"] = {way: peak(arguments, way) for way in [*ways, f"contrastive:{arguments.batch}"]}
    for way, found in facts["memory"].items():
        print(way, found, flush=True)
    towers = [Path(arguments.text_model).name, Path(arguments.vision_model).name]
    write(arguments.output, about(["torch", "transformers", "pillow"]) | {"towers": towers} | facts)


if __name__ == "__main__":
    main()
