"""How far a grid is: what lies on disk, and what SLURM says of the rest.

What was submitted is read before the queue is asked, and the records after it: so a cell that is
submitted or recorded in the meantime is not taken for lost.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sslbench.errors import UserError
from sslbench.grid import slurm
from sslbench.grid.arrange import Costs
from sslbench.grid.cells import Evaluation, Pretraining, Work
from sslbench.grid.config import Grid
from sslbench.grid.forecast import Forecast, forecast
from sslbench.grid.job import checkpoint_folder, finished
from sslbench.grid.scheduler import Queued
from sslbench.grid.slurm import Flight, submissions
from sslbench.lock import holder
from sslbench.records import Record, Store

RECORDED = ("ok", "failed", "not_applicable")
KINDS = (*RECORDED, "running", "queued", "lost", "missing", "submitted", "damaged")
STATES = ("finished", "running", "queued", "submitted", "lost", "interrupted", "waiting", "failed",
          "not_applicable", "no_training", "external")  # fmt: skip
USUAL = KINDS[:-2]  # what has a column always
WORST = ("failed", "damaged", "lost", "queued", "not_applicable")  # first is said first
RUNNING = ("RUNNING", "COMPLETING")  # in the words of SLURM; all else is queued
LOST = "its job is gone without a record; run the grid again"
TAIL = 1 << 16  # bytes at the end of a training log, which hold its last line
WIDEST = 120  # characters of the reasons of a row


@dataclass(frozen=True)
class Reason:
    """Why some cells have no score.

    Attributes:
        kind: what they count as.
        text: last line of the reason.
        cells: number of them.
        cell: key of the first.
    """

    kind: str
    text: str
    cells: int
    cell: str


@dataclass(frozen=True)
class Row:
    """One source of weights.

    Attributes:
        key: of the source.
        name: of the row in the leaderboard.
        state: of the pretraining, one of `STATES`: "submitted" where SLURM does not say whether it
            is still on its way, "interrupted" where a local run ended, "failed" and
            "not_applicable" where the cells have that on record.
        reason: why it is queued.
        done: share of the pretraining steps that are logged, in [0, 1].
        cells: number of cells of each of `KINDS`: "lost" ones were submitted, have no record and
            are no longer in the queue, "submitted" ones may be; "damaged" is their record.
        reasons: of cells without a score.
    """

    key: str
    name: str
    encoder: str
    dataset: str
    epochs: int
    seed: int
    state: str
    reason: str
    done: float
    cells: dict[str, int]
    reasons: list[Reason]


@dataclass(frozen=True)
class Status:
    """The state of a whole grid.

    Attributes:
        silent: what SLURM said instead of an answer.
    """

    folder: Path
    rows: list[Row]
    forecast: Forecast
    silent: str | None

    def total(self, *kinds: str) -> int:
        """Number of cells of these kinds."""
        return sum(row.cells[kind] for row in self.rows for kind in kinds)

    @property
    def done(self) -> bool:
        """Whether every cell has its record."""
        return self.total(*RECORDED) == self.total(*KINDS)

    def as_json(self) -> dict[str, Any]:
        """Plain values; every key is there always."""
        states = Counter(row.state for row in self.rows)
        return {
            "folder": str(self.folder),
            "done": self.done,
            "scheduler": self.silent,
            "pretrainings": {state: states[state] for state in STATES},
            "cells": {kind: self.total(kind) for kind in KINDS},
            "forecast": asdict(self.forecast),
            "rows": [asdict(row) for row in self.rows],
        }


def status(grid: Grid, work: list[Work], folder: Path) -> Status:
    """Read the run folder, and ask SLURM once if anything was ever submitted from it.

    Args:
        grid: the checked file.
        work: the whole plan.
        folder: the run folder; nothing in it is changed.
    """
    found = _Found(folder)
    found.costs = Costs.of(found.records(work))
    rows = [found.row(item) for item in work]
    known = forecast(grid, work, found.costs, found.spent, found.left, found.jobs(rows))
    return Status(folder, rows, known, found.silent)


class _Found:
    """What is known of a run folder.

    Attributes:
        busy: whether a process works in the folder; it may be submitting at this moment.
        sent: keys of the cells, and of the sources to pretrain, that were ever submitted.
        spent: key of a run or a cell → seconds.
        left: key of a run or a cell that is not done → seconds that its log tells, None without.
        costs: what records tell, and the logs of runs that have none yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder / "records")
        self.busy = holder(folder) is not None
        self.sent: set[str] = set()
        for submission in submissions(folder):
            keys = submission.sources if submission.stage == "pretrain" else submission.cells
            self.sent.update(key for job in keys for key in job)
        self.flight, self.silent = Flight({}, {}, 0), None
        try:
            self.flight = slurm.flight(folder, patient=False)
        except UserError as error:
            self.silent = str(error)
        self.spent: dict[str, float] = {}
        self.left: dict[str, float | None] = {}
        self.costs = Costs()
        self._cells: dict[str, tuple[str, str]] = {}  # what each counts as, and why

    def records(self, work: list[Work]) -> Iterator[Record]:
        """The records of a plan, each read once; what the rows need of them is noted."""
        for cell in (cell for item in work for cell in item.cells):
            try:
                record = self.store.get(cell.key)
            except UserError as error:
                self._cells[cell.key] = "damaged", str(error)
                self.left[cell.key] = None
                continue
            if record is None:
                self._cells[cell.key] = self._way(cell.key, self.flight.cells) or self._here(cell)
                self.left[cell.key] = None
                continue
            self._cells[cell.key] = record.status, record.reason or ""
            self.spent[cell.key] = record.provenance.seconds
            made = record.checkpoint
            if made.at == 1 and made.pretrain_seconds is not None:
                self.spent[made.key] = made.pretrain_seconds
            yield record

    def _way(self, key: str, flying: Mapping[str, Queued]) -> tuple[str, str] | None:
        """What became of what was submitted, and why; None where it never was."""
        if (job := flying.get(key)) is not None:
            return ("running", "") if job.state in RUNNING else ("queued", job.reason)
        if key not in self.sent:
            return None
        return ("submitted" if self.silent is not None or self.busy else "lost"), ""

    def _here(self, cell: Evaluation) -> tuple[str, str]:
        """What a cell counts as that was never submitted: a local run may be at it."""
        place = self.folder / "work" / cell.key[:2] / cell.key
        return ("running" if self.busy and place.exists() else "missing"), ""

    def row(self, item: Work) -> Row:
        """A row, once the records were read."""
        source, counts = item.source, dict.fromkeys(KINDS, 0)
        reasons: dict[tuple[str, str], list[str]] = {}
        for cell in item.cells:
            kind, why = self._cells[cell.key]
            counts[kind] += 1
            if why or kind == "lost":
                text = (why or LOST).splitlines()[-1]
                reasons.setdefault((kind, text), []).append(cell.key)
        listed = [Reason(*kind, len(keys), keys[0]) for kind, keys in reasons.items()]
        listed.sort(key=lambda reason: WORST.index(reason.kind))
        if isinstance(source, Pretraining):
            place = (source.checkpoint().encoder, source.dataset, source.epochs, source.seed)
            state, why, done = self._pretraining(source, counts)
        else:
            place, state, why, done = ("", "", 0, 0), "external", "", 1.0
        return Row(source.key, source.name, *place, state, why, done, counts, listed)

    def _pretraining(self, run: Pretraining, counts: dict[str, int]) -> tuple[str, str, float]:
        """State of a run, why it is queued, and the share that is done."""
        if run.epochs == 0:
            return "no_training", "", 1.0
        place = checkpoint_folder(self.folder, run)
        line = _last_line(place / "log.jsonl")
        spent, left = line.get("seconds", 0.0), line.get("remaining_seconds")
        whole = spent + (left or 0.0)
        if whole and run.key not in self.spent:  # a measurement that no record has yet
            kind = (run.method, run.dataset, run.checkpoint().encoder)
            self.costs.runs[kind].append(whole / run.epochs)
        self.spent.setdefault(run.key, spent)
        if finished(self.folder, run):
            return "finished", "", 1.0
        done = spent / whole if whole else 0.0
        recorded = all(not counts[kind] for kind in KINDS if kind not in RECORDED)
        if not recorded:
            self.left[run.key] = left
        if run.key not in self.flight.runs:
            if holder(place):
                return "running", "", done
            if recorded:
                there = [kind for kind in ("failed", "ok", "not_applicable") if counts[kind]]
                return there[0].replace("ok", "finished"), "", done
        way = self._way(run.key, self.flight.runs)
        return *(way or ("interrupted" if place.exists() else "waiting", "")), done

    def jobs(self, rows: list[Row]) -> int | None:
        """How many jobs run now, None where SLURM does not answer."""
        if self.silent is not None:
            return None
        queued = [*self.flight.cells.values(), *self.flight.runs.values()]
        running = {job.job for job in queued if job.state in RUNNING}
        here = max(1, sum(row.state == "running" for row in rows)) if self.busy else 0
        return len(running) or here


