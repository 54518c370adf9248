"""What classification protocols share: labelled features, and scores per example."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from sslbench.contributions import jackknife
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.features import features
from sslbench.random import Random


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
    return jackknife(float(value.mean()), left_out.mean(axis=1))


def correct(labels: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """`top1` and `mean_per_class` as scores per example (n,), of true and predicted labels (n,)."""
    right = (found == labels).astype(np.float64)
    return {"top1": right, "mean_per_class": per_class(right, labels)}


def accuracies(labels: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """`top1`, `mean_per_class`, `macro_f1` and `mcc` as scores per example (n,).

    Args:
        labels: the true labels (n,).
        found: the predicted ones (n,).
    """
    return {
        **correct(labels, found),
        "macro_f1": _of_counts(_macro_f1, labels, found),
        "mcc": _of_counts(_mcc, labels, found),
    }


def _of_counts(
    statistic: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    labels: np.ndarray,
    found: np.ndarray,
) -> np.ndarray:
    """Jackknife values (n,) of a statistic of how often classes are true, predicted and both."""
    classes, both = np.unique(np.concatenate([labels, found]), return_inverse=True)
    true, predicted = both[: len(labels)], both[len(labels) :]
    K = len(classes)
    counts = [np.bincount(c, minlength=K) for c in (true, predicted, true[true == predicted])]
    # All examples of one class with one prediction leave the same counts behind.
    cells, place = np.unique(true * K + predicted, return_inverse=True)
    a, b = np.eye(K)[cells // K], np.eye(K)[cells % K]
    without = statistic(*(c - gone for c, gone in zip(counts, (a, b, a * b), strict=True)))
    return jackknife(float(statistic(*counts)), without[place])


def _macro_f1(true: np.ndarray, predicted: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Mean over the classes that occur, counts (…, K), of 2 hits / (true + predicted)."""
    size = true + predicted
    f1 = 2 * hits / np.maximum(size, 1)
    return np.asarray(f1.sum(-1) / np.maximum((size > 0).sum(-1), 1))


def _mcc(true: np.ndarray, predicted: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Matthews' correlation of counts (…, K), in [−1, 1]; 0 where one side has a single class.

    Gorodkin. Comparing two K-category assignments by a K-category correlation coefficient.
    Computational Biology and Chemistry 2004.
    """
    n = true.sum(-1, dtype=np.float64)
    shared = hits.sum(-1) * n - (true * predicted).sum(-1)
    spread = (n**2 - (true**2).sum(-1)) * (n**2 - (predicted**2).sum(-1))
    return np.asarray(np.where(spread > 0, shared / np.sqrt(np.maximum(spread, 1)), 0.0))


def reduced(data: Dataset, train: int, seed: int) -> Dataset:
    """The dataset with a random `train` of its training examples, and as large a share to validate.

    Classes keep their shares as far as whole examples can; 0, or more than there are: all.
    """
    sizes = {"train": len(data["train"]), "validation": len(data["validation"])}
    if not 0 < train < sizes["train"]:
        return data
    splits = {"test": data["test"]}
    for draw, (name, n) in enumerate(sizes.items()):
        size = max(1, round(n * train / sizes["train"]))
        random = Random(seed, draw, torch.arange(n), n).uniform(1)[:, 0].numpy()
        splits[name] = data[name].take(np.sort(_stratified(data[name].labels, random)[:size]))
    return replace(data, splits=splits)


def _stratified(labels: np.ndarray | None, random: np.ndarray) -> np.ndarray:
    """An order (n,) by draws (n,), of which every beginning has each class in proportion."""
    order = random.argsort(kind="stable")
    if labels is None or labels.ndim != 1 or labels.dtype.kind == "f":
        return order
    _, place, count = np.unique(labels[order], return_inverse=True, return_counts=True)
    by_class = place.argsort(kind="stable")
    rank = np.empty(len(order))
    rank[by_class] = np.arange(len(order)) - (count.cumsum() - count)[place[by_class]]
    return np.asarray(order[((rank + 0.5) / count[place]).argsort(kind="stable")])
