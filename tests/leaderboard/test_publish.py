"""The files of a board."""

import csv
import io
import json
import os
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sslbench.errors import UserError
from sslbench.leaderboard import publish, table, tables
from sslbench.leaderboard.board import build
from sslbench.records import Score, Store, write_lines

EVIL = '</script><script>alert("1")</script><b onclick=x>&amp;'
FILES = ("records.jsonl", "records.csv", "leaderboard.csv", "index.html")
FIRST_COLUMNS = """name family encoder pretrain_dataset pretrain_epochs pretrain_step pretrain_seed
    task task_version dataset metric value standard_error low high n eval_seed status reason"""


def hits(p, seed, n=300):
    return (np.random.default_rng(seed).random(n) < p).astype(float)


@pytest.fixture
def records(make):
    more = {"top1_selected": Score(value=1 / 3, n=300)}
    made = [
        make("simclr", examples=hits(0.6, seed), seed=seed, scores=more, selected={"k": 20})
        for seed in (0, 1)
    ]
    return [
        *made,
        make(EVIL, examples=hits(0.5, 2)),
        make("byol", status="failed", reason="Traceback:\n <inf> is not finite"),
        make("byol", task="probe", value=0.25, chance=0.1),
        make("simclr", task="rank", value=57.25, headline="rankme", chance=None),
        make("simclr", task="rank", seed=1, value=57.5, headline="rankme", chance=None),
        make("byol", task="rank", headline="rankme", status="not_applicable", reason="no features"),
        make("simclr", examples=hits(0.4, 4), checkpoint={"at": 0.5, "pretrain_step": 50}),
    ]


@pytest.fixture
def out(records, tmp_path):
    write_lines(records, tmp_path / "source.jsonl")
    publish([tmp_path / "source.jsonl"], tmp_path / "board")
    return tmp_path / "board"


def test_records_csv_has_one_row_per_cell_and_metric(out, records):
    long = pd.read_csv(out / "records.csv")
    assert list(long.columns[:19]) == FIRST_COLUMNS.split()
    assert len(long) == sum(max(1, len(record.scores)) for record in records)
    failed = long[(long.name == "byol") & (long.task == "knn")]
    assert failed.metric.tolist() == ["top1"]
    assert failed[["value", "standard_error", "low", "high", "n"]].isna().all(axis=None)
    assert failed.reason.tolist() == ["Traceback:\n <inf> is not finite"]
    assert (long["at"] == 0.5).sum() == 1


def test_records_csv_reads_back_as_the_same_numbers(out, records):
    long = pd.read_csv(out / "records.csv").set_index(["key", "metric"])
    for record in records:
        for metric, score in record.scores.items():
            line = long.loc[(record.key, metric)]
            assert line.value == pytest.approx(score.value, rel=1e-15)
            assert line.n == score.n
            low = np.nan if score.low is None else score.low
            assert line.low == pytest.approx(low, rel=1e-15, nan_ok=True)
            assert json.loads(line.selected) == record.selected
            assert json.loads(line.task_settings) == record.task_settings


def test_leaderboard_csv_has_one_row_per_row_and_columns_by_task_dataset_metric(out):
    wide = pd.read_csv(out / "leaderboard.csv").set_index("name")
    assert wide.index.tolist() == sorted([EVIL, "byol", "simclr"])
    assert {"knn/digits/top1", "probe/digits/top1", "rank/digits/rankme"} <= set(wide.columns)
    simclr = wide.loc["simclr"]
    assert simclr["knn/digits/top1"] == pytest.approx((hits(0.6, 0) + hits(0.6, 1)).mean() / 2)
    assert simclr["knn/digits/top1/low"] < simclr["knn/digits/top1"]
    assert simclr["rank/digits/rankme"] == 57.375
    assert simclr.pretrain_seconds == 60.5
    assert wide.seeds.to_dict() == {"simclr": 2, "byol": 1, EVIL: 1}
    assert wide.parameters.dtype == np.int64
    assert wide.columns_scored.to_dict() == {"simclr": 2, "byol": 1, EVIL: 1}
    assert (wide.columns_in_mean == 0).all()  # no column is shared by all rows
    empty = wide.loc["byol"][["knn/digits/top1", "knn/digits/top1/low", "rank/digits/rankme"]]
    assert empty.isna().all()
    assert wide.loc["byol", "knn/digits/top1/status"] == "failed"


