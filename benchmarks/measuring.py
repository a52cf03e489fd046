"""What every benchmark records beside its numbers: the command, the machine and the versions."""

import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def about(libraries: Sequence[str]) -> dict[str, Any]:
    """The command, the machine and the versions of a run. Paths on the command line are cut to their last part."""
    script = Path(sys.argv[0]).resolve()
    words = ["python", str(script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name)]
    for word in sys.argv[1:]:
        name, equals, path = word.rpartition("=")  # NAME=PATH, --option=PATH, or PATH
        words.append(name + equals + (Path(path).name if os.sep in path else path))
    return {
        "command": " ".join(words),
        "machine": {
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processor": platform.machine(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in libraries},
    }


def peak_mib() -> float:
    """The peak resident memory of this process; `getrusage` would include what its parent held."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest, to three decimals."""
    return {"median": round(statistics.median(values), 3), "low": round(min(values), 3), "high": round(max(values), 3)}


def write(path: Path, facts: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Writes the facts of a run as JSON, in place of an earlier run's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
