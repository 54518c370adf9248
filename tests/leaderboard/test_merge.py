"""Records of several places in one run folder."""

import numpy as np
import pytest

from sslbench.errors import UserError
from sslbench.grid.config import read
from sslbench.grid.local import execute
from sslbench.grid.plan import plan
from sslbench.grid.run import missing
from sslbench.leaderboard import merge, publish
from sslbench.lock import exclusive
from sslbench.records import Store, read_records, write_lines

GRID = """
name = "small"
seeds = [0]
[pretrain]
methods = ["pixels", "untrained"]
datasets = ["digits"]
encoders = [{ name = "resnet18", width = 4, image_size = 8 }]
epochs = [1]
[evaluate]
tasks = ["knn"]
datasets = ["digits"]
"""


@pytest.fixture
def lines(make, tmp_path):
    """A records.jsonl of two records, one of them a failure."""
    made = [make(examples=[1.0, 0.0, 1.0]), make("byol", status="failed", reason="x")]
    write_lines(made, tmp_path / "a.jsonl")
    return tmp_path / "a.jsonl"


def test_a_grid_computes_only_what_a_published_board_lacks(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))
    path, board = tmp_path / "grid.toml", tmp_path / "board"
    path.write_text(GRID)
    config = read(path)
    execute(config, path, plan(config, path), tmp_path / "first", executor="debug")
    publish([tmp_path / "first"], board)
    path.write_text(GRID.replace('"untrained"]', '"untrained", "supervised"]'))
    work = plan(read(path), path)
    assert merge([board / "records.jsonl"], tmp_path / "second") == (2, 2)
    left = missing(work, tmp_path / "second")
    assert [item.source.name for item in left.work] == ["supervised"]


def test_published_again_from_the_folder_the_records_are_the_same(lines, tmp_path):
    assert merge([lines], tmp_path / "run") == (2, 2)
    assert read_records(tmp_path / "run") == read_records(lines)


def test_per_example_scores_come_along_from_a_folder(make, tmp_path):
    record, scores = make(value=0.5), {"top1": np.array([1.0, 0.0]), "more": np.array([0.2, 0.3])}
    store = Store(tmp_path / "from" / "records")
    record = store.put(record, scores)
    merge([tmp_path / "from"], tmp_path / "run")
    found = Store(tmp_path / "run" / "records")
    assert found.get(record.key) == record
    np.testing.assert_array_equal(found.examples(record)["more"], scores["more"])


def test_again_adds_nothing(lines, tmp_path):
    merge([lines], tmp_path / "run")
    assert merge([lines, lines], tmp_path / "run") == (0, 2)


def test_a_success_replaces_a_failure_and_never_the_other_way_round(make, lines, tmp_path):
    merge([lines], tmp_path / "run")
    better = [make("byol", value=0.5), make(status="failed", reason="y")]
    write_lines(better, tmp_path / "b.jsonl")
    assert merge([tmp_path / "b.jsonl"], tmp_path / "run") == (1, 2)
    assert {r.status for r in Store(tmp_path / "run" / "records")} == {"ok"}


def test_a_contradiction_is_refused_and_nothing_is_written(make, lines, tmp_path):
    merge([lines], tmp_path / "run")
    before = read_records(tmp_path / "run")
    write_lines([make(value=0.25), make("moco", value=0.5)], tmp_path / "b.jsonl")
    with pytest.raises(UserError, match=r"different scores: top1 0\.666667; top1 0\.25"):
        merge([tmp_path / "b.jsonl"], tmp_path / "run")
    assert read_records(tmp_path / "run") == before


def test_a_folder_in_which_somebody_works_is_left_alone(lines, tmp_path):
    with (
        exclusive(tmp_path / "run"),
        pytest.raises(UserError, match="another process works in it"),
    ):
        merge([lines], tmp_path / "run")
    assert not (tmp_path / "run" / "records").exists()
