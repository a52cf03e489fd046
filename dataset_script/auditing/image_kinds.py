"""How far an image alone predicts a label: the shortcut that a model may take.

The features are made by hand, not by a pretrained network: what even they predict, any model will find.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = 5
MIN_IMAGES = 40
"""Fewer images, or fewer groups of them than ``FOLDS``, say nothing about their look."""
MAX_GAIN = 0.1
"""The share of the majority's errors that images may avoid before they are said to predict the label."""


def features(image: Image.Image) -> np.ndarray:
    """(256,) float32: an 8 x 8 thumbnail and a histogram of 64 colours."""
    pixels = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BOX), dtype=np.float32) / 255
    thumbnail = pixels.reshape(8, 8, 8, 8, 3).mean((1, 3)).reshape(-1)
    colours = np.minimum((pixels * 4).astype(int), 3).reshape(-1, 3) @ np.array([16, 4, 1])
    # The root makes small shares count: what matters of a colour is whether it is there.
    histogram = np.sqrt(np.bincount(colours, minlength=64) / len(colours))
    return np.concatenate([thumbnail, histogram]).astype(np.float32)


@dataclass
class Predictability:
    """How far an image alone predicts a label."""

    target: str  # ``entity type`` or ``relation``
    dataset: str
    labels: int  # how many were predicted
    images: int  # of how many images
    accuracy: float  # the share predicted rightly
    majority: float  # the share that the most frequent label alone gets right

    @property
    def predicts(self) -> bool:
        """Whether the image avoids more than ``MAX_GAIN`` of the majority's errors, and more than chance would: three
        standard errors, with as many trials as images."""
        gain = self.accuracy - self.majority
        error = math.sqrt(self.accuracy * (1 - self.accuracy) / self.images)
        return gain > MAX_GAIN * (1 - self.majority) and gain > 3 * error


def predictability(
    target: str, dataset: str, look: Sequence[np.ndarray], labels: Sequence[Counter[str]], groups: Sequence[str]
) -> Predictability | None:
    """Cross-validates a logistic regression of image features; ``None`` for too few images, or labels of one class.

    Args:
        look: (images,) the features of each.
        labels: (images,) how often each label stands beside each image, at least one each.
        groups: (images,) equal for images that are nearly the same; they share a fold.
    """
    classes = sorted({label for mine in labels for label in mine})
    if len(look) < MIN_IMAGES or len(set(groups)) < FOLDS or len(classes) < 2:
        return None
    features, group = np.stack(look), np.unique(np.array(groups), return_inverse=True)[1]
    counts = np.array([[mine[label] for label in classes] for mine in labels])
    image, label = counts.nonzero()
    # An image counts as often as it is used, but no fold is ruled by one that is everywhere.
    weight = counts[image, label] / np.sqrt(counts.sum(1)[image])
    right = 0
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=0).split(features, groups=group):
        inside = np.isin(image, train)
        if len(set(label[inside])) < 2:
            return None
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        model.fit(features[image[inside]], label[inside], logisticregression__sample_weight=weight[inside])
        right += counts[test, model.predict(features[test])].sum()
    total = int(counts.sum())
    accuracy, majority = float(right / total), float(counts.sum(0).max() / total)
    return Predictability(target, dataset, total, len(look), accuracy, majority)
