"""
Two new types from 200 sentences in four languages, with the bundled model: F1 on them, minutes, and what they cost.

    python benchmarks/accuracy/small_data.py --output_dir outputs/small_data
    DATA=FOLDER python benchmarks/accuracy/small_data.py --output_dir outputs/small_data  # the old types, too

Writes a dataset of dishes and tools, trains `recipes/small_data.yaml` on it, and scores it on other sentences, half of
them with names that training did not have. With ``DATA``, both models are scored on the validation sets of
``recipes/mixtures/small_validation.yaml``. Writes ``benchmarks/results/small_data.json``, or ``--output``.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import RESULTS, about, write  # noqa: E402

MOST_ROWS = 500  # of a validation set of the old types
NAMES = {
    "DISH": "lasagne|goulash|paella|tortilla de patatas|couscous|ramen|ceviche|moussaka|beef wellington|borscht|"
    "fondue|gazpacho|pho|pad thai|raclette|bouillabaisse|ratatouille|risotto|coq au vin|kaiserschmarrn|mole poblano",
    "TOOL": "hammer|chisel|soldering iron|Lötkolben|Bohrmaschine|Säge|clé à molette|tournevis|perceuse|marteau|scie|"
    "martillo|sierra circular|taladro|torque wrench|spirit level|Wasserwaage|destornillador|angle grinder",
}
TEMPLATES = {
    "en": [
        ("tonight we cook {} for the whole street", "DISH"),
        ("my gran's {} is better than yours", "DISH"),
        ("who ate the last of the {} ?", "DISH"),
        ("I ordered {} and got soup", "DISH"),
        ("has anyone seen my {} ? it was in the shed", "TOOL"),
        ("you can fix that with a {} and some patience", "TOOL"),
        ("bought a second-hand {} at the flea market", "TOOL"),
    ],
    "de": [
        ("heute gibt es {} für alle", "DISH"),
        ("das beste {} der Stadt , ich schwöre", "DISH"),
        ("wer hat das {} versalzen ?", "DISH"),
        ("ohne {} komme ich hier nicht weiter", "TOOL"),
        ("die {} liegt wieder beim Nachbarn", "TOOL"),
        ("mit der {} dauert es fünf Minuten", "TOOL"),
    ],
    "fr": [
        ("ce soir on mange {} chez mamie", "DISH"),
        ("la recette de {} de ma tante est secrète", "DISH"),
        ("il reste du {} au frigo", "DISH"),
        ("où est passée la {} ? je bricole", "TOOL"),
        ("prête-moi ta {} jusqu'à lundi", "TOOL"),
        ("j'ai acheté une {} d'occasion", "TOOL"),
    ],
    "es": [
        ("hoy toca {} en casa de la abuela", "DISH"),
        ("el mejor {} del barrio", "DISH"),
        ("me he comido todo el {} sin querer", "DISH"),
        ("alguien me presta un {} para mañana ?", "TOOL"),
        ("con el {} se arregla en un minuto", "TOOL"),
        ("he vuelto a perder el {} del garaje", "TOOL"),
    ],
}


def write_dataset(
    folder: Path, test: int = 50, known_types: list[str] | None = None, names: dict[str, str] = NAMES
) -> None:
    """50 sentences a language to train on and `test` to test on; `known_types`: all that were tagged."""
    rng = random.Random(0)
    seen = {kind: text.split("|")[: 2 * len(text.split("|")) // 3] for kind, text in names.items()}
    unseen = {kind: text.split("|")[len(seen[kind]) :] for kind, text in names.items()}
    for lang, templates in TEMPLATES.items():
        (folder / lang).mkdir(parents=True, exist_ok=True)
        for split, count in (("train", 50), ("test", test)):
            rows = []
            for number in range(count):
                template, kind = templates[number % len(templates)]
                chosen = unseen if split == "test" and rng.random() < 0.5 else seen
                before, after = (part.split() for part in template.split("{}"))
                name = rng.choice(chosen[kind]).split()
                tags = ["O"] * len(before) + [f"B-{kind}"] + [f"I-{kind}"] * (len(name) - 1) + ["O"] * len(after)
                row = {"id": f"{lang}-{split}-{number}", "lang": lang, "tokens": before + name + after, "image": None}
                known: dict[str, Any] = {} if known_types is None else {"known_types": known_types}
                rows.append(row | {"ner_tags": tags} | known)
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / lang / f"{split}.jsonl").write_text(text, encoding="utf-8")


def old_types(folder: str) -> dict[str, float]:
    """F1 of a model on rows of the validation sets of its first four types."""
    from benchmarks.accuracy.peers import Ours, comparable, f1_by_language
    from dataset_script.building.mixture import read_parts

    system, found = Ours(folder), {}
    for part in read_parts(ROOT / "recipes" / "mixtures" / "small_validation.yaml"):
        rows = list(part.rows("validation"))
        rows = random.Random(0).sample(rows, min(MOST_ROWS, len(rows)))
        tags = comparable(rows, system(rows, [None] * len(rows)))
        found[part.folder.name] = f1_by_language(rows, tags)["all"]
    return found


def main() -> None:
    """Trains, scores and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--output", type=Path, default=RESULTS / "small_data.json")
    arguments, others = parser.parse_known_args()
    write_dataset(arguments.output_dir / "data")
    run = arguments.output_dir / "run"
    start = time.perf_counter()
    command = [sys.executable, "-m", "mmner", "train", "small_data", "--dataset", str(arguments.output_dir / "data")]
    subprocess.run([*command, "--output_dir", str(run), "--seed", arguments.seed, *others], check=True, cwd=ROOT)
    facts: dict[str, Any] = {"minutes": round((time.perf_counter() - start) / 60, 2), "seed": int(arguments.seed)}
    results = json.loads((run / "all_results.json").read_text())
    facts |= {
        name: round(100 * results[name], 2) for name in ("test_f1", "test_f1_DISH", "test_f1_TOOL") if name in results
    }
    if os.environ.get("DATA"):
        facts["old_types"] = {"before": old_types(str(ROOT / "models" / "2m-ner-small")), "after": old_types(str(run))}
    print(json.dumps(facts, indent=2))
    write(arguments.output, about(["torch", "transformers"]) | facts)


if __name__ == "__main__":
    main()
