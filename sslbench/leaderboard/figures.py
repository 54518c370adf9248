"""Small tables beside a board: pairs of what rows combine, and which adaptation transfers best."""

from dataclasses import dataclass

from sslbench.leaderboard import text
from sslbench.leaderboard.board import Board, Cell, Column, Mark, Row
from sslbench.leaderboard.differences import measured
from sslbench.statistics import best_and_tied, interval

AND = " + "
AMOUNTS = ("few", "many")  # labels, in the names of transfer's scores


@dataclass(frozen=True)
class Entry:
    """A score in words, and how it stands in its line."""

    value: float
    score: str
    half: str
    mark: Mark = None


@dataclass(frozen=True)
class Figure:
    """A table that is coloured by its scores.

    Attributes:
        caption: what they measure.
        head: labels of the columns.
        lines: label and entries of each row; None where there is no score.
    """

    caption: str
    head: list[str]
    lines: list[tuple[str, list[Entry | None]]]

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest score."""
        values = [entry.value for _, entries in self.lines for entry in entries if entry]
        return min(values), max(values)


def figures(board: Board) -> list[Figure]:
    """All that the board's rows and columns give."""
    return heat_maps(board) + transfers(board)


def heat_maps(board: Board) -> list[Figure]:
    """What each pair of parts scored, for rows with names such as "crop + colour".

    One for each column in which pairs have scores; none where no row is a pair.
    """
    rows = {frozenset(row.name.split(AND)): row for row in board.rows}
    parts = sorted({part for key in rows if len(key) == 2 for part in key})
    found = []
    for column in board.columns:
        lines = [
            (
                first,
                [_alone(board, rows.get(frozenset((first, second))), column) for second in parts],
            )
            for first in parts
        ]
        if any(entry for _, entries in lines for entry in entries):
            what = f"{column.task} on {column.dataset}, {text.unit(column)}"
            caption = f"{what}: each pair, and alone on the diagonal"
            found.append(Figure(caption, parts, lines))
    return found


def _alone(board: Board, row: Row | None, column: Column) -> Entry | None:
    cell = board.cells[row, column] if row else None
    if cell is None or not cell.ok:
        return None
    return Entry(cell.value, text.score(column, cell.value), text.half(column, cell))


def transfers(board: Board) -> list[Figure]:
    """For each dataset, with few labels and with many, what each adaptation of a row reached.

    A line's best is marked, and what cannot be told from it on the same examples.
    """
    found = []
    for column in board.columns:
        cells = {row: board.cells[row, column] for row in text.order(board)}
        cells = {row: cell for row, cell in cells.items() if cell.ok}
        record = next((cell.records[0] for cell in cells.values()), None)
        if record is None or record.protocol != "transfer":
            continue
        for amount in AMOUNTS:
            start = f"{column.metric}_{amount}_"
            scored = [cell.records[0].scores for cell in cells.values()]
            names = max(([n for n in own if n.startswith(start)] for own in scored), key=len)
            share = record.task_settings["few"] if amount == "few" else 1.0
            labels = f"with {100 * share:g} % of the labels"
            found.append(
                Figure(
                    f"{column.task} on {column.dataset}, {text.unit(column)}, {labels}",
                    [name.removeprefix(start).replace("_", " ") for name in names],
                    [(row.name, _compared(column, cell, names)) for row, cell in cells.items()],
                )
            )
    return found


def _compared(column: Column, cell: Cell, names: list[str]) -> list[Entry | None]:
    """Several scores of one cell, compared with each other."""
    known = {
        n: m for n in names if n in cell.records[0].scores and (m := measured(cell.records, n))
    }
    groups = next((one.groups for one in known.values()), None)
    values = [one.value for one in known.values()]
    standing = best_and_tied(values, [one.examples for one in known.values()], groups)
    entries: dict[str, Entry] = {}
    for place, (name, one) in enumerate(known.items()):
        half = ""
        if one.examples is not None:
            ends = interval(one.examples.mean(axis=0), groups)[1:]
            half = text.half(column, Cell(interval=ends))
        mark: Mark = "best" if place == standing.best else "tied" if standing.tied[place] else None
        entries[name] = Entry(one.value, text.score(column, one.value), half, mark)
    return [entries.get(name) for name in names]
