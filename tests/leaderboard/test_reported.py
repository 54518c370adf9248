"""Numbers of others beside our own."""

import pandas as pd
import pytest

from sslbench.errors import UserError
from sslbench.leaderboard import publish
from sslbench.leaderboard.board import build
from sslbench.leaderboard.details import of_row
from sslbench.leaderboard.reported import FIELDS
from sslbench.records import write_lines

OWN = 'simclr,resnet18,digits,20,knn,digits,top1,0.75,"arXiv:2002.05709, table 8"'


@pytest.fixture
def folder(make, tmp_path):
    write_lines([make(value=0.5), make("byol", value=0.5, task="probe")], tmp_path / "r.jsonl")
    (tmp_path / "board").mkdir()
    return tmp_path / "board"


HEAD = ",".join(FIELDS)


def write(folder, *lines, head=HEAD):
    (folder / "reported.csv").write_text("\n".join([head, *lines]) + "\n")
    return publish([folder.parent / "r.jsonl"], folder)


def test_it_stands_in_a_column_of_its_own_and_changes_no_score(folder):
    empty = OWN.replace("knn", "probe").replace("0.75", "0.9")
    board = write(folder, OWN, empty)
    wide = pd.read_csv(folder / "leaderboard.csv").set_index("name")
    simclr = wide.loc["simclr"]
    assert (simclr["knn/digits/top1"], simclr["knn/digits/top1/reported"]) == (0.5, 0.75)
    assert simclr["knn/digits/top1/verified"] == 0
    assert simclr["probe/digits/top1/status"] == "not_run"
    assert simclr["probe/digits/top1/reported"] == 0.9
    assert wide.loc["byol", "probe/digits/top1/reported"] != 0.9
    (row,) = (row for row in board.rows if row.name == "simclr")
    ran, not_run = of_row(board, row, {})["cells"]
    assert "Reported: 75.0 (arXiv:2002.05709, table 8)." in ran["facts"]
    assert "Reported: 90.0 (arXiv:2002.05709, table 8)." in not_run["facts"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (OWN.replace("simclr", "simcrl"), "no row simcrl, resnet18, digits, 20 on this board"),
        (OWN.replace("top1", "map"), "no column knn, digits, map on this board"),
        (OWN.replace("0.75", "75%"), "line 2: expected numbers, found value '75%'"),
        (OWN.partition('"')[0], "line 2: no source"),
        (f"{OWN}\n{OWN}", "two reported numbers of simclr in knn/digits/top1"),
    ],
)
def test_what_belongs_nowhere_is_refused_and_nothing_is_written(line, message, folder):
    with pytest.raises(UserError, match=message):
        write(folder, line)
    assert [path.name for path in folder.iterdir()] == ["reported.csv"]


def test_another_head_is_refused(folder):
    with pytest.raises(UserError, match=r"expected the columns name, encoder.*found name, score"):
        write(folder, head="name,score")


def test_who_verified_a_number_is_said(make):
    record = make(value=0.5)
    provenance = record.provenance.model_copy(
        update={"created": "2026-03-01T00:00:00+00:00", "hardware": "H100"}
    )
    other = record.model_copy(update={"provenance": provenance})
    board = build([record, other], "x")
    ((cell,),) = (of_row(board, row, {})["cells"] for row in board.rows)
    assert "Verified: 50.0 with seed 0 on H100, 2026-03-01." in cell["facts"]
    assert board.cells[board.rows[0], board.columns[0]].verified == 1
