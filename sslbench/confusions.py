"""Scores of segmentations from confusion matrices.

A matrix (K, K) counts pixels by their true class (row) and the predicted one (column); the scores
take any number of matrices, (…, K, K).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslbench.contributions import jackknife

IGNORED = 255  # of a mask's values: does not count

Array = NDArray[np.float64]
Counts = NDArray[Any]


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> NDArray[np.int64]:
    """The matrix (K, K) of one mask (H, W) and a prediction; ignored pixels do not count.

    Raises:
        ValueError: a true class that is none of the K and is not ignored.
    """
    counted = truth != IGNORED
    labels = truth[counted].astype(np.int64)
    if labels.size and labels.max() >= classes:
        raise ValueError(
            f"mask: classes 0 … {classes - 1} and {IGNORED} expected, found {labels.max()}"
        )
    pairs = labels * classes + predicted[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def iou(matrices: Counts) -> Array:
    """Intersection over union of each class (…, K); NaN where no pixel has or is given it."""
    right = _right(matrices)
    return _ratio(right, matrices.sum(-1) + matrices.sum(-2) - right)


def miou(matrices: Counts) -> Array:
    """Mean of `iou` over the classes that occur in truth or prediction (…)."""
    return _mean(iou(matrices))


def pixel_accuracy(matrices: Counts) -> Array:
    """Share of the pixels whose class is right (…); 0 without pixels."""
    return np.nan_to_num(_ratio(_right(matrices).sum(-1), matrices.sum((-2, -1))))


def mean_class_accuracy(matrices: Counts) -> Array:
    """Mean over the classes that occur in truth of the share that is right (…)."""
    return _mean(_ratio(_right(matrices), matrices.sum(-1)))


def contributions(score: Callable[[Counts], Array], matrices: Counts) -> Array:
    """Jackknife over images (n,) of a score of their summed matrices (n, K, K)."""
    total = matrices.sum(0)
    return jackknife(float(score(total)), score(total - matrices))


def _right(matrices: Counts) -> Counts:
    """(…, K) pixels on the diagonal."""
    return np.diagonal(matrices, axis1=-2, axis2=-1)


def _ratio(numerator: Counts, denominator: Counts) -> Array:
    """NaN where the denominator is 0."""
    nothing = np.full(np.shape(numerator), np.nan)
    ratio: Array = np.divide(numerator, denominator, out=nothing, where=denominator > 0)
    return ratio


def _mean(values: Array) -> Array:
    """Mean over the last axis without NaN; 0 where there is nothing else."""
    counted = ~np.isnan(values)
    mean: Array = np.where(counted, values, 0).sum(-1) / np.maximum(counted.sum(-1), 1)
    return mean
