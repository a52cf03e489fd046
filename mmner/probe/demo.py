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


def ambiguous_examples(folder: Path) -> list[Example]:
    """Of each language, the first text in the test split of a probe that occurs with several entity types."""
    examples = []
    for file in sorted(folder.glob("*/test.jsonl")):
        by_text: dict[str, dict[Entities, Path]] = {}
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["image"] is not None:
                (spans,) = find_entities([row["ner_tags"]])
                entities = tuple((" ".join(row["tokens"][start:end]), kind) for kind, start, end in spans)
                by_text.setdefault(" ".join(row["tokens"]), {})[entities] = folder / "images" / row["image"]
        text, found = next(item for item in by_text.items() if len(item[1]) > 1)
        examples.append(
            Example(file.parent.name, text, {image: entities for entities, image in sorted(found.items())})
        )
    return examples


def report(ner: Callable, examples: Sequence[Example]) -> str:
    """What a pipeline predicts for each text with each of its images, and without."""
    lines, results = [NOTICE], []
    for example in examples:
        lines += ["", f"{example.lang}: {example.text}"]
        images = [*map(str, example.images), None]
        *with_image, without = ner([example.text] * len(images), images=images)
        for (image, entities), found in zip(example.images.items(), with_image, strict=True):
            results.append(tuple((entity["word"], entity["entity_group"]) for entity in found) == entities)
            expected = ", ".join(f"{words} {kind}" for words, kind in entities)
            lines.append(f"  {image.name}: expected {expected}; predicted {_shown(found)}")
        lines.append(f"  no image: predicted {_shown(without)}")
    lines += ["", f"All entities correct in {sum(results)} of {len(results)} rows with an image."]
    return "\n".join(lines)


def _shown(entities: Sequence[dict]) -> str:
    return ", ".join(f"{e['word']} {e['entity_group']} ({e['score']:.2f})" for e in entities) or "nothing"


def main() -> None:
    """Loads a model folder, builds the probe again and prints what the model predicts."""
    parser = argparse.ArgumentParser(prog="python -m mmner.probe.demo", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a model trained on the probe, such as outputs/probe")
    ner = pipeline("token-classification", model=parser.parse_args().model, trust_remote_code=True)
    with tempfile.TemporaryDirectory() as scratch:
        examples = ambiguous_examples(probe.build(Path(scratch) / "probe"))
        sys.stdout.write(report(ner, examples) + "\n")


if __name__ == "__main__":
    main()
