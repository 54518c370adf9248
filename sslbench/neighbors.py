"""Exact nearest neighbours by cosine, and the vote that they cast."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.classification import encode
from sslbench.threads import spread

_CELL = 16  # similarities that are represented by the largest of them in a first selection
SIMILARITIES = 1 << 26  # held at a time, 256 MB


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
    rows = bank.new_empty(len(bank) + -len(bank) % _CELL**2, bank.shape[1])
    F.normalize(bank, dim=1, out=rows[: len(bank)])
    rows[len(bank) :] = 0
    step = max(1, SIMILARITIES // len(rows))
    buffer = rows.new_empty(min(step, len(queries)), len(rows))  # as large as the product is slow
    # Made at first: kept in pieces until they are joined, they would be held several times.
    cosines = rows.new_empty(len(queries), k)
    index = torch.empty(len(queries), k, dtype=torch.int64, device=rows.device)
    each = (x.split(step) for x in (queries, cosines, index))
    for chunk, *outputs in zip(*each, strict=True):
        similarity = torch.mm(F.normalize(chunk, dim=1), rows.T, out=buffer[: len(chunk)])
        similarity[:, len(bank) :] = -torch.inf
        parts = similarity.chunk(4 * torch.get_num_threads()) if bank.is_cpu else (similarity,)
        found = zip(*spread(partial(_first_nearest, k=k), parts), strict=True)
        for out, pieces in zip(outputs, found, strict=True):
            torch.cat(pieces, out=out)
    return cosines, index


def _first_nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row (n, N), in descending order, and of equal ones the first."""
    index = _largest(similarity, min(k + 1, similarity.shape[1]))
    value = similarity.gather(1, index)
    order = _descending(value)
    value, index = value.gather(1, order), index.gather(1, order)
    tied = (value[:, 1:] == value[:, :-1]).any(1).nonzero().flatten()
    if len(tied):
        own, _ = index[tied].sort(dim=1)
        order = similarity[tied].gather(1, own).argsort(dim=1, descending=True, stable=True)
        index[tied] = own.gather(1, order)
    for row in (value[:, k:] == value[:, k - 1 : k]).any(1).nonzero().flatten().tolist():
        equal = (similarity[row] >= value[row, k - 1]).nonzero().flatten()  # one was left out
        first = similarity[row, equal].sort(descending=True, stable=True).indices[:k]
        index[row, :k] = equal[first]
    return value[:, :k].contiguous(), index[:, :k].contiguous()


def _largest(x: Tensor, k: int) -> Tensor:
    """Positions (n, k) of the k largest of each row (n, N), in any order, any of equal ones.

    A long row is folded into cells: the k cells with the largest maxima hold the k largest
    entries, so the rest of the row is not looked at again.
    """
    n, N = x.shape
    if N % _CELL or 4 * k * _CELL > N:
        return _top(x, k)
    cells = N // _CELL
    best = _largest(x.view(n, _CELL, cells).amax(1), k)
    inside = torch.arange(_CELL, device=x.device)[:, None] * cells
    candidates = (best[:, None] + inside).flatten(1)  # (n, _CELL · k)
    return candidates.gather(1, _top(x.gather(1, candidates), k))


def _top(x: Tensor, k: int) -> Tensor:
    """As `_largest`, of rows that are not folded; on a CPU, NumPy takes a third of the time."""
    if not x.is_cpu:
        return x.topk(k, sorted=False).indices
    values, (n, N) = x.numpy(), x.shape
    least = np.partition(values, N - k, axis=1)[:, N - k, None]
    index = np.flatnonzero(values >= least)
    if len(index) == n * k:
        return torch.from_numpy(index.reshape(n, k) % N)
    return torch.from_numpy(np.argpartition(values, N - k, axis=1)[:, N - k :])  # equal ones


def _descending(x: Tensor) -> Tensor:
    """Order (n, k) of each row of (n, k) values; on a CPU, NumPy takes a third of the time."""
    if not x.is_cpu:
        return x.argsort(dim=1, descending=True)
    return torch.from_numpy(np.argsort(-x.numpy(), axis=1))


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
    parts = (x.split(max(1, SIMILARITIES // (8 * classes))) for x in (similarity, labels, truth))
    for near, label, true in zip(*parts, strict=True):
        # relative to the nearest, so that no temperature overflows
        weight = ((near - near.amax(1, keepdim=True)).double() / temperature).exp()
        votes = weight.new_zeros(len(near), classes).scatter_add_(1, label, weight)
        own = votes.gather(1, true.clamp(min=0)[:, None])
        ahead = (votes > own) | ((votes == own) & (number < true[:, None]))
        absent = (true < 0) | (own[:, 0] == 0)
        ranks.append(torch.where(absent, classes, ahead.sum(1)))
    return torch.cat(ranks)


def knn_correct(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    k: int = 20,
    temperature: float = 0.07,
) -> np.ndarray:
    """Whether (n,) bool each test example is classified correctly; arguments as `knn_accuracy`."""
    classes, encoded = np.unique(train_labels, return_inverse=True)
    near, index = nearest(torch.tensor(train_features), torch.tensor(test_features), k)
    truth = torch.from_numpy(encode(test_labels, classes))
    labels = torch.from_numpy(encoded)[index]
    return (label_rank(near, labels, truth, len(classes), temperature) == 0).numpy()


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
    bank = (train_features, train_labels)
    return float(knn_correct(*bank, test_features, test_labels, k, temperature).mean())
