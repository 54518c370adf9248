"""A record's scores and intervals, computed again from its per-example scores."""

import math
from functools import lru_cache
from zipfile import BadZipFile

import numpy as np
from scipy import stats

from sslbench.errors import UserError
from sslbench.leaderboard.findings import Said
from sslbench.records import Record, Score, Store, unpack
from sslbench.statistics import LEVEL, Array, Labels, interval

# Protocols in which an answer is right or wrong, and how the metrics begin that count them. Others
# average several answers to an example (few_shot, k_shot_linear, robustness, tagging).
HITS = {
    "fine_tune": "top",
    "knn": "top",
    "linear_probe": "top",
    "linear_probe_sgd": "top",
    "multiple_choice": "top",
    "prompting": "top",
    "question_answering": "exact_match",
    "retrieval": "recall_at_",
    "sentence_pairs": "top",
    "text_classification": "top",
    "transfer": "top",
    "zero_shot": "top",
}
# Share of the scores' mean size; float32, as which records.jsonl has them, moves 6e-8 of it.
TOLERANCE = 1e-6
# What other draws of the bootstrap may move standard error and bounds, in standard errors: four
# times as much as between two sets of draws. NumPy's streams may change from version to version.
OTHER_DRAWS = np.array([0.1, 0.35, 0.35])
PERCENTILES = ("0.1.0",)  # versions whose intervals over groups were others, and too narrow


def examples(record: Record, store: Store | None) -> Said:
    """Scores that are not the mean of their per-example scores, and intervals that are others.

    All that have per-example scores are compared: by the contract of `sslbench.task.Score` their
    mean is the score, and F1, mAP, AUC and the like come as contributions of which that holds. In
    records.jsonl that is the headline and what `read_records` brings along.

    Args:
        record: with or without `inline`.
        store: where the file of its per-example scores is; None for records.jsonl.
    """
    try:
        arrays = _arrays(record, store)
    except (UserError, ValueError, OSError, EOFError, BadZipFile) as error:
        yield "problem", f"per-example scores: {error}"
        return
    groups = arrays.pop("groups", None)
    for metric, x in arrays.items():
        if (score := record.scores.get(metric)) is None:
            yield "problem", f"per-example scores of {metric!r}, which is not among the scores"
            continue
        if text := _compared(record, metric, score, x, groups):
            yield "problem", f"{metric}: {text}"
    score = record.scores.get(record.headline)
    if score is not None and record.headline not in arrays and not _alone(score):
        yield (
            "note",
            f"no per-example scores of {record.headline} came along: neither {score.value:.6g} "
            "nor its interval was computed again",
        )


def _arrays(record: Record, store: Store | None) -> dict[str, np.ndarray]:
    """Per-example scores by metric, and "groups". Raises ValueError, and what the store raises."""
    if record.inline is None:
        return {} if store is None else store.examples(record)
    return {name: _unpacked(name, text) for name, text in record.inline.items()}


def _unpacked(name: str, text: str) -> np.ndarray:
    try:
        return unpack(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _compared(
    record: Record, metric: str, score: Score, x: np.ndarray, groups: np.ndarray | None
) -> str | None:
    """What is wrong with one metric."""
    if x.ndim != 1 or x.dtype.kind not in "biuf" or not np.isfinite(x).all():
        return f"a vector of finite per-example scores expected, found {x.dtype} {x.shape}"
    if not len(x) == score.n <= (record.n_test or score.n):
        found = f"n = {score.n}, {len(x)} per-example scores, n_test = {record.n_test}"
        return f"n per-example scores expected, at most as many as in the test split; found {found}"
    x = x.astype(np.float64)
    others = x[(x != 0) & (x != 1)]
    if len(others) and metric.startswith(HITS.get(record.protocol, "\0")):
        return f"per-example scores of 0 and 1 expected, found {others[0]:.6g}"
    peak = float(np.abs(x).max()) or 1.0  # a sum of perplexities may be beyond float64
    close = TOLERANCE * peak * float(np.abs(x / peak).mean()) + 1e-9
    mean = peak * float((x / peak).mean())
    if not abs(mean - score.value) <= close:
        return f"{score.value:.9g}, but the mean of its {len(x)} per-example scores is {mean:.9g}"
    return _bounds(record, score, x, groups, close)


def _bounds(
    record: Record, score: Score, x: Array, groups: Labels | None, close: float
) -> str | None:
    """What is wrong with standard error and interval."""
    if groups is not None and len(groups) != len(x):
        groups = None
    if groups is not None and record.provenance.versions.get("sslbench") in PERCENTILES:
        return None
    again = np.array(_interval(x, groups))
    bounds = (score.standard_error, score.low, score.high)
    stated = np.array([math.nan if bound is None else bound for bound in bounds])
    slack = np.full(3, close)
    own = record.provenance.versions.get("numpy", "")
    if groups is not None and own.split(".")[:2] != np.__version__.split(".")[:2]:
        slack += OTHER_DRAWS * np.nan_to_num(again[0], posinf=0.0)
    with np.errstate(invalid="ignore"):  # the interval of a single group is infinite
        same = (stated == again) | (np.abs(stated - again) <= slack)
    return None if same.all() else f"{_shown(stated)}, but its examples give {_shown(again)}"


def _interval(x: Array, groups: Labels | None) -> tuple[float, float, float]:
    """As `interval`; of hits, of which there are most, it is kept for the next record."""
    if groups is None and ((x == 0) | (x == 1)).all():
        return _of_hits(int(x.sum()), len(x))
    return interval(x, groups)


@lru_cache(maxsize=100_000)
def _of_hits(right: int, n: int) -> tuple[float, float, float]:
    return interval((np.arange(n) < right).astype(np.float64))


def _alone(score: Score) -> bool:
    """Whether a score has no interval, or Student's, as tasks give it that have no examples."""
    if score.standard_error is None or score.low is None or score.high is None:
        return True
    half = float(stats.t.ppf(1 - LEVEL / 2, max(score.n - 1, 1))) * score.standard_error
    bounds = ((score.low, score.value - half), (score.high, score.value + half))
    return all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in bounds)


def _shown(bounds: np.ndarray) -> str:
    stderr, low, high = bounds
    return f"standard error {stderr:.6g} and interval [{low:.6g}, {high:.6g}]"
