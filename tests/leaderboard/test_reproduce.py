"""What the page says computes a record again must plan that very record."""

import shlex
import tomllib
from pathlib import Path

import pytest

from sslbench import registry
from sslbench.data.fetch import NotFetched
from sslbench.grid import config
from sslbench.grid.plan import plan
from sslbench.leaderboard.board import build
from sslbench.leaderboard.reproduce import evaluation, pretraining, toml
from sslbench.records import read_records

BOARDS = Path(__file__).parents[2] / "leaderboards"


def cells():
    """One record of each row and each task, of its version of today."""
    found = {}
    for record in read_records(BOARDS / "vision-tasks" / "records.jsonl"):
        if record.task_version == registry.task(record.protocol).version:
            found.setdefault((record.checkpoint.name, record.task), record)
    return list(found.values())


@pytest.mark.parametrize("record", cells()[::4], ids=lambda r: f"{r.checkpoint.name}-{r.task}")
def test_the_grid_has_the_keys_of_the_record(record, tmp_path):
    path = tmp_path / "reproduced.toml"
    path.write_text(pretraining([record.checkpoint]) + "\n\n" + evaluation([record]))
    try:
        (work,) = plan(config.read(path), path)
    except NotFetched as error:
        pytest.skip(str(error))
    assert work.source.key == record.checkpoint.key
    assert [cell.key for cell in work.cells] == [record.key]


def test_all_seeds_of_a_row_stand_in_one_grid(make):
    records = [make("mine", value=0.5, seed=s, checkpoint={"method": "simclr"}) for s in (0, 1)]
    board = build(records, "x")
    tables = tomllib.loads(pretraining(board.checkpoints(board.rows[0])))
    assert tables["seeds"] == [0, 1]
    assert tables["pretrain"]["methods"] == ["mine"]
    assert tables["override"]["mine"]["of"] == "simclr"


def test_an_external_checkpoint_is_a_command_that_survives_a_shell():
    found = [
        r
        for r in read_records(BOARDS / "external" / "records.jsonl")
        if r.checkpoint.name == "efficientnet-lite0" and r.task == "knn"
    ]
    words = shlex.split(f"{pretraining([found[0].checkpoint])} {evaluation(found[:1])}")
    assert words[:2] == ["sslbench", "evaluate"]
    assert words[words.index("--encoder") + 1].startswith("tf_efficientnet_lite0(")
    assert "image_size=128" in words
    assert words[words.index("--task") + 1] == "knn"


def test_values_come_back_from_toml():
    tables = {
        "a": 1,
        "b c": {"none": None, "list": [1, 2.5, 'x\n"y"', {"k": True}], "inf": float("inf")},
        "d": {"e": {"f.g": "ü"}},
    }
    del tables["b c"]["none"]
    assert tomllib.loads(toml(tables)) == tables
    assert toml({"none": None}) == ""
