"""Few-shot episodes: drawing them, and classifying all of them at once."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.errors import NotApplicable
from sslbench.random import Random

_VALUES = 1 << 24  # features gathered at a time, 64 MB


def draw_episodes(labels: np.ndarray, ways: int, size: int, random: Random) -> Tensor:
    """Positions (E, ways, size) of `size` different examples of `ways` classes for each episode.

    Args:
        labels: (n,) of the examples; classes with fewer than `size` are left out.
        ways: classes per episode.
        size: examples per class.
        random: draws for the E episodes.

    Raises:
        NotApplicable: too few classes have enough examples.
    """
    classes, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    fit = torch.from_numpy(np.flatnonzero(counts >= size))
    if len(fit) < ways:
        raise NotApplicable(
            f"{ways} classes with {size} test examples each needed; "
            f"{len(fit)} of {len(classes)} classes have as many"
        )
    chosen = fit[random.permutation(len(fit))[:, :ways]]  # (E, ways)
    members = torch.from_numpy(np.argsort(place, kind="stable"))  # grouped by class
    count = torch.from_numpy(counts)
    first = count.cumsum(0) - count
    return members[first[chosen][..., None] + distinct(count[chosen], size, random)]


def distinct(count: Tensor, size: int, random: Random) -> Tensor:
    """`size` distinct numbers below each of `count` (E, W), in random order: (E, W, size).

    Floyd's algorithm (Bentley, Floyd. Communications of the ACM 1987): the work does not grow with
    the count. It makes a random set; the order is drawn afterwards.
    """
    uniform = random.uniform(count.shape[1], size)
    chosen = torch.full(uniform.shape, -1)
    for j in range(size):
        top = count - size + j
        draw = (uniform[..., j].double() * (top + 1)).long()
        taken = (chosen == draw[..., None]).any(-1)
        chosen[..., j] = torch.where(taken, top, draw)
    return chosen.gather(-1, random.uniform(count.shape[1], size).argsort(-1))


def classify(features: Tensor, support: Tensor, queries: Tensor) -> Tensor:
    """Whether the mean of a query's own class is the nearest: (E, ways, queries) bool.

    Args:
        features: (n, D).
        support: (E, ways, shots) positions of labelled images.
        queries: (E, ways, queries) positions of images to classify.
    """
    ways, count = queries.shape[1:]
    truth = torch.arange(ways)[:, None]
    rows = max(1, _VALUES // (ways * count * features.shape[1]))
    correct = []
    for labelled, asked in zip(support.split(rows), queries.split(rows), strict=True):
        means = F.embedding_bag(labelled.flatten(0, 1), features, mode="mean")
        means = means.view(len(labelled), ways, -1)
        found = features[asked.flatten(1)] @ means.mT  # (E, ways · queries, ways)
        nearest = (found - means.square().sum(2)[:, None] / 2).argmax(2)
        correct.append(nearest.view(asked.shape) == truth)
    return torch.cat(correct)
