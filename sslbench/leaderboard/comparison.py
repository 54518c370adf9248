"""A comparison as a table of 80 columns in the terminal, and as JSON."""

import math
from collections import defaultdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sslbench.leaderboard import text
from sslbench.leaderboard.board import Cell, Column
from sslbench.leaderboard.compare import Comparison, Comparisons, Side
from sslbench.leaderboard.differences import Compared
from sslbench.statistics import LEVEL


def table(found: Comparisons) -> RenderableType:
    """One table for each pair of rows, then what its columns mean and the rows without a pair."""
    compared = [one for pair in found.pairs for one in pair.columns]
    return Group(
        *(part for pair in found.pairs for part in _pair(pair)),
        Text("\n".join(_legend(compared)), style="dim"),
        *(Text(f"only in A: {text.label(row)}") for row in found.only_a),
        *(Text(f"only in B: {text.label(row)}") for row in found.only_b),
    )


def _pair(pair: Comparison) -> list[RenderableType]:
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for one in pair.columns:
        if one.reason:
            reasons[one.reason].append(f"{one.column.task}/{one.column.dataset}")
    untested = [f"not tested: {why} ({', '.join(where)})" for why, where in reasons.items()]
    return [
        _who("A", pair.a),
        _who("B", pair.b),
        _table(pair),
        *(Text(line, style="dim") for line in untested),
        Text(pair.summary, style="bold"),
        Text(f"{pair.claim}\n"),
    ]


def _who(letter: str, side: Side) -> Text:
    source = f"{side.source}: " if side.source else ""
    shown = Text(f"{letter}  {source}").append(side.row.name, style="bold")
    seeds = f"{side.seeds} pretraining seed{'s' * (side.seeds != 1)}"
    return shown.append(f", {', '.join([*text.about(side.row), seeds])}", style="dim")


def _table(pair: Comparison) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    grid.add_column("column", overflow="fold")
    grid.add_column("A", justify="right", no_wrap=True)
    grid.add_column("B", justify="right", no_wrap=True)
    grid.add_column("A − B\n95 %", justify="right", no_wrap=True)
    grid.add_column("p", justify="right", no_wrap=True)
    grid.add_column("n\ngroups", justify="right", no_wrap=True)
    grid.add_column("verdict", no_wrap=True)
    dataset = None
    for one in pair.columns:
        column = one.column
        if column.dataset != dataset:
            dataset = column.dataset
            grid.add_section()
            grid.add_row(Text(dataset, style="bold"))
        name = Text(column.task).append(f"\n{text.unit(column)}", style="dim")
        style = "bold" if one.verdict in ("A better", "B better") else ""
        verdict = Text((one.verdict or "–").replace("not d", "not\nd"), style=style)
        values = (_value(column, side.cell) for side in (one.a, one.b))
        n = "\n".join("" if count is None else str(count) for count in (one.n, one.groups))
        grid.add_row(name, *values, _difference(one, style), _p(one.p_holm), n, verdict)
    return grid


def _value(column: Column, cell: Cell) -> Text:
    if cell.ok:
        return Text(text.score(column, cell.value))
    return Text(text.EMPTY.get(cell.status, "nan"), style="dim")


def _difference(one: Compared, style: str) -> Text:
    """With its interval on a second line."""
    if one.difference is None:
        return Text("")
    shown = Text(_number(one, one.difference, "+"), style=style)
    if one.test is not None:
        low, high = _number(one, one.test.low), _number(one, one.test.high)
        shown.append(f"\n[{low}, {high}]", style="dim")
    return shown


def _number(one: Compared, value: float, sign: str = "") -> str:
    if one.column.share:
        return f"{100 * value:{sign}.1f}"
    size = max(abs(one.a.cell.value), abs(one.b.cell.value))
    if abs(value) < 1e-6 * size:  # other threads, other last digits: see `records.agree`
        value = 0.0
    return f"{value:{sign}.3g}"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return text.probability(value).removeprefix("p = ").replace("p < ", "<")


def _legend(compared: list[Compared]) -> list[str]:
    lines = [
        "A − B with its 95 % interval: over the examples, and over the pretraining seeds of a row "
        "that has several. The interval is not corrected for the number of comparisons.",
        "p: two-sided, Holm-corrected over the columns of a table that were tested for a verdict; "
        f"better: p < {LEVEL:g}.",
    ]
    if any(one.groups is not None for one in compared):
        lines.append("groups: examples that belong together, resampled as a whole.")
    if any(one.verdict is None for one in compared):
        lines.append("–: the metric describes, and none of its values is better.")
    return lines


def plain(found: Comparisons) -> dict[str, Any]:
    """All of it for JSON, where an infinite bound is null."""
    return {
        "pairs": [_plain_pair(pair) for pair in found.pairs],
        "only_a": [row._asdict() for row in found.only_a],
        "only_b": [row._asdict() for row in found.only_b],
    }


def _plain_pair(pair: Comparison) -> dict[str, Any]:
    sides = {"a": pair.a, "b": pair.b}
    return {
        **{
            k: {**side.row._asdict(), "source": side.source, "seeds": side.seeds}
            for k, side in sides.items()
        },
        "columns": [_plain_column(one) for one in pair.columns],
        "summary": pair.summary,
        "claim": pair.claim,
    }


def _plain_column(one: Compared) -> dict[str, Any]:
    test, sides = one.test, {"a": one.a.cell, "b": one.b.cell}
    return {
        "task": one.column.task,
        "dataset": one.column.dataset,
        "metric": one.column.metric,
        "higher_is_better": one.column.higher_is_better,
        **{k: _finite(cell.value) for k, cell in sides.items()},
        "difference": _finite(one.difference),
        "low": _finite(test.low if test else None),
        "high": _finite(test.high if test else None),
        "p": test.p if test else None,
        "p_holm": one.p_holm,
        "verdict": one.verdict,
        "reason": one.reason or None,
        "n": one.n,
        "groups": one.groups,
        "seeds": {k: len(cell.seeds) for k, cell in sides.items()},
    }


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
