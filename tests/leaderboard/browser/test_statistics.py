"""The statistics of the page against SciPy's and the project's own."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import sslbench.leaderboard
from sslbench.leaderboard.aggregates import groups
from sslbench.statistics import LEVEL, against_best

SCRIPT = Path(sslbench.leaderboard.__file__).with_name("statistics.js")


@pytest.fixture(scope="module")
def call(browser):
    """Calls a function of statistics.js on a blank page."""
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.add_script_tag(path=SCRIPT)
    yield lambda name, *values: page.evaluate(
        f"(values) => {{ const found = {name}(...values);"
        " return ArrayBuffer.isView(found) ? [...found] : found; }",
        [value.tolist() if isinstance(value, np.ndarray) else value for value in values],
    )
    context.close()


def tied(n, seed):
    return np.random.default_rng(seed).integers(0, max(2, n // 2), n).astype(float)


@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_ranks_and_places(call, n):
    values = tied(n, n)
    assert call("ranks", values) == stats.rankdata(-values).tolist()
    assert call("places", values) == stats.rankdata(values, "min").tolist()


def test_the_tail_of_the_normal_distribution(call):
    for z in [*np.linspace(-6, 8, 57), 1.959964, 20.0]:
        assert call("tail", float(z)) == pytest.approx(stats.norm.sf(z), rel=3e-7)


def test_against_best(call):
    for seed in range(5):
        p = np.random.default_rng(seed).random(12) ** 3
        p[:3] = p[3]
        assert call("againstBest", p) == pytest.approx(against_best(p).tolist())
    assert call("againstBest", []) == []
    assert call("againstBest", [0.2]) == [0.2]


def test_the_standard_deviation(call):
    values = np.random.default_rng(0).normal(size=9)
    assert call("deviation", values) == pytest.approx(values.std(ddof=1))


@pytest.mark.parametrize("n", [3, 4, 20, 200])
def test_spearman(call, n):
    x, y = tied(n, 1), np.random.default_rng(n).normal(size=n)
    assert call("spearman", x, x + 0.3 * y) == pytest.approx(stats.spearmanr(x, x + 0.3 * y)[0])
    assert call("spearman", x, -x) == pytest.approx(-1)


def test_spearman_needs_three_points_that_differ(call):
    assert call("spearman", [1, 2], [1, 2]) is None
    assert call("spearman", [1, 1, 1], [1, 2, 3]) is None
    assert call("spearman", [], []) is None


@pytest.mark.parametrize("seed", range(4))
def test_tie_groups(call, seed):
    random = np.random.default_rng(seed)
    mean_rank = random.permutation(np.repeat([1.5, 3.0, 4.0, 6.0, 7.5], 2))
    drawn = mean_rank[:, None] + random.normal(size=(10, 60))
    drawn[3] = mean_rank[3]
    found = call("tieGroups", mean_rank, drawn.T, LEVEL)
    assert found == groups(mean_rank, drawn)
