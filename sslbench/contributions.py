"""What each example contributes to a score that is no mean over examples.

Every function gives (n,) values whose mean is the score itself and whose spread is its standard
error: so intervals, groups and paired tests treat them like scores per example.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


def jackknife(value: float, left_out: Array) -> Array:
    """Tukey's pseudo-values, moved so that their mean is `value`.

    Args:
        value: the score of all n examples.
        left_out: (n,) the score without each of them.
    """
    moved: Array = value + (len(left_out) - 1) * (left_out.mean() - left_out)
    return moved


def ratio(numerators: Array, denominators: Array) -> Array:
    """Linearisation of Σ numerators / Σ denominators, (n,) each; 0 where nothing is counted.

    An example with a large denominator does not count as different for that alone.
    """
    total = float(denominators.sum())
    if total == 0:
        return np.zeros(len(denominators))
    share = numerators.sum() / total
    parts: Array = share + (numerators - share * denominators) * (len(denominators) / total)
    return parts


def pearson(x: Array, y: Array) -> Array:
    """Jackknife of the product-moment correlation of x and y, (n,) each; 0 if one is constant."""
    return _left_one_out(x, y, lambda values, i: np.delete(values, i))


def spearman(x: Array, y: Array) -> Array:
    """Jackknife of the correlation of the ranks of x and y, (n,) each; ties share their rank."""

    def without(ranks: Array, i: int) -> Array:
        above = (ranks > ranks[i]) + (ranks == ranks[i]) / 2  # ranks that i makes higher
        return np.delete(ranks - above, i)

    return _left_one_out(stats.rankdata(x), stats.rankdata(y), without)


def _left_one_out(x: Array, y: Array, without: Callable[[Array, int], Array]) -> Array:
    left_out = [_correlation(without(x, i), without(y, i)) for i in range(len(x))]
    return jackknife(_correlation(x, y), np.array(left_out))


def _correlation(x: Array, y: Array) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    dx, dy = x - x.mean(), y - y.mean()
    return float(np.clip(dx @ dy / np.sqrt((dx @ dx) * (dy @ dy)), -1, 1))
