"""What a model trained on the SYNTHETIC probe says to the same words with each of their pictures, and with none.

python -m mmner.probe.demo outputs/probe
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import pipeline

from mmner.entity_f1 import find_entities
from mmner.probe import dataset as probe

NOTICE = "The probe is SYNTHETIC: sentences from templates, pictures drawn by code; only the picture tells the type."


@dataclass(frozen=True)
class Sight:
    """One of a text's pictures, and the entities that the text has beside it, as (words, type)."""

    image: Path
    entities: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Example:
    """A text whose entities depend on the picture."""

    lang: str
    text: str
    sights: tuple[Sight, ...]


def ambiguous_examples(folder: Path, texts_per_language: int = 1) -> list[Example]:
    """
    Texts of the test split that mean different things beside different pictures.

    Args:
        folder: of a probe, as `mmner.probe.dataset.build` writes it.
        texts_per_language: how many of each language.
    """
    examples = []
    for file in sorted(folder.glob("*/test.jsonl")):
        sights: dict[tuple[str, ...], dict[tuple, Sight]] = {}
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["image"] is not None:
                words = row["tokens"]
                (spans,) = find_entities([row["ner_tags"]])
                entities = tuple((" ".join(words[start:end]), kind) for kind, start, end in spans)
                sights.setdefault(tuple(words), {})[entities] = Sight(folder / "images" / row["image"], entities)
        ambiguous = [(words, views) for words, views in sights.items() if len(views) > 1]
        examples += [
            Example(file.parent.name, " ".join(words), tuple(views[entities] for entities in sorted(views)))
            for words, views in ambiguous[:texts_per_language]
        ]
    return examples


def report(ner: Callable, examples: Sequence[Example]) -> str:
    """
    A table of what the model says to each text beside each of its pictures, and without.

    Args:
        ner: a pipeline of a 2M-NER model.
        examples: the texts.
    """
    lines = [NOTICE]
    right = total = 0
    for example in examples:
        lines += ["", f"{example.lang}: {example.text}"]
        images = [str(sight.image) for sight in example.sights]
        predictions = ner([example.text] * (len(images) + 1), images=[*images, None])
        rows = [("picture", "expected", "found (score)")]
        for sight, found in zip(example.sights, predictions, strict=False):
            expected = ", ".join(f"{words} {kind}" for words, kind in sight.entities)
            rows.append((sight.image.name, expected, _shown(found)))
            total += 1
            right += [(entity["word"], entity["entity_group"]) for entity in found] == list(sight.entities)
        rows.append(("none", "(cannot be known)", _shown(predictions[-1])))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            lines.append("  " + "  ".join(map(str.ljust, row, widths)).rstrip())
    lines += ["", f"All entities right in {right} of {total} rows with a picture."]
    return "\n".join(lines)


def _shown(entities: Sequence[dict]) -> str:
    return ", ".join(f"{e['word']} {e['entity_group']} ({e['score']:.2f})" for e in entities) or "nothing"


def main(argv: Sequence[str] | None = None) -> None:
    """Loads a model folder, rebuilds the probe and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m mmner.probe.demo", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a model trained on the probe, such as outputs/probe")
    parser.add_argument("--texts_per_language", type=int, default=1)
    arguments = parser.parse_args(argv)
    ner = pipeline("token-classification", model=arguments.model, trust_remote_code=True)
    with tempfile.TemporaryDirectory() as scratch:
        examples = ambiguous_examples(probe.build(Path(scratch) / "probe"), arguments.texts_per_language)
        sys.stdout.write(report(ner, examples) + "\n")


if __name__ == "__main__":
    main()
