"""
One set, three ways to train on it, several seeds: the stock Trainer, LoRA with the stock Trainer, and `mmner train`.

    python benchmarks/accuracy/three_ways.py --output_dir outputs/three_ways

The set is that of `small_data.py` with more names: 200 sentences with two new types, learned from the bundled model.
All three are scored in one way, on its test sentences. Writes ``benchmarks/results/three_ways.json``, or ``--output``.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import Trainer, TrainingArguments, set_seed

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy.small_data import write_dataset  # noqa: E402
from benchmarks.measuring import RESULTS, about, write  # noqa: E402
from mmner import MODEL  # noqa: E402
from mmner.data.collator import DataCollatorForMultimodalTokenClassification  # noqa: E402
from mmner.entity_f1 import entity_scores  # noqa: E402
from mmner.training.labels import with_labels  # noqa: E402
from mmner.training.lora import add_adapters, merge_adapters  # noqa: E402
from modeling_2mner import TwoMNERForTokenClassification  # noqa: E402
from processing_2mner import TwoMNERProcessor  # noqa: E402

NAMES = {
    "DISH": "lasagne|goulash|paella|tortilla de patatas|couscous|ramen|ceviche|moussaka|beef wellington|borscht|"
    "spätzle|tarte flambée|shepherd's pie|patatas bravas|pierogi|falafel|cassoulet|Sauerbraten|crêpes|empanadas|"
    "clam chowder|Kartoffelsalat|quiche lorraine|albóndigas|bibimbap|tiramisù|fish and chips|Rouladen|gnocchi|tajine|"
    "pulpo a la gallega|shakshuka|mac and cheese|Flammkuchen|blanquette de veau|arroz con leche|chili con carne|"
    "Linsensuppe|croque-monsieur|salmorejo|fondue|gazpacho|pho|pad thai|raclette|bouillabaisse|ratatouille|risotto|"
    "coq au vin|kaiserschmarrn|mole poblano|banana bread|Maultaschen|croquetas|soupe à l'oignon|nasi goreng|haggis|"
    "Zwiebelkuchen|fabada|pot-au-feu",
    "TOOL": "hammer|chisel|soldering iron|Lötkolben|Bohrmaschine|Säge|clé à molette|tournevis|perceuse|marteau|scie|"
    "martillo|crowbar|tape measure|Zange|Schraubenzieher|Hobel|pince coupante|ponceuse|niveau à bulle|alicates|"
    "llave inglesa|cinta métrica|lijadora|wire stripper|hacksaw|Stichsäge|Feile|Meißel|burin|rabot|scie circulaire|"
    "cincel|serrucho|soldador|mallet|hand drill|Akkuschrauber|mètre ruban|gato hidráulico|sierra circular|taladro|"
    "torque wrench|spirit level|Wasserwaage|destornillador|angle grinder|bolt cutter|plunger|Ratsche|Schraubzwinge|"
    "Winkelschleifer|lime|serre-joint|meuleuse|pied-de-biche|escofina|tenazas|pistola de calor|rivet gun",
}
"""60 of each type: with a score on the few of `small_data.py`, one name is worth points."""
NEW = ["B-DISH", "I-DISH", "B-TOOL", "I-TOOL"]
HEAD_RATE = 5e-3
KINDS = (("seen", True), ("unseen", False))
CLI = (
    "small_data --rehearsal_posts 0 --text_augmentation 0 --post_augmentation 0 --validation_share 0 --do_eval false "
    "--do_predict false --eval_strategy no --save_strategy no --load_best_model_at_end false "
    "--early_stopping_patience none --min_train_steps 0 --train_sampling_strategy random --text_layer_decay 1 "
    "--weight_decay 0.01 --learning_rate 1e-4 --head_learning_rate 5e-3 --classifier_learning_rate 5e-3 "
    "--crf_learning_rate 5e-3"
)
"""The recipe for small data with the rates and the order of the scripts, and without rehearsal, augmentation and a
choice by dev, which these do not do."""


def trainer_of(model, processor: TwoMNERProcessor, output: Path, **options: Any) -> Trainer:
    """A stock Trainer; `options` are arguments of it and, by `settings`, of its `TrainingArguments`."""
    settings = {"report_to": "none", "per_device_eval_batch_size": 64, "save_strategy": "no", "use_cpu": True}
    args = TrainingArguments(str(output), remove_unused_columns=False, **(settings | options.pop("settings", {})))
    collator = DataCollatorForMultimodalTokenClassification(processor, model.config)
    return Trainer(model, args, data_collator=collator, **options)


def stock(rows: datasets.Dataset, output: Path, seed: int, epochs: float, rank: int | None, rate: float) -> Any:
    """The bundled model, trained further by the stock Trainer; with a rank, by adapters."""
    set_seed(seed)
    processor = TwoMNERProcessor.from_pretrained(MODEL)
    model: Any = TwoMNERForTokenClassification.from_pretrained(MODEL, dtype="float32")
    model = with_labels(model, [*model.config.labels, *NEW])
    model.model.vision_model.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(False)
    if rank is not None:
        add_adapters(model, rank)
    # The heads are new: with one rate for all, F1 was 60 (2e-4) or 0 (1e-3).
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for name, weight in trained if name.startswith("model.")], "lr": rate},
        {"params": [weight for name, weight in trained if not name.startswith("model.")], "lr": HEAD_RATE},
    ]
    settings = {"num_train_epochs": epochs, "warmup_steps": 0.1, "seed": seed}
    optimizers = (torch.optim.AdamW(groups), None)
    trainer_of(model, processor, output, train_dataset=rows, optimizers=optimizers, settings=settings).train()
    merge_adapters(model)
    return model


def cli(data: Path, output: Path, seed: int, epochs: float) -> Any:
    """The bundled model, trained further by `mmner train`."""
    told = {"dataset": data, "output_dir": output, "seed": seed, "num_train_epochs": epochs}
    options = [word for name, value in told.items() for word in (f"--{name}", str(value))]
    subprocess.run([sys.executable, "-m", "mmner", "train", *CLI.split(), *options], check=True)
    return TwoMNERForTokenClassification.from_pretrained(output)


def name_of(row: dict[str, Any]) -> str:
    """The words of the one entity of a sentence."""
    return " ".join(word for word, tag in zip(row["tokens"], row["ner_tags"], strict=True) if tag != "O")


def f1_of(model: Any, rows: datasets.Dataset, output: Path) -> float:
    """Strict entity F1 in percent."""
    found = trainer_of(model, TwoMNERProcessor.from_pretrained(MODEL), output).predict(rows)
    predicted = [[model.config.id2label[tag] for tag in ids if tag >= 0] for ids in found.predictions.tolist()]
    return round(100 * entity_scores(rows["ner_tags"][:], predicted)["f1"], 2)


def main() -> None:
    """Trains, scores and writes the JSON: F1 on names that training has and has not, and minutes, of each seed."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=float, default=12)
    parser.add_argument("--output", type=Path, default=RESULTS / "three_ways.json")
    given = parser.parse_args()
    data = given.output_dir / "data"
    # Of 200 sentences, one entity would be 0.5 F1. The stock Trainer takes every word without a tag for no name.
    write_dataset(data, test=250, known_types=["PER", "LOC", "ORG", "MISC", "DISH", "TOOL"], names=NAMES)
    files = {split: sorted(map(str, data.glob(f"*/{split}.jsonl"))) for split in ("train", "test")}
    splits = datasets.load_dataset("json", data_files=files, cache_dir=str(given.output_dir / "cache"))

    ways = {
        "stock Trainer": lambda folder, seed: stock(splits["train"], folder, seed, given.epochs, None, 1e-4),
        "LoRA, stock Trainer": lambda folder, seed: stock(splits["train"], folder, seed, given.epochs, 16, 5e-4),
        "mmner train": lambda folder, seed: cli(data, folder, seed, given.epochs),
    }
    names = {name_of(row) for row in splits["train"]}
    tests = {
        f"f1_{kind}": splits["test"].filter(lambda row, own=is_seen: (name_of(row) in names) == own)
        for kind, is_seen in KINDS
    }
    scores: dict[str, dict[str, Any]] = {way: {"minutes": [], **{key: [] for key in tests}} for way in ways}
    for seed in given.seeds:
        for way, train in ways.items():
            start, folder = time.perf_counter(), given.output_dir / f"{way.replace(' ', '_')}_{seed}"
            model = train(folder, seed)
            scores[way]["minutes"].append(round((time.perf_counter() - start) / 60, 2))
            for key, rows in tests.items():
                scores[way][key].append(f1_of(model, rows, folder))
            print(way, seed, *(scores[way][key][-1] for key in tests), flush=True)
    means = {key: [round(statistics.mean(found[key]), 2) for found in scores.values()] for key in tests}
    facts = {"seeds": given.seeds, "epochs": given.epochs, "train_sentences": len(splits["train"])}
    facts |= {"test_sentences": len(splits["test"]), "means": means}
    facts["largest_difference"] = {key: round(max(values) - min(values), 2) for key, values in means.items()}
    write(given.output, about(["torch", "transformers", "peft"]) | facts | {"ways": scores})


if __name__ == "__main__":
    main()
