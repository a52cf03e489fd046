"""
Speed and peak memory of a training step: text only, with images, and with stored image features.

    python benchmarks/speed/training.py --text_model FOLDER --vision_model FOLDER --dataset FOLDER [--against CHECKOUT]

Each cell is a run of ``run_mmner.py`` with ``recipes/local.yaml`` in a process of its own, which ends after
``--steps`` steps. A step is all that lies between the beginnings of two: batch, forward, backward, clipping and
optimizer; its time is given for 1,000 tokens, padding included. The cells take turns; ``--against`` adds the same runs
of another checkout of this repository. Without towers and dataset: tiny towers and the synthetic probe. Writes
``benchmarks/results/training.json``.
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import RESULTS, about, peak_mib, spread, write  # noqa: E402

WARM_UP = 3  # first steps that do not count
WAYS = {
    "text": ["--collaboration", "none", "--alignment", "none"],
    "images": [],
    "store": ["--image_feature_store", "{folder}/store"],
}


def work(checkout: str, result: str, steps: int, options: list[str]) -> None:
    """Trains in this process, writes step times and peak memory to the file `result`, and ends the process."""
    from transformers import Trainer

    starts: list[float] = []
    tokens: list[int] = []
    training_step = Trainer.training_step

    def timed(self, *args, **kwargs):
        starts.append(time.perf_counter())
        if len(starts) > steps + WARM_UP:
            taken = (starts[-1] - starts[WARM_UP]) / sum(tokens[WARM_UP:])
            Path(result).write_text(json.dumps({"seconds": 1000 * taken, "peak_mib": peak_mib()}))
            os._exit(0)  # without scores, card and plots
        tokens.append(args[1]["input_ids"].numel())
        return training_step(self, *args, **kwargs)

    setattr(Trainer, "training_step", timed)  # noqa: B010
    sys.path[0] = checkout
    sys.argv = ["run_mmner.py", f"{checkout}/recipes/local.yaml", *options]
    runpy.run_path(f"{checkout}/run_mmner.py", run_name="__main__")
    raise RuntimeError("Training ended too early: give fewer --steps or more --sentences.")


def measure(arguments: argparse.Namespace, way: str, batch: int, checkout: Path) -> dict[str, float]:
    """One cell, once."""
    with tempfile.TemporaryDirectory() as folder:
        options = [option.format(folder=folder) for option in WAYS[way]]
        options += ["--text_model", arguments.text_model, "--vision_model", arguments.vision_model]
        options += ["--dataset", arguments.dataset, "--per_device_train_batch_size", str(batch)]
        options += ["--max_train_samples", str(arguments.sentences), "--bf16", str(arguments.bf16)]
        options += ["--max_steps", str(arguments.steps + WARM_UP + 2), "--output_dir", f"{folder}/run"]
        options += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
        options += ["--disable_tqdm", "true"]
        if arguments.text_model == "tiny":
            options += ["--freeze_text_model", "none"]
        command = [sys.executable, __file__, "--work", str(checkout), f"{folder}/result", str(arguments.steps)]
        done = subprocess.run([*command, *options], cwd=checkout, capture_output=True, text=True, check=False)
        if not Path(folder, "result").exists():
            raise RuntimeError(f"{way}, {checkout}: no result.\n{done.stderr[-3000:]}")
        return json.loads(Path(folder, "result").read_text())


def main() -> None:
    """Measures, prints a line per cell, writes the JSON."""
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5:])
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--text_model", default="tiny")
    parser.add_argument("--vision_model", default="tiny")
    parser.add_argument("--dataset", default="probe")
    parser.add_argument("--sentences", type=int, default=960)
    parser.add_argument("--steps", type=int, default=30, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32], help="sentences per batch")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--output", type=Path, default=RESULTS / "training.json")
    arguments = parser.parse_args()
    for name in ("text_model", "vision_model", "dataset"):
        if os.path.isdir(getattr(arguments, name)):
            setattr(arguments, name, os.path.abspath(getattr(arguments, name)))
    checkouts = {"": ROOT} | ({"against": arguments.against.resolve()} if arguments.against else {})
    cells = [(way, batch, name) for batch in arguments.batches for way in arguments.ways for name in checkouts]
    found: dict[tuple[str, int, str], list[dict]] = {cell: [] for cell in cells}
    for _ in range(arguments.rounds):
        for way, batch, name in cells:
            found[way, batch, name].append(measure(arguments, way, batch, checkouts[name]))
    results = []
    for (way, batch, name), runs in found.items():
        seconds = [run["seconds"] for run in runs]
        result = {"way": way, "batch": batch, "ms_per_1000_tokens": spread([1000 * second for second in seconds])}
        result["peak_mib"] = round(max(run["peak_mib"] for run in runs))
        if name:
            ours = [run["seconds"] for run in found[way, batch, ""]]
            result["against"] = True
            result["times_ours"] = spread([other / own for other, own in zip(seconds, ours, strict=True)])
        results.append(result)
        print(json.dumps(result), flush=True)
    towers = [Path(arguments.text_model).name, Path(arguments.vision_model).name]
    write(arguments.output, about(["torch", "transformers"]) | {"towers": towers, "results": results})


if __name__ == "__main__":
    main()
