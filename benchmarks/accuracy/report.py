"""
Makes ``benchmarks/README.md`` from the JSON in ``benchmarks/results``: ``python benchmarks/accuracy/report.py``.

Every number in the report stands in a file that a benchmark wrote, beside the command that wrote it.
"""

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy.accuracy_report import (  # noqa: E402
    ablations,
    accuracy,
    ceiling,
    components,
    crosslingual,
    decoding,
    depicted,
    robust,
    searched,
    splits,
)
from benchmarks.accuracy.figures import draw  # noqa: E402
from benchmarks.accuracy.markdown import made_by, table  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
REPORT = ROOT / "benchmarks" / "README.md"

INTRODUCTION = """# Benchmarks

Made by `python benchmarks/accuracy/report.py` from the JSON in [`results/`](results), which the commands below wrote. Times are
medians; a ratio compares what was measured in one run, turn and turn about. Nothing here is asserted by a test.
"""


def ratio(found: dict[str, Any]) -> str:
    """Median and quartiles of a ratio."""
    low, high = found["quartiles"]
    return f"{found['median']:.2f} ({low:.2f} to {high:.2f})"


def crf(facts: dict[str, Any]) -> list[str]:
    """Of `crf.json` and `crf_cuda.json`."""
    cells = facts["results"]
    lines = ["Milliseconds, and how many times faster than pytorch-crf.", ""]
    lines += table(
        ["tags x words x rows", "forward + backward", "times", "Viterbi", "times", "error", "of pytorch-crf"],
        (
            [
                f"{cell['tags']} x {cell['length']} x {cell['batch']}",
                cell["ours_train"],
                f"{cell['train_ratio']:.1f}",
                cell["ours_decode"],
                f"{cell['decode_ratio']:.1f}",
                f"{cell['ours_error']:.0e}",
                f"{cell['other_error']:.0e}",
            ]
            for cell in cells
        ),
    )
    for name, key in (("forward + backward", "train_ratio"), ("Viterbi", "decode_ratio")):
        ratios = [cell[key] for cell in cells]
        lines += ["", f"{name}: {min(ratios):.1f} to {max(ratios):.1f} times, median {statistics.median(ratios):.1f}."]
    if memory := facts.get("peak_memory_mib"):
        lines += ["", f"Memory of the largest size: {memory['ours']} MiB, pytorch-crf {memory['other']} MiB."]
    return lines


def training(facts: dict[str, Any]) -> list[str]:
    """Of `training.json`."""
    lines = [f"Towers {' and '.join(facts['towers'])}, {facts['rounds']} rounds."]
    for size, ways in facts["steps"].items():
        share = 100 * facts["padding"][size]
        lines += ["", f"Batches of {size}, {share:.1f} % of whose pieces are padding:", ""]
        lines += table(
            ["step", "samples a second", "speed, of the bare encoders'"],
            ([name, found["samples_per_second"], ratio(found["speed_of_bare"])] for name, found in ways.items()),
        )
    lines += ["", f"What the switches of a recipe are worth on a whole text step, batches of {facts['batch']}:", ""]
    lines += table(["switches", "speed, of the first"], ([n, ratio(found)] for n, found in facts["switches"].items()))
    lines += [
        "",
        "Peak memory of a process, MiB (`contrastive`: `clip` over four batches in one; `:N` by chunks):",
        "",
    ]
    lines += table(
        ["way", "model and optimizer", "highest", "seconds a step"],
        ([w, found["before_mib"], found["highest_mib"], found["step_s"]] for w, found in facts["memory"].items()),
    )
    return lines


def images(runs: list[dict[str, Any]]) -> list[str]:
    """Of `images.json`: several runs."""
    lines = []
    for facts in runs:
        lines += made_by(facts)
        lines += [
            f"Towers {' and '.join(facts['towers'])}, {facts['set']}, batches of {facts['batch']}, "
            f"{100 * facts['sentences_with_a_picture']:.0f} % of the sentences with a picture. The store took "
            f"{facts['store']['fill_ms_a_picture']} ms and {facts['store']['kib_a_picture']} KiB a picture.",
            "",
        ]
        lines += table(
            ["step", "tensors, ms", "whole, ms", "times text only"],
            (
                [
                    name,
                    way["collate_ms"],
                    way["step_ms"],
                    ratio({"median": way["times_text_median"], "quartiles": way["times_text_quartiles"]}),
                ]
                for name, way in facts["ways"].items()
            ),
        )
        lines.append("")
    return lines


def inference(runs: list[dict[str, Any]]) -> list[str]:
    """Of `inference.json`: several runs."""
    lines = []
    for facts in runs:
        lines += made_by(facts)
        lines += [
            f"{facts['sentences']:,} test sentences, {facts['with_image']:,} with one of "
            f"{facts['different_images']:,} pictures, {facts['threads']} threads, {facts['dtype']}. Median, lowest "
            "and highest of the rounds.",
            "",
        ]
        rows = []
        for way, found in facts["ways"].items():
            cells = [extent(found.get(key)) for key in ("sentences_per_s", "of_bare", "pipeline_is_faster_by")]
            rows.append([way, *cells, found["peak_mib"], found.get("peak_of_bare", "-")])
        header = ["way", "sentences a second", "of the bare encoders", "pipeline is faster by", "peak MiB", "of bare"]
        lines += [*table(header, rows), ""]
    return lines


def extent(found: dict[str, float] | None) -> str:
    """Median, lowest and highest."""
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})" if found else "-"


