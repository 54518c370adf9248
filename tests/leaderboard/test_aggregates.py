"""Aggregates against loops over their definitions, and ranks against simulated boards."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from sslbench.leaderboard.aggregates import DRAWS, Measurement, aggregates, groups, perturbations


def draw(dataset, *known):
    """What is added to the only score of a column."""
    (noise,) = perturbations(dataset, [Measurement(*known)])
    return noise


def silent(values):
    return np.zeros((*values.shape, DRAWS), np.float32)


def test_each_is_what_its_definition_says():
    rng = np.random.default_rng(0)
    values = rng.integers(3, 9, (6, 5)) / 10  # with ties
    chance = np.array([0.1, 0.1, 0.25, 0.5, 0.0])
    found = aggregates(values, chance, silent(values))
    R, C = values.shape
    for row, own in enumerate(found):
        points = sum(
            1.0 if values[row, c] > values[other, c] else 0.5
            for other, c in product(range(R), range(C))
            if other != row and values[row, c] >= values[other, c]
        )
        assert own.borda == pytest.approx(points)
        assert own.win_rate == pytest.approx(points / (C * (R - 1)))
        above = [(values[row, c] - chance[c]) / (1 - chance[c]) for c in range(C)]
        assert own.normalised == pytest.approx(np.mean(above))
        assert own.mean == pytest.approx(values[row].mean())
        places = [stats.rankdata(-values[:, c])[row] for c in range(C)]
        assert own.mean_rank == pytest.approx(np.mean(places))
    order = [own.mean_rank for own in found]
    assert [own.rank for own in found] == [1 + sum(o < mine for o in order) for mine in order]
    assert all(own.rank_low == own.rank == own.rank_high for own in found)


def test_one_row_wins_alone():
    (own,) = aggregates(
        np.array([[0.5, 0.6]]), np.array([0.1, 0.1]), np.zeros((1, 2, DRAWS), np.float32)
    )
    assert (own.rank, own.rank_low, own.rank_high, own.group, own.win_rate) == (1, 1, 1, 1, 1.0)


def test_a_draw_has_the_standard_error_of_the_mean():
    rng = np.random.default_rng(1)
    x = (rng.random(2_000) < 0.3).astype(float)
    alone = draw("digits", "a", x, None, {0: x.mean()}, None)
    assert alone.std() == pytest.approx(x.std() / np.sqrt(len(x)), rel=0.1)
    labels = np.repeat(np.arange(20), 100)
    y = np.repeat(rng.random(20), 100)
    grouped = draw("digits", "a", y, labels, {0: y.mean()}, None)
    assert grouped.std() == pytest.approx(y[::100].std() / np.sqrt(20), rel=0.1)
    known = draw("digits", "a", None, None, {0: 0.5}, 0.02)
    assert known.std() == pytest.approx(0.02, rel=0.1)
    assert (draw("digits", "a", None, None, {0: 0.5}, None) == 0).all()


def test_scores_on_the_same_examples_move_together_and_others_do_not():
    x = (np.random.default_rng(2).random(1_000) < 0.5).astype(float)
    one, same, other = (
        draw(dataset, name, x, None, {0: x.mean()}, None)
        for name, dataset in (("a", "digits"), ("b", "digits"), ("a", "mnist"))
    )
    assert (one == same).all()
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.2


def test_the_spread_of_few_seeds_has_students_tails():
    seeds = {0: 0.50, 1: 0.56, 2: 0.53}
    flat = np.full(100, 0.53)
    drawn = draw("digits", "a", flat, None, seeds, None)
    stderr = np.std(list(seeds.values()), ddof=1) / np.sqrt(3)
    assert stats.kstest(drawn / stderr, stats.t(2).cdf).pvalue > 0.01
    assert stats.kstest(drawn / stderr, stats.norm.cdf).pvalue < 0.05
    again = draw("mnist", "a", flat, None, {k: 2 * v for k, v in seeds.items()}, None)
    assert again == pytest.approx(2 * drawn, rel=1e-4, abs=1e-7)  # a good seed is good everywhere


def test_groups_are_cut_where_rows_can_be_told_apart():
    rng = np.random.default_rng(3)
    mean_rank = np.array([1.1, 1.3, 3.2, 3.4, 5.0])
    drawn = mean_rank[:, None] + 0.2 * rng.standard_normal((5, DRAWS))
    assert groups(mean_rank, drawn) == [1, 1, 2, 2, 3]
    assert groups(mean_rank, np.repeat(mean_rank[:, None], DRAWS, 1)) == [1, 2, 3, 4, 5]
    assert groups(np.ones(4), np.ones((4, DRAWS))) == [1, 1, 1, 1]


def simulated(rng, accuracies, columns=4, n=400):
    """Scores (R, C) of one board, and their draws, over rows of these accuracies."""
    values = np.empty((len(accuracies), columns))
    noise = np.empty((len(accuracies), columns, DRAWS), np.float32)
    for c in range(columns):
        easy = rng.standard_normal(n)  # the same examples are easy for all
        for r, accuracy in enumerate(accuracies):
            hits = (easy + rng.standard_normal(n) < np.sqrt(2) * stats.norm.ppf(accuracy)) * 1.0
            values[r, c] = hits.mean()
            noise[r, c] = draw(f"data {c}", f"row {r}", hits, None, {0: 0.0}, None)
    return values, noise


def test_rank_intervals_cover_and_equal_rows_share_a_group():
    rng = np.random.default_rng(4)
    truth = [0.7, 0.66, 0.62, 0.5]
    boards = 100
    inside, apart, separate = 0, 0, 0
    for _ in range(boards):
        found = aggregates(*_with_chance(simulated(rng, truth)))
        inside += sum(own.rank_low <= r + 1 <= own.rank_high for r, own in enumerate(found))
        separate += found[3].group > found[0].group
        equal = aggregates(*_with_chance(simulated(rng, [0.6, 0.6])))
        apart += equal[0].group != equal[1].group
    assert inside / (4 * boards) >= 0.95
    assert separate == boards
    assert apart <= stats.binom.ppf(0.999, boards, 0.05)


def _with_chance(board):
    values, noise = board
    return values, np.full(values.shape[1], 0.1), noise
