"""
Does a tagger that was trained on well-kept text still find entities where nobody keeps to capitals and punctuation,
and do pictures help it there?

    python benchmarks/accuracy/robust.py --grid FOLDER --systems NAME ... --seeds 1 2 3 --data FOLDER \
        [--other NAME=FOLDER ...] [--image_feature_store FOLDER]

Each run is one that ``benchmarks/accuracy/accuracy.py`` left behind in GRID/SYSTEM-SEED; a system may lack some of the seeds.
Its entity F1 on the same test sentences of DATA read in each of ``WAYS``, with their own pictures, hidden ones and
those of other sentences, by what the picture has to do with its sentence; and, pictures hidden, on the test sentences
of other sets, in which it was not trained, as they are. Which sentences does not depend on the seed. Writes
``benchmarks/results/robust.json``, in which other grids keep what an earlier command found.
"""

import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
from accelerate.state import AcceleratorState

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy.grid import grid_parser, test_rows, write_grid  # noqa: E402
from mmner.arguments import DataArguments, TrainingArguments  # noqa: E402
from mmner.augmentation import lower, no_punctuation, upper  # noqa: E402
from mmner.collator import MultimodalCollator  # noqa: E402
from mmner.data import WindowedSentences, label_names  # noqa: E402
from mmner.image_features import store_image_features  # noqa: E402
from mmner.trainer import TwoMNERTrainer  # noqa: E402
from modeling_2mner import TwoMNERForTokenClassification  # noqa: E402
from processing_2mner import TwoMNERProcessor  # noqa: E402

Change = Callable[[Sequence[str], Sequence[str]], tuple[list[str], list[str]]]
WAYS: dict[str, tuple[Change, ...]] = {
    "as written": (),
    "lower case": (lower,),
    "capitals": (upper,),
    "no punctuation": (no_punctuation,),
    "lower case, no punctuation": (no_punctuation, lower),
}
SLICES = {"all": "f1", "depicts": "f1_depicts", "unrelated": "f1_unrelated"}
PICTURES = {"own": "test", "hidden": "test_text_only", "shuffled": "test_shuffled_image"}


def changed(rows: datasets.Dataset, way: str) -> datasets.Dataset:
    """The rows with their text read in one of `WAYS`; everything else as it is."""
    names = label_names(rows)

    def change(row: dict[str, Any]) -> dict[str, Any]:
        tokens, tags = row["tokens"], [names[tag] for tag in row["ner_tags"]]
        for step in WAYS[way]:
            tokens, tags = step(tokens, tags)
        return {"tokens": tokens, "ner_tags": [names.index(tag) for tag in tags]}

    text = rows.select_columns(["tokens", "ner_tags"]).map(change, load_from_cache_file=False)
    return datasets.concatenate_datasets([text, rows.remove_columns(["tokens", "ner_tags"])], axis=1)


def score_run(
    run: Path,
    args: TrainingArguments,
    ways: dict[str, datasets.Dataset],
    others: dict[str, datasets.Dataset],
    store: Path | None,
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, float]]:
    """Entity F1 of a run: of each way its part, `SLICES`, and pictures, `PICTURES`; and of each other set."""
    AcceleratorState._reset_state(True)
    model = TwoMNERForTokenClassification.from_pretrained(run)
    processor = TwoMNERProcessor.from_pretrained(run)
    collator = MultimodalCollator(processor, model.config.uses_images)
    trainer = TwoMNERTrainer(model=model, args=args, data_collator=collator)
    labels = model.config.label2id
    read = {
        way: WindowedSentences(rows, processor, labels, images="own", seed=args.seed) for way, rows in ways.items()
    }
    if store is not None:
        store_image_features(trainer, list(read.values()), DataArguments(image_feature_store=str(store)))
    pictures = {}
    for way, sentences in read.items():
        metrics = trainer.predict_with_controls(sentences, "test").metrics
        pictures[way] = {
            name: {kind: metrics[f"{prefix}_{score}"] for kind, prefix in PICTURES.items()}
            for name, score in SLICES.items()
            if f"test_{score}" in metrics  # not every set has such sentences
        }
        print(run.name, way, pictures[way], flush=True)
    elsewhere = {}
    for name, rows in others.items():
        sentences = WindowedSentences(rows, processor, labels, images="hidden")
        elsewhere[name] = trainer.predict(sentences).metrics["test_f1"]
        print(run.name, name, elsewhere[name], flush=True)
    return pictures, elsewhere


def main() -> None:
    """Reads the runs, predicts, writes the JSON."""
    parser = grid_parser(__doc__, "robust")
    parser.add_argument("--other", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--image_feature_store", type=Path, help="as of run_mmner.py, for towers that were frozen")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    seeds: dict[str, list[int]] = {}
    for system in arguments.systems:
        seeds[system] = [seed for seed in arguments.seeds if (arguments.grid / f"{system}-{seed}").is_dir()]
        if not seeds[system]:
            parser.error(f"{arguments.grid} has no run of {system} with a seed of {arguments.seeds}")

    found: dict[str, Any] = {"seeds": seeds, "ways": {}, "others": {}}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        rows, args = test_rows(arguments.data, arguments.sentences, scratch)
        ways = {way: changed(rows, way) for way in WAYS}
        others = {
            name: test_rows(path, arguments.sentences, scratch)[0]
            for name, _, path in (word.partition("=") for word in arguments.other)
        }
        for system in arguments.systems:
            runs = [arguments.grid / f"{system}-{seed}" for seed in seeds[system]]
            scored = [score_run(run, args, ways, others, arguments.image_feature_store) for run in runs]
            found["ways"][system] = [pictures for pictures, _ in scored]
            found["others"][system] = [elsewhere for _, elsewhere in scored]
    write_grid(arguments, found)


if __name__ == "__main__":
    main()
