"""Intervals and tests over examples, groups of examples and pretraining seeds.

All intervals hold 95 %, all tests are two-sided, and nothing is random from call to call: the
bootstrap draws from a fixed seed. Where too little was measured for an interval (one example, one
group, one seed), it is infinite, and p is 1.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

LEVEL = 0.05
RESAMPLES = 2_000
KEPT = 4_000  # groups at most of which the draws are kept for the next column: 64 MB

Array = NDArray[np.float64]
Scores = Sequence[Array] | Array  # by seed and example (K, n)
Labels = NDArray[Any]  # integers or strings


@dataclass(frozen=True)
class Difference:
    """A difference of two means, with its 95 % interval and two-sided p value."""

    value: float
    stderr: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Standing:
    """How the rows of one column compare with the best of them.

    Attributes:
        best: index of the best row.
        tied: per row, whether it is the best or cannot be told from it.
        p: per row, p value corrected by `against_best`; None where it was not tested.
    """

    best: int
    tied: list[bool]
    p: list[float | None]


def interval(examples: Array, groups: Labels | None = None) -> tuple[float, float, float]:
    """Standard error and 95 % interval of the mean.

    Scores that are all 0 or 1 get Wilson's interval (JASA 1927), others Student's, clipped to
    [0, 1] where all scores lie in it. With G groups, whole groups are resampled: the standard error
    is the bootstrap's, times √(G / (G − 1)), as a sample varies less than what it is drawn from.
    Student's interval then has G − 1 degrees of freedom. Wilson's is that of as many independent
    examples as have this standard error, n at most, with Student's t for z (Korn and Graubard,
    Survey Methodology 1998; Franco et al., J. Survey Stat. Methodol. 2019). Percentiles of the
    bootstrap would hold 91 to 94 % at 40 groups (by simulation, as in tests/test_simulations.py).

    Args:
        examples: score per example (n,).
        groups: label of each example's group (n,), such as the photograph it was cut from.

    Returns:
        Standard error, lower and upper bound.

    Raises:
        ValueError: no examples, a score that is not finite, or groups of another length.
    """
    x = _vector(examples)
    binary = _binary(x)
    if groups is not None:
        sums, counts = _by_group(x, groups)
        if np.ptp(x) == 0 and binary:  # nothing varies to be resampled; certainty would be false
            return (0.0, *_wilson(x[0], len(sums)))
        stderr, low, high = _clustered(sums, counts)
        if np.isinf(stderr):
            return stderr, low, high
        if binary:
            p = float(x.mean())
            effective = p * (1 - p) / max(stderr**2, p * (1 - p) / len(x))
            return (stderr, *_wilson(p, effective, _t(len(sums) - 1)))
    elif binary:
        p = float(x.mean())
        return (float(np.sqrt(p * (1 - p) / len(x))), *_wilson(p, len(x)))
    else:
        stderr, low, high = _student(x)
    if x.min() >= 0 and x.max() <= 1:
        low, high = max(low, 0.0), min(high, 1.0)
    return stderr, low, high


def paired(a: Array, b: Array, groups: Labels | None = None) -> Difference:
    """The difference of two mean scores on the same examples: a claim about two checkpoints.

    Scores that are all 0 or 1: the exact McNemar test (Psychometrika 1947) and the adjusted Wald
    interval of Bonett and Price (JEBS 2012). Others: the paired t test. With groups: the cluster
    bootstrap of `interval` for scores that are not 0 or 1, and p from the same t, which is not
    bounded below by the number of resamples and so survives a correction for many comparisons.

    Args:
        a: score per example (n,).
        b: the same for the other checkpoint, in the same order.
        groups: label of each example's group (n,).

    Raises:
        ValueError: as in `interval`, or a and b have different lengths.
    """
    x, y = _vector(a), _vector(b)
    if len(x) != len(y):
        raise ValueError(f"paired scores need the same examples; found {len(x)} and {len(y)}")
    difference = x - y
    value = float(difference.mean())
    if groups is not None:
        sums, counts = _by_group(difference, groups)
        stderr, low, high = _clustered(sums, counts)
        return Difference(value, stderr, low, high, _two_sided(value, stderr, len(sums) - 1))
    if _binary(x) and _binary(y):
        return _paired_binary(difference, value)
    stderr, low, high = _student(difference)
    return Difference(value, stderr, low, high, _two_sided(value, stderr, len(x) - 1))


def over_seeds(values: Sequence[float] | Array) -> tuple[float, float, float]:
    """Mean over seeds with Student's 95 % interval; infinite for one seed."""
    x = _vector(np.asarray(values, dtype=np.float64))
    _, low, high = _student(x)
    return float(_mean(x)), low, high


