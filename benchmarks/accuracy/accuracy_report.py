"""The report's pages on accuracy: scores with their controls, differences, mistakes, calibration, figures."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.accuracy.figures import FIGURES
from benchmarks.accuracy.markdown import made_by, table

REPAIRED = ("depicts", "unrelated")
SETS = """Sets: `as_is`, Wikipedia sentences of four languages with the splits that they came with; `disjoint`, the
same split anew, so that no entity and no picture of dev or test is in train (`python -m dataset_script
build wiki_mmner --provider own --image_index images.tsv --unseen both --splits 0.5,0.1,0.4 --seed 2`; of
seeds 0 to 3 the one whose test split depends least on a single entity); `all`, `lower`, `cut` and
`no_punctuation`, poorer copies of `disjoint` (`python benchmarks/accuracy/poorer.py`), trained on and tested on; a number
after a name, as in `all_1500`, so many sentences of training; `epochs4`, so many passes over them, not one.
*depicts*, *unrelated* and *none* are sentences with a picture of an entity that they name, with another
picture, and with none. With images hidden, `evidence` gives, tag by tag, what `text_crf` gives with the same seed:
where a set has no row of `text_crf`, that column stands for it.""".replace("\n", " ")
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
ALIGNMENT = """
The paper finds that sentence-level contrastive alignment "interferes" with tagging. Here its model is trained with one
thing changed at a time ([`ablations.yaml`](ablations.yaml)); below, F1 less that of the same model without alignment.
"""
ROBUST = """
Runs of the grid above on some of their test sentences, read otherwise than they were written, and on sets that they
were not trained on. Entity F1 in percent, mean and standard deviation over seeds.
`evidence_augmented_N` ([`components.yaml`](components.yaml)) was trained with `text_augmentation` N %; the recipes
have 15, which is best on dev as it was written.
"""
DEPICTED = """
A picture shows one entity. What is wrong with the mention of that entity when pictures are hidden, what the own
picture repairs and breaks of it, and, where pictures have nothing to do with their sentence, what they repair and
break there. Counted by name, without a model: the predictions are the published ones.
"""
SPLITS = """
`split_N` is the set `disjoint` above, split with `--seed N` in place of 2: other entities and other pictures are in
test. With images hidden `evidence` gives what `text_crf` gives. F1 on test, mean and standard deviation over seeds;
differences with the 95 % interval over sentences and p, and their mean and standard deviation over splits.
"""
COMPONENTS = """
A system of ours with one thing changed at a time ([`components.yaml`](components.yaml)): F1 on dev and on test,
and on test less that of the system as it is, with the 95 % interval and p.
"""
DECODING = """
The same emissions, decoded as the best sequence of all (*free*) and as the best of those that are IOB2; pictures
hidden. *Stray* are the I- tags of the free sequences that continue nothing. A CRF that was trained within the
constraints leaves it to them what may begin an entity, and is lost without. Entity F1 in percent, mean and standard
deviation over seeds.
"""
SEARCH = """
`--search_trials` with [`recipes/search/local.yaml`](../recipes/search/local.yaml): Optuna's tree-structured Parzen
estimator, whose first ten trials are drawn at random; each a training like those above, scored on dev alone.
"""
CEILING = """
F1 on test with pictures hidden; as the model reads them; when it is told the types of the entity on each picture
(*types told*), and of each picture, too, whether it shows an entity of the sentence at all (*relation told*); and when
every wrong type that a picture contradicts is put right (*all repaired*).
"""
CROSSLINGUAL = """
Trained on sentences of one or two languages, as many in each row, tested on all four: F1 with images hidden, and what
the sentence's own images add to it (95 % interval, p).
"""
LEVELS = {
    "nt_xent": "Sentence level, the paper's loss",
    "clip": "Sentence level, InfoNCE over pairs",
    "siglip": "Sentence level, a sigmoid a pair",
    "token": "Word level",
    "both": "Sentence level, the paper's loss, and word level",
}
CHANGES = {
    "type": "type",
    "boundary": "boundary",
    "missed": "missed",
    "spurious": "spurious",
    "repaired": "repaired by its image",
    "broken": "broken by its image",
}
EXAMPLES_OF = "evidence"
LUCK = 0.05
CONTROLS = (("", "own"), ("text_only_", "hidden"), ("shuffled_image_", "shuffled"))


def accuracy(sets: list[dict[str, Any]]) -> list[str]:
    """Of `accuracy.json`: one entry a set."""
    lines = [
        "Entity F1 on test in percent, mean and standard deviation over seeds. One row again, or a system of your own "
        "(a line of [`systems.yaml`](systems.yaml)): the same command with `--systems NAME` and an `--output` of your "
        "own. What `--against` names beside it is not trained again but read from "
        "[`results/predictions`](results/predictions), where there is what systems said of each test sentence of some "
        "sets, which `python benchmarks/accuracy/predictions.py disjoint=FOLDER` scores again. A set is named as in the "
        f"command. {SETS}",
    ]
    for facts in sets:
        lines += ["", *set_tables(facts)]
    return lines + figures(sets) + NOT_SHOWN


def splits(sets: list[dict[str, Any]]) -> list[str]:
    """Of `splits.json`: one entry a split."""
    lines = [SPLITS.strip(), "", *dict.fromkeys(line for facts in sets for line in made_by(facts))]
    rows = []
    for facts in sets:
        for system in facts["systems"]:
            scores = [run["scores"] for run in facts["runs"] if run["system"] == system]
            cells = [spread([found[f"test_{control}f1"] for found in scores]) for control, _ in CONTROLS]
            cells += [spread([found[f"test_{control}f1_depicts"] for found in scores]) for control, _ in CONTROLS]
            rows.append([f"{facts['data']}: {system}", *cells])
    lines += table(["split: system", *(f"{name}, {way}" for name in ("all", "depicts") for _, way in CONTROLS)], rows)
    against = dict.fromkeys(pair["against"] for facts in sets for pair in facts["comparisons"])
    for other in against:
        found = {
            facts["data"]: pair["slices"]
            for facts in sets
            for pair in facts["comparisons"]
            if (pair["system"], pair["against"]) == (EXAMPLES_OF, other)
        }
        names = list(next(iter(found.values())))
        rows = [[split, *(difference(slices.get(name)) for name in names)] for split, slices in found.items()]
        means = [gain([slices[name]["difference"] for slices in found.values()]) for name in names]
        lines += ["", f"`{EXAMPLES_OF}` less {other}:", ""]
        lines += table(["split", *names], [*rows, [f"mean of {len(rows)}", *means]])
    return lines


def ablations(sets: list[dict[str, Any]]) -> list[str]:
    """Of `ablations.json`: the paper's model with one thing changed at a time, on one set each."""
    lines = [ALIGNMENT.strip()]
    for facts in sets:
        lines += ["", *alignment_in_words(facts), "", *set_tables(facts)]
    return lines


