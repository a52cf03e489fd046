"""Configuration of 2M-NER: two towers, and how they are aligned, fused and read out (arXiv 2404.17122, section 3)."""

import importlib
import os
import sys
from pathlib import Path
from typing import ClassVar

from huggingface_hub import HfApi
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

ALIGNMENTS = ("none", "nt_xent", "clip", "siglip", "token")
COLLABORATIONS = ("none", "cross_attention", "gated", "umt", "evidence")
TAGGING_HEADS = ("crf", "softmax")
TEXT_POOLINGS = ("mean", "first")

# What a folder on the Hub needs so that every Auto class finds its code (`trust_remote_code=True`).
AUTO_MAP = {
    "AutoConfig": "configuration_2mner.TwoMNERConfig",
    "AutoModel": "modeling_2mner.TwoMNERModel",
    "AutoModelForTokenClassification": "modeling_2mner.TwoMNERForTokenClassification",
    "AutoProcessor": "processing_2mner.TwoMNERProcessor",
}

# Replaces the stock pipeline, which knows neither a CRF nor an image, under the names that people use.
PIPELINE = {"impl": "pipeline_2mner.TwoMNERPipeline", "pt": ["AutoModelForTokenClassification"], "type": "multimodal"}
PIPELINE_TASKS = ("token-classification", "ner", "multimodal-ner")

# Image towers that do not read an image as it is, by type of model: why, and what to take instead.
UNFIT_IMAGE_TOWERS = {
    "siglip2_vision_model": "reads patches with a mask of them (NaFlex), not pixels; give a SigLIP 2 checkpoint of a "
    "fixed size, which is a `siglip_vision_model` (google/siglip2-base-patch16-224)",
    "vit_mae": "hides most patches at random and mixes up the others, in evaluation too; load the checkpoint as "
    "`ViTModel`, save that with its image processor and give the folder",
}


def tower_width(config: PreTrainedConfig) -> int:
    """
    Width of the vectors in a tower's `last_hidden_state`: features of a transformer, channels of a convolutional map.

    Raises:
        ValueError: the configuration names its width in none of the known ways.
    """
    # `neck_hidden_sizes`: MobileViT, whose last convolution widens what its layers give. A list has one width a stage
    # (ResNet, ConvNeXT). `hidden_dim`: EfficientNet.
    for name in ("hidden_size", "neck_hidden_sizes", "hidden_sizes", "hidden_dim"):
        if width := getattr(config, name, None):
            return width if isinstance(width, int) else width[-1]
    raise ValueError(
        f"Cannot tell the width of the tower `{config.model_type}`: expected `hidden_size`, `hidden_sizes` or "
        "`hidden_dim` in its configuration. Use a tower that has one of them, or set `hidden_size` in its config.json."
    )


