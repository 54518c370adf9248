"""Do intervals hold 95 %, and are equal methods called different one time in twenty? By simulation.

`python -m tests.test_simulations` prints the table of docs/leaderboards.md. Each criterion is also
shown to fail where it must: with the quantile of a 90 % interval, where groups or seeds are
ignored, and where the best row is tested as if it had been chosen in advance.
"""

from fnmatch import fnmatch
from itertools import groupby

import numpy as np
import pytest
from scipy import stats

from sslbench import statistics
from sslbench.hashing import digest
from sslbench.leaderboard.board import build
from sslbench.records import Checkpoint, Provenance, Record, Score, pack
from sslbench.statistics import hierarchical, holm, interval, over_seeds, paired

RUNS = 2_000
BOARDS = 1_000


def answers(random, accuracies, n, own=0.0, groups=None):
    """Whether each checkpoint is right on each example: by method, 0 or 1 (n,) of each seed.

    An example is answered if its difficulty, which is normal, is below the quantile that the
    accuracy says. Half of its variance is the example's, the same for all methods.

    Args:
        random: numpy's generator.
        accuracies: by method, of each seed, over the population of examples.
        n: number of examples.
        own: share of the variance that all seeds of one method have in common, and no other method.
        groups: of the examples (n,); half of what is shared is then the group's.
    """

    def shared():
        z = random.standard_normal(n)
        if groups is None:
            return z
        return np.sqrt(0.5) * (z + random.standard_normal(groups.max() + 1)[groups])

    hard, found = np.sqrt(0.5) * shared(), {}
    for name, seeds in accuracies.items():
        difficulty = hard + np.sqrt(own) * shared() if own else hard
        noise = np.sqrt(0.5 - own) * random.standard_normal((len(seeds), n))
        reach = stats.norm.ppf(np.clip(seeds, 0.001, 0.999))[:, None]
        found[name] = list((difficulty + noise < reach).astype(float))
    return found


def seeds_of(random, accuracy, spread, seeds=3):
    """Accuracies of a method's checkpoints; the spread is their standard deviation."""
    return accuracy + spread * random.standard_normal(seeds)


def ragged(random, number):
    """Labels of groups of 1 to 15 examples."""
    return np.repeat(np.arange(number), random.integers(1, 16, number))


# Each of these gives a function of numpy's generator that draws data and returns the bounds of an
# interval and what it should hold.


def hits(n, p):
    return lambda random: (*interval((random.random(n) < p).astype(float))[1:], p)


def shares(n, a, b):
    return lambda random: (*interval(random.beta(a, b, n))[1:], a / (a + b))


def grouped_hits(number, p, ignored=False):
    def draw(random):
        groups = ragged(random, number)
        (x,) = answers(random, {"a": [p]}, len(groups), groups=groups)["a"]
        return (*interval(x, None if ignored else groups)[1:], p)

    return draw


def grouped_scores(number):
    def draw(random):
        groups = ragged(random, number)
        x = random.normal(1, 1, number)[groups] + random.normal(0, 1, len(groups))
        return (*interval(x, groups)[1:], 1.0)

    return draw


def paired_hits(n, won, lost):
    def draw(random):
        u, same = random.random(n), (random.random(n) < 0.5).astype(float)
        found = paired(
            np.where(u < won, 1.0, np.where(u < won + lost, 0.0, same)),
            np.where(u < won, 0.0, np.where(u < won + lost, 1.0, same)),
        )
        return found.low, found.high, won - lost

    return draw


def paired_scores(n):
    def draw(random):
        x = random.beta(2, 2, n)
        found = paired(x**2, x)  # means of 0.3 and 0.5
        return found.low, found.high, -0.2

    return draw


def paired_groups(number):
    def draw(random):
        groups = ragged(random, number)
        rows = answers(random, {"a": [0.75], "b": [0.7]}, len(groups), 0.2, groups)
        found = paired(*rows["a"], *rows["b"], groups)
        return found.low, found.high, 0.05

    return draw


