"""Heat maps of boards of pairs."""

import re

from sslbench.leaderboard.board import build
from sslbench.leaderboard.page import page
from sslbench.leaderboard.pairs import heat_maps


def test_pairs_stand_in_both_triangles_and_parts_on_the_diagonal(make):
    values = {"crop": 0.3, "colour": 0.2, "colour + crop": 0.9, "blur + crop": 0.5}
    board = build([make(name, value=value) for name, value in values.items()], "pairs")
    (found,) = heat_maps(board)
    assert found.parts == ["blur", "colour", "crop"]
    values = [[cell and cell.value for cell in row] for row in found.cells]
    assert values == [[None, None, 0.5], [None, 0.2, 0.9], [0.5, 0.9, 0.3]]
    assert found.scale == (0.2, 0.9)
    html = page(board)
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
    assert heat_maps(board) == []
    assert 'class="scroll heat"' not in page(board)
