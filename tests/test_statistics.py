"""Intervals and tests against scipy, statsmodels and slow loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sslbench.statistics import (
    KEPT,
    RESAMPLES,
    against_best,
    best_and_tied,
    hierarchical,
    holm,
    interval,
    over_seeds,
    paired,
)


def bernoulli(p, n, seed=0):
    return (np.random.default_rng(seed).random(n) < p).astype(float)


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (1, 1), (3, 10), (950, 1000), (2000, 2000)])
def test_interval_of_hits_is_wilsons(hits, n):
    x = np.r_[np.ones(hits), np.zeros(n - hits)]
    stderr, low, high = interval(x)
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert stderr == pytest.approx(np.sqrt(hits / n * (1 - hits / n) / n))
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    other = proportion.proportion_confint(hits, n, method="wilson")
    assert (low, high) == pytest.approx(other, abs=1e-12)


def test_interval_of_scores_is_students_and_clipped_only_to_the_range_of_shares():
    x = np.random.default_rng(0).normal(3, 1, 40)
    expected = stats.t.interval(0.95, 39, loc=x.mean(), scale=stats.sem(x))
    assert interval(x) == pytest.approx((stats.sem(x), *expected))
    near_one = np.array([0.5, 1.0, 1.0, 1.0])
    assert interval(near_one)[2] == 1.0
    assert interval(near_one * 2)[2] > 2.0


def test_interval_over_groups_is_students_on_the_cluster_bootstrap():
    random = np.random.default_rng(1)
    labels = np.repeat(np.arange(30), random.integers(1, 8, 30))
    x = random.normal(labels % 5, 1.0)
    means = []
    for _ in range(4_000):
        chosen = [x[labels == group] for group in random.integers(0, 30, 30)]
        means.append(np.concatenate(chosen).mean())
    stderr, low, high = interval(x, labels)
    assert stderr == pytest.approx(np.std(means) * np.sqrt(30 / 29), rel=0.05)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 29, loc=x.mean(), scale=stderr))
    assert interval(x, labels) == (stderr, low, high)
    shuffled = random.permutation(len(x))
    assert interval(x[shuffled], labels[shuffled]) == pytest.approx((stderr, low, high))


def test_over_groups_of_one_size_scipy_finds_the_same_standard_error():
    random = np.random.default_rng(8)
    labels = np.repeat(np.arange(25), 6)
    x = random.normal(0, 1, 25)[labels] + random.normal(0, 1, 150)
    means = x.reshape(25, 6).mean(axis=1)
    resampled = stats.bootstrap((means,), np.mean, n_resamples=5_000, rng=random)
    found = interval(x, labels)
    assert found[0] == pytest.approx(resampled.standard_error * np.sqrt(25 / 24), rel=0.05)
    assert found == pytest.approx(  # groups of one size are a sample of their means
        (stats.sem(means), *stats.t.interval(0.95, 24, loc=x.mean(), scale=stats.sem(means))),
        abs=0.1 * stats.sem(means),
    )


def test_interval_of_hits_in_groups_is_wilsons_of_the_examples_that_they_are_worth():
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    random = np.random.default_rng(9)
    labels = np.repeat(np.arange(20), random.integers(2, 9, 20))
    x = (random.random(len(labels)) < random.beta(8, 2, 20)[labels]).astype(float)
    stderr, low, high = interval(x, labels)
    n = x.mean() * (1 - x.mean()) / stderr**2
    assert 20 < n < len(x)
    alpha = 2 * stats.norm.sf(stats.t.ppf(0.975, 19))
    expected = proportion.proportion_confint(n * x.mean(), n, alpha=alpha, method="wilson")
    assert (low, high) == pytest.approx(expected)
    even = np.tile([0.0, 1.0], 50)  # in each pair one hit: groups that differ less than by chance
    expected = proportion.proportion_confint(
        50, 100, alpha=2 * stats.norm.sf(stats.t.ppf(0.975, 49)), method="wilson"
    )
    assert interval(even, np.repeat(np.arange(50), 2)) == pytest.approx((0, *expected))


def test_more_groups_than_draws_are_kept_of():
    x = np.random.default_rng(10).random(KEPT + 1)
    found, expected = interval(x, np.arange(len(x))), interval(x)
    assert found == pytest.approx(expected, abs=4 * expected[0] / np.sqrt(2 * RESAMPLES))


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
def test_paired_hits_agree_with_statsmodels(seed):
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    a, b = bernoulli(0.7, 120, seed), bernoulli(0.6, 120, seed + 100)
    counts = np.histogram2d(a, b, bins=2)[0]
    assert paired(a, b).p == pytest.approx(tables.mcnemar(counts, exact=True).pvalue)


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
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.value) / found.stderr, 39))
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


def test_holm_agrees_with_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for n in (1, 2, 9, 40):
        p = np.random.default_rng(n).random(n) ** 4
        assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])


def test_against_best_counts_the_pairs_of_rows_that_are_left():
    assert against_best([0.02]) == pytest.approx([0.02])
    assert against_best([0.01, 0.3, 0.03]) == pytest.approx([0.06, 0.3, 0.09])
    assert against_best([0.2, 0.001, 0.004, 0.04]) == pytest.approx([0.2, 0.01, 0.024, 0.12])
    assert against_best([]).shape == (0,)


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
    assert [standing.p[0], standing.p[2]] == pytest.approx(list(against_best(raw)))
    lower = best_and_tied([x.mean() for x in rows], [[x] for x in rows], higher_is_better=False)
    assert lower.best == 0
    assert lower.tied == [True, False, False]


def test_rows_without_examples_are_tied_only_when_equal():
    standing = best_and_tied([0.5, 0.5, 0.49], [None, None, None])
    assert standing.tied == [True, True, False]
    assert standing.p == [None, None, None]
    assert best_and_tied([0.5, 0.4], [[np.ones(3)], [np.zeros(2)]]).p == [None, None]
