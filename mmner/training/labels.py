"""Another set of labels for a trained model: what it knows of the types that stay is kept."""

import copy
from collections.abc import Sequence

import torch

from modeling_2mner import TwoMNERForTokenClassification


def types_of(labels: Sequence[str]) -> list[str]:
    """The entity types of IOB2 labels, in their order."""
    return [label[2:] for label in labels if label.startswith("B-")]


def with_labels(model: TwoMNERForTokenClassification, labels: Sequence[str]) -> TwoMNERForTokenClassification:
    """
    A model with other labels and the same towers, which both share. The rows of classifier, CRF and image head that
    belong to labels of both are copied; those of a new type begin as the mean of the types that there were, so that it
    is known where names begin and end.

    Args:
        model: with IOB2 labels.
        labels: in id order, e.g. `["O", "B-PER", "I-PER", "B-DISH", "I-DISH"]`.

    Raises:
        ValueError: the labels are not IOB2.
    """
    config = copy.deepcopy(model.config)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    towers = {name: tower for name, tower in model.model.named_children() if name.endswith("_model")}
    other = type(model)(config, **towers)

    known, given = model.config.labels, model.state_dict()
    kinds = types_of(known)
    # For each known type the rows of the labels, those of a new type replaced by its own.
    label_rows = [
        [known.index(label if label in known else f"{label[:2]}{kind}") for label in labels] for kind in kinds
    ]
    # The image head has a row for each type, and a last one for any entity.
    type_rows = [[kinds.index(new if new in kinds else kind) for new in types_of(labels)] + [-1] for kind in kinds]
    with torch.no_grad():
        for name, value in other.state_dict().items():
            rows = type_rows if name.startswith("evidence.image_types.") else label_rows
            if name == "crf.transitions":
                value.copy_(torch.stack([given[name][row][:, row] for row in rows]).mean(0))
            elif rows is type_rows or name.split(".")[0] in ("classifier", "crf"):
                value.copy_(torch.stack([given[name][row] for row in rows]).mean(0))
            else:
                value.copy_(given[name])
    return other.train(model.training)
