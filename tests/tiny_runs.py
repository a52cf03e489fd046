"""Models over the tiny towers of `tests/mmner`, and Trainers of them."""

from pathlib import Path

from sharded_rows import LABELS
from transformers import set_seed

from mmner.data.collator import DataCollatorForMultimodalTokenClassification
from mmner.options import ModelArguments, TrainingArguments
from mmner.training.model import build_model
from mmner.training.trainer import TwoMNERTrainer

EVERY_SECOND_STEP = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "no", "load_best_model_at_end": False}
"""Training arguments: when checkpoints are saved."""


def make_model(towers: Path, **options):
    """A model over the towers of a folder, the same each time, and its processor."""
    set_seed(0)
    names = {"text_model": str(towers / "text"), "vision_model": str(towers / "vision")}
    return build_model(ModelArguments(**names, **options), LABELS, [], towers, build=False)


def trainer_of(model, processor, folder: Path, train=None, dev=None, callbacks=None, **options) -> TwoMNERTrainer:
    """A trainer on the CPU, which prints no progress and reports to nobody."""
    return TwoMNERTrainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), use_cpu=True, disable_tqdm=True, report_to="none", **options),
        data_collator=DataCollatorForMultimodalTokenClassification(processor, model.config),
        train_dataset=train,
        eval_dataset=dev,
        processing_class=processor,
        callbacks=callbacks,
    )
