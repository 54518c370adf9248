"""Which columns are marked before anybody reads their numbers."""

import numpy as np
import pytest

from sslbench.leaderboard.board import build
from sslbench.leaderboard.notes import of_column
from sslbench.leaderboard.page import page

N = 200


def notes(*records):
    board = build(records, "test")
    (column,) = board.columns
    return of_column(board, column)


def scores(share, seed=0):
    return (np.random.default_rng(seed).random(N) < share).astype(float)


@pytest.mark.parametrize(
    ("groups", "expected"), [(1, "one group"), (2, "2 groups"), (3, None), (None, None)]
)
def test_one_or_two_groups_are_a_smoke_test(make, groups, expected):
    labels = None if groups is None else np.arange(N) % groups
    found = notes(make(examples=scores(0.5), groups=labels))
    assert found == (
        [f"smoke test: the test split holds {expected} of examples that belong together"]
        if expected
        else []
    )


@pytest.mark.parametrize(
    ("supervised", "encoder", "marked"),
    [(0.50, "resnet18", True), (0.95, "resnet18", False), (0.50, "resnet50", False)],
)
def test_a_column_in_which_supervised_is_not_above_untrained(make, supervised, encoder, marked):
    found = notes(
        make("supervised", examples=scores(supervised, 1)),
        make("untrained", examples=scores(0.5, 2), checkpoint={"encoder": encoder}),
        make("simclr", examples=scores(0.9, 3)),
    )
    assert [note.partition(":")[0] for note in found] == ["uninformative"] * marked


def test_lower_is_better(make):
    better = [
        make("supervised", examples=scores(0.1, 1), higher_is_better=False),
        make("untrained", examples=scores(0.6, 2), higher_is_better=False),
    ]
    assert notes(*better) == []
    assert notes(*(r.model_copy(update={"higher_is_better": True}) for r in better)) != []


def test_the_page_shows_them_in_the_head_and_below(make):
    html = page(build([make(examples=scores(0.5), groups=np.zeros(N))], "test"), "")
    assert "<small>smoke test</small>" in html
    assert "<b>knn on digits</b> smoke test: the test split holds one group" in html
