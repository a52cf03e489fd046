"""The command `mmner`: annotate, train, evaluate, explain, export, serve and publish, and the commands of datasets."""

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dataset_script.arguments import Parser, UsageError

from . import MODEL

USAGE = """mmner COMMAND ...

  predict [MODEL] INPUT   find the names in texts and images: a file, a folder, or - for standard input
  explain [MODEL] TEXT    find the names in one text, and show what its image had to do with them
  train [RECIPE] ...      train a model (as run_mmner.py, which `accelerate launch` takes)
  evaluate [MODEL] DATA   score a model on a dataset
  export [MODEL] FOLDER   write a model as ONNX graphs, in int8 if asked for
  serve [MODEL]           answer requests over HTTP
  publish FOLDER NAME     push a trained model to the Hub
  data ...                build, mix, convert, audit, preview or push a dataset

`mmner COMMAND --help` says more. MODEL is a folder or a name on the Hub; without it, the bundled model,
2m-ner-small, is used. --debug shows where an error came from."""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Runs a command.

    Returns:
        The exit status: 0; 1 where some rows could not be read; 2 after an error, told in one line; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(USAGE + "\n")
        return 0 if words else 2
    if words[0] == "--version":
        sys.stdout.write(f"2m-ner {importlib.metadata.version('2m-ner')}\n")
        return 0
    name, *rest = words
    try:
        if name not in COMMANDS:
            raise UsageError(f"There is no command {name!r}; expected one of {', '.join(COMMANDS)}. See mmner --help")
        return COMMANDS[name](rest) or 0
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. The same command goes on.\n" if name in ("predict", "train") else "Stopped.\n")
        return 130
    except Exception as error:  # a person wants to know what to do, not where in the code it was
        if debug:
            raise
        notes = " ".join((str(error), *getattr(error, "__notes__", ())))
        if isinstance(error, UnicodeDecodeError):
            notes = f"the input is not UTF-8 ({error}); save it as UTF-8"
        kind = "" if isinstance(error, (ValueError, OSError, TypeError, ImportError)) else f"{type(error).__name__}: "
        sys.stderr.write(f"mmner {name}: {kind}{' '.join(notes.split())}\n")
        return 2