def kills(facts: dict[str, Any]) -> list[str]:
    """Of `kills.json`."""
    phases = list(dict.fromkeys(kill["phase"] for trial in facts["trials"] for kill in trial["kills"]))
    lines = ["Runs killed at random moments and gone on with until they ended, against the run left alone.", ""]
    rows = []
    for trial in facts["trials"]:
        same = [run for run in trial["runs"] if all(run[key] for key in run if key.startswith("same_"))]
        counts = [sum(kill["phase"] == phase for kill in trial["kills"]) for phase in phases]
        rows.append([trial["name"], len(trial["kills"]), *counts, f"{len(same)} of {len(trial['runs'])}"])
    return lines + table(["run", "kills", *phases, "ended with the same bits"], rows)


def streaming(facts: dict[str, Any]) -> list[str]:
    """Of `streaming.json`."""
    return table(
        ["rows", "way", "opened in s", "windows a second", "rows a second in batches", "added MiB"],
        (
            [
                f"{cell['rows']:,}",
                cell["way"],
                f"{cell['opening_seconds']:.1f}",
                f"{cell['windows_rows_per_second']:.0f}",
                f"{cell['batches_rows_per_second']:.0f}",
                f"{cell['added_mib']:.0f}",
            ]
            for cell in facts["cells"]
        ),
    )


def scaling(facts: dict[str, Any]) -> list[str]:
    """Of `scaling.json`."""
    lines = ["What follows from it for 1 M and 1 B pairs: [`docs/scaling.md`](../docs/scaling.md).", ""]
    return lines + table(
        ["loss", "way", "local rows", "rows in all", "seconds", "added MiB"],
        (
            [c["kind"], c["way"], c["local_rows"], c["global_rows"], f"{c['seconds']:.2f}", f"{c['added_mib']:.0f}"]
            for c in facts["cells"]
        ),
    )


def dataset(facts: dict[str, Any]) -> list[str]:
    """Of `dataset.json`."""
    return table(
        ["rows", "pictures", "build, rows a second", "peak MiB", "push, rows a second", "peak MiB"],
        (
            [
                f"{run['rows']:,}",
                f"{run['pictures']:,}",
                run["build_rows_per_s"],
                run["build_peak_mib"],
                run["push_rows_per_s"],
                run["push_peak_mib"],
            ]
            for run in facts["results"]
        ),
    )


def handler(facts: dict[str, Any]) -> list[str]:
    """Of `handler.json`."""
    found = facts["results"]
    memory = found["memory_mib"]
    lines = [
        f"{found['clients']} clients for {found['seconds']:.0f} s, {found['kinds_of_requests']} kinds of requests, "
        f"{found['wrong_answers']} answers wrong. Memory: {memory['start']} MiB at the start, {memory['half']} at "
        f"half, {memory['end']} at the end.",
        "",
    ]
    return lines + table(
        ["requests", "number", "p50, ms", "p90", "p99"],
        (
            [kind, found[kind]["requests"], found[kind]["p50_ms"], found[kind]["p90_ms"], found[kind]["p99_ms"]]
            for kind in ("good", "bad")
        ),
    )


def onnx_runtime(facts: dict[str, Any]) -> list[str]:
    """Of `onnx_runtime.json`."""
    ways = ("torch_float32", "onnx_float32", "onnx_int8")
    rows = []
    for images_shown, languages in facts["results"].items():
        for language, found in languages.items():
            cells = [f"{language}, images {images_shown}"]
            for way in ways:
                cells += [f"{100 * found[way]['f1']:.2f}", f"{found[way]['sentences_per_s']:.0f}"]
            rows.append([*cells, found["onnx_int8"]["sentences_with_other_entities"]])
    header = [
        "sentences",
        "torch F1",
        "a second",
        "ONNX F1",
        "a second",
        "int8 F1",
        "a second",
        "other entities, int8",
    ]
    return table(header, rows)


SECTIONS: tuple[tuple[str, str, Callable[[Any], list[str]]], ...] = (
    ("accuracy", "Accuracy", accuracy),
    ("splits", "The same sentences, split otherwise", splits),
    ("ablations", "What sentence-level alignment does", ablations),
    ("components", "What the parts of our models do", components),
    ("crosslingual", "From language to language", crosslingual),
    ("decoding", "What the constraints are worth", decoding),
    ("search", "A search on dev", searched),
    ("robust", "Text that nobody kept well", robust),
    ("ceiling", "What pictures could bring at all", ceiling),
    ("depicted", "The entity on the picture", depicted),
    ("crf", "The CRF against pytorch-crf", crf),
    ("crf_cuda", "The CRF against pytorch-crf, on a GPU", crf),
    ("training", "Training against the bare encoders", training),
    ("inference", "Prediction against the bare encoders", inference),
    ("images", "What pictures cost in training", images),
    ("scaling", "Large contrastive batches", scaling),
    ("streaming", "Training from Parquet files as they lie", streaming),
    ("kills", "Runs killed at random moments", kills),
    ("onnx_runtime", "ONNX Runtime", onnx_runtime),
    ("handler", "The endpoint's handler under load", handler),
    ("dataset", "Building and pushing a dataset", dataset),
)


def report(results: Path = RESULTS) -> str:
    """The report, of the results that there are."""
    parts = [INTRODUCTION.rstrip()]
    for name, title, section in SECTIONS:
        path = results / f"{name}.json"
        if not path.exists():
            continue
        facts = json.loads(path.read_text(encoding="utf-8"))
        about = made_by(facts) if isinstance(facts, dict) else []
        parts += ["\n".join([f"## {title}", *about, *section(facts)]).rstrip()]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    draw(json.loads((RESULTS / "accuracy.json").read_text(encoding="utf-8")), REPORT.parent / "figures")
    REPORT.write_text(report(), encoding="utf-8")
