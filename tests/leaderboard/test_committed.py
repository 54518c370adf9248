"""What the committed boards say, recomputed from their records."""

from collections import Counter
from pathlib import Path

import pytest

from sslbench import registry
from sslbench.leaderboard import publish
from sslbench.records import Record, read_records, unpack
from sslbench.statistics import hierarchical, paired

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


BOARD = Path("vision-methods")
# Methods that do not beat the same encoder untrained in kNN or in the linear probe; docs/methods.md
# says of each what was looked into.
NOTHING_GAINED = {
    "cpc",
    "ijepa",
    "instance_discrimination",
    "jigsaw",
    "relative_patch",
    "vq_autoregressive",
}


def test_the_board_of_all_methods_is_complete():
    records = read_records(ROOT / "leaderboards" / BOARD / "records.jsonl")
    found = Counter((r.checkpoint.name, r.task, r.dataset) for r in records if r.status == "ok")
    names = {name for name, *_ in found}
    abouts = [entry.describe() for entry in registry.entries("methods").values()]
    assert {a["name"] for a in abouts if a["modality"] in ("image", "any")} <= names
    assert set(found.values()) == {3}  # seeds
    assert len(found) == len(names) * 4 * 2 == len(records) / 3


def test_on_the_board_of_all_methods_these_learn_and_those_do_not():
    learned: dict[str, bool] = {}
    for task in ("knn", "linear_probe"):
        rows = cells(BOARD, task)
        about = {name: records[0].checkpoint for name, records in rows.items()}
        bases = {c.encoder: name for name, c in about.items() if c.method == "untrained"}
        for name, records in rows.items():
            if not about[name].pretrain_step:
                continue
            base = rows[bases[about[name].encoder]]
            found = hierarchical([examples(r) for r in records], [examples(r) for r in base])
            learned[name] = learned.get(name, False) or found.low > 0
    assert {name for name, better in learned.items() if not better} == NOTHING_GAINED