def _last_line(log: Path) -> dict[str, float]:
    """The last whole line of a training log; empty without one."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for text in reversed(lines):
        try:
            return dict(json.loads(text))
        except (ValueError, TypeError):  # of a process killed while writing, or cut here
            continue
    return {}


def view(found: Status) -> RenderableType:
    """One row per source of weights, the totals, and what is to be said below."""
    shown = Table(box=None, pad_edge=False, show_footer=True)
    origin = {  # of weights: what tells the rows of this grid apart
        name: [str(getattr(row, name)) for row in found.rows]
        for name in ("encoder", "dataset", "epochs", "seed")
    }
    origin = {name: texts for name, texts in origin.items() if len(set(texts)) > 1}
    kinds = [kind for kind in KINDS if kind in USUAL or found.total(kind)]
    for name in ("key", "name", *origin, "pretraining"):
        shown.add_column(name, footer="all" if name == "name" else "")
    for kind in kinds:
        shown.add_column(_words(kind), str(found.total(kind)), justify="right")
    shown.add_column("reasons")
    for number, row in enumerate(found.rows):
        state = _words(row.state) + (f" {row.done:.0%}" if 0 < row.done < 1 else "")
        state += f" ({row.reason})" if row.reason else ""
        cells = [row.key[:8], row.name, *(texts[number] for texts in origin.values()), state]
        cells += [str(row.cells[kind] or "") for kind in kinds]
        reasons = (f"{r.cells} {_words(r.kind)} ({r.cell[:8]}): {r.text}" for r in row.reasons)
        cells.append("; ".join(reasons)[:WIDEST])
        shown.add_row(*map(Text, cells))
    return Group(shown, *map(Text, _below(found)))


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def _below(found: Status) -> Iterator[str]:
    known = found.forecast
    states = Counter(_words(row.state) for row in found.rows)
    recorded, all_ = found.total(*RECORDED), found.total(*KINDS)
    runs = ", ".join(f"{count} {state}" for state, count in states.items())
    yield f"{found.folder}: {recorded} of {all_} cells recorded; pretraining: {runs}"
    if found.silent is not None:
        yield f"SLURM does not answer, so this is what lies on disk: {found.silent}"
    for unit, hours in known.hours.items():
        if hours.used or hours.ahead:
            stated = f" ({hours.stated:.2f} of it stated, not measured)" if hours.stated else ""
            yield f"{unit}-hours: {hours.used:.2f} used, {hours.ahead:.2f} to come{stated}"
    if found.done:
        yield "every cell is recorded"
    elif known.seconds is None:
        yield f"estimated finish: unknown, because {known.unknown}"
    else:
        at = datetime.now() + timedelta(seconds=known.seconds)
        yield (
            f"estimated finish: {at:%Y-%m-%d %H:%M}, in {known.seconds / 3600:.1f} hours, if "
            f"{known.jobs} jobs go on running at a time"
        )
