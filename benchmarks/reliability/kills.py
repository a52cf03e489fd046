"""Runs killed at random moments against the same run left alone: ``python benchmarks/reliability/kills.py``.

Each recipe below is first run to its end. Then it is started, SIGKILLed with all its worker processes after a time
drawn uniformly from the length of the whole run, started again by the same command (with ``--resume_from_checkpoint
auto``), killed again, and so on, until it is done; then anew in another folder, until there were ``--kills`` kills.
After every kill each checkpoint is read, and the newest must be no older than before; at the end of each run the
weights, the optimizer's state, the predictions and the scores must equal, bit for bit, those of the run left alone.
Writes ``benchmarks/results/kills.json``.
"""

import argparse
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mmner.checkpoints import SAVING, complete_checkpoints, newest_checkpoint, step_of  # noqa: E402
from mmner.tiny_towers import make_tiny_towers  # noqa: E402

COMMON = """
dataset: probe
probe_sentences: 400
text_model: tiny
vision_model: {towers}/vision
alignment: clip
modality_dropout: 0.2
text_augmentation: 0.3
learning_rate: 1e-3
logging_steps: 5
use_cpu: true
disable_tqdm: true
seed: 7
"""
RECIPES = {
    # 70 batches and 35 updates an epoch, of which every fourth is saved: epochs are gone on with in their middle.
    "frozen image tower, stored vectors, saved within epochs": """
freeze_vision_model: all
image_feature_store: {store}
num_train_epochs: 3
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
train_sampling_strategy: random
dataloader_num_workers: 2
dataloader_persistent_workers: true
eval_strategy: steps
eval_steps: 4
save_strategy: steps
save_steps: 4
""",
    "all towers trained, saved after epochs": """
num_train_epochs: 6
per_device_train_batch_size: 16
""",
}
PHASES = [  # the latest whose words the log has
    ("starting: imports, data, towers", ""),
    ("picture vectors, first steps", r"run_mmner: train: "),
    ("training", r"'loss': "),
    ("final model, scoring", r"'train_runtime': "),
    ("plots, card", r"F1 on test"),
]


def launch(recipe: Path, output: Path, log: Path, home: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "run_mmner.py"), str(recipe), "--output_dir", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    environment["PYTHONUNBUFFERED"] = "1"  # the log is read after the kill
    with log.open("w") as file:
        return subprocess.Popen(
            [*command, "--resume_from_checkpoint", "auto"],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, so that the workers are killed with it
        )


def finish(process: subprocess.Popen, log: Path) -> None:
    if process.wait() != 0:
        raise RuntimeError(f"A run ended with {process.returncode}:\n{log.read_text()[-4000:]}")


def phase_of(log: Path) -> str:
    text = log.read_text(errors="replace")
    return [name for name, words in PHASES if re.search(words, text)][-1]


def check_checkpoints(output: Path) -> int:
    """The step of the newest checkpoint, 0 for none; raises where one is there and cannot be read."""
    present = sorted(path for path in output.glob("checkpoint-*"))
    if present != sorted(complete_checkpoints(output)):
        raise RuntimeError(f"Not whole: {set(present) - set(complete_checkpoints(output))}")
    for path in present:
        load_file(path / "model.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.load(path / name, weights_only=False)
    newest = newest_checkpoint(output)
    return 0 if newest is None else step_of(newest)


def outcome(output: Path) -> dict[str, Any]:
    """What must be the same: without what is measured in seconds."""
    results = json.loads((output / "all_results.json").read_text())
    optimizer = torch.load(newest_checkpoint(output) / "optimizer.pt", weights_only=True)["state"]
    return {
        "weights": (output / "model.safetensors").read_bytes(),
        "optimizer": {
            (index, name): value.numpy().tobytes()
            for index, state in optimizer.items()
            for name, value in state.items()
        },
        "predictions": {path.name: path.read_bytes() for path in output.glob("predictions_*.jsonl")},
        "scores": {
            name: value for name, value in results.items() if "runtime" not in name and "per_second" not in name
        },
    }


def trial(name: str, options: str, kills: int, rng: random.Random, scratch: Path) -> dict[str, Any]:
    """The run left alone, and the killed ones against it."""

    def recipe_of(run: str) -> Path:
        path = scratch / f"{run}.yaml"
        path.write_text((COMMON + options).format(towers=scratch / "towers", store=scratch / f"store-{run}"))
        return path

    home, log = scratch / "home", scratch / "log"
    make_tiny_towers(scratch / "towers", [["a", "tokenizer", "that", "is", "not", "used"]])
    started = time.monotonic()
    finish(launch(recipe_of("whole"), scratch / "whole", log, home), log)
    length = time.monotonic() - started
    whole = outcome(scratch / "whole")
    print(f"{name}: {length:.0f} s if left alone", flush=True)
    moments: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    while len(moments) < kills:
        run = f"killed-{len(runs)}"
        output, recipe = scratch / run, recipe_of(run)
        own_kills, step, starts, done = 0, 0, 0, False
        while not done:
            process, started = launch(recipe, output, log, home), time.monotonic()
            starts += 1
            moment = rng.uniform(0, length)
            if len(moments) < kills:
                try:
                    process.wait(moment)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
            done = process.wait() != -signal.SIGKILL
            if done:
                finish(process, log)
                if starts == 1:  # faster than thought: the machine has less else to do
                    length = time.monotonic() - started
            else:
                saving = output / SAVING
                before, step = step, check_checkpoints(output)
                if step < before:
                    raise RuntimeError(f"Checkpoint {before} was lost: the newest is {step}.")
                own_kills += 1
                remnants = sorted(path.name for path in saving.iterdir()) if saving.is_dir() else []
                moments.append(
                    {
                        "run": len(runs),
                        "seconds": round(moment, 3),
                        "phase": phase_of(log),
                        "half_written": remnants,
                        "newest_checkpoint": step,
                    }
                )
                print(f"  {moments[-1]}", flush=True)
        killed = outcome(output)
        runs.append(
            {"kills": own_kills, "starts": starts, **{f"same_{key}": whole[key] == killed[key] for key in whole}}
        )
        print(f"  {runs[-1]}", flush=True)
        shutil.rmtree(output)
    return {
        "name": name,
        "recipe": (COMMON + options).format(towers="towers", store="store"),
        "seconds_left_alone": round(length, 3),
        "steps": step_of(newest_checkpoint(scratch / "whole")),
        "kills": moments,
        "runs": runs,
        "all_the_same": all(run[f"same_{key}"] for run in runs for key in whole),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="of each recipe")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "kills.json")
    args = parser.parse_args()
    trials = []
    for name, options in RECIPES.items():
        with tempfile.TemporaryDirectory() as scratch:
            trials.append(trial(name, options, args.kills, random.Random(f"{args.seed} {name}"), Path(scratch)))
    report = {
        "command": f"python benchmarks/reliability/kills.py --kills {args.kills} --seed {args.seed}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread a process",
        "note": "seconds place the kills; the machine had other work, and they measure nothing",
        "trials": trials,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    for result in trials:
        print(
            f"{result['name']}: {len(result['kills'])} kills in {len(result['runs'])} runs, "
            f"{'all the same' if result['all_the_same'] else 'NOT the same'}"
        )


if __name__ == "__main__":
    main()
