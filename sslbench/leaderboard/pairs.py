"""Heat maps of boards whose rows are named by what they combine, such as "crop + colour"."""

from dataclasses import dataclass

from sslbench.leaderboard.board import Board, Cell, Column, Row

AND = " + "


@dataclass(frozen=True)
class HeatMap:
    """What each pair of parts scored in one column; the parts alone are on the diagonal.

    Attributes:
        column: whose scores these are.
        parts: labels of the rows and columns.
        cells: (P, P), symmetric; None where there is no score.
        scale: lowest and highest score.
    """

    column: Column
    parts: list[str]
    cells: list[list[Cell | None]]
    scale: tuple[float, float]


def heat_maps(board: Board) -> list[HeatMap]:
    """One for each column in which pairs have scores; none where no row is a pair."""
    rows = {frozenset(row.name.split(AND)): row for row in board.rows}
    paired = {key for key in rows if len(key) == 2}
    parts = sorted({part for key in paired for part in key})
    found = []
    for column in board.columns:
        cells = [
            [_cell(board, rows.get(frozenset((first, second))), column) for second in parts]
            for first in parts
        ]
        values = [cell.value for line in cells for cell in line if cell]
        if values:
            found.append(HeatMap(column, parts, cells, (min(values), max(values))))
    return found


def _cell(board: Board, row: Row | None, column: Column) -> Cell | None:
    cell = board.cells[row, column] if row else None
    return cell if cell and cell.ok else None
