"""What pictures look like, roughly, and how far that alone tells a label: the shortcut that a model may take.

Features by hand, not by a pretrained network: what even they tell, any model will find.
"""

import heapq
import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from scipy.stats import entropy
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..building.draws import uniform

FOLDS = 5
KINDS = 8
MAX_COMPONENTS = 24
THUMBNAIL_SIDE = 8
COLOUR_LEVELS = 4
EDGE_SIDE = 4
MAX_GAIN = 0.1
"""Of the majority's errors, the share that pictures may avoid before they are said to tell the label."""
MIN_PICTURES = 40
"""Fewer pictures, or fewer groups of them than ``FOLDS``, say nothing about their look."""


def features(image: Image.Image) -> np.ndarray:
    """(N,) float32: a thumbnail, a histogram of colours, the density of edges by place, and the shape."""
    small = image.convert("RGB").resize((64, 64), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float32) / 255
    side = THUMBNAIL_SIDE
    thumbnail = pixels.reshape(side, 64 // side, side, 64 // side, 3).mean((1, 3)).reshape(-1)
    levels = np.minimum((pixels * COLOUR_LEVELS).astype(int), COLOUR_LEVELS - 1).reshape(-1, 3)
    colour = levels @ np.array([COLOUR_LEVELS**2, COLOUR_LEVELS, 1])
    # The root makes small shares count: what matters of a colour is whether it is there.
    histogram = np.sqrt(np.bincount(colour, minlength=COLOUR_LEVELS**3) / len(colour))
    grey = pixels.mean(2)
    edges = np.hypot(np.diff(grey, axis=0, append=grey[-1:]), np.diff(grey, axis=1, append=grey[:, -1:]))
    density = edges.reshape(EDGE_SIDE, 64 // EDGE_SIDE, EDGE_SIDE, 64 // EDGE_SIDE).mean((1, 3)).reshape(-1)
    shape = [math.log(image.width / image.height), grey.mean(), grey.std(), (pixels.max(2) - pixels.min(2)).mean()]
    return np.concatenate([thumbnail, histogram, density, shape]).astype(np.float32)


class Sample:
    """The features of a random sample of pictures: those whose draws, by seed and name, are the least.

    Args:
        size: pictures at most.
        seed: of the draws.
    """

    def __init__(self, size: int, seed: int):
        self._size, self._seed = size, seed
        self._heap: list[tuple[float, int]] = []
        self._features: dict[int, np.ndarray] = {}

    def offer(self, number: int, name: str, image: Image.Image) -> None:
        """Look at a picture, if it is drawn. ``number`` is what it is called in ``features``; each comes once."""
        draw = uniform(self._seed, "sample", name)
        if len(self._heap) == self._size and (not self._size or -self._heap[0][0] <= draw):
            return
        self._features[number] = features(image)
        heapq.heappush(self._heap, (-draw, number))
        if len(self._heap) > self._size:
            del self._features[heapq.heappop(self._heap)[1]]

    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) the numbers of the pictures drawn, ascending, and (N, F) their features."""
        numbers = sorted(self._features)
        stacked = np.stack([self._features[number] for number in numbers]) if numbers else np.zeros((0, 0), np.float32)
        return np.array(numbers, int), stacked


@dataclass
class Predictability:
    """How far a picture alone tells a label, measured on labels counted by picture.

    Attributes:
        target: what is told: ``entity type`` or ``relation``.
        how: ``seen`` (the same picture in training) or ``look`` (a classifier of its features).
        where: the parts of the datasets concerned.
        classes: the labels.
        labels: how many labels were to be told.
        pictures: of how many pictures.
        accuracy: the share told rightly.
        majority: the share that the most frequent label alone gets right.
        spread: the standard deviation of ``accuracy - majority`` over the folds; ``None`` without folds.
        contingency: (kinds, classes) labels, where pictures were clustered by their look into kinds.
        information: the mutual information of kind and label, normalised by their mean entropy, in [0, 1].
    """

    target: str
    how: str
    where: str
    classes: list[str]
    labels: int
    pictures: int
    accuracy: float
    majority: float
    spread: float | None = None
    contingency: list[list[int]] = field(default_factory=list)
    information: float | None = None

    @property
    def gain(self) -> float:
        """The share of the majority's errors that the picture avoids; at most 1, and 0 where it tells nothing."""
        return (self.accuracy - self.majority) / (1 - self.majority) if self.majority < 1 else 0.0

    @property
    def tells(self) -> bool:
        """Whether the gain is more than ``MAX_GAIN``, and the accuracy better by more than chance would make it: three
        standard errors, with as many trials as pictures."""
        error = math.sqrt(self.accuracy * (1 - self.accuracy) / self.pictures)
        return self.gain > MAX_GAIN and self.accuracy - self.majority > 3 * error


def told_by_look(
    target: str, where: str, classes: list[str], look: np.ndarray, counts: np.ndarray, groups: np.ndarray, seed: int
) -> Predictability | None:
    """Cross-validate a logistic regression of the look of pictures, and cluster them into kinds.

    Args:
        look: (pictures, F) features.
        counts: (pictures, classes) how often a picture stands beside each label.
        groups: (pictures,) pictures of one group, as near-duplicates are, are never in two folds.
        seed: of the folds and clusters.

    Returns:
        ``None`` where there are too few pictures or classes to say.
    """
    used = counts.sum(1) > 0
    look, counts, groups = look[used], counts[used], groups[used]
    if len(look) < MIN_PICTURES or len(np.unique(groups)) < FOLDS or (counts.sum(0) > 0).sum() < 2:
        return None
    picture, label = np.nonzero(counts)
    weight = counts[picture, label]
    most = counts.sum(0).argmax()
    right, gains = 0, []
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(look, groups=groups):
        inside = np.isin(picture, train)
        if len(np.unique(label[inside])) < 2:
            return None
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        # A picture counts as often as it is used, but no fold is ruled by one that is everywhere.
        balanced = weight[inside] / np.sqrt(counts.sum(1)[picture[inside]])
        model.fit(look[picture[inside]], label[inside], logisticregression__sample_weight=balanced)
        told = model.predict(look[test])
        mine = counts[test, told].sum()
        right += mine
        gains.append((mine - counts[test, most].sum()) / counts[test].sum())
    kinds = _kinds(look, seed)
    table = np.zeros((kinds.max() + 1, counts.shape[1]), int)
    np.add.at(table, kinds, counts)
    labels = int(counts.sum())
    scores = float(right / labels), float(counts[:, most].sum() / labels), float(np.std(gains))
    return Predictability(
        target, "look", where, classes, labels, len(look), *scores, table.tolist(), _normalised_information(table)
    )


def told_by_memory(
    target: str, where: str, classes: list[str], train: np.ndarray, test: np.ndarray
) -> Predictability | None:
    """How far the labels that pictures have in training tell those that the same pictures have in test.

    Args:
        train, test: (pictures, classes) how often a picture stands beside each label.

    Returns:
        Over the labels of test whose picture training has; ``None`` where there are none.
    """
    seen = (train.sum(1) > 0) & (test.sum(1) > 0)
    labels = int(test[seen].sum())
    if not labels:
        return None
    right = test[seen, train[seen].argmax(1)].sum() / labels
    majority = test[seen].sum(0).max() / labels
    return Predictability(target, "seen", where, classes, labels, int(seen.sum()), float(right), float(majority))


def _kinds(look: np.ndarray, seed: int) -> np.ndarray:
    """(pictures,) the cluster of each picture, the largest first."""
    scaled = StandardScaler().fit_transform(look)
    reduced = PCA(min(MAX_COMPONENTS, *scaled.shape), random_state=seed).fit_transform(scaled)
    found = KMeans(KINDS, n_init=4, random_state=seed).fit_predict(reduced)
    rank = np.argsort(np.argsort(-np.bincount(found, minlength=KINDS), kind="stable"))
    return rank[found]


def _normalised_information(table: np.ndarray) -> float:
    mean_entropy = (entropy(table.sum(0)) + entropy(table.sum(1))) / 2
    return float(mutual_info_score(None, None, contingency=table) / mean_entropy) if mean_entropy else 0.0
