"""Pretraining of the probe's tiny image tower: it learns to tell drawn motifs apart, as real towers know pictures."""

import logging
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoImageProcessor, AutoModel
from transformers.utils import logging as transformers_logging

from configuration_2mner import tower_width
from mmner.probe.drawings import DRAWINGS, draw_motif

logger = logging.getLogger(__name__)

MOTIFS = [motif for motifs in DRAWINGS.values() for motif in motifs]


def pretrain_on_drawings(
    folder: str | Path,
    *,
    num_pictures: int = 960,
    num_epochs: int = 8,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> float:
    """
    Trains an image tower, in place, to name the motif of a drawing: flag, map, portrait, logo, cover, ...

    The pictures are drawn for this purpose alone: none of a probe's is among them, and no sentence, name or entity
    type is. That a flag stands for a place is left to be learned from the probe's training sentences.

    Args:
        folder: of the tower and its image processor, as `make_tiny_towers` writes them.
        num_pictures: drawn once, in equal parts of each motif.
        num_epochs: passes over them.
        batch_size: pictures a step.
        learning_rate: of AdamW, after a warm-up falling linearly to zero.
        seed: of the pictures and their order.

    Returns:
        The share of freshly drawn pictures, a quarter as many, whose motif it names.
    """
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    tower = AutoModel.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    transformers_logging.set_verbosity(verbosity)

    # Apart from the probe's own seeds, which are small: the same picture is never drawn twice.
    rng = random.Random(f"pretraining {seed}")
    classes = torch.arange(num_pictures + num_pictures // 4) % len(MOTIFS)
    drawings = [draw_motif(MOTIFS[index], rng) for index in classes.tolist()]
    pixels = processor(images=drawings, return_tensors="pt")["pixel_values"]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(tower_width(tower.config), len(MOTIFS))
        parameters = [*tower.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
        steps = num_epochs * -(-num_pictures // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, learning_rate, total_steps=steps, anneal_strategy="linear"
        )
        tower.train()
        for _ in range(num_epochs):
            for batch in torch.randperm(num_pictures).split(batch_size):
                loss = F.cross_entropy(head(_pooled(tower, pixels[batch])), classes[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        tower.eval()
        with torch.no_grad():
            right = head(_pooled(tower, pixels[num_pictures:])).argmax(-1) == classes[num_pictures:]
    tower.save_pretrained(folder)
    accuracy = right.float().mean().item()
    logger.info(f"The tiny image tower names the motif of {100 * accuracy:.1f} % of fresh drawings.")
    return accuracy


def _pooled(tower: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """The mean over the cells or patches of an image tower's output: (N, C, H, W) -> (N, D)."""
    states = tower(pixel_values=pixels).last_hidden_state
    return states.flatten(2).mean(2) if states.dim() == 4 else states.mean(1)


__all__ = ["pretrain_on_drawings"]