def test_publishing_again_gives_the_same_bytes(out, tmp_path):
    first = {name: (out / name).read_bytes() for name in FILES}
    publish([out / "records.jsonl", tmp_path / "source.jsonl"], out)
    assert {name: (out / name).read_bytes() for name in FILES} == first
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)


def test_a_store_and_its_records_jsonl_give_the_same_board(make, tmp_path):
    store = Store(tmp_path / "run" / "records")
    for name, seed in (("a", 0), ("b", 1)):
        examples = hits(0.5, seed)
        record = make(name, examples=examples).model_copy(update={"inline": None})
        store.put(record, {"top1": examples})
    publish([tmp_path / "run"], tmp_path / "board")
    first = {name: (tmp_path / "board" / name).read_bytes() for name in FILES}
    publish([tmp_path / "board" / "records.jsonl"], tmp_path / "board")
    assert {name: (tmp_path / "board" / name).read_bytes() for name in FILES} == first


def test_contradicting_sources_are_refused_and_nothing_is_written(make, tmp_path):
    record = make(value=0.3)
    write_lines([record], tmp_path / "a.jsonl")
    write_lines([make(value=0.4, key=record.key)], tmp_path / "b.jsonl")
    with pytest.raises(UserError, match="different scores"):
        publish([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "board")
    assert not (tmp_path / "board").exists()


@pytest.mark.parametrize(("age", "kept"), [(0, True), (7_200, False)])
def test_what_a_killed_process_left_is_removed_later(make, tmp_path, age, kept):
    write_lines([make(value=0.3)], tmp_path / "a.jsonl")
    left = tmp_path / "board" / ".partial-abc"
    left.mkdir(parents=True)
    (left / "records.csv").write_text("half a line")
    os.utime(left, (time.time() - age,) * 2)
    publish([tmp_path / "a.jsonl"], tmp_path / "board")
    assert left.exists() is kept
    found = {path.name for path in (tmp_path / "board").iterdir()}
    assert found - {left.name} == set(FILES)


def printed(board, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table(board))
    return console.file.getvalue()


def test_the_terminal_shows_the_same_within_80_columns(records):
    text = printed(build(records, "x"))
    assert f"● {100 * (hits(0.6, 0) + hits(0.6, 1)).mean() / 2:.1f} ±" in text
    assert "57.38" in text
    assert EVIL[:24] in text
    assert "failed:  <inf> is not finite (byol in knn/digits)" in text
    assert "n/a: no features (byol in rank/digits)" in text
    assert "not run" in text


def test_the_terminal_shows_the_first_rows_of_a_large_board(make):
    rows = [make(f"m{place:02}", value=1 - place / 100) for place in range(60)]
    shown = printed(build(rows, "x"))
    assert "m49" in shown
    assert "m50" not in shown
    assert "the first 50 of 60 rows; the files have all" in shown


VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1))
def test_csv_reads_as_what_the_standard_library_writes(rows):
    out = io.StringIO()
    csv.writer(out).writerows([("a", 'b,"'), *rows])
    own = "".join(tables.text({"a": first, 'b,"': second} for first, second in rows))
    found, expected = (list(csv.reader(io.StringIO(t, newline=""))) for t in (own, out.getvalue()))
    assert found == expected


def test_a_first_row_without_aggregates_has_their_columns(make):
    records = [make("a", status="failed", reason="x"), make("b", value=0.5), make("c", value=0.6)]
    first, second, _ = tables.wide(build(records, "x"))
    assert list(first) == list(second)
    assert (first["mean"], second["mean"]) == (None, 0.5)
