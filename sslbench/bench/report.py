"""All measurements of a run, and the table of them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sslbench.bench.timing import Goal, Timing, UnequalError
from sslbench.errors import UserError, suggest
from sslbench.provenance import provenance
from sslbench.threads import threads

NAMES = (
    "augment",
    "decode",
    "step",
    "extract",
    "suite",
    "knn",
    "linear_probe",
    "few_shot",
    "plan",
    "submit",
    "publish",
    "startup",
    "scaling",
    "lightly",
)


@dataclass
class Report:
    """What was measured, and where.

    Attributes:
        machine: hardware, versions and the like, as in a record's provenance.
        rounds: how often ours and the peer were timed in turn.
        cpus: threads of both.
        timings: in the order in which they were found.
        failed: measurement → why it has no numbers.
    """

    machine: dict[str, Any]
    rounds: int
    cpus: int
    timings: list[Timing] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "machine": self.machine,
            "rounds": self.rounds,
            "cpus": self.cpus,
            "timings": [timing.plain() for timing in self.timings],
            "failed": self.failed,
        }


def run(names: Sequence[str], rounds: int, cpus: int | None, say: Callable[[str], None]) -> Report:
    """Measure.

    Args:
        names: measurements; all of them if there are none.
        rounds: how often ours and the peer are timed in turn.
        cpus: threads, None for all cores.
        say: called with the name of each measurement before it begins.

    Raises:
        UserError: a wrong name.
    """
    for name in names:
        if name not in NAMES:
            raise UserError(f"no measurement {name!r}; {suggest(name, [*NAMES])}")
    cpus = cpus or os.cpu_count() or 1
    report = Report(provenance(0.0), rounds, cpus)
    with threads(cpus):
        for name in names or NAMES:
            say(name)
            try:
                report.timings += import_module(f"sslbench.bench.{name}").measure(rounds)
            except UnequalError as error:
                report.failed[name] = f"not the same: {error}"
            except UserError as error:  # a dataset that was not fetched, a peer that cannot be had
                report.failed[name] = str(error)
    return report


def table(report: Report) -> RenderableType:
    """One line for each timing; what was found equal before it was timed is in the JSON."""
    shown = Table(box=None, pad_edge=False)
    for column in ("", "ours", "peer", "ratio", "95 %", "goal", ""):
        shown.add_column(column, justify="left" if not column else "right")
    for timing in report.timings:
        shown.add_row(timing.name, *cells(timing))
    notes = [
        f"{timing.name}: {timing.work}{f'; peer: {timing.peer}' if timing.peer else ''}"
        for timing in report.timings
    ]
    notes += [f"{name}: {reason}" for name, reason in report.failed.items()]
    notes.append(
        f"medians of {report.rounds} rounds, {report.cpus} threads, {report.machine['hardware']}"
    )
    return Group(shown, Text("\n".join(notes), style="dim"))


def cells(timing: Timing) -> list[str]:
    """Medians of ours and the peer, the ratio, its interval, the goal, whether it is reached."""
    ours, theirs = (_seconds(times) for times in (timing.ours, timing.theirs))
    ratio = f"{timing.value:.3g}×" if timing.theirs else ""
    low, high = timing.interval
    between = f"{low:.3g}–{high:.3g}" if timing.theirs and len(timing.ours) > 1 else ""
    reached = {None: "", True: "reached", False: "missed"}[timing.reached]
    return [ours, theirs, ratio, between, _goal(timing.goal), reached]


def _goal(goal: Goal | None) -> str:
    return "" if goal is None else str(goal)


def _seconds(times: Sequence[float]) -> str:
    if not times:
        return ""
    middle = sorted(times)[len(times) // 2]
    return f"{middle:.3g} s" if middle >= 0.9995 else f"{1000 * middle:.3g} ms"
