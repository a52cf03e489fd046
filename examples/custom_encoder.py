"""
A new model from encoders of your choice: names on the Hub or folders.

    python examples/custom_encoder.py --text intfloat/multilingual-e5-small --vision google/siglip-base-patch16-224
"""

import argparse

from datasets import load_dataset
from transformers import Trainer, TrainingArguments, set_seed

from mmner.data.collator import DataCollatorForMultimodalTokenClassification
from modeling_2mner import TwoMNERForTokenClassification
from processing_2mner import TwoMNERProcessor

parser = argparse.ArgumentParser()
parser.add_argument("--text", required=True)  # any encoder with a fast tokenizer
parser.add_argument(
    "--vision", required=True
)  # an image encoder, or a text-image model, of which its image side is taken
parser.add_argument("--data", default="examples/sentences.jsonl")
parser.add_argument("--epochs", type=float, default=20)
parser.add_argument("--output", default="outputs/custom")
given = parser.parse_args()

set_seed(1)
rows = load_dataset("json", data_files=given.data, split="train")
labels = sorted({tag for tags in rows["ner_tags"] for tag in tags}, key=lambda tag: (tag != "O", tag[2:], tag))
processor = TwoMNERProcessor.from_towers(given.text, given.vision)
model = TwoMNERForTokenClassification.from_towers(given.text, given.vision, labels=labels, collaboration="evidence")
model.model.vision_model.requires_grad_(False)

trainer = Trainer(
    model,
    TrainingArguments(given.output, remove_unused_columns=False, num_train_epochs=given.epochs, learning_rate=1e-4),
    data_collator=DataCollatorForMultimodalTokenClassification(processor, model.config),
    train_dataset=rows,
    processing_class=processor,
)
trainer.train()
trainer.save_model()