def hierarchical(a: Scores, b: Scores, groups: Labels | None = None) -> Difference:
    """The difference of two methods, over pretraining seeds and over examples that all share.

    The variance is the sum of what two levels contribute: the seeds of each method, and the
    examples (or groups) less the part of their spread that the seeds' means already contain, as
    in a two-way analysis of variance with random seeds and examples. Interval and p are Student's
    with Satterthwaite's degrees of freedom (Biometrics Bulletin 1946). This takes the place of a
    percentile bootstrap over seeds, then examples, because that one resamples 2 or 3 seeds: where
    seeds matter it calls 10 to 19 % of equal methods different, and where they do not matter it
    counts their disagreement on single examples up to three times.

    A method with one seed contributes no variance over seeds: the claim is about its checkpoint.

    Args:
        a: per seed, the score per example (n,).
        b: the same for the other method; its number of seeds may differ.
        groups: label of each example's group (n,).

    Raises:
        ValueError: as in `interval`, or the numbers of examples differ.
    """
    return _two_levels(_side(a, groups), _side(b, groups))


def paired_or_hierarchical(a: Scores, b: Scores, groups: Labels | None = None) -> Difference:
    """`paired` where each side is one seed, else `hierarchical`, whose arguments it takes."""
    if len(a) == len(b) == 1:
        return paired(a[0], b[0], groups)
    return hierarchical(a, b, groups)


def holm(p: Sequence[float] | Array) -> Array:
    """P values corrected for their number by Holm's step-down method (Scand. J. Stat. 1979)."""
    return _stepwise(p, np.arange(len(p), 0, -1))


def against_best(p: Sequence[float] | Array) -> Array:
    """P values of k − 1 rows against the best of all k, corrected for their number and its choice.

    The data chose the best, so any two rows could have been compared: the smallest p is multiplied
    by the number of pairs among the k, the next by that among the k − 1 left when its row is told
    from the best, and so on. These are Holm's steps, but over pairs, of which only those of rows
    as good as the best can be wrong (compare Shaffer, JASA 1986). Holm's method over the k − 1, for
    a best that was chosen in advance, calls one of 10 equal rows different in up to 17 % of the
    columns (by simulation, as in tests/test_simulations.py).
    """
    left = np.arange(len(p) + 1, 1, -1)
    return _stepwise(p, left * (left - 1) / 2)


def best_and_tied(
    values: Sequence[float],
    examples: Sequence[Scores | None],
    groups: Labels | None = None,
    higher_is_better: bool = True,
) -> Standing:
    """The best row of a column, and the rows that cannot be told from it.

    Each row is compared with the best on the examples that both saw (`paired_or_hierarchical`),
    `against_best` over the column. A row of equal value is tied; one without scores on the same
    examples is otherwise not tested and not called tied.

    Args:
        values: score per row, higher or lower is better as said.
        examples: per row, the score per example (n,) of each pretraining seed; None without them.
        groups: label of each example's group (n,).
        higher_is_better: direction of the score.

    Raises:
        ValueError: no rows.
    """
    if not len(values):
        raise ValueError("no rows to compare")
    scores = np.asarray(values, dtype=np.float64)
    best = int(np.argmax(scores if higher_is_better else -scores))
    reference = examples[best]
    p: dict[int, float] = {}
    if reference is not None:
        side = _side(reference, groups)
        for row, own in enumerate(examples):
            if row == best or own is None or len(own[0]) != len(reference[0]):
                continue
            if len(own) == len(reference) == 1:
                p[row] = paired(reference[0], own[0], groups).p
            else:
                p[row] = _two_levels(side, _side(own, groups)).p
    corrected = dict(zip(p, against_best(list(p.values())).tolist(), strict=True))
    tied = [bool(scores[row] == scores[best]) for row in range(len(scores))]
    tied = [same or corrected.get(row, 0.0) >= LEVEL for row, same in enumerate(tied)]
    return Standing(best, tied, [corrected.get(row) for row in range(len(scores))])


def _vector(values: Array) -> Array:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"scores must be a vector with at least one entry; found shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"scores must be finite; found {x[~np.isfinite(x)][0]}")
    return x


def _binary(x: Array) -> bool:
    return bool(((x == 0) | (x == 1)).all())


def _z() -> float:
    """As `_t`, of a normal distribution."""
    return float(special.ndtri(1 - LEVEL / 2))


def _t(freedom: float) -> float:
    """How many standard errors a 95 % interval reaches to each side."""
    return float(special.stdtrit(freedom, 1 - LEVEL / 2))


def _stepwise(p: Sequence[float] | Array, factors: NDArray[Any]) -> Array:
    """The smallest p times the first factor, and so on; none below one before it, none above 1."""
    raw = np.asarray(p, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(raw[order] * factors), 1.0)
    return adjusted


def _wilson(p: float, n: float, z: float | None = None) -> tuple[float, float]:
    z = _z() if z is None else z
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _student(x: Array) -> tuple[float, float, float]:
    if len(x) == 1:
        return np.inf, -np.inf, np.inf
    mean, stderr = float(_mean(x)), math.sqrt(_variance(x)) / math.sqrt(len(x))
    half = _t(len(x) - 1) * stderr
    return stderr, mean - half, mean + half