def seeds(number):
    def draw(random):
        right = random.binomial(2_000, seeds_of(random, 0.7, 0.01, number))
        return (*over_seeds(right / 2_000)[1:], 0.7)

    return draw


def methods(spread, own, groups=None):
    def draw(random):
        labels = None if groups is None else ragged(random, groups)
        accuracies = {"a": seeds_of(random, 0.75, spread), "b": seeds_of(random, 0.7, spread)}
        rows = answers(random, accuracies, 500 if groups is None else len(labels), own, labels)
        found = hierarchical(rows["a"], rows["b"], labels)
        return found.low, found.high, 0.05

    return draw


def checkpoint_and_method(spread):
    """The claim is about this checkpoint, so the interval should hold its own accuracy."""

    def draw(random):
        (own,) = seeds_of(random, 0.75, spread, 1)
        rows = answers(random, {"a": [own], "b": seeds_of(random, 0.7, spread)}, 500)
        found = hierarchical(rows["a"], rows["b"])
        return found.low, found.high, own - 0.7

    return draw


COVERAGE = {
    **{
        (f"one checkpoint, hits, n = {n}", f"p = {p}"): hits(n, p)
        for n in (200, 2_000)
        for p in (0.1, 0.5, 0.95)
    },
    **{
        (f"one checkpoint, shares, n = {n}", f"Beta({a}, {b})"): shares(n, a, b)
        for n in (200, 2_000)
        for a, b in ((2, 5), (0.5, 0.5), (8, 1))
    },
    **{
        (f"one checkpoint, hits in {G} groups", f"p = {p}"): grouped_hits(G, p)
        for G in (40, 200)
        for p in (0.5, 0.9, 0.97)
    },
    **{
        ("one checkpoint, normal scores in groups", f"{G} groups"): grouped_scores(G)
        for G in (40, 200)
    },
    **{
        (f"two checkpoints, hits, n = {n}", f"{won} % won, {lost} % lost"): paired_hits(
            n, won / 100, lost / 100
        )
        for n in (200, 2_000)
        for won, lost in ((15, 5), (10, 10), (2, 2))
    },
    **{("two checkpoints, other scores", f"n = {n}"): paired_scores(n) for n in (200, 2_000)},
    **{("two checkpoints, hits in groups", f"{G} groups"): paired_groups(G) for G in (40, 200)},
    **{("one method, s.d. 1 point", f"{K} seeds"): seeds(K) for K in (3, 5)},
    **{
        (f"two methods of 3 seeds, {kind}, n = 500", f"s.d. {100 * spread:g}"): methods(spread, own)
        for kind, own in (("alike", 0.0), ("not alike", 0.2))
        for spread in (0.0, 0.005, 0.01, 0.03, 0.1)
    },
    **{
        ("two methods of 3 seeds, not alike, in groups", f"{G} groups"): methods(0.01, 0.2, G)
        for G in (40, 200)
    },
    **{
        ("a checkpoint and a method of 3 seeds, n = 500", f"s.d. {100 * spread:g}"): (
            checkpoint_and_method(spread)
        )
        for spread in (0.01, 0.03)
    },
}
# About 8 examples tell these two apart: too few to meet 95 %, so more are held.
FEW = ("two checkpoints, hits, n = 200", "2 % won, 2 % lost")


# These draw the columns of a board: in each, by row, the scores of its seeds.


def equals(rows, columns, spread, own=0.0, seeds=3, n=500):
    """Rows are seeds of one distribution; with `own`, methods of one expected accuracy."""

    def draw(random):
        accuracies = {f"row{row}": seeds_of(random, 0.7, spread, seeds) for row in range(rows)}
        return [answers(random, accuracies, n, own) for _ in range(columns)]

    return draw


def equal_in_expectation(spread):
    """A checkpoint that is just as good as the seeds of the other row are on average."""
    return lambda random: [answers(random, {"a": [0.7], "b": seeds_of(random, 0.7, spread)}, 500)]


