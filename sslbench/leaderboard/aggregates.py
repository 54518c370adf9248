"""What rows come to over the columns that all of them have, and how well their ranks are known.

Ranks are uncertain because the test examples are a sample and, for rows with several pretraining
seeds, because the seeds are. A Gaussian multiplier bootstrap draws both: scores of rows and tasks
on the same examples move together, and so do all the scores of one seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sslbench.statistics import LEVEL, Array, Labels, against_best

DRAWS = 500
BLOCK = 4_096  # examples at once, to bound the memory

Noise = NDArray[np.float32]  # what is added to a score in each draw


@dataclass(frozen=True)
class Aggregate:
    """A row over the shared columns.

    Attributes:
        mean: of the scores.
        normalised: mean of (score − chance) / (1 − chance): 0 is chance, 1 is without error.
        borda: rows that it is better than, summed over the columns; a tie counts half.
        win_rate: `borda` as a share of all comparisons.
        mean_rank: over the columns; 1 is best, equal scores share their rank.
        rank: place by mean rank; equal ones share the better place.
        rank_low: bounds of the place, 95 % of the draws.
        rank_high: the same.
        group: 1 for the best row and all that cannot be told from it, then so on for the rest.
    """

    mean: float
    normalised: float
    borda: float
    win_rate: float
    mean_rank: float
    rank: int
    rank_low: int
    rank_high: int
    group: int


def aggregates(values: Array, chance: Array, noise: Noise) -> list[Aggregate]:
    """Of each row.

    Args:
        values: scores (R, C), shares of which higher is better.
        chance: of each column (C,), below 1.
        noise: see `perturbations` (R, C, draws).
    """
    R, C = values.shape
    mean_rank = _mean_rank(values)
    borda = C * (R - mean_rank)
    drawn = _mean_rank(values[:, :, None] + noise)  # (R, draws)
    places = stats.rankdata(drawn, method="min", axis=0)
    rank = stats.rankdata(mean_rank, method="min").astype(int)
    low, high = np.quantile(places, (LEVEL / 2, 1 - LEVEL / 2), axis=1, method="inverted_cdf")
    normalised = ((values - chance) / (1 - chance)).mean(axis=1)
    group = groups(mean_rank, drawn)
    return [
        Aggregate(
            mean=float(values[row].mean()),
            normalised=float(normalised[row]),
            borda=float(borda[row]),
            win_rate=float(borda[row] / (C * (R - 1))) if R > 1 else 1.0,
            mean_rank=float(mean_rank[row]),
            rank=int(rank[row]),
            rank_low=int(min(low[row], rank[row])),
            rank_high=int(max(high[row], rank[row])),
            group=group[row],
        )
        for row in range(R)
    ]


def groups(mean_rank: Array, drawn: Array) -> list[int]:
    """Number the tie groups: the best with all that cannot be told from it; then so of the rest.

    The difference of two mean ranks is tested with its standard deviation over the draws,
    two-sided, and corrected for the number of rows and the choice of the best (`against_best`).

    Args:
        mean_rank: (R,).
        drawn: the same in each draw (R, draws).
    """
    group = np.zeros(len(mean_rank), int)
    while not group.all():
        left = np.flatnonzero(group == 0)
        best = left[np.argmin(mean_rank[left])]
        others = left[left != best]
        apart = mean_rank[others] - mean_rank[best]
        spread = (drawn[others] - drawn[best]).std(axis=1, ddof=1)
        z = np.divide(apart, spread, out=np.full_like(apart, np.inf), where=spread > 0)
        p = np.where(apart == 0, 1.0, 2 * stats.norm.sf(z))
        group[[best, *others[against_best(p) >= LEVEL]]] = group.max() + 1
    return group.tolist()


class Measurement(NamedTuple):
    """What is known of one score.

    Attributes:
        name: of its row.
        examples: score per example, over the pretraining seeds (n,); None where it has none.
        labels: groups of the examples (n,).
        seeds: score of each pretraining seed.
        standard_error: over the examples, used without them; None: nothing is known.
    """

    name: str
    examples: Array | None
    labels: Labels | None
    seeds: Mapping[int, float]
    standard_error: float | None


def perturbations(dataset: str, scores: Sequence[Measurement]) -> Noise:
    """What the draws add to the scores of one column (R, draws).

    Each example (or group of them) gets a standard normal weight in each draw, the same for all
    scores on one dataset; so does each seed, the same for all scores of a row, with the wider tails
    that Student's t has for few seeds.
    """
    noise = np.stack([_of_seeds(score) for score in scores])
    units: dict[int, Array] = {row: _units(score) for row, score in enumerate(scores)}
    for length in {len(own) for own in units.values()} - {0}:
        rows = [row for row, own in units.items() if len(own) == length]
        stacked = np.stack([units[row] for row in rows]).astype(np.float32)
        random = _random(dataset, length)
        for start in range(0, length, BLOCK):
            part = stacked[:, start : start + BLOCK]
            noise[rows] += part @ random.standard_normal((part.shape[1], DRAWS), np.float32)
    for row, score in enumerate(scores):
        if score.examples is None and score.standard_error:
            random = _random(dataset, score.name)
            noise[row] += score.standard_error * random.standard_normal(DRAWS)
    return noise.astype(np.float32)


def _units(score: Measurement) -> Array:
    """What each example or group adds to the score's distance from its expectation; or nothing."""
    if score.examples is None:
        return np.empty(0)
    units: Array = (score.examples - score.examples.mean()) / len(score.examples)
    if score.labels is None:
        return units
    return np.bincount(np.unique(score.labels, return_inverse=True)[1], units).astype(np.float64)


def _of_seeds(score: Measurement) -> Array:
    K = len(score.seeds)
    if K < 2:
        return np.zeros(DRAWS)
    values = np.array(list(score.seeds.values()))
    weights, tails = _weights(score.name, tuple(score.seeds)), _tails(score.name, K)
    spread: Array = (values - values.mean()) @ weights * tails / np.sqrt(K * (K - 1))
    return spread


@lru_cache(maxsize=1_000)  # the same in each column
def _weights(name: str, seeds: tuple[int, ...]) -> Array:
    return np.stack([_random(name, seed).standard_normal(DRAWS) for seed in seeds])


@lru_cache(maxsize=1_000)
def _tails(name: str, seeds: int) -> Array:
    freedom = seeds - 1
    tails: Array = np.sqrt(freedom / _random(name, "tails", seeds).chisquare(freedom, DRAWS))
    return tails


def _random(*what: object) -> np.random.Generator:
    return np.random.default_rng([crc32(str(part).encode()) for part in what])


def _mean_rank(values: Array) -> Array:
    """Over the columns, from (R, C) or (R, C, draws); column by column, as a cache holds one."""
    columns = range(values.shape[1])
    total: Array = sum(stats.rankdata(-values[:, column], axis=0) for column in columns)
    return total / len(columns)
