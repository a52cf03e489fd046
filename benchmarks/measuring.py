"""What every benchmark says of itself beside its numbers."""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def about(libraries: Sequence[str]) -> dict[str, Any]:
    """The command, the machine and the versions of a run. Of paths given on the command line, the last part."""
    words = []
    for word in sys.argv[1:]:
        name, equals, path = word.rpartition("=")  # NAME=PATH, --option=PATH, or PATH
        words.append(name + equals + (Path(path).name if os.sep in path else path))
    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words]),
        "machine": {
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processor": platform.machine(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in libraries},
    }


def highest_mib() -> float:
    """The most memory that this program has had, from the kernel: `getrusage` would begin with what the process that
    started it held."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def write(path: Path, facts: dict[str, Any] | list[dict[str, Any]]) -> None:
    """The facts of a run as JSON, in place of an earlier run's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