def components(sets: list[dict[str, Any]]) -> list[str]:
    """Of `components.json`: what each part of a system is worth, on one set each."""
    lines = [COMPONENTS.strip()]
    for facts in sets:
        pairs = [pair for pair in facts["comparisons"] if pair["system"].startswith(f"{pair['against']}_")]
        names = list(pairs[0]["slices"])
        rows = []
        for pair in pairs:
            changed = {
                name: value
                for name, value in facts["systems"][pair["system"]].items()
                if value != facts["systems"][pair["against"]].get(name)
            }
            what = ", ".join(f"{name}: {value}" for name, value in changed.items())
            scores = [run["scores"] for run in facts["runs"] if run["system"] == pair["system"]]
            own = [spread([found[f"{split}_f1"] for found in scores]) for split in ("eval", "test")]
            cells = [difference(pair["slices"].get(name)) for name in names]
            rows.append([f"`{pair['against']}`, {what}", *own, *cells])
        lines += ["", f"### {facts['data']}", "", *made_by(facts)]
        lines += table(["system", "dev F1", "F1", *(f"{name}, less" for name in names)], rows)
        lines += [
            "",
            "What their own images give each, less with images hidden and with those of other sentences:",
            "",
        ]
        rows = []
        for pair in facts["comparisons"]:
            if pair["against"].startswith("images "):
                scores = [run["scores"] for run in facts["runs"] if run["system"] == pair["system"]]
                hidden = spread([found["test_text_only_f1_depicts"] for found in scores])
                cells = [difference(pair["slices"].get(name)) for name in names]
                rows.append([pair["system"], hidden, pair["against"], *cells])
        lines += table(["system", "depicts, hidden", "less", *names], rows)
    return lines


