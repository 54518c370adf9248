"""Averages, marks and refusals."""

import numpy as np
import pytest
from scipy import stats

from sslbench.errors import UserError
from sslbench.leaderboard.board import build
from sslbench.records import Score
from sslbench.statistics import against_best, hierarchical, interval, paired


def hits(p, seed, n=400):
    return (np.random.default_rng(seed).random(n) < p).astype(float)


def cells(board):
    return {
        (row.name, column.task): board.cells[row, column]
        for row in board.rows
        for column in board.columns
    }


def test_a_cell_is_the_mean_over_pretraining_seeds_of_the_mean_over_evaluation_seeds(make):
    seeds = [(0, 0), (0, 1), (1, 0)]
    scores = {(seed, other): hits(0.5 + seed / 10, (seed, other)) for seed, other in seeds}
    records = [
        make(examples=examples, seed=seed, eval_seed=eval_seed)
        for (seed, eval_seed), examples in scores.items()
    ]
    cell = cells(build(records, "x"))["simclr", "knn"]
    first = (scores[0, 0] + scores[0, 1]) / 2
    assert cell.seeds == pytest.approx({0: first.mean(), 1: scores[1, 0].mean()})
    assert cell.value == pytest.approx((first.mean() + scores[1, 0].mean()) / 2)
    assert cell.interval == pytest.approx(interval((first + scores[1, 0]) / 2)[1:])
    values = [first.mean(), scores[1, 0].mean()]
    expected = stats.t.interval(0.95, 1, loc=np.mean(values), scale=stats.sem(values))
    assert cell.over_seeds == pytest.approx(expected)


def test_the_interval_of_one_record_is_its_own(make):
    score = Score(value=0.4, n=600, standard_error=0.1, low=0.21, high=0.59)
    cell = cells(build([make(scores={"top1": score})], "x"))["simclr", "knn"]
    assert cell.interval == (0.21, 0.59)
    assert cell.over_seeds is None
    assert cells(build([make(value=0.4)], "x"))["simclr", "knn"].interval is None


def test_best_and_tied_with_one_seed_come_from_paired_tests(make):
    best = hits(0.8, 0)
    near, far = best.copy(), hits(0.5, 1)
    near[np.flatnonzero(best)[:3]] = 0
    rows = {"a": far, "b": near, "c": best}
    found = cells(build([make(name, examples=x) for name, x in rows.items()], "x"))
    assert {name: found[name, "knn"].mark for name in rows} == {"a": None, "b": "tied", "c": "best"}
    raw = [paired(best, far).p, paired(best, near).p]
    assert [found["a", "knn"].p, found["b", "knn"].p] == pytest.approx(list(against_best(raw)))
    assert found["c", "knn"].p is None


def test_several_seeds_are_compared_over_seeds_and_examples(make):
    a, b = [hits(0.6, seed) for seed in (0, 1, 2)], [hits(0.5, seed) for seed in (3, 4)]
    records = [make("a", examples=x, seed=seed) for seed, x in enumerate(a)]
    records += [make("b", examples=x, seed=seed) for seed, x in enumerate(b)]
    found = cells(build(records, "x"))
    assert found["a", "knn"].mark == "best"
    assert found["b", "knn"].p == pytest.approx(hierarchical(a, b).p)


def test_groups_are_resampled_where_they_label_the_examples(make):
    groups = np.repeat(np.arange(40), 10)
    a, b = np.repeat(hits(0.7, 0, 40), 10), np.repeat(hits(0.4, 1, 40), 10)
    records = [make(name, examples=x, groups=groups) for name, x in (("a", a), ("b", b))]
    found = cells(build(records, "x"))
    assert found["b", "knn"].p == pytest.approx(paired(a, b, groups).p)
    assert found["b", "knn"].p > 100 * paired(a, b).p


def test_scores_that_are_no_mean_of_examples_are_not_tested(make):
    f1 = make("a", examples=hits(0.5, 0)).model_copy(
        update={"scores": {"top1": Score(value=0.9, n=400)}}
    )
    found = cells(build([f1, make("b", examples=hits(0.5, 1))], "x"))
    assert found["a", "knn"].mark == "best"
    assert (found["b", "knn"].mark, found["b", "knn"].p) == (None, None)


def test_lower_is_better_and_numbers_without_a_range(make):
    records = [
        make(name, task="drop", value=value, higher_is_better=False)
        for name, value in {"a": 0.3, "b": 0.1}.items()
    ]
    records += [
        make(name, task="rank", value=value, chance=None, headline="rankme")
        for name, value in {"a": 57.25, "b": 0.5}.items()
    ]
    board = build(records, "x")
    found = cells(board)
    assert [found[name, "drop"].mark for name in "ab"] == [None, "best"]
    assert [found[name, "rank"].mark for name in "ab"] == ["best", None]
    assert [column.share for column in board.columns] == [True, False]
    assert board.shared == []
    assert board.aggregates == {}


def test_a_single_row_is_not_called_best(make):
    assert cells(build([make(examples=hits(0.5, 0))], "x"))["simclr", "knn"].mark is None


