"""Retrieval: find the other images of the same class, by cosine.

Each example of the test split is a query in turn, all the others are ranked. `recall_at_k`: the
share of queries with one of their class among the k nearest, as in Oh Song, Xiang, Jegelka,
Savarese. Deep Metric Learning via Lifted Structured Feature Embedding. CVPR 2016. arXiv:1511.06452
(section 5). `map`: the mean over queries of average precision, that of precision at the rank of
each example of their class; Philbin, Chum, Isard, Sivic, Zisserman. Object retrieval with large
vocabularies and fast spatial matching. CVPR 2007. No example is trained on. Of equally near
examples the first in the split is ahead. A query that is alone in its class is left out.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench import neighbors
from sslbench.classification import examples
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.task import Result, Score, Task

KS = (1, 5, 10)


class Retrieval(Task):
    """Mean average precision and recall of the examples of a query's class."""

    paper = "arXiv:1511.06452"
    modality = "any"
    metric = "map"
    version = 1
    target = "label"

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Rank the test split for each of its examples."""
        test = examples(encoder, data, "test")
        _, place, count = np.unique(test.labels, return_inverse=True, return_counts=True)
        queries = np.flatnonzero(count[place] > 1)
        if not len(queries):
            raise NotApplicable(f"{data.name}: no class has two test examples")
        z = F.normalize(torch.tensor(test.features), dim=1)
        labels = torch.from_numpy(place)
        step = max(1, neighbors.SIMILARITIES // (8 * len(z)))
        parts = [_ranked(z, labels, index) for index in torch.from_numpy(queries).split(step)]
        scores = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        places = None if len(queries) == len(z) else queries
        return Result({name: Score.mean(s) for name, s in scores.items()}, places=places)

    def chance(self, data: Dataset) -> float:
        """Expected mean average precision of a random order, exact.

        With R of N candidates to be found, it is h + (1 − h) (R − 1) / (N − 1), where h is the
        N-th harmonic number over N: the expected share of the rank that a query's own hit makes up.
        """
        labels = data["test"].labels
        if labels is None or labels.ndim != 1:
            return 0.0
        N = len(labels) - 1
        R = np.bincount(np.unique(labels, return_inverse=True)[1])
        h = float((1 / np.arange(1, N + 1)).sum() / N)
        values = h + (1 - h) * (R - 2) / max(N - 1, 1)
        return float(np.average(values[R > 1], weights=R[R > 1]))


def _ranked(z: Tensor, labels: Tensor, queries: Tensor) -> dict[str, np.ndarray]:
    """Scores (q,) by metric of the queries at some positions among z (n, D)."""
    similarity = z[queries] @ z.T
    similarity[torch.arange(len(queries)), queries] = torch.inf
    order = similarity.argsort(dim=1, descending=True, stable=True)[:, 1:]
    right = (labels[order] == labels[queries, None]).double()  # (q, n − 1)
    precision = right.cumsum(1) / torch.arange(1, len(z))
    scores = {"map": (right * precision).sum(1) / right.sum(1)}
    scores |= {f"recall_at_{k}": right[:, :k].amax(1) for k in KS}
    return {name: values.numpy() for name, values in scores.items()}