def better(random):
    accuracies = {"a": seeds_of(random, 0.7, 0.01), "b": seeds_of(random, 0.75, 0.01)}
    return [answers(random, accuracies, 2_000)]


DIFFERENT = {
    **{
        ("2 rows of 3 seeds, alike", f"s.d. {100 * spread:g}"): equals(2, 1, spread)
        for spread in (0.0, 0.005, 0.01, 0.03, 0.1)
    },
    **{
        ("2 rows of 3 seeds, not alike", f"s.d. {100 * spread:g}"): equals(2, 1, spread, 0.2)
        for spread in (0.0, 0.01, 0.03)
    },
    **{
        (f"4 rows × 3 columns, 3 seeds, {kind}", f"s.d. {100 * spread:g}"): equals(
            4, 3, spread, own
        )
        for kind, own in (("alike", 0.0), ("not alike", 0.2))
        for spread in (0.0, 0.01, 0.03)
    },
    **{
        (f"{rows} rows of one seed", kind): equals(rows, 1, 0.0, own, seeds=1)
        for rows in (2, 4, 10)
        for kind, own in (("alike", 0.0), ("not alike", 0.2))
    },
    **{
        ("10 rows of 3 seeds, s.d. 1", kind): equals(10, 1, 0.01, own)
        for kind, own in (("alike", 0.0), ("not alike", 0.2))
    },
    **{
        ("a checkpoint and 3 seeds of its accuracy on average", f"s.d. {100 * spread:g}"): (
            equal_in_expectation(spread)
        )
        for spread in (0.0, 0.01, 0.03)
    },
}


# 45 pairs need p below .001, and so far out, with few seeds, Satterthwaite's t is too sure.
LIBERAL = ("10 rows of 3 seeds, s.d. 1", "not alike")


def covered(draw, runs=RUNS):
    """Share of the runs in which the interval holds what it should."""
    random, held = np.random.default_rng(0), 0
    for _ in range(runs):
        low, high, truth = draw(random)
        held += low <= truth <= high
    return held / runs


def different(draw, boards=BOARDS):
    """Share of the columns of boards that have a row which is neither best nor tied with it."""
    random = np.random.default_rng(0)
    columns = [marks for _ in range(boards) for marks in marked(draw(random))]
    return sum(None in marks for marks in columns) / len(columns)


def marked(columns):
    """Per column of a board, the marks of its rows."""
    board = build(
        [
            record(name, f"task{column}", seed, x)
            for column, rows in enumerate(columns)
            for name, seeds in rows.items()
            for seed, x in enumerate(seeds)
        ],
        "simulated",
    )
    return [[board.cells[row, column].mark for row in board.rows] for column in board.columns]


def record(name, task, seed, x):
    return Record(
        key=digest(name, seed, task),
        status="ok",
        checkpoint=Checkpoint(
            key=digest(name, seed), name=name, family="any", encoder="any", pretrain_seed=seed
        ),
        task=task,
        protocol=task,
        task_version=1,
        dataset="any",
        headline="top1",
        scores={"top1": Score(value=float(x.mean()), n=len(x))},
        inline={"top1": pack(x)},
        provenance=Provenance(created=""),
    )


def margin(rate, runs):
    """Three standard errors of a rate that is simulated."""
    return 3 * np.sqrt(rate * (1 - rate) / runs)


def params(cases, often):
    """The cases by name; all are slow but those that fit a pattern."""
    named = [(case, ", ".join(case)) for case in cases]
    return [
        pytest.param(
            case, id=name, marks=() if any(fnmatch(name, p) for p in often) else pytest.mark.slow
        )
        for case, name in named
    ]


