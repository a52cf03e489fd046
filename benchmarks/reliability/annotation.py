"""
`mmner predict` on 1,000 posts with images: its rate beside the pipeline's own, and a run that is killed twice.

    python benchmarks/reliability/annotation.py --work_dir outputs/annotation

The posts are those of ``posts/``, the images noise of 640 x 480 pixels. The rates are taken in one process, in turns,
without the time to load the model. Then the command is killed (SIGKILL) twice and run to its end, and every row must
be there once, as without kills. Writes ``benchmarks/results/annotation.json``.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import RESULTS, about, write  # noqa: E402
from dataset_script.formats.markup import read_markup  # noqa: E402
from dataset_script.rows import Row  # noqa: E402
from mmner.annotation.annotate import annotate  # noqa: E402
from mmner.annotation.inputs import Columns  # noqa: E402
from mmner.cli import load  # noqa: E402


def write_posts(folder: Path, number: int) -> Path:
    """A JSONL file of posts, each with an image of its own."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = [row for path in sorted((ROOT / "posts").glob("*/train.txt")) for row in read_markup(path)]
    texts = [" ".join(row.tokens) for row in random.Random(0).sample(rows, number) if isinstance(row, Row)]
    rng = np.random.default_rng(0)
    with (folder / "posts.jsonl").open("w", encoding="utf-8") as file:
        for index, text in enumerate(texts):
            small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            small.resize((640, 480)).save(folder / "images" / f"{index}.jpg")
            file.write(json.dumps({"id": str(index), "text": text, "image": f"{index}.jpg"}) + "\n")
    return folder / "posts.jsonl"


def rates(source: Path, folder: Path, rounds: int) -> dict[str, float]:
    """Rows per second of the pipeline and of the command's own function, medians of turns."""
    ner = load(None)
    rows = [json.loads(line) for line in source.open(encoding="utf-8")]
    items = [{"text": row["text"], "image": str(source.parent / "images" / row["image"])} for row in rows]
    seconds: dict[str, list[float]] = {"pipeline": [], "annotate": []}
    for turn in range(rounds):
        start = time.perf_counter()
        list(ner(iter(items)))
        seconds["pipeline"].append(time.perf_counter() - start)
        start = time.perf_counter()
        annotate(ner, str(source), folder / f"turn-{turn}.jsonl", Columns(), {}, {"model": "bundled"})
        seconds["annotate"].append(time.perf_counter() - start)
    return {name: round(len(items) / statistics.median(values), 2) for name, values in seconds.items()}


def killed_twice(source: Path, output: Path) -> list[int]:
    """Runs the command to its end with two kills on the way. Returns the number of rows that were done at each."""
    command = [sys.executable, "-m", "mmner", "predict", str(source), "--output", str(output)]
    journal = output.with_name(f"{output.name}.unfinished") / "rows-0.jsonl"
    done: list[int] = []
    for _ in range(2):
        before = done[-1] if done else 0
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None and _lines(journal) < before + 100:
            time.sleep(0.05)
        process.kill()
        process.wait()
        done.append(_lines(journal))
    subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    return done


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def main() -> None:
    """Measures, checks and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--work_dir", type=Path, required=True)
    parser.add_argument("--posts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    source = write_posts(arguments.work_dir, arguments.posts)
    facts: dict = {"posts": arguments.posts, "rows_per_s": rates(source, arguments.work_dir, arguments.rounds)}
    facts["ratio"] = round(facts["rows_per_s"]["annotate"] / facts["rows_per_s"]["pipeline"], 3)
    facts["killed_after_rows"] = killed_twice(source, arguments.work_dir / "killed.jsonl")
    whole, killed = (
        [json.loads(line) for line in (arguments.work_dir / name).open(encoding="utf-8")]
        for name in ("turn-0.jsonl", "killed.jsonl")
    )
    ids = [row["id"] for row in killed]
    facts["each_row_once"] = ids == [str(index) for index in range(arguments.posts)]
    facts["same_entities"] = all(
        [(e["word"], e["entity_group"]) for e in one["entities"]]
        == [(e["word"], e["entity_group"]) for e in other["entities"]]
        for one, other in zip(whole, killed, strict=True)
    )
    print(json.dumps(facts, indent=2))
    write(RESULTS / "annotation.json", about(["torch", "transformers"]) | facts)
    if not (facts["each_row_once"] and facts["same_entities"]):
        raise SystemExit("Rows are lost, doubled or changed.")


if __name__ == "__main__":
    main()
