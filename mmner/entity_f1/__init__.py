"""The metric: one implementation for training, reports, and `evaluate.load("mmner/entity_f1")`."""

from mmner.entity_f1.entity_f1 import Counts, Span, entity_scores, find_entities, groups_of

__all__ = ["Counts", "Span", "entity_scores", "find_entities", "groups_of"]