def load(model: str | None, **options: Any) -> Any:
    """
    The pipeline of a model: a folder, a name on the Hub, or the bundled model.

    Raises:
        ValueError: there is no such model.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    from modeling_2mner import TwoMNERForTokenClassification
    from pipeline_2mner import TwoMNERPipeline
    from processing_2mner import TwoMNERProcessor

    name = str(MODEL) if model is None else model
    if model is None and not MODEL.is_dir():
        raise ValueError("The bundled model is not installed; give MODEL, a folder or a name on the Hub.")
    if "/" not in name and "." in name and not Path(name).exists():
        raise ValueError(f"There is no file or folder {name}; MODEL is a folder or a name on the Hub, org/name.")
    if (Path(name).exists() or name.startswith((".", "/", "~"))) and not (Path(name) / "config.json").is_file():
        raise ValueError(f"{name} is no folder of a model; expected one with a config.json, or a name on the Hub.")
    disable_progress_bar()
    if options.get("device") and str(options["device"]).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device is {options['device']}, and there is no GPU that PyTorch can use: leave it out.")
    tagger = TwoMNERForTokenClassification.from_pretrained(name)
    return TwoMNERPipeline(model=tagger, processor=TwoMNERProcessor.from_pretrained(name), **options)


def _model_parser(command: str, about: str) -> Parser:
    parser = Parser(f"mmner {command}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", nargs="?", help="default: the bundled model, 2m-ner-small")
    return parser


def predict(words: Sequence[str]) -> int:
    """Annotates a file or folder."""
    parser = _model_parser(
        "predict",
        "Find the names in texts and images. A row that cannot be read is written with its error, and the run goes\n"
        "on. A run that was ended goes on with the same command. Several processes:\n"
        "accelerate launch -m mmner predict INPUT --output OUT",
    )
    add = parser.add_argument
    add(
        "input",
        metavar="INPUT",
        help="a .txt, .jsonl, .csv, .tsv or .parquet file; a folder of images, each with its text in NAME.txt; or -",
    )
    add("--output", type=Path, metavar="OUT", help=".jsonl, .csv, .conll, .spacy, .html; default: JSON lines printed")
    add("--text_column", metavar="NAME", help="default: text or caption, else tokens")
    add("--image_column", metavar="NAME", help="default: image or file_name")
    add("--min_score", type=float, metavar="P", help="leave out entities that score less")
    add("--entity_types", nargs="+", metavar="TYPE", help="leave out entities of other types")
    add("--top_k", type=int, metavar="N", help="other types with their probabilities, too")
    add("--offsets", choices=("characters", "utf-16"), help="utf-16: as JavaScript and Java count")
    add("--batch_size", type=int, metavar="N", help="texts the model reads at once; default: by their length")
    add("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    add("--onnx", nargs="?", const=True, metavar="FOLDER", help="compute with the model's ONNX export (mmner export)")
    given = parser.parse_args(words)
    from .annotation.annotate import annotate, answers, process_device  # here: PyTorch takes seconds to import
    from .annotation.inputs import Columns, read_items

    ner = load(given.model, device=given.device or process_device(), onnx=given.onnx)
    names = ("min_score", "entity_types", "top_k", "offsets", "batch_size")
    options = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    columns = Columns(given.text_column, given.image_column)
    if given.output is None:
        failed = 0
        for _, row in answers(ner, enumerate(read_items(given.input, columns)), options):
            failed += "error" in row
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
            sys.stdout.flush()
        return 1 if failed else 0
    about = {"model": given.model or str(MODEL), "onnx": given.onnx}
    failed = annotate(ner, given.input, given.output.expanduser(), columns, options, about)
    if failed:
        sys.stderr.write(f"{failed} rows have an error, which stands in their row of {given.output}.\n")
    return 1 if failed else 0


def explain(words: Sequence[str]) -> None:
    """Explains one text."""
    parser = _model_parser("explain", "Find the names in one text, and show what its image had to do with them.")
    parser.add_argument("text", metavar="TEXT", help="the text itself")
    parser.add_argument("--image", help="its image: a path or URL")
    parser.add_argument("--output", type=Path, metavar="PAGE.html", help="default: JSON to standard output")
    given = parser.parse_args(words)
    explanation = load(given.model).explain(given.text, given.image)
    if given.output is None:
        sys.stdout.write(json.dumps(explanation.to_dict(), ensure_ascii=False, indent=2) + "\n")
        return
    explanation.save(given.output)


def train(words: Sequence[str]) -> None:
    """Trains a model."""
    if {"-h", "--help"} & {*words[:1]}:
        sys.stdout.write(
            "mmner train [RECIPE] [--name value ...]\n\nRECIPE: a YAML file of options, or the name of one that comes "
            "with 2M-NER: base, large, local,\nsmall, small_data, paper, probe (docs/training.md). Options of it may "
            "follow:\n\n  --dataset PATH       a folder, a file or a name on the Hub (docs/data.md)\n"
            "  --output_dir FOLDER  where the model, its card and its scores go\n"
            "  --model_name_or_path MODEL  a model to train further, instead of --text_model and --vision_model\n"
            "  --num_train_epochs, --learning_rate, --per_device_train_batch_size, --seed, ...\n\n"
            "mmner train --help_all lists all of them. On several GPUs: accelerate launch run_mmner.py RECIPE ...\n"
        )
        return
    _run(["--help" if word == "--help_all" else word for word in words])


def _run(words: Sequence[str]) -> dict[str, Any]:
    import importlib

    return importlib.import_module("run_mmner").main(words)


def evaluate(words: Sequence[str]) -> None:
    """Scores a model on a dataset."""
    parser = _model_parser("evaluate", "Score a model on the validation and test splits of a dataset.")
    parser.add_argument("data", metavar="DATA", help="a folder, a file or a name on the Hub (docs/data.md)")
    parser.add_argument("--output_dir", metavar="FOLDER", help="default: outputs/NAME_OF_DATA-scores")
    parser.epilog = "Other options of `mmner train` may follow, such as --dataset_lang or --tags_column."
    given, others = parser.parse_known_args(words)
    output = given.output_dir or f"outputs/{Path(given.data).stem}-scores"
    told = ["--model_name_or_path", given.model or str(MODEL), "--dataset", given.data, "--output_dir", output]
    results = _run(["evaluate", *told, *others])
    for name in ("eval_f1", "test_f1"):
        if name in results:
            sys.stdout.write(f"{name} {results[name]:.4f}\n")
    sys.stdout.write(f"All scores and predictions: {output}\n")


def export(words: Sequence[str]) -> None:
    """Writes a model as ONNX graphs."""
    parser = _model_parser("export", "Write a model as ONNX graphs, which the pipeline reads by onnx=FOLDER.")
    parser.add_argument("folder", metavar="FOLDER", help="where to write; `onnx` in the model's own folder: onnx=True")
    parser.add_argument("--int8", action="store_true", help="towers in int8: smaller and faster, nearly the same tags")
    given = parser.parse_args(words)
    if given.model is None and Path(given.folder, "config.json").is_file():
        raise ValueError(f"{given.folder} is a model; say where its export goes: mmner export {given.folder} FOLDER")
    from onnx_2mner import export_onnx

    ner = load(given.model)
    export_onnx(ner.model.float(), ner.processor, given.folder, quantize=given.int8)
    sys.stdout.write(f"{given.folder}\n")


def serve(words: Sequence[str]) -> None:
    """Answers requests over HTTP."""
    parser = _model_parser(
        "serve",
        "Answer requests over HTTP: POST /predict (the JSON of handler.py), /health, /metrics, and /docs, which says\n"
        "more. Limits are set by the environment: MMNER_MAX_TEXTS and others (docs/serving.md).",
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: also for other machines; default: %(default)s")
    parser.add_argument("--port", type=int, default=8000, help="0: a free one; default: %(default)s")
    given = parser.parse_args(words)
    from . import serving

    limits, bound = serving.ServerLimits.from_environment(), serving.bind(given.host, given.port)
    name = Path(given.model).name if given.model else MODEL.name
    serving.serve(serving.make_app(load(given.model), limits, name), bound)


def publish(words: Sequence[str]) -> None:
    """Pushes a trained model to the Hub."""
    from .results import publish

    publish.main(words)


def data(words: Sequence[str]) -> int:
    """The commands of datasets."""
    try:
        from dataset_script.__main__ import main
    except ModuleNotFoundError as error:
        raise ImportError(f"It needs {error.name}: pip install -c constraints.txt -e '.[data]'") from error
    return main(list(words), "mmner data")


COMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "predict": predict,
    "explain": explain,
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "serve": serve,
    "publish": publish,
    "data": data,
}
