"""The metric: one implementation for training, reports, and `evaluate.load(mmner.entity_f1.PATH)`."""

from pathlib import Path

from mmner.entity_f1.entity_f1 import entity_scores, find_entities, groups_of

PATH = str(Path(__file__).parent)

__all__ = ["PATH", "entity_scores", "find_entities", "groups_of"]
