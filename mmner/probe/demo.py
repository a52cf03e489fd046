"""What a model trained on the SYNTHETIC probe predicts for the same words with each of their images, and without.

python -m mmner.probe.demo outputs/probe
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from transformers import pipeline

from mmner.entity_f1 import find_entities
from mmner.probe import dataset as probe

NOTICE = "The probe is SYNTHETIC: sentences from templates, images drawn by code; only the image tells the type."
Entities = tuple[tuple[str, str], ...]  # words and type


class Example(NamedTuple):
    """A text whose entities depend on the image: for each image, the gold entities."""

    lang: str
    text: str
    images: dict[Path, Entities]


def ambiguous_examples(folder: Path, texts_per_language: int = 1) -> list[Example]:
    """Texts of the test split of a probe that occur with several images and, with each, other entities."""
    examples = []
    for file in sorted(folder.glob("*/test.jsonl")):
        by_text: dict[str, dict[Entities, Path]] = {}
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["image"] is not None:
                (spans,) = find_entities([row["ner_tags"]])
                entities = tuple((" ".join(row["tokens"][start:end]), kind) for kind, start, end in spans)
                by_text.setdefault(" ".join(row["tokens"]), {})[entities] = folder / "images" / row["image"]
        ambiguous = [(text, found) for text, found in by_text.items() if len(found) > 1]
        for text, found in ambiguous[:texts_per_language]:
            images = {image: entities for entities, image in sorted(found.items())}
            examples.append(Example(file.parent.name, text, images))
    return examples


def report(ner: Callable, examples: Sequence[Example]) -> str:
    """A table of what a pipeline predicts for each text with each of its images, and without."""
    lines = [NOTICE]
    correct = total = 0
    for example in examples:
        lines += ["", f"{example.lang}: {example.text}"]
        images = [*map(str, example.images), None]
        *with_image, without = ner([example.text] * len(images), images=images)
        rows = [("image", "expected", "predicted (score)")]
        for (image, entities), found in zip(example.images.items(), with_image, strict=True):
            expected = ", ".join(f"{words} {kind}" for words, kind in entities)
            rows.append((image.name, expected, _shown(found)))
            total += 1
            correct += tuple((entity["word"], entity["entity_group"]) for entity in found) == entities
        rows.append(("none", "(cannot be known)", _shown(without)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += ["", f"All entities correct in {correct} of {total} rows with an image."]
    return "\n".join(lines)


def _shown(entities: Sequence[dict]) -> str:
    return ", ".join(f"{e['word']} {e['entity_group']} ({e['score']:.2f})" for e in entities) or "nothing"


def main(argv: Sequence[str] | None = None) -> None:
    """Loads a model folder, builds the probe again and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m mmner.probe.demo", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a model trained on the probe, such as outputs/probe")
    arguments = parser.parse_args(argv)
    ner = pipeline("token-classification", model=arguments.model, trust_remote_code=True)
    with tempfile.TemporaryDirectory() as scratch:
        examples = ambiguous_examples(probe.build(Path(scratch) / "probe"))
        sys.stdout.write(report(ner, examples) + "\n")


if __name__ == "__main__":
    main()
