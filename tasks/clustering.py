"""Clustering: k-means on frozen features, compared with the classes.

Van Gansbeke, Vandenhende, Georgoulis, Proesmans, Van Gool. SCAN: Learning to Classify Images
without Labels. ECCV 2020. arXiv:2005.12320 (section 3.1: as many clusters as classes, found on the
train split and scored on held-out images by accuracy after Hungarian matching, normalised mutual
information and adjusted Rand index).

Features are L2-normalised; of ten runs of k-means the one with the smallest sum of squares counts.
No label is seen before the test split's are compared with the clusters.

- `ari` in [−1/2, 1]: pairs of images that are together, or apart, in both; 0 for clusters drawn by
  chance, which is why it is the headline. Hubert, Arabie. Comparing Partitions. Journal of
  Classification 1985.
- `nmi` in [0, 1]: mutual information over the mean of both entropies; above 0 by chance.
- `hungarian_accuracy` in [0, 1]: share of the images whose cluster stands for their class, in the
  best one-to-one matching; its interval takes the matching as given.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import xlogy

from sslbench.classification import examples
from sslbench.contributions import jackknife
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError
from sslbench.kmeans import kmeans
from sslbench.task import Result, Score, Task

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
ITERATIONS = 50


class Clustering(Task):
    """Agreement of clusters with classes.

    Args:
        restarts: runs of k-means.
    """

    paper = "arXiv:2005.12320"
    modality = "any"
    metric = "ari"
    version = 1
    target = "label"

    def __init__(self, *, restarts: int = 10) -> None:
        if restarts < 1:
            raise UserError(f"restarts ≥ 1 expected, found {restarts}")
        self.restarts = restarts

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Cluster the train split, then compare the test split's nearest centroids."""
        train, test = (
            F.normalize(torch.tensor(examples(encoder, data, split).features), dim=1)
            for split in ("train", "test")
        )
        if len(train) < data.classes:
            raise NotApplicable(f"{data.name}: {len(train)} training examples, fewer than classes")
        centroids, _ = kmeans(
            train, data.classes, seed=seed, iterations=ITERATIONS, restarts=self.restarts
        )
        clusters = torch.cdist(test, centroids).argmin(1).numpy()
        labels = examples(encoder, data, "test").labels
        scores = {
            "ari": _of_pairs(labels, clusters),
            "nmi": _of_information(labels, clusters),
            "hungarian_accuracy": _matched(labels, clusters),
        }
        return Result({name: Score.mean(values) for name, values in scores.items()})

    def chance(self, data: Dataset) -> float:
        """Zero, which the index is adjusted to."""
        return 0.0


def _of_pairs(labels: Numbers, clusters: Numbers) -> Array:
    """Contributions (n,) to the adjusted Rand index: jackknife values."""
    both, own, other, total = _left_out(lambda count: count * (count - 1) / 2, labels, clusters)
    expected = own * other / np.maximum(total, 1)
    room = (own + other) / 2 - expected
    index = np.where(room > 0, (both - expected) / np.where(room > 0, room, 1), 1.0)
    return jackknife(float(index[0]), index[1:])


def _of_information(labels: Numbers, clusters: Numbers) -> Array:
    """Contributions (n,) to the normalised mutual information: jackknife values."""
    both, own, other, total = _left_out(lambda count: xlogy(count, count), labels, clusters)
    entropies = (total - own) + (total - other)
    shared = np.maximum(total + both - own - other, 0)
    index = np.where(entropies > 0, 2 * shared / np.where(entropies > 0, entropies, 1), 1.0)
    return jackknife(float(index[0]), index[1:])


def _left_out(
    f: Callable[[Array], Array], labels: Numbers, clusters: Numbers
) -> tuple[Array, Array, Array, Array]:
    """Σ f(n_ij), Σ f(n_i), Σ f(n_j) and f(n) of the table of counts.

    Each is (1 + n,): of all examples, then without each of them.
    """
    _, i = np.unique(labels, return_inverse=True)
    _, j = np.unique(clusters, return_inverse=True)
    _, pair = np.unique(i * (j.max() + 1) + j, return_inverse=True)
    sums = []
    for part in (pair, i, j, np.zeros_like(i)):
        counts = np.bincount(part).astype(np.float64)
        whole = f(counts).sum()
        changed = f(counts - 1) - f(counts)
        sums.append(np.concatenate([[whole], whole + changed[part]]))
    both, own, other, total = sums
    return both, own, other, total


def _matched(labels: Numbers, clusters: Numbers) -> Array:
    """Whether (n,) each example's cluster is the one matched to its class."""
    classes, i = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(classes), int(clusters.max()) + 1))
    np.add.at(counts, (i, clusters), 1)
    rows, columns = linear_sum_assignment(-counts)
    stands_for = np.full(counts.shape[1], -1)
    stands_for[columns] = rows
    return np.asarray(stands_for[clusters] == i, dtype=np.float64)
