"""Intervals and tests against scipy, slow loops and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sslbench import statistics
from sslbench.statistics import best_and_tied, hierarchical, holm, interval, over_seeds, paired


def bernoulli(p, n, seed=0):
    return (np.random.default_rng(seed).random(n) < p).astype(float)


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (1, 1), (3, 10), (950, 1000), (2000, 2000)])
def test_interval_of_hits_is_wilsons(hits, n):
    x = np.r_[np.ones(hits), np.zeros(n - hits)]
    stderr, low, high = interval(x)
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert stderr == pytest.approx(np.sqrt(hits / n * (1 - hits / n) / n))


def test_interval_of_scores_is_students_and_clipped_only_to_the_range_of_shares():
    x = np.random.default_rng(0).normal(3, 1, 40)
    expected = stats.t.interval(0.95, 39, loc=x.mean(), scale=stats.sem(x))
    assert interval(x) == pytest.approx((stats.sem(x), *expected))
    near_one = np.array([0.5, 1.0, 1.0, 1.0])
    assert interval(near_one)[2] == 1.0
    assert interval(near_one * 2)[2] > 2.0


def test_interval_over_groups_is_the_cluster_bootstrap():
    random = np.random.default_rng(1)
    labels = np.repeat(np.arange(30), random.integers(1, 8, 30))
    x = random.normal(labels % 5, 1.0)
    means = []
    for _ in range(4_000):
        chosen = [x[labels == group] for group in random.integers(0, 30, 30)]
        means.append(np.concatenate(chosen).mean())
    expected = (np.std(means), *np.quantile(means, (0.025, 0.975)))
    assert interval(x, labels) == pytest.approx(expected, rel=0.05)
    assert interval(x, labels) == interval(x, labels)
    shuffled = random.permutation(len(x))
    assert interval(x[shuffled], labels[shuffled]) == pytest.approx(interval(x, labels))


def test_groups_of_copies_count_once():
    x = bernoulli(0.4, 200)
    alone = interval(x)[0]
    assert interval(np.repeat(x, 5), np.repeat(np.arange(200), 5))[0] == pytest.approx(
        alone, rel=0.1
    )
    assert interval(np.ones(50), np.repeat(np.arange(5), 10))[1:] == interval(np.ones(5))[1:]


def test_too_little_data_gives_an_infinite_interval():
    assert interval(np.array([0.5])) == (np.inf, 0.0, 1.0)
    assert interval(np.array([3.0])) == (np.inf, -np.inf, np.inf)
    assert interval(np.array([0.2, 0.4]), np.array([7, 7])) == (np.inf, -np.inf, np.inf)
    assert over_seeds([0.3]) == (0.3, -np.inf, np.inf)
    assert paired(np.array([0.5]), np.array([0.1])).p == 1.0


@pytest.mark.parametrize(
    ("x", "found"), [([], "shape"), ([[0.1]], "shape"), ([0.1, np.nan], "nan"), ([np.inf], "inf")]
)
def test_wrong_scores_are_refused(x, found):
    with pytest.raises(ValueError, match=found):
        interval(np.array(x))


def test_wrong_lengths_are_refused():
    with pytest.raises(ValueError, match="3 and 2"):
        paired(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="3 and 2"):
        hierarchical([np.zeros(3)], [np.zeros(2)])
    with pytest.raises(ValueError, match="each of 3"):
        interval(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="no rows"):
        best_and_tied([], [])


def test_paired_scores_agree_with_the_paired_t_test():
    random = np.random.default_rng(2)
    a, b = random.normal(0.2, 1, 50), random.normal(0, 1, 50)
    found, expected = paired(a, b), stats.ttest_rel(a, b)
    low, high = expected.confidence_interval()
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert found.stderr == pytest.approx(stats.sem(a - b))


@pytest.mark.parametrize("seed", range(5))
def test_paired_hits_agree_with_the_exact_mcnemar_test(seed):
    a, b = bernoulli(0.7, 120, seed), bernoulli(0.6, 120, seed + 100)
    only_a = sum(1 for x, y in zip(a, b, strict=True) if x > y)
    only_b = sum(1 for x, y in zip(a, b, strict=True) if y > x)
    found = paired(a, b)
    assert found.p == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)
    up, down = (only_a + 1) / 122, (only_b + 1) / 122
    half = 1.959964 * np.sqrt((up + down - (up - down) ** 2) / 122)
    assert (found.low, found.high) == pytest.approx((up - down - half, up - down + half))
    assert paired(a, a).p == 1.0


def test_paired_groups_agree_with_the_cluster_bootstrap_of_the_difference():
    random = np.random.default_rng(3)
    labels = np.repeat(np.arange(40), 5)
    b = random.normal(0, 1, 200)
    a = b + random.normal(0.3, 0.5, 40)[labels] + random.normal(0, 0.2, 200)
    found = paired(a, b, labels)
    assert (found.stderr, found.low, found.high) == interval(a - b, labels)
    expected = stats.ttest_1samp((a - b).reshape(40, 5).mean(axis=1), 0)  # groups of one size
    assert found.p == pytest.approx(expected.pvalue, rel=0.3)
    assert found.stderr > 1.5 * paired(a, b).stderr


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
@settings(max_examples=60, deadline=None)
def test_paired_is_antisymmetric(pairs):
    a, b = np.array(pairs, dtype=float).T
    there, back = paired(a, b), paired(b, a)
    assert there.value == -back.value
    assert there.p == pytest.approx(back.p)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_over_seeds_is_students():
    values = [0.31, 0.35, 0.30]
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert over_seeds(values) == pytest.approx((np.mean(values), *expected))


def test_holm_by_hand_and_by_its_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).shape == (0,)
    p = np.random.default_rng(4).random(7) ** 3
    ranked = sorted(range(7), key=lambda i: p[i])
    expected = {
        i: min(1, max((7 - k) * p[j] for k, j in enumerate(ranked[: ranked.index(i) + 1])))
        for i in ranked
    }
    assert holm(p) == pytest.approx([expected[i] for i in range(7)])


def anova_reference(a, b):
    """Standard error of the two-level model, each sum of squares as a loop."""
    n, variance, both = a.shape[1], 0.0, 0.0
    for side in (a, b):
        K = len(side)
        seeds = sum((side[k].mean() - side.mean()) ** 2 for k in range(K)) / (K - 1)
        left = 0.0
        for k in range(K):
            for i in range(n):
                left += (side[k, i] - side[k].mean() - side[:, i].mean() + side.mean()) ** 2
        variance += seeds / K
        both += left / ((K - 1) * (n - 1)) / (n * K)
    contrast = a.mean(axis=0) - b.mean(axis=0)
    return np.sqrt(variance + max(contrast.var(ddof=1) / n - both, 0))


def test_hierarchical_is_the_two_way_analysis_of_variance():
    random = np.random.default_rng(5)
    hard = random.normal(0, 1, 40)
    a = hard + random.normal(0, 0.3, (3, 1)) + random.normal(0, 0.5, (3, 40)) + 0.4
    b = -hard + random.normal(0, 0.3, (4, 1)) + random.normal(0, 0.5, (4, 40))
    found = hierarchical(list(a), list(b))
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert found.stderr == pytest.approx(anova_reference(a, b))
    assert hierarchical(list(a), list(b), np.arange(40)) == found
    copies = [np.repeat(side, 3, axis=1) for side in (a, b)]
    grouped = hierarchical(list(copies[0]), list(copies[1]), np.repeat(np.arange(40), 3))
    assert grouped.stderr == pytest.approx(found.stderr)


def test_hierarchical_knows_its_special_cases():
    random = np.random.default_rng(6)
    a, b = random.random((2, 30))
    one, pair = hierarchical([a], [b]), paired(a, b)
    assert (one.value, one.stderr, one.p) == pytest.approx((pair.value, pair.stderr, pair.p))
    flat = [np.full(30, value) for value in (0.2, 0.3, 0.4)], [np.full(30, v) for v in (0.6, 0.7)]
    seeds = hierarchical(*flat)  # examples that do not vary leave Welch's test over the seeds
    assert seeds.p == pytest.approx(
        stats.ttest_ind([0.2, 0.3, 0.4], [0.6, 0.7], equal_var=False).pvalue
    )


def test_the_best_row_and_those_tied_with_it():
    best = np.r_[np.ones(400), np.zeros(100)]
    near = np.r_[np.zeros(8), np.ones(397), np.zeros(95)]  # wins 5 examples, loses 8
    far = bernoulli(0.5, 500)
    rows = [far, best, near]
    standing = best_and_tied([x.mean() for x in rows], [[x] for x in rows])
    assert standing.best == 1
    assert standing.tied == [False, True, True]
    raw = [paired(best, far).p, paired(best, near).p]
    assert [standing.p[0], standing.p[2]] == pytest.approx(list(holm(raw)))
    lower = best_and_tied([x.mean() for x in rows], [[x] for x in rows], higher_is_better=False)
    assert lower.best == 0
    assert lower.tied == [True, False, False]


def test_rows_without_examples_are_tied_only_when_equal():
    standing = best_and_tied([0.5, 0.5, 0.49], [None, None, None])
    assert standing.tied == [True, True, False]
    assert standing.p == [None, None, None]
    assert best_and_tied([0.5, 0.4], [[np.ones(3)], [np.zeros(2)]]).p == [None, None]


def coverage(p, n):
    """How often Wilson's interval holds p: the sum over all numbers of hits, not a simulation."""
    covered = 0.0
    for hits in range(n + 1):
        _, low, high = interval(np.r_[np.ones(hits), np.zeros(n - hits)])
        covered += stats.binom.pmf(hits, n, p) * (low <= p <= high)
    return covered