def searched(facts: dict[str, Any]) -> list[str]:
    """Of `search.json`: what `search.jsonl` of a run with `--search_trials` held."""
    names = list(facts["space"])
    trials = sorted(facts["trials"], key=lambda trial: -trial["eval_f1"])
    lines = [SEARCH.strip(), f"This one was ended by hand after {facts['ended_after']}.", ""]
    rows = [
        [trial["trial"], spread([trial["eval_f1"]]), *(f"{trial['options'][name]:.3g}" for name in names)]
        for trial in trials
    ]
    recipe = [f"{facts['recipe'][name]:.3g}" for name in names]
    rows.append(["the recipe's own", spread(facts["recipe_eval_f1"]), *recipe])
    return lines + table(["trial", "dev F1", *(f"`{name}`" for name in names)], rows)


def crosslingual(sets: list[dict[str, Any]]) -> list[str]:
    """Of `crosslingual.json`: sets trained on some languages each, tested on all."""
    systems = list(dict.fromkeys(run["system"] for facts in sets for run in facts["runs"]))
    lines = [CROSSLINGUAL.strip()]
    for system in systems:
        pairs = [
            (facts, pair)
            for facts in sets
            for pair in facts["comparisons"]
            if (pair["system"], pair["against"]) == (system, "images hidden")
        ]
        languages = [name for name in pairs[0][1]["slices"] if len(name) == 2]
        rows = []
        for facts, pair in pairs:
            runs = [run["scores"] for run in facts["runs"] if run["system"] == system]
            name = facts["data"].removeprefix("cross_")
            cells = [" + ".join(name[place : place + 2] for place in range(0, len(name), 2)), len(runs)]
            for language in languages:
                cells.append(spread([scores[f"test_text_only_f1_{language}"] for scores in runs]))
                cells.append(difference(pair["slices"].get(language)))
            rows.append(cells)
        header = ["trained on", "seeds", *(f"{name}, {way}" for name in languages for way in ("hidden", "own less"))]
        lines += ["", f"`{system}`, {sets[0]['runs'][0]['train_samples']:,} sentences of training:", ""]
        lines += table(header, rows)
    return [*lines, "", *made_by(sets[0])]


def alignment_in_words(facts: dict[str, Any]) -> list[str]:
    """What each alignment changes against the same model without one, and what images change in each, in sentences."""
    lines = []
    aligned = [pair["slices"]["all"] for pair in facts["comparisons"] if pair["against"] == "paper_unaligned"]
    far = sum(found["p"] < LUCK for found in aligned)
    lines.append(f"- Of {len(aligned)} alignments, {far} differ from none over all rows with p < {LUCK}.")
    for pair in sorted(facts["comparisons"], key=lambda pair: pair["against"] != "paper_unaligned"):
        if pair["against"] not in ("paper_unaligned", "images hidden"):
            continue
        parts = [
            f"{name} {100 * found['difference']:+.2f} (p {chance(found['p'])})"
            for name, found in pair["slices"].items()
            if name in ("all", "depicts", "unrelated")
        ]
        if pair["against"] == "images hidden":
            lines.append(f"- `{pair['system']}` with its images against images hidden: {', '.join(parts)}.")
            continue
        options = facts["systems"][pair["system"]]
        kind = options["alignment"]
        what = f"{LEVELS[kind]} (`{kind}`, weight {options['alignment_weight']})"
        lines.append(f"- **{what}** against no alignment: {', '.join(parts)}.")
    return lines


