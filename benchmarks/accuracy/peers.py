"""
A model of ours beside models that one would pick instead, on the validation sets of a mixture and on natural posts.

    DATA=FOLDER python benchmarks/accuracy/peers.py models/2m-ner-small --spacy fr_core_news_sm es_core_news_sm

Strict entity F1 by set and language, words per second, and megabytes on disk; all get the same words. Types that a
set's annotators did not tag do not count. Ours is also read with images hidden and shuffled, where a set has them.
spaCy's labels are mapped to the four types; a model is scored on its own language alone. Writes
``benchmarks/results/peers.json``, or ``--output``.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy.significance import bootstrap_interval, micro_f1, sentence_counts  # noqa: E402
from benchmarks.measuring import RESULTS, about, write  # noqa: E402
from dataset_script.building.mixture import Part, read_parts  # noqa: E402
from dataset_script.images import ImageFolder, find_image_root  # noqa: E402
from dataset_script.rows import Row  # noqa: E402

Tags = list[list[str]]
TYPES = ("PER", "LOC", "ORG", "MISC")
SPACY_TYPES = {"PERSON": "PER", "PER": "PER", "GPE": "LOC", "LOC": "LOC", "FAC": "LOC", "ORG": "ORG", "MISC": "MISC"}
SPACY_TYPES |= dict.fromkeys(("NORP", "EVENT", "WORK_OF_ART", "PRODUCT", "LAW", "LANGUAGE"), "MISC")


class Ours:
    """A folder of ours: rows and, for each, an image file or ``None``, to tags."""

    def __init__(self, folder: str):
        from modeling_2mner import TwoMNERForTokenClassification
        from processing_2mner import TwoMNERProcessor

        self.model = TwoMNERForTokenClassification.from_pretrained(folder).eval()
        self.processor = TwoMNERProcessor.from_pretrained(folder)
        self.languages: tuple[str, ...] = ("en", "de", "fr", "es")

    def __call__(self, rows: Sequence[Row], images: Sequence[Path | None]) -> Tags:
        """The tags of the rows."""
        import torch

        from processing_2mner import load_image

        found: Tags = [[] for _ in rows]
        order = sorted(range(len(rows)), key=lambda place: len(rows[place].tokens))
        for start in range(0, len(order), 32):
            places = order[start : start + 32]
            opened = [None if (image := images[place]) is None else load_image(str(image)) for place in places]
            batch = self.processor([rows[place].tokens for place in places], images=opened if any(opened) else None)
            with torch.inference_mode():
                predictions = self.model(**batch).predictions.tolist()
            for place, ids in zip(places, predictions, strict=True):
                found[place] = [self.model.config.id2label[tag] for tag in ids[: len(rows[place].tokens)]]
        return found


class Spacy:
    """A pipeline of spaCy by name."""

    def __init__(self, name: str):
        import spacy

        self.pipeline = spacy.load(name)
        self.languages = (self.pipeline.lang,)

    def __call__(self, rows: Sequence[Row], images: Sequence[Path | None]) -> Tags:
        """The tags of the rows; it reads no images."""
        from spacy.tokens import Doc

        found = []
        for doc in self.pipeline.pipe(Doc(self.pipeline.vocab, words=row.tokens) for row in rows):
            tags = ["O"] * len(doc)
            for entity in doc.ents:
                if kind := SPACY_TYPES.get(entity.label_):
                    tags[entity.start : entity.end] = [f"B-{kind}"] + [f"I-{kind}"] * (len(entity) - 1)
            found.append(tags)
        return found


def comparable(rows: Sequence[Row], tags: Tags) -> Tags:
    """The tags without types that a row's annotators did not tag."""
    known = [row.known_types or TYPES for row in rows]
    return [[tag if tag[2:] in kinds else "O" for tag in line] for kinds, line in zip(known, tags, strict=True)]


