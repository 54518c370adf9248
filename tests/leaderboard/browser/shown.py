"""What a page shows, and what it should show."""

import base64
import gzip
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from playwright.sync_api import Locator, Page

from sslbench.leaderboard import text
from sslbench.leaderboard.aggregates import Aggregate, aggregates
from sslbench.leaderboard.board import Board, Cell, Column, Row

MEANS = ["mean", "normalised", "borda", "winRate"]
AGGREGATES = ["rank", *MEANS]

Table = dict[str, dict[str, str]]  # the cells' texts by row and column, as they are shown

CELLS = """() => {
  const pieces = (cell) => {
    const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    const found = [];
    while (walker.nextNode()) {
      const { data, parentElement } = walker.currentNode;
      if (data.trim() && !parentElement.closest(".hidden")) found.push(data.trim());
    }
    return found.join(" ");
  };
  const heads = [...document.querySelectorAll("#board thead th[scope=col]")];
  const lines = [...document.querySelectorAll("#board tbody tr")];
  return {
    columns: heads.map((head) => Number(head.dataset.dtColumn)).sort((a, b) => a - b),
    rows: lines.map((line) => [...line.cells].map(pieces)),
  };
}"""


def packed(page: Page, name: str) -> dict[str, Any]:
    """What a page has packed under this name."""
    content = page.locator(f"#packed-{name}").text_content() or ""
    return json.loads(gzip.decompress(base64.b64decode(content)))


def names(page: Page) -> list[str]:
    """Of all columns, also those that are not shown, as in the address."""
    columns = packed(page, "data")["columns"]
    return ["name", *AGGREGATES, *(column["name"] for column in columns), "parameters", "seconds"]


def table(page: Page) -> Table:
    found, known = page.evaluate(CELLS), names(page)
    shown = [known[place] for place in found["columns"]]
    lines = [dict(zip(shown, line, strict=True)) for line in found["rows"] if len(line) > 1]
    return {line["name"].split()[0]: line for line in lines}


def head(page: Page, column: str) -> Locator:
    """Of a column of scores, or another that has a name in the address."""
    return page.locator(f"#board th[scope=col][data-dt-column='{names(page).index(column)}']")


def box(page: Page, facet: str) -> Locator:
    return page.locator(f"details.facet[data-facet='{facet}']")


def choose(page: Page, facet: str, *values: str) -> None:
    """Open a facet's box and leave only these values checked."""
    box(page, facet).locator("summary").click()
    for value in box(page, facet).get_by_role("checkbox").all():
        if value.is_checked() != (value.get_attribute("value") in values):
            value.click()
    page.keyboard.press("Escape")


def scores(column: Column, line: pd.Series, cell: Cell) -> set[str]:
    """A cell by its line of leaderboard.csv; also from six digits, which are all a page has."""
    status = line[f"{column.name}/status"]
    if status != "ok":
        return {text.EMPTY[status]}
    value, low, high = (line[f"{column.name}{end}"] for end in ("", "/low", "/high"))
    half = f"±{100 * (high - low) / 2:.1f}" if pd.notna(low) else ""
    check = "✓" if cell.verified == len(cell.records) else ""
    digits = {text.score(column, value), text.score(column, float(f"{value:.6g}"))}
    parts = [[text.MARKS[cell.mark], one, half, check] for one in digits]
    return {" ".join(part for part in own if part) for own in parts}


def aggregated(own: Aggregate | None) -> dict[str, str]:
    """The cells of a row's aggregates."""
    if own is None:
        return dict.fromkeys(AGGREGATES, "")
    bounds = [own.rank_low, own.rank_high]
    mark = "best" if own.rank == 1 else "tied" if own.group == 1 else None
    interval = "–".join(map(str, sorted(set(bounds))))
    return {
        "rank": " ".join(part for part in (text.MARKS[mark], str(own.rank), interval) if part),
        "mean": f"{100 * own.mean:.1f}",
        "normalised": f"{100 * own.normalised:.1f}",
        "borda": f"{own.borda:.1f}",
        "winRate": f"{100 * own.win_rate:.0f}",
    }


def recomputed(
    board: Board, rows: Iterable[Row], columns: Sequence[Column], draws: int
) -> dict[str, Aggregate]:
    """By name, over some rows and columns and the first draws; empty without a common column."""
    cells = board.cells
    scored = [row for row in rows if any(cells[row, column].ok for column in columns)]
    common = [c for c in columns if c.averaged and all(cells[row, c].ok for row in scored)]
    if not scored or not common:
        return {}
    found = aggregates(
        np.array([[cells[row, column].value for column in common] for row in scored]),
        np.array([column.chance for column in common], np.float64),
        np.array([[cells[row, column].noise[:draws] for column in common] for row in scored]),
    )
    return {row.name: own for row, own in zip(scored, found, strict=True)}