def normal_coverage(runs=500):
    random = np.random.default_rng(11)
    hits = 0
    for _ in range(runs):
        _, low, high = interval(random.normal(2, 1, 12))
        hits += low <= 2 <= high
    return hits / runs


def test_intervals_cover_what_they_say():
    for p in (0.1, 0.5, 0.95):
        assert coverage(p, 1_000) == pytest.approx(0.95, abs=0.01)
    assert normal_coverage() == pytest.approx(0.95, abs=0.02)


def test_the_coverage_test_notices_a_90_percent_interval(monkeypatch):
    monkeypatch.setattr(statistics, "LEVEL", 0.1)
    assert all(coverage(p, 1_000) < 0.92 for p in (0.1, 0.5, 0.95))
    assert normal_coverage() < 0.93


def grouped_coverage(labels_of, runs=500):
    random, hits = np.random.default_rng(12), 0
    labels = np.repeat(np.arange(60), 4)
    for _ in range(runs):
        x = (random.normal(0, 1, 60)[labels] + random.normal(0, 1, 240)) + 1
        _, low, high = interval(x, labels_of(labels))
        hits += low <= 1 <= high
    return hits / runs


def test_the_interval_over_groups_covers_and_the_one_over_examples_would_not(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    assert grouped_coverage(lambda labels: labels) == pytest.approx(0.95, abs=0.03)
    assert grouped_coverage(lambda _: None) < 0.85


def false_positives(test, spread, seeds, runs=500):
    """Share of pairs of equal methods that `test` calls different at p < .05."""
    random, wrong = np.random.default_rng(13), 0
    for _ in range(runs):
        hard = random.normal(0, 1.5, 200)
        logits = hard + random.normal(0, spread, (2, seeds, 1)) + random.normal(0, 1, (2, 1, 200))
        a, b = (random.random((2, seeds, 200)) < 1 / (1 + np.exp(-logits))).astype(float)
        wrong += test(a, b) < 0.05
    return wrong / runs


@pytest.mark.parametrize("spread", [0.0, 0.4])
def test_equal_methods_are_called_different_one_time_in_twenty(spread):
    found = false_positives(lambda a, b: hierarchical(list(a), list(b)).p, spread, seeds=3)
    assert 0.01 <= found <= 0.075


def test_ignoring_seeds_calls_equal_methods_different():
    found = false_positives(lambda a, b: paired(a[0], b[0]).p, spread=0.4, seeds=1)
    assert found > 0.15