def test_means_are_over_the_columns_that_every_row_has(make):
    values = {
        "knn": {"a": 0.2, "b": 0.4, "c": 0.4},
        "probe": {"a": 0.5, "b": 0.3, "c": 0.1},
        "partial": {"a": 0.9, "b": 0.9},
    }
    records = [
        make(name, task=task, value=value)
        for task, own in values.items()
        for name, value in own.items()
    ]
    records.append(make("dead", task="knn", status="failed", reason="no"))
    board = build(records, "x")
    assert [column.task for column in board.shared] == ["knn", "probe"]
    found = {row.name: own for row, own in board.aggregates.items()}
    assert {name: own.mean for name, own in found.items()} == pytest.approx(
        {"a": 0.35, "b": 0.35, "c": 0.25}
    )
    assert {name: own.mean_rank for name, own in found.items()} == pytest.approx(
        {"a": 2.0, "b": 1.75, "c": 2.25}
    )


def test_what_is_missing_is_explained(make):
    records = [
        make("a", task="knn", value=0.3),
        make("a", task="probe", status="failed", reason="out of memory"),
        make("b", task="knn", status="not_applicable", reason="no text"),
        make("c", task="knn", value=0.2),
        make("c", task="knn", seed=1, status="failed", reason="node died"),
    ]
    found = cells(build(records, "x"))
    assert found["a", "probe"].status == "failed"
    assert found["a", "probe"].records[0].reason == "out of memory"
    assert found["b", "knn"].status == "not_applicable"
    assert found["b", "probe"].status == "not_run"
    assert found["c", "knn"].value == 0.2
    assert [record.reason for record in found["c", "knn"].failures] == ["node died"]


def test_checkpoints_along_the_way_have_no_row(make):
    board = build([make(value=0.3), make(value=0.1, checkpoint={"at": 0.5})], "x")
    assert [cell.value for cell in cells(board).values()] == [0.3]
    assert len(board.records) == 2
    with pytest.raises(UserError, match="fully pretrained"):
        build([make(value=0.1, checkpoint={"at": 0.5})], "x")


def test_the_same_record_twice_counts_once(make):
    record = make(value=0.3)
    later = record.provenance.model_copy(update={"created": "2027-01-01T00:00:00+00:00"})
    failed = make(status="failed", reason="died", key=record.key)
    again = record.model_copy(update={"provenance": later})
    for order in ([record, again, failed], [failed, again, record]):
        (kept,) = build(order, "x").records
        assert [v.provenance for v in kept.verified] == [later]
        assert kept.model_copy(update={"verified": []}) == record


def test_of_a_cell_that_was_computed_again_the_newest_version_of_its_task_stands(make):
    older, newer = (make(examples=hits(p, 0), task_version=v) for v, p in ((1, 0.4), (2, 0.6)))
    board = build([newer, older, make("byol", task_version=2, examples=hits(0.5, 1))], "t")
    assert [record.task_version for record in board.records] == [2, 2]
    cell = next(cell for (row, _), cell in board.cells.items() if row.name == "simclr")
    assert cell.value == newer.scores["top1"].value


def test_the_same_cell_with_other_scores_is_refused(make):
    record = make(value=0.3)
    with pytest.raises(UserError, match=r"simclr in knn/digits .*top1 0\.3; top1 0\.4"):
        build([record, make(value=0.4, key=record.key)], "x")
    with pytest.raises(UserError, match="several records with the same seeds: ab01, ab02"):
        build([make(value=0.3, key="ab01"), make(value=0.3, key="ab02")], "x")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("task_version", (1, 2)),
        ("task_settings", ({"k": 20}, {"k": 200})),
        ("dataset_hash", ("aa", "bb")),
        ("protocol", ("knn", "linear_probe")),
        ("chance", (0.1, 0.2)),
    ],
)
def test_columns_do_not_mix_protocols(make, field, values):
    records = [make(name, value=0.3, **{field: v}) for name, v in zip("ab", values, strict=True)]
    with pytest.raises(UserError, match=f"column knn/digits/top1: .*different {field}: .*\\(a\\)"):
        build(records, "x")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("settings", ({"temperature": 0.1}, {"temperature": 1.0})),
        ("recipe", ({"lr": 0.1}, {"lr": 1.0})),
        ("method_version", (1, 2)),
        ("pretrain_dataset_hash", ("aa", "bb")),
    ],
)
def test_rows_do_not_mix_settings(make, field, values):
    records = [
        make(value=0.3, seed=seed, checkpoint={field: value}) for seed, value in enumerate(values)
    ]
    with pytest.raises(UserError, match=f"row simclr, .*different checkpoint.{field}: "):
        build(records, "x")


def test_one_row_and_seed_is_one_checkpoint(make):
    records = [
        make(task=task, value=0.3, checkpoint={"weights_hash": task}) for task in ("knn", "probe")
    ]
    with pytest.raises(UserError, match=r"pretraining seed 0: .*weights_hash: 'knn'"):
        build(records, "x")


def test_a_metric_without_direction_has_no_best(make):
    records = [
        make(name, task="geometry", value=value, chance=None, higher_is_better=None)
        for name, value in (("a", 3.0), ("b", 5.0))
    ]
    board = build(records, "x")
    assert all(cell.mark is None for cell in board.cells.values())
    assert board.shared == []
