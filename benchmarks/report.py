"""
Makes ``benchmarks/README.md`` from the JSON in ``benchmarks/results``: ``python benchmarks/report.py``.

Every number in the report stands in a file that a benchmark wrote, beside the command that wrote it.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

RESULTS = ROOT / "benchmarks" / "results"
REPORT = ROOT / "benchmarks" / "README.md"

INTRODUCTION = """# Benchmarks

Made by `python benchmarks/report.py` from the JSON in [`results/`](results), which the commands below wrote. Times are
medians; a ratio compares what was measured in one run, turn and turn about. Nothing here is asserted by a test.
"""


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table in Markdown; the first column to the left, the others to the right."""
    lines = [f"| {' | '.join(header)} |", f"|---{'|---:' * (len(header) - 1)}|"]
    return lines + [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]


def made_by(facts: dict[str, Any]) -> list[str]:
    """The command, the machine and the versions of a run."""
    machine, versions = facts["machine"], facts.get("versions", {"torch": facts.get("torch")})
    if isinstance(machine, dict):
        threads = f", torch's threads: {machine['threads']}" if "threads" in machine else ""
        device = machine.get("accelerator") or machine["processor"]
        machine = f"{device}, {machine['cpus']} cores{threads}"
    return [
        f"`{facts['command']}`  ",
        f"{machine}; {', '.join(f'{name} {version}' for name, version in versions.items())}",
        "",
    ]


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
    lines = [
        f"Towers {' and '.join(facts['towers'])}, batches of {facts['batch']}, {facts['rounds']} rounds. The share of "
        f"padding in a batch is {100 * facts['padding']:.1f} %.",
        "",
    ]
    lines += table(
        ["step", "samples a second", "speed, of the bare encoders'"],
        ([name, found["samples_per_second"], ratio(found["speed_of_bare"])] for name, found in facts["steps"].items()),
    )
    lines += ["", "What the switches of a recipe are worth on a whole text step:", ""]
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


REPAIRED = ("depicts", "unrelated")
SETS = """Sets: `as_is`, Wikipedia sentences of four languages with the splits that they came with; `disjoint`, the
same split anew, so that no entity and no picture of dev or test is in train (`python -m dataset_script
build wiki_mmner --provider own --image_index images.tsv --unseen both --splits 0.5,0.1,0.4 --seed 2`; of
seeds 0 to 3 the one whose test split depends least on a single entity); `all`, `lower`, `cut` and
`no_punctuation`, poorer copies of `disjoint` (`python benchmarks/poorer.py`), trained on and tested on.
*depicts*, *unrelated* and *none* are sentences with a picture of an entity that they name, with another
picture, and with none.""".replace("\n", " ")
NOT_SHOWN = """
### What is not shown

- **Natural pairs.** The pictures were put beside the sentences by matching names: press photographs, flags and maps,
  badges, logos. What is gained here is an upper bound of what pictures in posts would bring; what an unrelated picture
  does is closer to life. Natural pairs would come from Twitter-2015 and Twitter-2017 (whose authors give out the
  images), from WikiDiverse (captions and news photographs), or from the illustrations of the articles that the
  sentences are from (`--provider wikimedia`).
- **Gold tags.** Those of WikiNEuRal are automatic. Part of what counts as a mistake is one of the tags: demonyms, to
  which a flag stands as it does to a country, are sometimes tagged and sometimes not.
- **Large encoders.** The text tower has 12 layers of 384, the image tower 4.7 million weights. A larger text tower
  leaves less to repair, a larger image tower sees more; neither was tried.
- **Full budgets.** Training is one epoch on the number of sentences that each table names. More sentences raise every
  row, and may change their order.""".split("\n")
CONTROLS = (("", "own"), ("text_only_", "hidden"), ("shuffled_image_", "shuffled"))


