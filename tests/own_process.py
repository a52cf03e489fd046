"""A Python process of its own, which finds this repository and its tests, and has one thread."""

import os
import subprocess
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parent
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> str:
    """What ``python ARGUMENTS`` prints, in the environment given or in this one."""
    env = (os.environ if env is None else env) | {"OMP_NUM_THREADS": "1"}
    env |= {"PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS)))}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


LAUNCH = """
import runpy, sys
from accelerate import debug_launcher
file, folder = sys.argv[1:]
debug_launcher(runpy.run_path(file)["run_process"], args=(folder,), num_processes=2)
"""


def run_two(file: str, folder: Path) -> list[dict]:
    """What two processes have saved that each call ``run_process(folder)`` of a test file.

    One launch is for all cases: autograd cannot be forked once it has run.
    """
    run("-c", LAUNCH, file, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]
