"""
What are the IOB2 constraints worth? The same emissions, decoded with and without them.

    python benchmarks/speed/decoding.py --grid FOLDER --systems text_softmax text_crf --seeds 1 2 3 --data FOLDER

Each run is one that ``benchmarks/accuracy/accuracy.py`` left behind in GRID/SYSTEM-SEED. Its entity F1 on the test sentences of
DATA, pictures hidden, with the best sequence of all ("free") and with the best of those that are IOB2 ("IOB2"); and
the words at which a free sequence has an I- that continues nothing. A softmax is a CRF whose transitions are zero:
with constraints it, too, gives entities only. A CRF that was trained with constraints never learned the transitions
that they forbid. Writes ``benchmarks/results/decoding.json``, in which other grids keep what an earlier command found.
"""

import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import datasets
from accelerate.state import AcceleratorState

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy.grid import grid_parser, test_rows, write_grid  # noqa: E402
from crf_2mner import LinearChainCRF, iob2_constraints  # noqa: E402
from mmner.collator import MultimodalCollator  # noqa: E402
from mmner.data import WindowedSentences  # noqa: E402
from mmner.trainer import TwoMNERTrainer  # noqa: E402
from modeling_2mner import TwoMNERForTokenClassification  # noqa: E402
from processing_2mner import TwoMNERProcessor  # noqa: E402


def decoded_by(crf: LinearChainCRF, labels: Sequence[str], way: str) -> LinearChainCRF:
    """A CRF of the same weights that allows every sequence ("free") or those that are IOB2 ("IOB2")."""
    other = LinearChainCRF(crf.num_tags, iob2_constraints(labels) if way == "IOB2" else None)
    other.load_state_dict(crf.state_dict())
    return other


def stray_words(labels: Sequence[str], sequence: Sequence[int]) -> int:
    """The words whose I- tag does not follow a tag of its own type."""
    tags = ["O", *(labels[tag] for tag in sequence)]
    return sum(tag.startswith("I-") and before[2:] != tag[2:] for before, tag in zip(tags, tags[1:], strict=False))


def main() -> None:
    """Reads the runs, predicts, writes the JSON."""
    arguments = grid_parser(__doc__, "decoding").parse_args()
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()

    scores: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        rows, args = test_rows(arguments.data, arguments.sentences, Path(folder))
        for system in arguments.systems:
            scores[system] = {"free": [], "IOB2": [], "stray": []}
            for seed in arguments.seeds:
                AcceleratorState._reset_state(True)
                run = arguments.grid / f"{system}-{seed}"
                model = TwoMNERForTokenClassification.from_pretrained(run)
                processor = TwoMNERProcessor.from_pretrained(run)
                labels = model.config.labels
                sentences = WindowedSentences(rows, processor, model.config.label2id, images="hidden")
                trained = model.crf
                for way in ("free", "IOB2"):
                    model.crf = decoded_by(trained, labels, way).requires_grad_(False)
                    collator = MultimodalCollator(processor, model.config.uses_images)
                    output = TwoMNERTrainer(model=model, args=args, data_collator=collator).predict(sentences)
                    scores[system][way].append(output.metrics["test_f1"])
                    if way == "free":
                        tags = [[tag for tag in row if tag >= 0] for row in output.predictions.tolist()]
                        scores[system]["stray"].append(sum(stray_words(labels, row) for row in tags))
                print(system, seed, {name: values[-1] for name, values in scores[system].items()})

    write_grid(arguments, {"seeds": arguments.seeds, "scores": scores})


if __name__ == "__main__":
    main()
