"""A board as a table in the terminal."""

from collections import defaultdict

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sslbench.leaderboard import notes, text
from sslbench.leaderboard.board import Board, Cell, Column

NAME_WIDTH = 24  # a longer name may be broken in a narrow terminal
ROWS = 50  # the first of a larger board


def table(board: Board) -> RenderableType:
    """Per dataset, scores with half the width of their 95 % interval; then marks and reasons."""
    datasets = dict.fromkeys(column.dataset for column in board.columns)
    return Group(
        *(_table(board, dataset) for dataset in datasets),
        Text("\n".join(_legend(board)), style="dim"),
    )


def _table(board: Board, dataset: str) -> Table:
    columns = [column for column in board.columns if column.dataset == dataset]
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    longest = max(len(row.name) for row in board.rows)
    grid.add_column(Text(dataset), min_width=min(longest, NAME_WIDTH), overflow="fold")
    for column in columns:
        heading = Text(f"{column.task}\n{text.unit(column)}")
        grid.add_column(heading, justify="right", overflow="fold")
    names = [row.name for row in board.rows]
    for row in text.order(board)[:ROWS]:
        label = Text(row.name)
        if board.checkpoints(row)[0].family == "external":
            label.append(" external", style="dim")
        if names.count(row.name) > 1:
            label.append("\n" + ", ".join(text.about(row)), style="dim")
        grid.add_row(label, *(_cell(column, board.cells[row, column]) for column in columns))
    return grid


def _cell(column: Column, cell: Cell) -> Text:
    if not cell.ok:
        return Text(text.EMPTY.get(cell.status, "nan"), style="dim")
    shown = Text(f"{text.MARKS[cell.mark]} ".lstrip())
    shown.append(text.score(column, cell.value), style="bold" if cell.mark == "best" else "")
    return shown.append(f" {text.half(column, cell)}".rstrip(), style="dim")


def _legend(board: Board) -> list[str]:
    """The marks in use, and one line for each reason why a cell is empty."""
    used = {cell.mark for cell in board.cells.values()}
    lines = [
        f"{text.MARKS[mark]} {meaning}" for mark, meaning in text.MEANING.items() if mark in used
    ]
    lines += ["± half of the 95 % interval over the examples", text.subject(board)]
    if board.shared:
        lines.append("rows in the order of their mean rank")
    if len(board.rows) > ROWS:
        lines.append(f"the first {ROWS} of {len(board.rows)} rows; the files have all")
    for column in board.columns:
        lines += [f"{column.task}/{column.dataset}: {n}" for n in notes.of_column(board, column)]
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for (row, column), cell in board.cells.items():
        if cell.status in ("failed", "not_applicable"):
            where = f"{row.name} in {column.task}/{column.dataset}"
            reasons[text.why_empty(cell)].append(where)
    return lines + [f"{reason} ({', '.join(where)})" for reason, where in reasons.items()]
