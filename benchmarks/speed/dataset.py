"""Speed and memory of building and pushing a dataset: ``python benchmarks/speed/dataset.py --rows 10000 100000``.

Sentences and pictures are made up, one picture for five rows, so 100,000 rows have 20,000 pictures. Each
size is built, then pushed to a loopback Hub, in processes of their own, whose peak resident memory is taken from the
operating system. Prints a table and writes ``benchmarks/results/dataset.json``.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("en", "de", "fr", "es")
ROWS_PER_PICTURE = 5


def make_source(folder: Path, rows: int, seed: int = 0) -> None:
    """JSONL sentences in four languages, and an index of pictures of the entities that they name."""
    generator, noise = random.Random(seed), np.random.default_rng(seed)
    words = [
        "".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 9))) for _ in range(20_000)
    ]
    pictures = rows // ROWS_PER_PICTURE
    (folder / "images").mkdir(parents=True)
    with (folder / "index.jsonl").open("w") as index:
        for number in range(pictures):
            # Noise at a coarse grain, which no perceptual hash takes for another.
            pixels = Image.fromarray(noise.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((256, 192))
            pixels.save(folder / "images" / f"{number:06d}.jpg", quality=80)
            record = {"file": f"{number:06d}.jpg", "types": ["PER"], "mentions": [f"Entity{number}"]}
            index.write(json.dumps(record | {"licence": "CC0", "source": "made up"}) + "\n")
    files = {}
    for lang in LANGUAGES:
        (folder / lang).mkdir()
        files[lang] = (folder / lang / "train.jsonl").open("w")
    for number in range(rows):
        lang = LANGUAGES[number % len(LANGUAGES)]
        name = [f"Entity{generator.randrange(2 * pictures)}"]
        tokens = generator.choices(words, k=generator.randint(8, 30)) + name + generator.choices(words, k=5)
        tags = ["B-PER" if token == name[0] else "O" for token in tokens]
        record = {"id": str(number), "lang": lang, "tokens": tokens, "ner_tags": tags}
        files[lang].write(json.dumps(record) + "\n")
    for file in files.values():
        file.close()


def measured(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run a command alone. Returns its wall time in seconds and its peak resident memory in MiB."""
    code = (
        "import resource, subprocess, sys, time; start = time.perf_counter(); "
        "status = subprocess.run(sys.argv[1:]).returncode; "
        "print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    wall, peak = done.stdout.split("\n")[-2].split()
    return float(wall), float(peak) / (1 if sys.platform != "darwin" else 1024) / 1024


def bench(rows: int, folder: Path) -> dict[str, float]:
    """Build and push one size."""
    sys.path.insert(0, str(ROOT / "tests"))
    from hub_server import HubServer

    make_source(folder / "source", rows)
    build = [sys.executable, "-m", "dataset_script", "build", str(folder / "source"), "--provider", "folder"]
    build += ["--image_index", str(folder / "source" / "index.jsonl"), "--output_dir", str(folder / "out")]
    build_s, build_mib = measured(build, dict(os.environ))
    with HubServer(folder / "hub") as hub:
        environment = {**os.environ, **hub.environment(folder / "home")}
        push = [sys.executable, "-m", "dataset_script", "push", str(folder / "out"), "bench/mmner"]
        push_s, push_mib = measured(push, environment)
    size = sum(path.stat().st_size for path in (folder / "out").rglob("*.parquet"))
    counts = json.loads((folder / "out" / "build.json").read_text())["counts"]
    return {
        "rows": rows,
        "pictures": rows // ROWS_PER_PICTURE,
        "rows_written": counts["rows written"],
        "parquet_mb": round(size / 1e6, 1),
        "build_s": round(build_s, 1),
        "build_rows_per_s": round(rows / build_s),
        "build_peak_mib": round(build_mib),
        "push_s": round(push_s, 1),
        "push_rows_per_s": round(rows / push_s),
        "push_peak_mib": round(push_mib),
    }


def main() -> None:
    """Measure the sizes asked for, in the order given."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "dataset.json")
    arguments = parser.parse_args()
    results = []
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as scratch:
            results.append(bench(rows, Path(scratch)))
        print(" ".join(f"{key}={value}" for key, value in results[-1].items()), flush=True)
    facts = {
        "command": "python benchmarks/speed/dataset.py --rows " + " ".join(map(str, arguments.rows)),
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "system": platform.system()},
        "date": time.strftime("%Y-%m-%d"),
        "versions": {name: importlib.metadata.version(name) for name in ("datasets", "pyarrow", "huggingface_hub")},
        "results": results,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(facts, indent=1) + "\n")
    columns = list(results[0])
    print("\n| " + " | ".join(columns) + " |\n|" + "---:|" * len(columns))
    for result in results:
        print("| " + " | ".join(str(result[column]) for column in columns) + " |")


if __name__ == "__main__":
    main()
