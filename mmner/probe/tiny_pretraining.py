"""Pretraining of the probe's tiny image tower: it learns to tell motifs apart, as real towers can tell objects."""

import logging
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoImageProcessor, AutoModel

from configuration_2mner import tower_width
from mmner.probe.drawings import DRAWINGS, draw

logger = logging.getLogger(__name__)

MOTIFS = [motif for motifs in DRAWINGS.values() for motif in motifs]


def pretrain_on_drawings(folder: str | Path, *, num_images: int = 960, num_epochs: int = 8, seed: int = 0) -> float:
    """
    Trains an image tower, in place, to name the motif of a drawing: flag, portrait, logo, cover, ...

    The images are drawn for this purpose alone: none of a probe's is among them, and no sentence, name or entity type
    is. That a flag stands for a place is left to be learned from the probe's training sentences.

    Returns the accuracy on freshly drawn images, a quarter as many as the `num_images` it is trained on.
    """
    tower = AutoModel.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")

    # Apart from the probe's own seeds, so that no image of a probe is drawn.
    rng = random.Random(f"pretraining {seed}")
    classes = torch.arange(num_images + num_images // 4) % len(MOTIFS)
    drawings = [draw(MOTIFS[index], rng) for index in classes.tolist()]
    pixels = processor(images=drawings, return_tensors="pt")["pixel_values"]  # (N, C, H, W)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(tower_width(tower.config), len(MOTIFS))

        def logits(pixels: torch.Tensor) -> torch.Tensor:
            return head(tower(pixel_values=pixels).last_hidden_state.flatten(2).mean(2))

        batches = [batch for _ in range(num_epochs) for batch in torch.randperm(num_images).split(32)]
        optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 3e-3, total_steps=len(batches), anneal_strategy="linear"
        )
        tower.train()
        for batch in batches:
            loss = F.cross_entropy(logits(pixels[batch]), classes[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        tower.eval()
        with torch.no_grad():
            right = logits(pixels[num_images:]).argmax(-1) == classes[num_images:]
    tower.save_pretrained(folder)
    accuracy = right.float().mean().item()
    logger.info(f"The tiny image tower names the motif of {100 * accuracy:.1f} % of fresh drawings.")
    return accuracy
