"""What one row has on another, from records."""

import numpy as np
import pytest

from sslbench.leaderboard.differences import difference, measured
from sslbench.statistics import hierarchical


@pytest.fixture
def records(make):
    """Three seeds of two rows on the same 200 examples, in groups of 10."""
    random, groups = np.random.default_rng(0), np.arange(200) // 10
    return {
        name: [
            make(name, examples=random.random(200) < share, seed=seed, groups=groups)
            for seed in range(3)
        ]
        for name, share in (("good", 0.8), ("bad", 0.5))
    }


def test_a_difference_is_the_hierarchical_one(records):
    good, bad = (measured(records[name]) for name in ("good", "bad"))
    found = difference(good, bad)
    assert found == hierarchical(good.examples, bad.examples, good.groups)
    assert found.low > 0
    assert found.value == pytest.approx(good.value - bad.value)
    values = [record.scores["top1"].value for record in records["good"]]
    assert good.value == pytest.approx(np.mean(values))


def test_seeds_of_evaluation_are_averaged_first(make):
    zeros, ones = np.zeros(20), np.ones(20)
    first = [make(examples=x, eval_seed=seed) for seed, x in enumerate((zeros, ones))]
    found = measured([*first, make(examples=ones, seed=1)])
    assert found.value == pytest.approx(0.75)
    assert [seed.mean() for seed in found.examples] == [0.5, 1.0]


def test_nothing_measured_and_nothing_to_compare(make, records):
    assert measured([make(status="failed", reason="no", scores={})]) is None
    bare = measured([make(value=0.5)])
    assert (bare.value, bare.examples) == (0.5, None)
    assert difference(bare, measured(records["bad"])) is None
    few = measured([make(examples=np.ones(20))])
    assert difference(few, measured(records["bad"])) is None
