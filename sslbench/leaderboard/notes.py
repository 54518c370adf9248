"""What a reader must know of a column before its numbers."""

from collections.abc import Iterable
from itertools import product

import numpy as np

from sslbench.leaderboard.board import Board, Cell, Column, Row
from sslbench.leaderboard.differences import difference, measured
from sslbench.records import unpack

FEW_GROUPS = 2  # or fewer: nothing can be resampled that would tell how far a number reaches


def of_column(board: Board, column: Column) -> list[str]:
    """Notes such as "smoke test" and "uninformative", each with its reason."""
    cells = {row: board.cells[row, column] for row in board.rows if board.cells[row, column].ok}
    counts = {groups for cell in cells.values() if (groups := _groups(cell)) is not None}
    notes = []
    if counts and max(counts) <= FEW_GROUPS:
        units = "one group" if max(counts) == 1 else f"{max(counts)} groups"
        notes.append(f"smoke test: the test split holds {units} of examples that belong together")
    supervised, untrained = (_by_encoder(board, cells, m) for m in ("supervised", "untrained"))
    shared = supervised.keys() & untrained.keys()
    pairs = [pair for e in shared for pair in product(supervised[e], untrained[e])]
    if pairs and not any(_above(cells[a], cells[b], column) for a, b in pairs):
        notes.append("uninformative: not even supervised is above untrained of the same encoder")
    return notes


def _groups(cell: Cell) -> int | None:
    """How many groups a cell's examples come in; None where they come one by one."""
    inline = cell.records[0].inline or {}
    return len(np.unique(unpack(inline["groups"]))) if "groups" in inline else None


def _by_encoder(board: Board, rows: Iterable[Row], method: str) -> dict[str, list[Row]]:
    """The rows of one method."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if {c.method for c in board.checkpoints(row)} == {method}:
            found.setdefault(row.encoder, []).append(row)
    return found


def _above(first: Cell, second: Cell, column: Column) -> bool:
    """Whether the first is better by the 95 % interval; True where that cannot be tested."""
    a, b = measured(first.records), measured(second.records)
    found = difference(a, b) if a and b else None
    if found is None or column.higher_is_better is None:
        return True
    return found.low > 0 if column.higher_is_better else found.high < 0
