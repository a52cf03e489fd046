"""A Python process of someone who has the libraries, and nothing of ours even where this repository is installed."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

# An editable install is found through a .pth file, which the site module reads: it is left out, and the folder of the
# libraries named by hand.
OPTIONS = ("-I", "-S", "-c")


def script(code: str) -> str:
    """``code`` as a script for ``python *OPTIONS``."""
    places = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    return f"import sys\nsys.path += {places!r}\n{code}"


def run(code: str, folder: Path, *arguments: str | Path, env: dict[str, str] | None = None) -> tuple[str, str]:
    """What ``code`` prints in ``folder``, and what it says on standard error; offline, or in an environment given."""
    env = env or os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *OPTIONS, script(code), *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr
