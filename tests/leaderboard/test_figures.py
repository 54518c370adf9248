"""The small tables beside a board."""

import re

import numpy as np

from sslbench.leaderboard.board import build
from sslbench.leaderboard.figures import heat_maps, transfers
from sslbench.leaderboard.page import page
from sslbench.records import Score, pack
from sslbench.statistics import interval


def test_pairs_stand_in_both_triangles_and_parts_on_the_diagonal(make):
    values = {"crop": 0.3, "colour": 0.2, "colour + crop": 0.9, "blur + crop": 0.5}
    board = build([make(name, value=value) for name, value in values.items()], "pairs")
    (found,) = heat_maps(board)
    assert found.head == ["blur", "colour", "crop"]
    values = {label: [entry and entry.value for entry in line] for label, line in found.lines}
    assert values == {
        "blur": [None, None, 0.5],
        "colour": [None, 0.2, 0.9],
        "crop": [0.5, 0.9, 0.3],
    }
    assert found.scale == (0.2, 0.9)
    html = page(board, "")
    table = html[html.index('class="scroll heat"') :]
    assert re.findall(r"--heat:([\d.]+)%", table) == [
        "42.9",
        "0.0",
        "100.0",
        "42.9",
        "100.0",
        "14.3",
    ]
    assert table.count('<th scope="row">colour</th>') == 1


def test_other_boards_have_no_heat_map(make):
    board = build([make(name, value=0.5) for name in ("simclr", "moco")], "board")
    assert heat_maps(board) == transfers(board) == []
    assert 'class="scroll heat"' not in page(board, "")


def test_adaptations_are_compared_with_each_other_on_the_same_examples(make):
    right = {"linear": np.arange(40) < 20, "tune_last": np.arange(40) < 21, "tune_all": np.ones(40)}
    names = {
        f"top1_{amount}_{name}": values
        for amount in ("few", "many")
        for name, values in right.items()
    }
    record = make("simclr", "transfer", examples=right["tune_all"], task_settings={"few": 0.1})
    scores = {name: Score(value=float(np.mean(values)), n=40) for name, values in names.items()}
    inline = {name: pack(values) for name, values in names.items()}
    record = record.model_copy(
        update={"scores": record.scores | scores, "inline": record.inline | inline}
    )
    few, many = transfers(build([record], "board"))
    assert few.caption == "transfer on digits, top1 %, with 10 % of the labels"
    assert many.caption.endswith("with 100 % of the labels")
    assert few.head == ["linear", "tune last", "tune all"]
    ((name, entries),) = few.lines
    assert name == "simclr"
    assert [(entry.score, entry.mark) for entry in entries] == [
        ("50.0", None),
        ("52.5", None),
        ("100.0", "best"),
    ]
    low, high = interval(right["linear"].astype(float))[1:]
    assert entries[0].half == f"±{100 * (high - low) / 2:.1f}"


def test_adaptations_that_cannot_be_told_apart_are_marked(make):
    draw = np.random.default_rng(0)
    right = {name: (draw.random(50) < 0.5).astype(float) for name in ("linear", "tune_all")}
    record = make("simclr", "transfer", examples=right["linear"], task_settings={"few": 0.1})
    names = {
        f"top1_{amount}_{name}": values
        for amount in ("few", "many")
        for name, values in right.items()
    }
    scores = {name: Score(value=float(values.mean()), n=50) for name, values in names.items()}
    inline = {name: pack(values) for name, values in names.items()}
    record = record.model_copy(update={"scores": record.scores | scores, "inline": inline})
    ((_, entries),) = transfers(build([record], "board"))[0].lines
    assert {entry.mark for entry in entries} == {"best", "tied"}


def test_an_adaptation_that_an_encoder_does_not_have_is_a_gap(make):
    settings = {"task_settings": {"few": 0.1}, "value": 0.5}
    names = [f"top1_{amount}_{a}" for amount in ("few", "many") for a in ("linear", "tune_all")]
    one = {name: Score(value=0.5, n=100) for name in names}
    more = {f"top1_{amount}_linear_earlier": Score(value=0.4, n=100) for amount in ("few", "many")}
    records = [
        make("a", "transfer", scores=one, **settings),
        make("b", "transfer", scores=one | more, **settings),
    ]
    few, _ = transfers(build(records, "board"))
    assert few.head == ["linear", "tune all", "linear earlier"]
    assert [bool(entry) for entry in dict(few.lines)["a"]] == [True, True, False]
    assert all(dict(few.lines)["b"])
