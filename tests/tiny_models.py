"""Tiny random towers of every kind that the model is proved on, and batches for them."""

from pathlib import Path

import torch
from transformers import (
    AutoModel,
    BertConfig,
    CLIPConfig,
    CLIPVisionConfig,
    ConvNextConfig,
    DebertaV2Config,
    Dinov2Config,
    EfficientNetConfig,
    MobileViTConfig,
    ResNetConfig,
    SiglipVisionConfig,
    ViTConfig,
    XLMRobertaConfig,
)

from configuration_2mner import TwoMNERConfig
from modeling_2mner import TwoMNERForTokenClassification

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
IMAGE_SIZE = 32

_TEXT = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 70,
}
_VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
}
TEXT_CONFIGS = {
    "bert": BertConfig(**_TEXT),
    "xlm-roberta": XLMRobertaConfig(**_TEXT, pad_token_id=1),
    "deberta-v2": DebertaV2Config(
        **_TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0
    ),
}
VISION_CONFIGS = {
    "clip-vision": CLIPVisionConfig(**_VISION),
    "siglip-vision": SiglipVisionConfig(**_VISION),
    "vit": ViTConfig(**_VISION),
    "dinov2": Dinov2Config(**{key: value for key, value in _VISION.items() if key != "intermediate_size"}),
    "convnext": ConvNextConfig(hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 1, 1]),
    "mobilevit": MobileViTConfig(
        hidden_sizes=[8, 12, 16],
        neck_hidden_sizes=[4, 4, 8, 8, 12, 16, 24],
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
    ),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 24], depths=[1, 1], layer_type="basic"),
    "efficientnet": EfficientNetConfig(
        width_coefficient=0.25,
        depth_coefficient=0.2,
        hidden_dim=320,  # four times its last block, as the real ones have it
        image_size=IMAGE_SIZE,
        kernel_sizes=[3, 3],
        in_channels=[32, 16],
        out_channels=[16, 32],
        strides=[2, 1],
        num_block_repeats=[1, 1],
        expand_ratios=[1, 2],
        depthwise_padding=[],
    ),
}
CLIP = CLIPConfig(
    text_config={**_TEXT, "eos_token_id": 2}, vision_config=dict(_VISION), projection_dim=16
)  # a text-image model, of which one side is a tower


def save_tower(config, folder: Path) -> Path:
    """A random tower in a folder, as a pretrained one would lie there."""
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def tiny_config(text="bert", vision="vit", global_vision=None, labels=LABELS, **options) -> TwoMNERConfig:
    """A configuration of tiny towers; no dropout anywhere, so that runs can be compared."""
    towers = {"text_config": TEXT_CONFIGS[text].to_dict(), "vision_config": VISION_CONFIGS[vision].to_dict()}
    if global_vision is not None:
        towers["global_vision_config"] = VISION_CONFIGS[global_vision].to_dict()
    for tower in towers.values():
        for name in tower:
            if "dropout" in name and isinstance(tower[name], float):
                tower[name] = 0.0
    options = {"dropout": 0.0, "projection_dim": 16, "collaboration_heads": 2, **options}
    return TwoMNERConfig(
        **towers,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        **options,
    )


def tiny_model(seed=0, **options) -> TwoMNERForTokenClassification:
    torch.manual_seed(seed)
    return TwoMNERForTokenClassification(tiny_config(**options)).eval()


def tiny_batch(num_rows=4, images=(1, 0, 2, 1), seed=0, words=(5, 3, 1, 4), vocabulary=60) -> dict[str, torch.Tensor]:
    """
    Rows of `words` words of one to three tokens, with IOB2 labels and the image of that number (0: none).
    """
    generator = torch.Generator().manual_seed(seed)
    length, most = 3 * max(words) + 2, max(1, *words)
    batch = {
        "input_ids": torch.ones(num_rows, length, dtype=torch.long),
        "attention_mask": torch.zeros(num_rows, length, dtype=torch.long),
        "word_starts": torch.full((num_rows, most), -1),
        "labels": torch.full((num_rows, most), -100),
    }
    if distinct := sorted(set(images) - {0}):
        shown = [torch.Generator().manual_seed(1000 + number) for number in distinct]
        batch["pixel_values"] = torch.stack([torch.randn(3, IMAGE_SIZE, IMAGE_SIZE, generator=one) for one in shown])
        batch["image_index"] = torch.tensor([distinct.index(number) if number else -1 for number in images])
        batch["image_ids"] = torch.tensor(distinct)
    for row in range(num_rows):
        position = 1
        for word in range(words[row]):
            batch["word_starts"][row, word] = position
            batch["labels"][row, word] = torch.randint(0, 3, (), generator=generator) if word % 2 == 0 else 0
            position += int(torch.randint(1, 4, (), generator=generator))
        batch["labels"][row][batch["labels"][row] == 2] = 3
        batch["input_ids"][row, : position + 1] = torch.randint(4, vocabulary, (position + 1,), generator=generator)
        batch["attention_mask"][row, : position + 1] = 1
    return batch
