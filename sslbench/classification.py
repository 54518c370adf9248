"""What classification protocols share: labelled features, and scores per example."""

from typing import NamedTuple

import numpy as np

from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.features import features


class Examples(NamedTuple):
    """Features and labels of a split, in its order."""

    features: np.ndarray  # (n, D) float32
    labels: np.ndarray  # (n,) int64


def examples(encoder: Encoder, data: Dataset, split: str) -> Examples:
    """The last layer's features of a split, with one label per example.

    Raises:
        NotApplicable: the split has no labels, or several per example.
    """
    labels = data[split].labels
    if labels is None:
        raise NotApplicable(f"{data.name}: the {split} split has no labels")
    if labels.ndim != 1:
        raise NotApplicable(f"{data.name}: one label per example needed, it has several")
    (last,) = features(encoder, data[split]).values()
    return Examples(last, labels)


def join(first: Examples, second: Examples) -> Examples:
    """Two splits end to end."""
    features, labels = (np.concatenate(both) for both in zip(first, second, strict=True))
    return Examples(features, labels)


def encode(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Position (n,) int64 of each label in the sorted `classes` (K,), −1 where it is not there."""
    place = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return np.where(classes[place] == labels, place, -1).astype(np.int64)


def per_class(correct: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Scores per example (n,) whose mean is the mean over classes of each class's accuracy.

    Every class has the same weight: an example of a class with c of the n examples counts
    n / (c · classes) times. Only classes that occur in `labels` are counted.

    Args:
        correct: score per example (n,), in [0, 1].
        labels: the true labels (n,).
    """
    classes, place, count = np.unique(labels, return_inverse=True, return_counts=True)
    weight = len(labels) / (len(classes) * count)
    return np.asarray(correct * weight[place], dtype=np.float64)


def average_precision(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Scores per example (n,) whose mean is the mean average precision over classes.

    Average precision is the mean, over the examples of a class, of the precision among all that
    score at least as high; equal scores keep the order of the split. It is no mean over examples,
    so these are its jackknife values: what each example contributes, found by leaving it out.
    Their spread gives the standard error. Classes without a positive example are not counted.

    Args:
        scores: (n, C), higher for more likely.
        targets: (n, C) bool.

    Raises:
        ValueError: no class has a positive example.
    """
    used = targets.any(axis=0)
    if not used.any():
        raise ValueError("average precision needs a positive example of some class, found none")
    n = len(scores)
    order = np.argsort(-scores[:, used], axis=0, kind="stable")  # (n, C)
    hit = np.take_along_axis(targets[:, used], order, axis=0).astype(np.float64)
    rank = np.arange(1, n + 1)[:, None]
    found = hit.cumsum(axis=0)
    positives = found[-1]
    precision = hit * found / rank
    value = precision.sum(axis=0) / positives
    # Without example i, those before it keep their precision; those after it move up one place,
    # and find one positive fewer if i was one.
    before = precision.cumsum(axis=0) - precision
    moved = hit / np.maximum(rank - 1, 1)
    after = [(part.sum(axis=0) - part.cumsum(axis=0)) for part in (moved * found, moved)]
    without = (before + after[0] - hit * after[1]) / np.maximum(positives - hit, 1)
    without = np.where(positives - hit > 0, without, value)
    left_out = np.empty_like(without)
    np.put_along_axis(left_out, order, without, axis=0)
    mean = left_out.mean(axis=1)  # (n,) the mean over classes with one example left out
    return np.asarray(value.mean() + (n - 1) * (mean.mean() - mean), dtype=np.float64)