@strict
class TwoMNERConfig(PreTrainedConfig):
    r"""
    Configuration of [`TwoMNERModel`] and [`TwoMNERForTokenClassification`].

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*, defaults to BERT):
            The text tower: any `AutoModel` that returns a sequence.
        vision_config (`PreTrainedConfig` or `dict`, *optional*, defaults to ViT):
            The image tower: any `AutoModel` that returns a sequence of patches or a convolutional map of the pixels
            (not ViT-MAE, which hides patches, nor SigLIP 2 NaFlex, which reads patches).
        global_vision_config (`PreTrainedConfig` or `dict`, *optional*):
            A second image tower, read as one pooled vector (the paper's ResNet). `None`: there is none.
        alignment (`str`, defaults to `"none"`):
            Contrastive loss between text and image: `"none"`, `"nt_xent"` (the paper's), `"clip"`, `"siglip"`,
            or `"token"` (word-to-patch).
        alignment_weight (`float`, defaults to 1.0):
            Factor of the contrastive loss in the total loss.
        alignment_temperature (`float`, *optional*):
            Temperature of the contrastive loss, for the kinds that learn it its start. `None`: the kind's own
            (0.5 for `"nt_xent"`, 0.07 for `"clip"` and `"token"`, 0.1 for `"siglip"`).
        projection_dim (`int`, defaults to 256):
            Width of the space in which text and image are compared.
        text_pooling (`str`, defaults to `"mean"`):
            The sentence vector of the pooled alignments: `"mean"` of the pieces, or the `"first"` ([CLS]).
        collaboration (`str`, defaults to `"gated"`):
            How words and image are fused: `"none"` (text only), `"cross_attention"` (the paper's), `"gated"`,
            `"umt"` or `"evidence"` (a head beside the tagger adds to the tag scores).
        collaboration_heads (`int`, *optional*):
            Attention heads of the collaboration. `None`: one for every 64 features, at least one.
        tagging_head (`str`, defaults to `"crf"`):
            `"crf"`: linear-chain CRF constrained to IOB2, which the labels must be (Transformers' own `LABEL_0`,
            `LABEL_1`, ... aside: those it leaves free); `"softmax"`: each word alone, with labels of any kind.
        image_as_text (`bool`, defaults to `False`):
            Whether a caption of the image is read after its sentence, as a part of the text tower's input that is not
            tagged (ITA, Wang et al., NAACL 2022). Needs no image tower.
        ner_weight (`float`, defaults to 1.0):
            Factor of the tagging loss. The paper's `2 * (0.8 * ner + 0.2 * cl)` is `ner_weight=1.6`,
            `alignment_weight=0.4`.
        consistency_weight (`float`, defaults to 0.0):
            Factor of the KL divergence between the tag posteriors with and without the image.
        modality_dropout (`float`, defaults to 0.0):
            Probability of hiding a row's image in training.
        dropout (`float`, defaults to 0.1):
            Dropout in the collaboration and before the classifier.
        image_normalization, global_image_normalization (`dict`, *optional*):
            `{"mean": [...], "std": [...]}` of the pixels that the processor hands over, and of those that the second
            image tower was trained on: the shared pixels are re-normalised for it. Both, or neither.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the classifier's weights at their start.

    Raises:
        StrictDataclassClassValidationError: an option outside its list or range, or an image tower that is not fit (a
            `ValueError` tells which).
    """

    model_type = "2m-ner"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
        "global_vision_config": SubConfigSpec(config_class=AutoConfig, model_type="resnet", optional=True),
    }
    # The Trainer gathers `predictions` alone: one (B, W) tensor of tag ids, padded with -100.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "ner_loss",
        "alignment_loss",
        "consistency_loss",
        "evidence_loss",
        "logits",
        "gates",
        "hidden_states",
        "attentions",
    ]

    text_config: PreTrainedConfig | dict | None = None
    vision_config: PreTrainedConfig | dict | None = None
    global_vision_config: PreTrainedConfig | dict | None = None
    alignment: str = "none"
    alignment_weight: float | int = 1.0
    alignment_temperature: float | int | None = None
    projection_dim: int = 256
    text_pooling: str = "mean"
    collaboration: str = "gated"
    collaboration_heads: int | None = None
    tagging_head: str = "crf"
    image_as_text: bool = False
    ner_weight: float | int = 1.0
    consistency_weight: float | int = 0.0
    modality_dropout: float | int = 0.0
    dropout: float | int = 0.1
    image_normalization: dict | None = None
    global_image_normalization: dict | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        # A saved folder carries the whole map, whichever class saved it; what points to another repository stays.
        self.auto_map = {**AUTO_MAP, **(getattr(self, "auto_map", None) or {})}
        custom_pipelines = {task: dict(PIPELINE) for task in PIPELINE_TASKS}
        self.custom_pipelines = {**custom_pipelines, **(getattr(self, "custom_pipelines", None) or {})}

    @property
    def uses_images(self) -> bool:
        """Whether anything in the model reads an image: if not, no image tower is built."""
        return self.collaboration != "none" or self.alignment != "none"

    @property
    def labels(self) -> list[str]:
        """The tag names in id order."""
        return [self.id2label[index] for index in range(self.num_labels)]

    def validate_options(self):
        """Each option is one of its list."""
        for name, allowed in (
            ("alignment", ALIGNMENTS),
            ("collaboration", COLLABORATIONS),
            ("tagging_head", TAGGING_HEADS),
            ("text_pooling", TEXT_POOLINGS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; expected one of {', '.join(allowed)}.")

    def validate_ranges(self):
        """Weights are not negative, probabilities lie in [0, 1], sizes are positive."""
        at_least = {"alignment_weight": 0, "ner_weight": 0, "consistency_weight": 0}
        at_least |= {"projection_dim": 1, "collaboration_heads": 1}
        for name, least in at_least.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"`{name}` is {getattr(self, name)}; expected {least} or more.")
        for name in ("modality_dropout", "dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; expected a probability between 0 and 1.")
        if self.alignment_temperature is not None and self.alignment_temperature <= 0:
            raise ValueError(f"`alignment_temperature` is {self.alignment_temperature}; expected more than 0 or None.")

    def validate_image_towers(self):
        """An image tower that is used reads whole images, the same way each time."""
        for name in ("vision_config", "global_vision_config"):
            kind = getattr(getattr(self, name), "model_type", None)
            if self.uses_images and kind in UNFIT_IMAGE_TOWERS:
                raise ValueError(f"`{name}` is that of a `{kind}`, which {UNFIT_IMAGE_TOWERS[kind]}.")

    def validate_normalizations(self):
        """Re-normalising the shared pixels needs both towers' mean and standard deviation."""
        both = (self.image_normalization, self.global_image_normalization)
        if (both[0] is None) != (both[1] is None):
            raise ValueError(
                "Only one of `image_normalization` and `global_image_normalization` given; the second image tower "
                "needs both, or neither."
            )
        for normalization in both:
            if normalization is not None and set(normalization) != {"mean", "std"}:
                raise ValueError(f'A normalization is {normalization}; expected {{"mean": [...], "std": [...]}}.')


PUSH_OPTIONS = ("repo_id", "commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags")
# The card of a repository that had none.
CARD = """---
library_name: transformers
pipeline_tag: token-classification
tags: [2m-ner]
---
# {0}
A [2M-NER](https://arxiv.org/abs/2404.17122) model: named entities in a text and its image. Not described further yet.
```python
ner = transformers.pipeline("token-classification", model="{0}", trust_remote_code=True)  # ner(text, images=image)
```
"""


class PushedWithCard:
    """What is pushed to a repository without a card brings a short one of ours, not the library's."""

    def save_pretrained(self, save_directory: str | os.PathLike, *args, push_to_hub: bool = False, **kwargs):
        """As of the library; what is pushed is all that `push_to_hub` pushes."""
        pushed = {name: kwargs.pop(name) for name in PUSH_OPTIONS if push_to_hub and name in kwargs}
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        if push_to_hub:
            self.push_to_hub(pushed.pop("repo_id", Path(save_directory).name), **pushed)

    def push_to_hub(self, repo_id: str, **kwargs):
        """As of `PushToHubMixin`, after the card."""
        api, is_private = HfApi(token=kwargs.get("token")), kwargs.get("private")
        repo_id = api.create_repo(repo_id, private=is_private, exist_ok=True).repo_id
        elsewhere = kwargs.get("create_pr") or kwargs.get("revision")
        if not elsewhere and not api.file_exists(repo_id, "README.md"):
            api.upload_file(path_or_fileobj=CARD.format(repo_id).encode(), path_in_repo="README.md", repo_id=repo_id)
        return super().push_to_hub(repo_id, **kwargs)  # type: ignore[misc]


def set_in_package(module_name: str) -> None:
    """
    Sets a module of remote code as an attribute of its package, as `import` does and the loader of Transformers does
    not. Without it dill cannot pickle a pipeline, which `datasets.map` does.
    """
    package, _, name = module_name.rpartition(".")
    setattr(importlib.import_module(package), name, sys.modules[module_name])


if "." not in __name__:  # imported by its own name, not as remote code: that is mapped by `auto_map`
    TwoMNERConfig.register_for_auto_class()
    AutoConfig.register(TwoMNERConfig.model_type, TwoMNERConfig)
else:
    set_in_package(__name__)

__all__ = ["TwoMNERConfig"]
