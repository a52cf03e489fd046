"""Low-rank adapters (LoRA, Hu et al., 2022) on the text tower, by `peft`; they end as a part of its weights."""

import logging

from torch import nn

from modeling_2mner import TwoMNERForTokenClassification

logger = logging.getLogger(__name__)


def add_adapters(model: TwoMNERForTokenClassification, rank: int) -> None:
    """
    Puts an adapter beside each linear layer of the text tower (attention and MLP) that is trained, and trains nothing
    else of that tower. Heads, CRF and image tower are trained or frozen as before.

    Args:
        rank: of the adapters, 1 or more; they are scaled by two.

    Raises:
        ValueError: the rank is less than 1, or nothing of the tower is trained.
        ImportError: `peft` is not installed.
    """
    if rank < 1:
        raise ValueError(f"--lora_rank is {rank}; expected 1 or more, such as 8.")
    tower = model.model.text_model
    layers = {name: layer for name, layer in tower.named_modules() if isinstance(layer, nn.Linear)}
    trained = [name for name, layer in layers.items() if layer.weight.requires_grad]
    if not trained:
        raise ValueError(
            f"--lora_rank {rank} adapts linear layers of the text tower that are trained, and {type(tower).__name__} "
            "has none: leave out --freeze_text_model, or --lora_rank."
        )
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("--lora_rank needs peft: pip install -c constraints.txt -e '.[train,lora]'") from error

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=trained), tower)
    model.config.lora_rank = rank  # in checkpoints, which are read again only to go on
    weights = sum(parameter.numel() for parameter in tower.parameters() if parameter.requires_grad)
    logger.info(f"LoRA: adapters of rank {rank} on {len(trained)} layers of the text tower, {weights:,} weights.")


def merge_adapters(model: TwoMNERForTokenClassification) -> None:
    """Adds the adapters to the weights beside them, so that the model is a plain one again; without any, nothing."""
    tower = model.model.text_model
    for name, layer in list(tower.named_modules()):
        if hasattr(layer, "get_base_layer"):
            layer.merge()
            tower.set_submodule(name, layer.get_base_layer(), strict=True)
    if getattr(model.config, "lora_rank", None) is not None:
        del model.config.lora_rank, tower.peft_config
