"""
Train adapters on the text encoder with the stock Trainer, and save a plain model. On the command line: --lora_rank 8.

    python examples/lora.py --data examples/sentences.jsonl --output outputs/lora
"""

import argparse

from datasets import load_dataset
from transformers import AutoModelForTokenClassification, AutoProcessor, Trainer, TrainingArguments, set_seed

from mmner.data.collator import DataCollatorForMultimodalTokenClassification
from mmner.training.lora import add_adapters, merge_adapters

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="models/2m-ner-small")
parser.add_argument("--data", default="examples/sentences.jsonl")  # rows of tokens, ner_tags (names) and image
parser.add_argument("--output", default="outputs/lora")
given = parser.parse_args()

set_seed(1)
model = AutoModelForTokenClassification.from_pretrained(given.model, trust_remote_code=True, dtype="float32")
processor = AutoProcessor.from_pretrained(given.model, trust_remote_code=True)
add_adapters(model, rank=8)  # beside the attention and MLP layers; heads and CRF are trained as they are
trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
print(f"{trained:,} of {model.num_parameters():,} weights are trained.")

trainer = Trainer(
    model,
    TrainingArguments(given.output, remove_unused_columns=False, num_train_epochs=2, learning_rate=5e-4, seed=1),
    data_collator=DataCollatorForMultimodalTokenClassification(processor, model.config),
    train_dataset=load_dataset("json", data_files=given.data, split="train"),
    processing_class=processor,
)
trainer.train()
merge_adapters(model)
trainer.save_model()  # a model like any other, without adapters
