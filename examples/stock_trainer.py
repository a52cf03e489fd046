"""
Train a model further with the stock Trainer of Transformers.

    python examples/stock_trainer.py --data examples/sentences.jsonl --output outputs/stock
"""

import argparse

import evaluate
from datasets import load_dataset
from transformers import AutoModelForTokenClassification, AutoProcessor, Trainer, TrainingArguments

import mmner.entity_f1
from mmner.data.collator import DataCollatorForMultimodalTokenClassification

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="models/2m-ner-small")
parser.add_argument("--data", default="examples/sentences.jsonl")  # rows of tokens, ner_tags (names) and image
parser.add_argument("--output", default="outputs/stock")
given = parser.parse_args()
rows = load_dataset("json", data_files=given.data, split="train").train_test_split(0.25, seed=1)
model = AutoModelForTokenClassification.from_pretrained(given.model, trust_remote_code=True, dtype="float32")
processor = AutoProcessor.from_pretrained(given.model, trust_remote_code=True)
metric = evaluate.load(mmner.entity_f1.PATH)


def tags_of(ids):
    return [[model.config.id2label[tag] for tag in row if tag >= 0] for row in ids]  # -100: no word


def compute_metrics(found):
    return metric.compute(predictions=tags_of(found.predictions), references=tags_of(found.label_ids))


trainer = Trainer(
    model,
    TrainingArguments(given.output, remove_unused_columns=False, num_train_epochs=2, learning_rate=5e-5, seed=1),
    data_collator=DataCollatorForMultimodalTokenClassification(processor, model.config),
    train_dataset=rows["train"],
    eval_dataset=rows["test"],
    processing_class=processor,
    compute_metrics=compute_metrics,
)
trainer.train()
print(trainer.evaluate())
trainer.save_model()  # a whole folder: weights, code and processor
