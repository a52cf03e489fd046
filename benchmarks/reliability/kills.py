"""Runs killed at random moments against the same run left alone: ``python benchmarks/reliability/kills.py``.

Each recipe below is run to its end. Then it is started, killed with its workers at a random moment, resumed by the
same command, and so on until it ends; then anew in another folder, until there were ``--kills`` kills. After every
kill each checkpoint must be readable, and the newest no older than before. Weights, optimizer state, predictions and
scores must equal those of the run left alone, bit for bit. Writes ``benchmarks/results/kills.json``.
"""

import argparse
import json
import os
import random
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

from benchmarks.measuring import RESULTS, about, write  # noqa: E402
from mmner.probe.tiny_towers import make_tiny_towers  # noqa: E402

COMMON = """
dataset: probe
probe_sentences: 400
text_model: tiny
vision_model: {towers}/vision
alignment: clip
modality_dropout: 0.2
text_augmentation: 0.3
learning_rate: 1e-3
use_cpu: true
disable_tqdm: true
seed: 7
"""
RECIPES = {
    # 70 batches and 35 updates per epoch, saved at every fourth: runs resume in the middle of an epoch.
    "frozen image tower, stored features, saved within epochs": """
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


class Runs:
    """Runs of one recipe below one scratch folder."""

    def __init__(self, options: str, scratch: Path):
        self.options, self.scratch = options, scratch
        make_tiny_towers(scratch / "towers", [["a", "tokenizer", "that", "is", "not", "used"]])

    def start(self, name: str) -> subprocess.Popen:
        """Starts a run or resumes it, in a process group of its own, so that its workers can be killed with it."""
        recipe, log = self.scratch / f"{name}.yaml", self.scratch / "log"
        folders = {"towers": self.scratch / "towers", "store": self.scratch / f"store-{name}"}
        recipe.write_text((COMMON + self.options).format(**folders))
        command = [sys.executable, str(ROOT / "run_mmner.py"), str(recipe), "--output_dir", str(self.scratch / name)]
        command += ["--resume_from_checkpoint", "auto"]
        environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(self.scratch / "home")}
        with log.open("w") as file:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def newest_step(self, name: str) -> int:
        """The step of the newest checkpoint, 0 for none; raises where one cannot be read."""
        checkpoints = list((self.scratch / name).glob("checkpoint-*"))
        for path in checkpoints:
            load_file(path / "model.safetensors")
            for file in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
                torch.load(path / file, weights_only=False)
        return max((int(path.name.removeprefix("checkpoint-")) for path in checkpoints), default=0)

    def outcome(self, name: str) -> dict[str, Any]:
        """What must be the same, without what is measured in seconds."""
        folder = self.scratch / name
        newest = folder / f"checkpoint-{self.newest_step(name)}"
        state = torch.load(newest / "optimizer.pt", weights_only=True)["state"]
        results = json.loads((folder / "all_results.json").read_text())
        return {
            "weights": (folder / "model.safetensors").read_bytes(),
            "optimizer": {(i, key): x.numpy().tobytes() for i, part in state.items() for key, x in part.items()},
            "predictions": {path.name: path.read_bytes() for path in folder.glob("predictions_*.jsonl")},
            "scores": {key: x for key, x in results.items() if "runtime" not in key and "per_second" not in key},
        }


def trial(options: str, kills: int, rng: random.Random, scratch: Path) -> dict[str, Any]:
    """The run left alone, and the killed ones against it."""
    runs, started = Runs(options, scratch), time.monotonic()
    if code := runs.start("whole").wait():
        raise RuntimeError(f"The run ended with {code}:\n{(scratch / 'log').read_text()[-4000:]}")
    length_s = time.monotonic() - started
    whole = runs.outcome("whole")
    moments: list[dict[str, Any]] = []
    ended: list[dict[str, Any]] = []
    while len(moments) < kills:
        name, own_kills, step = f"killed-{len(ended)}", 0, 0
        while True:
            process, moment_s = runs.start(name), rng.uniform(0, length_s)
            if len(moments) < kills:
                try:
                    process.wait(moment_s)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                break  # if it failed, `outcome` finds no results
            before, step = step, runs.newest_step(name)
            if step < before:
                raise RuntimeError(f"Checkpoint {before} was lost: the newest is {step}.")
            own_kills += 1
            moments.append({"run": len(ended), "seconds": round(moment_s, 3), "newest_checkpoint": step})
            print(f"  {moments[-1]}", flush=True)
        killed = runs.outcome(name)
        ended.append({"kills": own_kills, **{f"same_{key}": whole[key] == killed[key] for key in whole}})
        shutil.rmtree(scratch / name)
    same = all(run[f"same_{key}"] for run in ended for key in whole)
    return {"seconds_left_alone": round(length_s, 3), "kills": moments, "runs": ended, "all_the_same": same}


def main() -> None:
    """Runs, kills, compares, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="of each recipe")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, default=RESULTS / "kills.json")
    arguments = parser.parse_args()
    trials = []
    for name, options in RECIPES.items():
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            found = trial(options, arguments.kills, random.Random(f"{arguments.seed} {name}"), Path(scratch))
        trials.append({"name": name, "recipe": COMMON + options} | found)
    write(arguments.output, about(["torch", "transformers"]) | {"trials": trials})
    sys.exit(int(not all(found["all_the_same"] for found in trials)))


if __name__ == "__main__":
    main()
