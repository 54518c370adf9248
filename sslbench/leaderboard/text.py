"""How numbers are written, in the terminal and on the page."""

import math
from collections.abc import Sequence

from sslbench.leaderboard.board import Board, Cell, Column, Row
from sslbench.statistics import LEVEL

EMPTY = {"not_run": "not run", "failed": "failed", "not_applicable": "n/a"}
MARKS = {"best": "●", "tied": "○", None: ""}
VERIFIED = "computed by somebody else too, with the same result"
MEANING = {
    "best": "best of its column",
    "tied": f"cannot be told from the best (same examples, corrected, p ≥ {LEVEL:g})",
}


def score(column: Column, value: float) -> str:
    """A share as percent with one decimal, any other number with four digits."""
    if column.share:
        return f"{100 * value:.1f}"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:#.4g}"


def why_empty(cell: Cell) -> str:
    """Why there is no number to show, with the last line of an error."""
    shown = EMPTY.get(cell.status, "nan")
    if cell.status not in ("failed", "not_applicable"):
        return shown
    return f"{shown}: {(cell.records[0].reason or 'no reason given').splitlines()[-1]}"


def half(column: Column, cell: Cell) -> str:
    """±, and half the width of the interval; empty without one."""
    if cell.interval is None:
        return ""
    width = (cell.interval[1] - cell.interval[0]) / 2
    return f"±{100 * width:.1f}" if column.share else f"±{width:.2g}"


def unit(column: Column) -> str:
    """The metric with its unit, and an arrow where lower is better."""
    arrow = " ↓" if column.higher_is_better is False else ""
    return f"{column.metric}{' %' if column.share else ''}{arrow}"


def probability(p: float) -> str:
    """A p value."""
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".")


def duration(seconds: float) -> str:
    """In the largest unit of which there are at least two."""
    for unit_, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit_}"
    return f"{seconds:.0f} s"


def count(number: int) -> str:
    """With K, M or G, three digits."""
    for unit_, size in (("G", 1_000_000_000), ("M", 1_000_000), ("K", 1_000)):
        if number >= size:
            return f"{number / size:.3g} {unit_}"
    return str(number)


def subject(board: Board) -> str:
    """What differences on this board are claims about."""
    return claim([len(board.checkpoints(row)) for row in board.rows])


def claim(seeds: Sequence[int]) -> str:
    """What differences between rows with so many pretraining seeds are claims about."""
    if max(seeds) <= 1:
        return "One pretraining seed per row: differences are about these checkpoints, not methods."
    if min(seeds) > 1:
        return "Several pretraining seeds per row: differences are about methods."
    return (
        "Rows with several pretraining seeds are compared as methods, over seeds and examples; "
        "rows with one seed as checkpoints."
    )


def aggregates(board: Board) -> str:
    """What the mean and the mean rank are taken over."""
    total = len(board.columns)
    if not board.shared:
        return "No mean: no column of shares is shared by all rows."
    names = ", ".join(f"{column.task}/{column.dataset}" for column in board.shared)
    return (
        f"Mean and mean rank: over the {len(board.shared)} of {total} columns that are shares, of "
        f"which higher is better, and that every row has ({names})."
    )


def about(row: Row) -> list[str]:
    """Encoder, pretraining data and budget of a row, as far as they are known."""
    if not row.pretrain_dataset:
        return [row.encoder]
    if not row.pretrain_epochs:
        return [row.encoder, row.pretrain_dataset]
    epochs = f"{row.pretrain_epochs} epoch{'' if row.pretrain_epochs == 1 else 's'}"
    return [row.encoder, row.pretrain_dataset, epochs]


def label(row: Row) -> str:
    """All that is known of a row, on one line."""
    return ", ".join([row.name, *about(row)])


def order(board: Board) -> list[Row]:
    """The rows by mean rank, those without one last."""
    places = {row: own.mean_rank for row, own in board.aggregates.items()}
    return sorted(board.rows, key=lambda row: (places.get(row, math.inf), row))
