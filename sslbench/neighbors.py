"""Exact nearest neighbours by cosine, and the vote that they cast."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.classification import encode

_CELL = 16  # rows of the bank that are represented by their best one in the first selection
_SIMILARITIES = 1 << 26  # held at a time, 256 MB


def nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k rows of the bank most similar to each query; of equal ones, the first in the bank.

    Similarities are computed in float32, which their order depends on: two that differ by less
    than about 1e-7 may change places from one machine to another.

    Args:
        bank: (N, D) features, not all zero.
        queries: (n, D) features.
        k: at least 1; all N rows if there are fewer.

    Returns:
        Cosines (n, k) and rows of the bank (n, k), nearest first.
    """
    k = min(k, len(bank))
    width = _CELL if len(bank) >= 4 * k * _CELL else 1
    padding = -len(bank) % width
    rows = F.pad(F.normalize(bank, dim=1), (0, 0, 0, padding))
    found = []
    for chunk in queries.split(max(1, _SIMILARITIES // len(rows))):
        similarity = F.normalize(chunk, dim=1) @ rows.T
        similarity[:, len(bank) :] = -torch.inf
        found.append(_top(similarity, k, width))
    similarity, index = (torch.cat(part) for part in zip(*found, strict=True))
    return similarity, index


def _top(similarity: Tensor, k: int, width: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row (n, N), with the first of equal ones.

    The row is folded into cells of `width` entries. The k cells with the largest maxima hold the
    k largest entries, so the rest of the row is not looked at again.
    """
    n, cells = len(similarity), similarity.shape[1] // width
    best = similarity.view(n, width, cells).amax(1).topk(min(k + 1, cells))
    inside = torch.arange(width, device=similarity.device)[:, None] * cells
    candidates = (best.indices[:, None, :k] + inside).flatten(1)  # (n, width · k)
    values = similarity.gather(1, candidates)
    top = values.topk(k)
    index, order = candidates.gather(1, top.indices).sort(dim=1)
    value, order = top.values.gather(1, order).sort(dim=1, descending=True, stable=True)
    index = index.gather(1, order)
    last = value[:, -1:]
    tied = ((values >= last).sum(1) > k) | (best.values[:, k:] >= last).any(1)
    for row in tied.nonzero().flatten().tolist():  # entries left out are equal to some taken
        equal = (similarity[row] >= last[row]).nonzero().flatten()
        first = similarity[row, equal].sort(descending=True, stable=True).indices[:k]
        value[row], index[row] = similarity[row, equal[first]], equal[first]
    return value, index


def label_rank(
    similarity: Tensor, labels: Tensor, truth: Tensor, classes: int, temperature: float
) -> Tensor:
    """Place (n,) int64 of the true class when neighbours vote with exp(similarity / temperature).

    0 is the winner; of classes with equally many votes, the one with the lower number is ahead.
    A class without any vote takes the last place, `classes`.

    Args:
        similarity: (n, k) to the neighbours.
        labels: (n, k) int64 classes of the neighbours, in 0 … classes − 1.
        truth: (n,) int64 true classes, −1 for one that no neighbour can have.
        classes: number of classes.
        temperature: above 0.
    """
    ranks = []
    number = torch.arange(classes, device=labels.device)
    parts = (x.split(max(1, _SIMILARITIES // (8 * classes))) for x in (similarity, labels, truth))
    for near, label, true in zip(*parts, strict=True):
        # relative to the nearest, so that no temperature overflows
        weight = ((near - near.amax(1, keepdim=True)).double() / temperature).exp()
        votes = weight.new_zeros(len(near), classes).scatter_add_(1, label, weight)
        own = votes.gather(1, true.clamp(min=0)[:, None])
        ahead = (votes > own) | ((votes == own) & (number < true[:, None]))
        absent = (true < 0) | (own[:, 0] == 0)
        ranks.append(torch.where(absent, classes, ahead.sum(1)))
    return torch.cat(ranks)


def knn_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of test examples that their nearest training examples classify correctly.

    Args:
        train_features: (N, D).
        train_labels: (N,), any integers.
        test_features: (n, D).
        test_labels: (n,).
        k: number of neighbours; all N if there are fewer.
        temperature: of the votes.
    """
    classes, encoded = np.unique(train_labels, return_inverse=True)
    near, index = nearest(torch.tensor(train_features), torch.tensor(test_features), k)
    truth = torch.from_numpy(encode(test_labels, classes))
    labels = torch.from_numpy(encoded)[index]
    rank = label_rank(near, labels, truth, len(classes), temperature)
    return float((rank == 0).double().mean())