@pytest.mark.parametrize(
    "case",
    params(
        COVERAGE,
        often=(
            "one checkpoint, hits, n = *",
            "one checkpoint, shares, n = 200, *",
            "one checkpoint, hits in 40 groups, p = 0.9*",
            "one checkpoint, normal scores in groups, *",
            "two checkpoints, hits, n = 200, *",
            "two checkpoints, other scores, n = 200",
            "two checkpoints, hits in groups, 40 groups",
            "one method, *",
            "two methods of 3 seeds, alike, n = 500, s.d. [01]",
            "two methods of 3 seeds, not alike, n = 500, s.d. [13]",
            "a checkpoint and a method of 3 seeds, n = 500, s.d. 1",
        ),
    ),
)
def test_intervals_hold_95_percent(case):
    rate = covered(COVERAGE[case])
    assert rate >= 0.93
    assert rate <= 0.97 or case == FEW


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(hits(2_000, 0.5), id="hits"),
        pytest.param(shares(200, 2, 5), id="shares"),
        pytest.param(grouped_hits(40, 0.9), id="grouped hits"),
        pytest.param(paired_hits(200, 0.1, 0.1), id="paired hits"),
        pytest.param(paired_scores(200), id="paired scores"),
        pytest.param(paired_groups(40), id="paired groups"),
        pytest.param(seeds(3), id="seeds"),
        pytest.param(methods(0.01, 0.2), id="methods"),
    ],
)
def test_90_percent_intervals_would_not_pass(draw, monkeypatch):
    monkeypatch.setattr(statistics, "LEVEL", 0.1)
    assert covered(draw, runs=1_000) < 0.93


def test_intervals_that_ignore_groups_would_not_pass():
    assert covered(grouped_hits(40, 0.9, ignored=True), runs=500) < 0.93


@pytest.mark.parametrize(
    "case", params(DIFFERENT, often=("2 rows of 3 seeds, *, s.d. 1", "2 rows of one seed, *"))
)
def test_equal_rows_are_called_different_in_5_percent_of_columns(case):
    rate = different(DIFFERENT[case])
    strict = ", alike" in ", ".join(case)
    assert rate <= (0.09 if case == LIBERAL else 0.05 if strict else 0.05 + margin(0.05, BOARDS))


def test_of_four_equal_rows_none_is_called_different_in_95_percent_of_columns():
    for own in (0.0, 0.2):
        assert different(equals(4, 3, 0.01, own), boards=100) <= 0.05 + margin(0.05, 100)


def test_a_real_difference_is_found():
    assert different(better, boards=300) > 0.75


def test_ignoring_seeds_would_call_equal_methods_different():
    """The examples of three seeds, taken for those of one checkpoint."""

    def pooled(random):
        (rows,) = equals(2, 1, spread=0.01, n=2_000)(random)
        return [{name: [np.concatenate(seeds)] for name, seeds in rows.items()}]

    assert different(pooled, boards=300) > 0.05 + margin(0.05, 300)


def test_a_best_row_taken_for_one_chosen_in_advance_would_call_equal_rows_different(monkeypatch):
    monkeypatch.setattr(statistics, "against_best", holm)
    draw = equals(10, 1, spread=0.0, own=0.2, seeds=1)
    assert different(draw, boards=300) > 0.05 + margin(0.05, 300)


def main():
    print("| 95 % interval of | holds, % of 2,000 runs |\n|---|---|")
    for line in measured(COVERAGE, covered):
        print(line, flush=True)
    print("| **equal rows, n = 500** | **called different, % of the columns of 1,000 boards** |")
    for line in measured(DIFFERENT, different):
        print(line, flush=True)
    print("| **rows that are 5 points apart, n = 2,000** | **the same** |")
    print(f"| 2 rows of 3 seeds | s.d. 1: {100 * different(better):.1f} |")


def measured(cases, measure):
    for what, same in groupby(cases, key=lambda case: case[0]):
        values = [f"{value}: {100 * measure(cases[what, value]):.1f}" for _, value in same]
        yield f"| {what} | {'; '.join(values)} |"


if __name__ == "__main__":
    main()
