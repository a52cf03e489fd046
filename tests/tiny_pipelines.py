"""Pipelines over tiny random models, and checks of what they answer."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel, BertTokenizerFast, ViTConfig, ViTImageProcessorPil, ViTModel

from modeling_2mner import TwoMNERForTokenClassification
from pipeline_2mner import TwoMNERPipeline
from processing_2mner import TwoMNERProcessor

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TEXTS = [
    "Jordan was seen in Paris.",
    "Orange",
    "",
    "L'Amazone coule vers l'Atlantique, dit Victoria Santiago.",
    "Die Königin besuchte München und den FC Bayern!",
    "¿Vive Florencia en Santiago de Chile? 🙂",
]
LETTERS = "abcdefghijklmnopqrstuvwxyz.,!?'0123456789"
MAX_POSITIONS = 512


def make_towers(folder, num_layers=1):
    """A BERT that spells words letter by letter and a ViT, both tiny, as folders."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    text, vision = folder / "text", folder / "vision"
    text.mkdir(parents=True)
    (text / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(str(text / "vocab.txt"), model_max_length=MAX_POSITIONS).save_pretrained(text)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    text_sizes = {"num_hidden_layers": num_layers, "max_position_embeddings": MAX_POSITIONS}
    BertModel(BertConfig(vocab_size=len(vocabulary), **text_sizes, **sizes)).save_pretrained(text)
    ViTModel(ViTConfig(image_size=32, patch_size=16, num_hidden_layers=1, **sizes)).save_pretrained(vision)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(vision)
    return text, vision


def make_pipeline(towers, seed=0, labels=LABELS, **config) -> TwoMNERPipeline:
    """A pipeline over random weights, large enough for confident and varied tags."""
    torch.manual_seed(seed)
    model = TwoMNERForTokenClassification.from_towers(*towers, labels=labels, **config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                parameter.normal_(std=0.5)
    return TwoMNERPipeline(model=model, processor=TwoMNERProcessor.from_towers(*towers), device="cpu")


def limited(pipe, limit) -> TwoMNERPipeline:
    """The same pipeline over a tokenizer that takes `limit` tokens."""
    tokenizer = type(pipe.tokenizer)(vocab=pipe.tokenizer.get_vocab(), model_max_length=limit)
    processor = TwoMNERProcessor(pipe.processor.image_processor, tokenizer)
    return TwoMNERPipeline(model=pipe.model, processor=processor, device="cpu")


def plain_image(color) -> Image.Image:
    return Image.new("RGB", (40, 24), color)


def noise(size=(40, 24), seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def same(left, right, tolerance=5e-5) -> None:
    """Checks that entities, or lists of them, agree; scores to less than the 1e-5 of the emissions that they sum."""
    left, right = list(left), list(right)
    if right and isinstance(right[0], list):
        for pair in zip(left, right, strict=True):
            same(*pair, tolerance)
        return
    assert [{**entity, "score": None} for entity in left] == [{**entity, "score": None} for entity in right]
    expected = pytest.approx([entity["score"] for entity in right], abs=tolerance, rel=tolerance)
    assert [entity["score"] for entity in left] == expected


def check_layout(text, entities) -> None:
    end = 0
    for entity in entities:
        assert list(entity) == ["entity_group", "score", "word", "start", "end"]
        assert type(entity["score"]) is float and 0 < entity["score"] <= 1
        assert end <= entity["start"] < entity["end"] <= len(text)
        assert text[entity["start"] : entity["end"]] == entity["word"]
        end = entity["end"]
