"""
Does a tagger that was trained on well-kept text still find entities where nobody keeps to capitals and punctuation?

    python benchmarks/robust.py --grid FOLDER --systems NAME ... --seeds 1 2 3 --data FOLDER [--other NAME=FOLDER ...]

Each run is one that ``benchmarks/accuracy.py`` left behind in GRID/SYSTEM-SEED; a system may lack some of the seeds.
Its entity F1, pictures hidden, on the same test sentences of DATA read in each of ``WAYS``, and on the test sentences
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

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.grid import grid_parser, test_rows, write_grid  # noqa: E402
from mmner.augmentation import lower, no_punctuation, upper  # noqa: E402
from mmner.collator import MultimodalCollator  # noqa: E402
from mmner.data import WindowedSentences, label_names  # noqa: E402
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


def main() -> None:
    """Reads the runs, predicts, writes the JSON."""
    parser = grid_parser(__doc__, "robust")
    parser.add_argument("--other", nargs="*", default=[], metavar="NAME=FOLDER")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()

    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        rows, args = test_rows(arguments.data, arguments.sentences, scratch)
        sets = {way: changed(rows, way) for way in WAYS}
        for word in arguments.other:
            name, _, path = word.partition("=")
            sets[name] = test_rows(path, arguments.sentences, scratch)[0]
        scores: dict[str, dict[str, list[float]]] = {}
        seeds: dict[str, list[int]] = {}
        for system in arguments.systems:
            scores[system] = {name: [] for name in sets}
            seeds[system] = [seed for seed in arguments.seeds if (arguments.grid / f"{system}-{seed}").is_dir()]
            if not seeds[system]:
                parser.error(f"{arguments.grid} has no run of {system} with a seed of {arguments.seeds}")
            for seed in seeds[system]:
                AcceleratorState._reset_state(True)
                run = arguments.grid / f"{system}-{seed}"
                model = TwoMNERForTokenClassification.from_pretrained(run)
                processor = TwoMNERProcessor.from_pretrained(run)
                collator = MultimodalCollator(processor, model.config.uses_images)
                trainer = TwoMNERTrainer(model=model, args=args, data_collator=collator)
                for name, chosen in sets.items():
                    sentences = WindowedSentences(chosen, processor, model.config.label2id, images="hidden")
                    scores[system][name].append(trainer.predict(sentences).metrics["test_f1"])
                    print(system, seed, name, scores[system][name][-1])

    write_grid(arguments, {"seeds": seeds, "scores": scores})


if __name__ == "__main__":
    main()