def accuracy(sets: list[dict[str, Any]]) -> list[str]:
    """Of `accuracy.json`: one entry a set."""
    lines = [
        "Entity F1 on test in percent, mean and standard deviation over seeds. One row again: the same command with "
        "`--systems` and `--seeds`; the systems are lines of [`systems.yaml`](systems.yaml). A set is named as in the "
        f"command. {SETS}",
    ]
    for facts in sets:
        here = facts["runs"]
        systems = list(dict.fromkeys(run["system"] for run in here))
        seeds = sorted({run["seed"] for run in here})
        sentences = f"{here[0]['train_samples']:,} sentences of training"
        lines += ["", f"### {facts['data']}: {sentences}, seeds {', '.join(map(str, seeds))}", "", *made_by(facts)]
        found = set().union(*(run["scores"] for run in here))
        columns = [
            name
            for name in sorted(name.removeprefix("test_f1") for name in found if name.startswith("test_f1"))
            if not name.startswith(("_text_only", "_shuffled"))
        ]
        scores = {
            system: {
                name: [r["scores"][name] for r in here if r["system"] == system and name in r["scores"]]
                for name in found
            }
            for system in systems
        }
        lines += table(
            ["system", *(name.removeprefix("_") or "all" for name in columns)],
            ([system, *(spread(scores[system][f"test_f1{name}"]) for name in columns)] for system in systems),
        )
        lines += ["", "With own images, images hidden, images of other sentences:", ""]
        slices = [name for name in ("", "_depicts", "_unrelated") if name in columns]
        lines += table(
            ["system", *(f"{name.removeprefix('_') or 'all'}, {way}" for name in slices for _, way in CONTROLS)],
            (
                [system]
                + [spread(scores[system][f"test_{control}f1{name}"]) for name in slices for control, _ in CONTROLS]
                for system in systems
            ),
        )
        for against in dict.fromkeys(c["against"] for c in facts["comparisons"]):
            pairs = [c for c in facts["comparisons"] if c["against"] == against]
            names = list(pairs[0]["slices"])
            lines += ["", f"Less {against}, with the 95 % interval and p:", ""]
            lines += table(
                ["system", *names],
                ([pair["system"], *(difference(pair["slices"].get(name)) for name in names)] for pair in pairs),
            )
        seeing = [system for system in systems if any(r.get("images") for r in here if r["system"] == system)]
        if seeing:
            kinds = ("entities", "wrong", "repaired", "broken")
            lines += [
                "",
                "Entities (mean over seeds): of the sentences, wrong with images hidden, of these repaired by their "
                "own images, and of the others broken by them:",
                "",
            ]
            lines += table(
                ["system", *(f"{part}: {kind}" for part in REPAIRED for kind in kinds)],
                (
                    [system]
                    + [
                        f"{mean(r['images'][part][kind] for r in here if r['system'] == system):.1f}"
                        for part in REPAIRED
                        for kind in kinds
                    ]
                    for system in seeing
                ),
            )
        lines += ["", "Mistakes on depicts rows (mean over seeds) and calibration over all:", ""]
        part = "depicts" if "depicts" in here[0]["mistakes"] else "all"
        kinds = list(here[0]["mistakes"][part])
        lines += table(
            ["system", *kinds, "expected calibration error"],
            (
                [system]
                + [f"{mean(r['mistakes'][part][kind] for r in here if r['system'] == system):.0f}" for kind in kinds]
                + [f"{mean(r['calibration']['expected_error'] for r in here if r['system'] == system):.4f}"]
                for system in systems
            ),
        )
    return lines + NOT_SHOWN


def mean(values: Iterable[float]) -> float:
    """Of one or more numbers."""
    return statistics.fmean(values)


def spread(scores: Sequence[float]) -> str:
    """Mean and standard deviation of scores, in percent."""
    if not scores:
        return "-"
    around = f" ± {100 * statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    return f"{100 * mean(scores):.2f}{around}"


def difference(found: dict[str, Any] | None) -> str:
    """A difference of F1 in percent, its interval, and p; bold where p is below 0.05."""
    if found is None:
        return "-"
    low, high = found["interval"]
    text = f"{100 * found['difference']:+.2f}"
    text = f"**{text}**" if found["p"] < 0.05 else text
    return f"{text} ({100 * low:+.2f} to {100 * high:+.2f}), {found['p']:.3f}"


SECTIONS: tuple[tuple[str, str, Callable[[Any], list[str]]], ...] = (
    ("accuracy", "Accuracy", accuracy),
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
    REPORT.write_text(report(), encoding="utf-8")
