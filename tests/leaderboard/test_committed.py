"""What the committed boards say, recomputed from their records."""

from pathlib import Path

import pytest

from sslbench.leaderboard import publish
from sslbench.records import Record, read_records, unpack
from sslbench.statistics import paired

ROOT = Path(__file__).parents[2]
BOARDS = sorted(path.parent for path in ROOT.glob("leaderboards/*/records.jsonl"))


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_the_tables_are_rebuilt_byte_for_byte_from_the_records(board, tmp_path):
    publish([board / "records.jsonl"], tmp_path / board.name)
    for name in ("records.jsonl", "records.csv", "leaderboard.csv"):
        assert (tmp_path / board.name / name).read_bytes() == (board / name).read_bytes(), name


def cells(board: Path, task: str) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in read_records(ROOT / "leaderboards" / board / "records.jsonl"):
        if (record.task, record.dataset) == (task, "cifar10-mini"):
            found.setdefault(record.checkpoint.name, []).append(record)
    return found


def examples(record: Record):
    return unpack(record.inline[record.headline])


@pytest.mark.parametrize("method", ["simclr", "byol", "vicreg", "rotation"])
def test_in_the_quickstart_each_method_learns(method):
    """By more than the 95 % interval of the paired difference, in kNN or in the linear probe."""
    lows = []
    for task in ("knn", "linear_probe"):
        rows = cells(Path("quickstart"), task)
        (found,), (untrained,) = rows[method], rows["untrained"]
        assert list(found.selected)[:1] == list(untrained.selected)[:1]
        lows.append(paired(examples(found), examples(untrained)).low)
    assert max(lows) > 0


def test_in_the_quickstart_supervised_is_on_top_of_the_linear_probe():
    rows = cells(Path("quickstart"), "linear_probe")
    values = {name: record.scores["top1"].value for name, (record,) in rows.items()}
    assert max(values, key=lambda name: values[name]) == "supervised"


@pytest.mark.parametrize("task", ["knn", "linear_probe"])
def test_of_all_pairs_of_augmentations_crops_with_colours_are_best(task):
    rows = cells(Path("augmentations"), task)
    values = {name: record.scores["top1"].value for name, (record,) in rows.items()}
    assert max(values, key=lambda name: values[name]) == "crop + colour"
    assert values["colour"] < values["untrained"] < values["crop"]