def f1_by_language(rows: Sequence[Row], tags: Tags) -> dict[str, float]:
    """F1 over all rows, in each language, and of each type, in percent."""
    counts = sentence_counts([row.tags for row in rows], tags)
    found = {"all": counts}
    for lang in sorted({str(row.lang) for row in rows}):
        found[lang] = counts[[row.lang == lang for row in rows]]
    for kind in TYPES:
        only = [
            [[tag if tag[2:] == kind else "O" for tag in line] for line in side]
            for side in ([r.tags for r in rows], tags)
        ]
        found[kind] = sentence_counts(*only)
    return {name: round(100 * float(micro_f1(part.sum(0))), 2) for name, part in found.items() if part[:, 2].sum()}


def image_controls(system: Callable, rows: Sequence[Row], images: Sequence[Path | None], own: Tags) -> dict[str, Any]:
    """F1 with images hidden and shuffled, and what own images bring over each, with its 95 % interval."""
    shown = [image for image in images if image is not None]
    rotated = iter(shown[1:] + shown[:1])
    others = {"hidden": [None] * len(rows), "shuffled": [None if image is None else next(rotated) for image in images]}
    gold = [row.tags for row in rows]
    first, facts = sentence_counts(gold, own)[None], {}
    for name, other in others.items():
        tags = comparable(rows, system(rows, other))
        second = sentence_counts(gold, tags)[None]
        interval = [round(100 * bound, 2) for bound in bootstrap_interval(first, second)]
        difference = 100 * float(micro_f1(first.sum(1))[0] - micro_f1(second.sum(1))[0])
        facts[name] = {"f1": f1_by_language(rows, tags), "own_less": round(difference, 2), "interval": interval}
    return facts


def score(system: Any, sets: dict[str, tuple[list[Row], list[Path | None]]]) -> dict[str, Any]:
    """The scores of a system on all sets in its languages, and its speed over their words, images left out."""
    facts: dict[str, Any] = {}
    words, seconds = 0, 0.0
    for name, (all_rows, all_images) in sets.items():
        chosen = [place for place, row in enumerate(all_rows) if row.lang in system.languages]
        rows, images = [all_rows[place] for place in chosen], [all_images[place] for place in chosen]
        if not rows:
            continue
        start = time.perf_counter()
        without = system(rows, [None] * len(rows))
        seconds += time.perf_counter() - start
        words += sum(len(row.tokens) for row in rows)
        sees_images = isinstance(system, Ours) and any(images)
        tags = comparable(rows, system(rows, images) if sees_images else without)
        facts[name] = {"f1": f1_by_language(rows, tags), "rows": len(rows)}
        if sees_images:
            facts[name]["images"] = image_controls(system, rows, images, tags)
        print(name, json.dumps(facts[name]), flush=True)
    return {"sets": facts, "words_per_s": round(words / seconds)}


def megabytes(folder: Path) -> float:
    """The size of a folder's files."""
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1)


def main() -> None:
    """Scores all systems and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("models", nargs="+", help="folders of models of ours")
    parser.add_argument("--spacy", nargs="*", default=[], help="names of installed spaCy models")
    parser.add_argument("--sets", type=Path, default=ROOT / "recipes" / "mixtures" / "small_validation.yaml")
    parser.add_argument("--output", type=Path, default=RESULTS / "peers.json")
    arguments = parser.parse_args()
    sets = {}
    for part in read_parts(arguments.sets):
        rows = list(part.rows("validation"))
        sets[part.folder.name] = rows, images_of(part, rows)
    # What was measured before of other systems stays.
    systems = json.loads(arguments.output.read_text())["systems"] if arguments.output.is_file() else {}
    for folder in arguments.models:
        print(folder, flush=True)
        systems[Path(folder).name] = score(Ours(folder), sets) | {"megabytes": megabytes(Path(folder))}
    for name in arguments.spacy:
        print(name, flush=True)
        system = Spacy(name)
        systems[name] = score(system, sets) | {"megabytes": megabytes(Path(system.pipeline.path))}
    write(arguments.output, about(["torch", "transformers"]) | {"systems": systems})


def images_of(part: Part, rows: Sequence[Row]) -> list[Path | None]:
    """The image files of rows."""
    folder = ImageFolder(find_image_root(part.folder))
    return [folder.find(row.image).path if row.image else None for row in rows]


if __name__ == "__main__":
    main()
