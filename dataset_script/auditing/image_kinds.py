"""How far an image alone predicts a label: the shortcut that a model may take.

The features are made by hand, not by a pretrained network: what even they predict, any model will find.
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
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
    """(276,) float32: an 8 x 8 thumbnail, a histogram of 64 colours, the density of edges in 4 x 4 places, shape."""
    pixels = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BOX), dtype=np.float32) / 255
    thumbnail = pixels.reshape(8, 8, 8, 8, 3).mean((1, 3)).reshape(-1)
    colours = np.minimum((pixels * 4).astype(int), 3).reshape(-1, 3) @ np.array([16, 4, 1])
    # The root makes small shares count: what matters of a colour is whether it is there.
    histogram = np.sqrt(np.bincount(colours, minlength=64) / len(colours))
    grey = pixels.mean(2)
    edges = np.hypot(np.diff(grey, axis=0, append=grey[-1:]), np.diff(grey, axis=1, append=grey[:, -1:]))
    density = edges.reshape(4, 16, 4, 16).mean((1, 3)).reshape(-1)
    shape = [math.log(image.width / image.height), grey.mean(), grey.std(), (pixels.max(2) - pixels.min(2)).mean()]
    return np.concatenate([thumbnail, histogram, density, shape]).astype(np.float32)


@dataclass
class Predictability:
    """How far an image alone predicts a label.

    Attributes:
        target: ``entity type`` or ``relation``.
        by: ``look`` (a classifier of image features) or ``memory`` (the same image in training).
        where: the parts of the datasets concerned.
        labels: how many labels were predicted.
        images: of how many images.
        accuracy: the share predicted rightly.
        majority: the share that the most frequent label alone gets right.
    """

    target: str
    by: str
    where: str
    labels: int
    images: int
    accuracy: float
    majority: float

    @property
    def gain(self) -> float:
        """The share of the majority's errors that the image avoids; at most 1, and 0 where it predicts nothing."""
        return (self.accuracy - self.majority) / (1 - self.majority) if self.majority < 1 else 0.0

    @property
    def predicts(self) -> bool:
        """Whether the gain is more than ``MAX_GAIN``, and the accuracy higher by more than chance would make it: three
        standard errors, with as many trials as images."""
        error = math.sqrt(self.accuracy * (1 - self.accuracy) / self.images)
        return self.gain > MAX_GAIN and self.accuracy - self.majority > 3 * error


def predicted_by_look(
    target: str, where: str, look: np.ndarray, labels: Sequence[Counter[str]], groups: Sequence[Hashable], seed: int
) -> Predictability | None:
    """Cross-validates a logistic regression of image features.

    Args:
        target, where: as in ``Predictability``.
        look: (images, features).
        labels: (images,) how often each label stands beside each image.
        groups: (images,) equal for images that are nearly the same; they share a fold.
        seed: of the folds.

    Returns:
        ``None`` where there are too few images, or labels of one class only.
    """
    labelled = [number for number, mine in enumerate(labels) if mine]
    classes = sorted({label for mine in labels for label in mine})
    _, group = np.unique([str(groups[number]) for number in labelled], return_inverse=True)
    if len(labelled) < MIN_IMAGES or len(set(group)) < FOLDS or len(classes) < 2:
        return None
    look = look[labelled]
    counts = np.array([[labels[number][label] for label in classes] for number in labelled])
    image, label = counts.nonzero()
    # An image counts as often as it is used, but no fold is ruled by one that is everywhere.
    weight = counts[image, label] / np.sqrt(counts.sum(1)[image])
    right = 0
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(look, groups=group):
        inside = np.isin(image, train)
        if len(set(label[inside])) < 2:
            return None
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        model.fit(look[image[inside]], label[inside], logisticregression__sample_weight=weight[inside])
        right += counts[test, model.predict(look[test])].sum()
    total = int(counts.sum())
    accuracy, majority = float(right / total), float(counts.sum(0).max() / total)
    return Predictability(target, "look", where, total, len(labelled), accuracy, majority)


def predicted_by_memory(
    target: str, where: str, train: Mapping[Hashable, Counter[str]], test: Mapping[Hashable, Counter[str]]
) -> Predictability | None:
    """How far the most frequent label of an image in training predicts its labels in test.

    Args:
        target, where: as in ``Predictability``.
        train, test: image -> how often each label stands beside it.

    Returns:
        Over the labels of test whose image is in training; ``None`` where there are none, or of one class only.
    """
    seen = [image for image, labels in test.items() if labels and train.get(image)]
    total = sum((test[image] for image in seen), Counter())
    if len(total) < 2:
        return None
    # Of labels equally frequent, the first in the alphabet.
    right = sum(test[image][min(train[image], key=lambda label: (-train[image][label], label))] for image in seen)
    labels = total.total()
    majority = max(total.values()) / labels
    return Predictability(target, "memory", where, labels, len(seen), right / labels, majority)
