"""Few-shot episodes: drawing them, and classifying all of them at once."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.errors import NotApplicable
from sslbench.random import Random

_VALUES = 1 << 18  # features gathered at a time: 1 MB, what a core's cache holds


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


def classify(features: Tensor, support: Tensor, queries: Tensor, shots: list[int]) -> Tensor:
    """Whether the mean of a query's own class is the nearest: (len(shots), E, ways, queries) bool.

    Args:
        features: (n, D).
        support: (E, ways, most shots) positions of labelled examples.
        queries: (E, ways, queries) positions of examples to classify.
        shots: how many of the labelled examples to use, from the first; one result for each.
    """
    E, ways, count = queries.shape
    D, truth = features.shape[1], torch.arange(ways)[:, None]
    means = torch.stack([_means(features, support[..., :k]) for k in shots], dim=1)
    columns = means.flatten(1, 2).mT  # (E, D, shots · ways)
    found = features.new_empty(E, ways * count, len(shots) * ways)
    rows = min(E, max(1, _VALUES // (ways * count * D)))
    # Written again for each part: to ask for memory takes longer than to fill it.
    gathered = features.new_empty(rows, ways * count, D)
    for out, asked, column in zip(
        found.split(rows), queries.split(rows), columns.split(rows), strict=True
    ):
        own = gathered[: len(out)]
        torch.index_select(features, 0, asked.flatten(), out=own.view(-1, D))
        torch.bmm(own, column, out=out)
    found = found.unflatten(2, (len(shots), ways)) - means.square().sum(3)[:, None] / 2
    nearest = found.argmax(3)  # (E, ways · queries, shots)
    correct: Tensor = nearest.movedim(2, 0).unflatten(2, (ways, count)) == truth
    return correct


def _means(features: Tensor, positions: Tensor) -> Tensor:
    """Mean (E, ways, D) of the features at `positions` (E, ways, shots)."""
    ways = positions.shape[1]
    return F.embedding_bag(positions.flatten(0, 1), features).view(-1, ways, features.shape[1])