def _mean(x: Array) -> Any:
    """As x.mean(axis=0), in half the time for a few numbers."""
    return np.add.reduce(x) / len(x)


def _variance(x: Array) -> float:
    """As x.var(ddof=1) of a vector, in a third of the time for a few numbers."""
    apart = x - _mean(x)
    return float(np.add.reduce(apart * apart) / (len(x) - 1))


def _two_sided(value: float, stderr: float, freedom: float) -> float:
    if not np.isfinite(stderr) or value == 0:
        return 1.0
    return float(2 * special.stdtr(freedom, -abs(value) / stderr)) if stderr > 0 else 0.0


def _paired_binary(difference: Array, value: float) -> Difference:
    n, gained, lost = len(difference), int((difference > 0).sum()), int((difference < 0).sum())
    p = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    stderr = float(np.sqrt((up + down - (up - down) ** 2) / (n + 2)))
    half = _z() * stderr
    return Difference(value, stderr, max(up - down - half, -1.0), min(up - down + half, 1.0), p)


def _by_group(x: Array, groups: Labels) -> tuple[Array, Array]:
    """Sum and number of the scores of each group, (G,) each."""
    labels = np.asarray(groups)
    if labels.shape != x.shape:
        raise ValueError(f"groups must label each of {len(x)} examples; found {labels.shape}")
    index = np.unique(labels, return_inverse=True)[1]
    sums: Array = np.bincount(index, x).astype(np.float64)
    counts: Array = np.bincount(index).astype(np.float64)
    return sums, counts


class _Side(NamedTuple):
    """One of the two methods of `hierarchical`.

    Attributes:
        n: number of examples.
        mean: over seeds and examples.
        units: what each group (or example) adds to the mean (G,), see `_units`.
        over_seeds: variance of the mean over the seeds, with its degrees of freedom; None for one.
        counted: the part of it that the spread of the examples contains too.
    """

    n: int
    mean: float
    units: Array
    over_seeds: tuple[float, int] | None
    counted: float


def _side(seeds: Scores, groups: Labels | None) -> _Side:
    scores = np.asarray(seeds, dtype=np.float64)
    _vector(scores.ravel())
    K, n = scores.shape
    means = scores.mean(axis=1)
    units = _units(scores - means[:, None], groups)
    if K == 1:
        return _Side(n, float(means[0]), units[0], None, 0.0)
    G = units.shape[1]
    centre = _mean(units)
    counted = float(((units - centre) ** 2).sum()) / max((K - 1) * (G - 1) * G * K, 1)
    return _Side(n, float(_mean(means)), centre, (_variance(means) / K, K - 1), counted)


def _two_levels(a: _Side, b: _Side) -> Difference:
    """See `hierarchical`."""
    if a.n != b.n:
        raise ValueError(f"methods need the same examples; found {a.n} and {b.n}")
    value, G = a.mean - b.mean, len(a.units)
    if G == 1:
        return Difference(value, np.inf, -np.inf, np.inf, 1.0)
    parts = [side.over_seeds for side in (a, b) if side.over_seeds]
    of_examples = _variance(a.units - b.units) / G - a.counted - b.counted
    parts.append((max(of_examples, 0.0), G - 1))
    variance = sum(part for part, _ in parts)
    stderr = float(np.sqrt(variance))
    freedom = variance**2 / sum(part**2 / df for part, df in parts) if variance > 0 else G - 1
    half = _t(freedom) * stderr
    p = _two_sided(value, stderr, freedom)
    return Difference(value, stderr, value - half, value + half, p)


def _units(deviations: Array, groups: Labels | None) -> Array:
    """What each group (or example) adds to the mean of each seed: (K, n) to (K, G)."""
    if groups is None:
        return deviations
    sums = [_by_group(seed, groups)[0] for seed in deviations]
    units: Array = np.stack(sums) * (len(sums[0]) / deviations.shape[1])
    return units


def _clustered(sums: Array, counts: Array) -> tuple[float, float, float]:
    """Student's interval of sum / count, on its standard error with groups drawn again."""
    G = len(sums)
    if G == 1:
        return np.inf, -np.inf, np.inf
    means = np.concatenate([(times @ sums) / (times @ counts) for times in _draws(G)])
    stderr = float(means.std(ddof=1) * np.sqrt(G / (G - 1)))
    mean, half = float(sums.sum() / counts.sum()), _t(G - 1) * stderr
    return stderr, mean - half, mean + half


def _draws(groups: int) -> Iterable[Array]:
    """How often each group is drawn, RESAMPLES times in all, in blocks (draws, groups)."""
    return _kept(groups) if groups <= KEPT else _drawn(groups)


@lru_cache(maxsize=2)
def _kept(groups: int) -> list[Array]:
    return list(_drawn(groups))


def _drawn(groups: int) -> Iterator[Array]:
    random = np.random.default_rng(0)
    rows = max(1, 4_000_000 // groups)  # bounds the memory; the draws do not depend on it
    for start in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - start)
        yield random.multinomial(groups, np.full(groups, 1 / groups), size=size).astype(np.float64)
