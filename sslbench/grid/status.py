"""How far a grid is, from what lies on disk."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from sslbench.errors import UserError
from sslbench.grid.job import checkpoint_folder
from sslbench.grid.plan import Pretraining, Work
from sslbench.grid.run import finished
from sslbench.lock import holder
from sslbench.records import Store


@dataclass(frozen=True)
class Row:
    """One source of weights.

    Attributes:
        name: of the row in the leaderboard.
        state: "finished", "running", "interrupted", "waiting", or "external".
        done: share of the pretraining steps that are logged, in [0, 1].
        cells: number of cells by status: ok, failed, not_applicable, missing.
        reasons: distinct reasons of cells without a score.
    """

    name: str
    seed: int
    dataset: str
    state: str
    done: float
    cells: dict[str, int]
    reasons: list[str]


@dataclass(frozen=True)
class Status:
    """The state of a whole grid."""

    folder: Path
    rows: list[Row]

    def total(self, status: str) -> int:
        """Number of cells with this status."""
        return sum(row.cells.get(status, 0) for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Plain values: totals and rows."""
        kinds = ("ok", "failed", "not_applicable", "missing")
        return {
            "folder": str(self.folder),
            "cells": {kind: self.total(kind) for kind in kinds},
            "rows": [row.__dict__ for row in self.rows],
        }


def status(work: list[Work], folder: Path) -> Status:
    """Read the run folder; nothing in it is changed."""
    return Status(folder, [_row(item, folder) for item in work])


def _row(item: Work, folder: Path) -> Row:
    store, counts, reasons = Store(folder / "records"), Counter[str](), list[str]()
    for cell in item.cells:
        try:
            record = store.get(cell.key)
        except UserError as error:
            counts["damaged"] += 1
            reasons.append(str(error))
            continue
        counts[record.status if record else "missing"] += 1
        if record and record.reason:
            reasons.append(record.reason.splitlines()[-1])
    source = item.source
    unique = list(dict.fromkeys(reasons))
    if not isinstance(source, Pretraining):
        return Row(source.name, 0, "", "external", 1.0, dict(counts), unique)
    place = checkpoint_folder(folder, source)
    state, share = "waiting", 0.0
    if finished(folder, source):
        state, share = "finished", 1.0
    elif place.exists():
        state = "running" if holder(place) else "interrupted"
        share = _share(place / "log.jsonl")
    return Row(source.name, source.seed, source.dataset, state, share, dict(counts), unique)


def _share(log: Path) -> float:
    """Share of the steps that the last whole line of a log has reached."""
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    for text in reversed(lines):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        left, speed = line["remaining_seconds"], line["seconds"]
        return float(speed / (speed + left)) if speed + left else 0.0
    return 0.0


def table(found: Status) -> Table:
    """One row per source of weights."""
    shown = Table(box=None, pad_edge=False, caption_justify="left")
    names = ("name", "seed", "pretraining", "ok", "failed", "not applicable", "missing", "reason")
    for name in names:
        shown.add_column(name, justify="left" if name in ("name", "reason") else "right")
    for row in found.rows:
        state = f"{row.state} {row.done:.0%}" if 0 < row.done < 1 else row.state
        counts = [row.cells.get(kind, 0) for kind in ("ok", "failed", "not_applicable", "missing")]
        shown.add_row(
            row.name, str(row.seed), state, *map(str, counts), "; ".join(row.reasons)[:120]
        )
    shown.caption = (
        f"{found.folder}: {found.total('ok')} ok, {found.total('failed')} failed, "
        f"{found.total('not_applicable')} not applicable, {found.total('missing')} missing"
    )
    return shown