def set_tables(facts: dict[str, Any]) -> list[str]:
    """The tables of one set."""
    here = facts["runs"]
    systems = list(dict.fromkeys(run["system"] for run in here))
    seeds = sorted({run["seed"] for run in here})
    sentences = f"{here[0]['train_samples']:,} sentences of training"
    lines = [f"### {facts['data']}: {sentences}, seeds {', '.join(map(str, seeds))}", "", *made_by(facts)]
    found = set().union(*(run["scores"] for run in here))
    columns = [
        name
        for name in sorted(name.removeprefix("test_f1") for name in found if name.startswith("test_f1"))
        if not name.startswith(("_text_only", "_shuffled"))
    ]
    scores = {
        system: {
            name: [r["scores"][name] for r in here if r["system"] == system and name in r["scores"]] for name in found
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
        known = next(run["images"] for run in here if run.get("images"))
        shown = [part for part in REPAIRED if part in known] or ["all"]
        lines += [
            "",
            "Entities (mean over seeds): of the sentences, wrong with images hidden, of these repaired by their "
            "own images, and of the others broken by them:",
            "",
        ]
        lines += table(
            ["system", *(f"{part}: {kind}" for part in shown for kind in kinds)],
            (
                [system]
                + [
                    f"{mean(r['images'][part][kind] for r in here if r['system'] == system):.1f}"
                    for part in shown
                    for kind in kinds
                ]
                for system in seeing
            ),
        )
    part = "depicts" if "depicts" in here[0]["mistakes"] else "all"
    lines += ["", f"Mistakes on {part} rows (mean over seeds) and calibration over all:", ""]
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
    return lines + examples(facts)


def examples(facts: dict[str, Any]) -> list[str]:
    """The first mistakes of a run on sentences with a picture of an entity, and what images changed there."""
    run = next((run for run in facts["runs"] if run["system"] == EXAMPLES_OF and run.get("examples")), None)
    if run is None:
        return []
    lines = ["", f"Examples (`{run['system']}`, seed {run['seed']}, depicts rows, the first of each kind):", ""]
    return lines + table(
        ["what", "language", "gold", "found", "text"],
        (
            [CHANGES[one["kind"]], one["lang"], one["type"], one["predicted"] or "-", one["text"].replace("|", "\\|")]
            for one in run["examples"]
        ),
    )


def ceiling(sets: list[dict[str, Any]]) -> list[str]:
    """Of `ceiling.json`: one entry a set."""
    lines = [CEILING.strip()]
    for facts in sets:
        lines += ["", f"### {facts['data']}, and what could be had", "", *made_by(facts), *ceiling_table(facts)]
    return lines


def ceiling_table(facts: dict[str, Any]) -> list[str]:
    """Means over the models of a set."""
    runs = facts["runs"]
    models = dict.fromkeys(run["model"] for run in runs)
    rows = []
    for relation, way in dict.fromkeys((run["rows"], run["way"]) for run in runs):
        here = [run for run in runs if (run["rows"], run["way"]) == (relation, way)]
        less = [
            100 * (run["f1"] - hidden["f1"])
            for run in here
            for hidden in runs
            if (hidden["model"], hidden["rows"], hidden["way"]) == (run["model"], relation, "hidden")
        ]
        rows.append(
            [f"{relation}: {way}", spread([run["f1"] for run in here]), f"{mean(less):+.2f}"]
            + [f"{mean(run[kind] for run in here):.1f}" for kind in ("entities", "wrong", "repaired", "broken")]
        )
    header = ["rows: way", "F1", "less hidden", "entities", "wrong", "repaired", "broken"]
    sentences = ", ".join(f"{number:,} {relation}" for relation, number in facts["sentences"].items())
    return [f"Mean over {', '.join(models)}; sentences: {sentences}.", "", *table(header, rows)]


def depicted(sets: list[dict[str, Any]]) -> list[str]:
    """Of `depicted.json`: one entry a set; means over the seeds of a system."""
    lines = [DEPICTED.strip()]
    for facts in sets:
        sentences = ", ".join(f"{number:,} {relation}" for relation, number in facts["sentences"].items())
        lines += ["", f"### {facts['data']}, depicted mentions", "", *made_by(facts), f"Sentences: {sentences}.", ""]
        by_system: dict[str, list[dict[str, Any]]] = {}
        for run in facts["runs"]:
            by_system.setdefault(run["system"], []).append(run)
        counts = ("mentions", "type", "missed", "boundary", "repaired", "broken")
        elsewhere = ("unrelated_repaired", "unrelated_broken")
        lines += table(
            ["system", "seeds", *counts, "unrelated rows: repaired", "broken"],
            (
                [name, len(runs), *(f"{mean(run[kind] for run in runs):.1f}" for kind in (*counts, *elsewhere))]
                for name, runs in by_system.items()
            ),
        )
        ways = list(facts["runs"][0]["f1"])
        rows = []
        for name, runs in by_system.items():
            gains = [f"{100 * mean(run['f1'][way] - run['f1'][ways[0]] for run in runs):+.2f}" for way in ways[1:]]
            rows.append([name, spread([run["f1"][ways[0]] for run in runs]), *gains])
        lines += ["", "F1 on depicts rows, pictures hidden, and what would be gained if of all depicted mentions the"]
        lines += ["types were right, those missed were found, too, and the boundaries were right, too:", ""]
        lines += table(["system", *ways], rows)
    return lines


def robust(grids: list[dict[str, Any]]) -> list[str]:
    """Of `robust.json`: one entry a grid."""
    lines = [ROBUST.strip()]
    for facts in grids:
        lines += ["", f"### Trained on {facts['grid']}, {facts['sentences']:,} test sentences", "", *made_by(facts)]
        systems = facts["ways"]
        ways, others = (list(next(iter(facts[part].values()))[0]) for part in ("ways", "others"))
        rows = [
            [system, len(runs)]
            + [spread([run[way]["all"]["hidden"] for run in runs]) for way in ways]
            + [spread([run[name] for run in facts["others"][system]]) for name in others]
            for system, runs in systems.items()
        ]
        lines += ["Pictures hidden:", "", *table(["system", "seeds", *ways, *others], rows)]
        seeing = {system: runs for system, runs in systems.items() if "own" in runs[0][ways[0]]["all"]}
        if not seeing:
            continue
        parts = list(next(iter(seeing.values()))[0][ways[0]])
        header = [f"{part}: {what}" for part in parts for what in ("hidden", "own less hidden", "own less shuffled")]
        rows = []
        for system, runs in seeing.items():
            for way in ways:
                cells = []
                for part in parts:
                    found = [run[way][part] for run in runs]
                    cells.append(spread([one["hidden"] for one in found]))
                    cells += [gain([one["own"] - one[kind] for one in found]) for kind in ("hidden", "shuffled")]
                rows.append([f"{system}: {way}", *cells])
        lines += ["", "What their own pictures give:", "", *table(["system: way", *header], rows)]
    return lines


def decoding(grids: list[dict[str, Any]]) -> list[str]:
    """Of `decoding.json`: one entry a grid."""
    lines = [DECODING.strip()]
    for facts in grids:
        seeds = ", ".join(map(str, facts["seeds"]))
        lines += ["", f"### {facts['grid']}, {facts['sentences']:,} test sentences, seeds {seeds}", ""]
        lines += made_by(facts)
        rows = [
            [system, spread(found["free"]), spread(found["IOB2"]), f"{mean(found['stray']):.0f}"]
            for system, found in facts["scores"].items()
        ]
        lines += table(["system", "free", "IOB2", "stray"], rows)
    return lines


def figures(sets: Sequence[dict[str, Any]]) -> list[str]:
    """Links to what `benchmarks/accuracy/figures.py` draws of these sets."""
    lines = []
    for name, (title, points) in FIGURES.items():
        if points(sets):
            lines += ["", f"### {title}", "", f"![{title}](figures/{name}.svg)"]
    return lines


def mean(values: Iterable[float]) -> float:
    """Of one or more numbers."""
    return statistics.fmean(values)


def spread(scores: Sequence[float]) -> str:
    """Mean and standard deviation of scores, in percent."""
    if not scores:
        return "-"
    around = f" ± {100 * statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    return f"{100 * mean(scores):.2f}{around}"


def gain(differences: Sequence[float]) -> str:
    """As `spread`, of differences: with the sign."""
    return ("+" if mean(differences) >= 0 else "") + spread(differences)


def difference(found: dict[str, Any] | None) -> str:
    """A difference of F1 in percent, its interval, and p; bold where p is below 0.05."""
    if found is None:
        return "-"
    low, high = found["interval"]
    text = f"{100 * found['difference']:+.2f}"
    text = f"**{text}**" if found["p"] < LUCK else text
    return f"{text} ({100 * low:+.2f} to {100 * high:+.2f}), p {chance(found['p'])}"


def chance(p: float) -> str:
    """A p-value to three places."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
