"""Records of several places in one run folder."""

import numpy as np
import pytest

from sslbench.errors import UserError
from sslbench.grid.config import read
from sslbench.grid.local import execute
from sslbench.grid.plan import plan
from sslbench.grid.run import missing
from sslbench.leaderboard import merge, publish
from sslbench.leaderboard.checks import unique
from sslbench.lock import exclusive
from sslbench.records import Provenance, Store, read_records, write_lines

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
    assert merge([board / "records.jsonl"], tmp_path / "second") == (2, 0, 2)
    left = missing(work, tmp_path / "second")
    assert [item.source.name for item in left.work] == ["supervised"]


def test_published_again_from_the_folder_the_records_are_the_same(lines, tmp_path):
    assert merge([lines], tmp_path / "run") == (2, 0, 2)
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
    assert merge([lines, lines], tmp_path / "run") == (0, 0, 2)


def test_a_success_replaces_a_failure_and_never_the_other_way_round(make, lines, tmp_path):
    merge([lines], tmp_path / "run")
    better = [make("byol", value=0.5), make(status="failed", reason="y")]
    write_lines(better, tmp_path / "b.jsonl")
    assert merge([tmp_path / "b.jsonl"], tmp_path / "run") == (1, 0, 2)
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


def elsewhere(record, **changes):
    """The same cell, computed a month later on another machine."""
    later = {"created": "2026-02-02T03:04:05+00:00", "hardware": "8 × GPU", **changes}
    return record.model_copy(update={"provenance": Provenance(**later)})


def test_the_same_result_of_somebody_else_is_a_verification(make, lines, tmp_path):
    merge([lines], tmp_path / "run")
    before = Store(tmp_path / "run" / "records")
    (own,) = [record for record in before if record.status == "ok"]
    write_lines([elsewhere(make(examples=[1.0, 0.0, 1.0]))], tmp_path / "b.jsonl")
    assert merge([tmp_path / "b.jsonl"], tmp_path / "run") == (0, 1, 2)
    assert merge([tmp_path / "b.jsonl", lines], tmp_path / "run") == (0, 0, 2)
    found = before.get(own.key)
    assert found.provenance == own.provenance
    assert [v.provenance.hardware for v in found.verified] == ["8 × GPU"]
    assert [v.value for v in found.verified] == [own.scores["top1"].value]
    (joined,) = unique([elsewhere(own), own])  # whichever comes first, the earlier one stands
    assert joined == found


def test_another_machine_may_differ_within_the_interval_and_the_same_one_may_not(make):
    first = make(examples=[1.0] * 60 + [0.0] * 40)
    near = make(examples=[1.0] * 62 + [0.0] * 38)
    far = make(examples=[1.0] * 80 + [0.0] * 20)
    (joined,) = unique([first, elsewhere(near)])
    assert [v.value for v in joined.verified] == [0.62]
    assert joined.scores == first.scores
    for other in (elsewhere(far), near, elsewhere(near, hardware=first.provenance.hardware)):
        with pytest.raises(UserError, match="different scores"):
            unique([first, other])


def test_versions_of_a_task_are_not_mixed(make, lines, tmp_path):
    merge([lines], tmp_path / "run")
    write_lines([make("moco", value=0.5, task_version=2)], tmp_path / "b.jsonl")
    with pytest.raises(
        UserError, match=r"column knn/digits: .*task_version: 1 \(simclr\); 2 \(moco"
    ):
        merge([tmp_path / "b.jsonl"], tmp_path / "run")
    assert len(list(Store(tmp_path / "run" / "records"))) == 2
    write_lines([make(value=0.5, task_version=2)], tmp_path / "c.jsonl")  # a newer one of the cell
    assert merge([tmp_path / "c.jsonl"], tmp_path / "run") == (1, 0, 3)
