"""
Your own rows and your own entity types, learned beside those of a model. The same as
`mmner train small_data --dataset outputs/dishes/data --output_dir outputs/dishes/run`; minutes on a CPU.

    python examples/own_dataset.py --output outputs/dishes
"""

import argparse
import json
from pathlib import Path

import run_mmner
from mmner.cli import load

parser = argparse.ArgumentParser()
parser.add_argument("--output", type=Path, default="outputs/dishes")
given, options = parser.parse_known_args()  # further options are those of `mmner train`

# One row per sentence; `image` may be null or the name of a file in images/. docs/data.md lists the formats that are
# read as they are, and the splits.
texts = ["tonight we cook {} for Nora", "wer hat das {} versalzen ?", "la {} de ma tante", "who ate my {} ?"]
dishes = ["lasagne", "goulash", "pad thai", "ramen", "borscht", "fondue", "risotto", "couscous"]
rows = []
for dish in dishes:
    for text in texts:
        before, after = (part.split() for part in text.split("{}"))
        words = dish.split()
        tags = ["O"] * len(before) + ["B-DISH"] + ["I-DISH"] * (len(words) - 1) + ["O"] * len(after)
        row = {"id": str(len(rows)), "tokens": before + words + after, "ner_tags": tags, "image": None}
        rows.append(json.dumps(row) + "\n")
(given.output / "data").mkdir(parents=True, exist_ok=True)
for split, part in (("train", rows[:-4]), ("test", rows[-4:])):  # the last dish is not seen in training
    (given.output / "data" / f"{split}.jsonl").write_text("".join(part))

recipe = ["small_data", "--dataset", str(given.output / "data"), "--dataset_lang", "en"]
recipe += ["--min_train_steps", "100", "--rehearsal_posts", "100"]  # a third of what the recipe has, to be quick
run_mmner.main([*recipe, "--output_dir", str(given.output / "run"), *options])
print(load(str(given.output / "run"))("tonight we cook moussaka for Mira Tolland in Bremen"))
