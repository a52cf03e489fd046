"""
Makes the folder of a model to give away from the folder of a finished run: weights in half precision, in shards, and a
card filled with measured results.

    python -m mmner.results.release outputs/small models/2m-ner-small
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch
import yaml
from huggingface_hub import ModelCardData
from transformers import pipeline

from dataset_script.files import replacing
from mmner.options import TrainingArguments
from mmner.results.examples import SENTENCES, widget_examples
from modeling_2mner import TwoMNERForTokenClassification
from processing_2mner import TwoMNERProcessor

KIND = "model"
SHARD_SIZE = "40MB"
ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "recipes" / "small_card.md"
RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
NATURAL = "natural_dev"
METADATA: dict[str, Any] = {
    "language": ["en", "de", "fr", "es"],
    "license": "cc-by-nc-sa-4.0",
    "library_name": "transformers",
    "pipeline_tag": "token-classification",
    "tags": ["2m-ner", "named-entity-recognition", "multilingual", "multimodal", "social-media"],
    "metrics": ["f1"],
}


def release(run: str | Path, folder: str | Path) -> Path:
    """
    Writes weights, configuration, processor, code and card. Code that this checkout has stays there, and is linked to.

    Args:
        run: the `output_dir` of a finished training, or the folder of an earlier release.
        folder: new, empty, or of an earlier release, which is replaced.

    Raises:
        FileExistsError: the folder holds something else.
    """
    folder = Path(folder).resolve()
    model = TwoMNERForTokenClassification.from_pretrained(run, dtype=torch.float32)
    processor = TwoMNERProcessor.from_pretrained(run)
    half = {name: x.half() if x.is_floating_point() else x for name, x in model.state_dict().items()}
    with replacing(folder, KIND) as aside:
        # The configuration says float32: the weights are stored in half precision and computed with in full.
        model.save_pretrained(aside, state_dict=half, max_shard_size=SHARD_SIZE)
        processor.save_pretrained(aside)
        ner = pipeline("token-classification", model=str(aside), trust_remote_code=True)
        widget = widget_examples(ner, list(SENTENCES.values()))
        results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        recipe = Path(run) / "recipe.yaml"
        shutil.copy(recipe, aside)
        seed = yaml.safe_load(recipe.read_text(encoding="utf-8")).get("seed", TrainingArguments.seed)
        (aside / "README.md").write_text(card(results, folder.name, widget, seed), encoding="utf-8")
        for path in aside.glob("*.py"):
            if folder.is_relative_to(ROOT) and (ROOT / path.name).read_bytes() == path.read_bytes():
                path.unlink()
                path.symlink_to(os.path.relpath(ROOT / path.name, folder))
    return folder


def card(results: Mapping[str, Any], name: str, widget: Sequence[Mapping[str, Any]], seed: int) -> str:
    """The card: the template filled with what `benchmarks/accuracy/peers.py` measured of the model of this name."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["signed"] = lambda value: f"{value:+.2f}"
    own = results.get("systems", {}).get(name)
    if own is None:
        return (
            f"# {name}\n\nNot measured yet: `python benchmarks/accuracy/peers.py` writes the results for this card.\n"
        )
    others = {other: facts for other, facts in results["systems"].items() if other != name}
    natural = {other: facts["sets"].get(NATURAL, {"f1": {}})["f1"] for other, facts in results["systems"].items()}
    languages = METADATA["language"]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        card_data=ModelCardData(**METADATA, model_name=name, widget=list(widget)).to_yaml(),
        location=name,
        megabytes=round(own["megabytes"]),
        natural=own["sets"][NATURAL],
        seed=seed,
        sets=[(key.replace("natural_dev", "natural posts"), facts) for key, facts in own["sets"].items()],
        peers=[
            (other, facts | {"natural": {lang: natural[other][lang] for lang in languages if lang in natural[other]}})
            for other, facts in [(name, own), *others.items()]
        ]
        if others
        else [],
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Releases the run that the arguments name."""
    parser = argparse.ArgumentParser("python -m mmner.results.release", description=__doc__.strip().split("\n")[0])
    parser.add_argument("run", help="output_dir of a finished training")
    parser.add_argument("folder", help="where to write the model")
    arguments = parser.parse_args(argv)
    sys.stdout.write(f"{release(arguments.run, arguments.folder)}\n")


if __name__ == "__main__":
    main()
