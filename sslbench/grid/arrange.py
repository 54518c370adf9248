"""Which cells share a job, and which jobs an array."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from pathlib import Path
from statistics import median
from typing import TypeVar

from sslbench.grid.cells import Evaluation, Pretraining, Work
from sslbench.grid.config import Grid, Resources
from sslbench.grid.job import untrained
from sslbench.grid.plan import resources
from sslbench.records import Record

T = TypeVar("T")


@dataclass(frozen=True)
class Array:
    """Jobs of one kind, submitted together.

    Attributes:
        stage: "pretrain" or "evaluate".
        resources: of each job.
        jobs: what each of them does.
        after: number of the array, in the same list, whose job of the same number comes before; or
            the id of one job that is queued already; None for no order.
        seconds: estimate of all jobs together.
    """

    stage: str
    resources: Resources
    jobs: tuple[tuple[Work, ...], ...]
    after: int | str | None = None
    seconds: float = 0.0


@dataclass
class Costs:
    """Seconds that runs and cells take: the median of what records tell, else what is stated.

    Attributes:
        cells: seconds by (protocol, dataset).
        runs: seconds per epoch by (method, dataset, encoder).
    """

    cells: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    runs: dict[tuple[str, str | None, str], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Costs":
        """What the records of a run folder tell."""
        costs = cls()
        for record in records:
            made = record.checkpoint
            if record.status == "ok":
                costs.cells[record.protocol, record.dataset].append(record.provenance.seconds)
            if made.method and made.pretrain_seconds and made.pretrain_epochs and made.at == 1:
                key = (made.method, made.pretrain_dataset, made.encoder)
                costs.runs[key].append(made.pretrain_seconds / made.pretrain_epochs)
        return costs

    def cell(self, cell: Evaluation, given: Resources) -> float:
        """Seconds of one evaluation."""
        known = self.cells.get((cell.protocol, cell.dataset))
        return median(known) if known else 60 * given.cell_minutes

    def run(self, run: Pretraining, given: Resources) -> float:
        """Seconds of one pretraining run; where nothing is known, its whole time limit."""
        known = self.runs.get((run.method, run.dataset, run.checkpoint().encoder))
        return median(known) * run.epochs if known else 3600 * given.hours


def arrange(
    grid: Grid,
    left: list[Work],
    folder: Path,
    *,
    longest: int,
    costs: Costs,
    awaited: Mapping[str, str],
) -> list[Array]:
    """Arrays for what is left, parents before their children.

    The evaluations of a checkpoint that is still to be trained follow its pretraining, job by job:
    an array of pretraining runs is followed by one array for each pack of evaluation cells. All
    other cells are packed across checkpoints.

    Args:
        grid: the checked file.
        left: what is to be done.
        folder: the run folder, to see which checkpoints are finished.
        longest: most jobs of an array.
        costs: estimates.
        awaited: key of a source whose pretraining is queued → its job.
    """
    arrays: list[Array] = []
    loose: dict[str, tuple[Resources, list[Work]]] = {}
    families: dict[str, list[tuple[Work, Resources, list[tuple[Resources, Work]]]]] = {}
    for item in left:
        packs = [
            (given, Work(item.source, cells))
            for given, some in _by_resources(grid, item.cells)
            for cells in _packed(some, given, costs)
        ]
        source = item.source
        if source.key in awaited:
            parent = awaited[source.key]
            for given, pack in packs:
                total = _seconds(pack, given, costs)
                arrays.append(Array("evaluate", given, ((pack,),), parent, total))
        elif isinstance(source, Pretraining) and untrained(folder, source):
            given = resources(grid, "pretrain", source.name, source.method)
            shape = "|".join([given.model_dump_json(), *(r.model_dump_json() for r, _ in packs)])
            families.setdefault(shape, []).append((item, given, packs))
        else:
            for given, pack in packs:
                loose.setdefault(given.model_dump_json(), (given, []))[1].append(pack)
    for members in families.values():
        for part in _chunks(members, longest):
            first, given = len(arrays), part[0][1]
            runs = [item.source for item, _, _ in part if isinstance(item.source, Pretraining)]
            total = sum(costs.run(run, given) for run in runs)
            jobs = tuple((item,) for item, _, _ in part)
            arrays.append(Array("pretrain", given, jobs, None, total))
            for number, (given, _) in enumerate(part[0][2]):
                works = [packs[number][1] for _, _, packs in part]
                total = sum(_seconds(work, given, costs) for work in works)
                jobs = tuple((work,) for work in works)
                arrays.append(Array("evaluate", given, jobs, first, total))
    for given, works in loose.values():
        for bins in _chunks(list(_bins(works, given, costs)), longest):
            total = sum(_seconds(work, given, costs) for job in bins for work in job)
            arrays.append(Array("evaluate", given, tuple(bins), None, total))
    return arrays


def _by_resources(grid: Grid, cells: list[Evaluation]) -> list[tuple[Resources, list[Evaluation]]]:
    """Cells that get the same resources."""
    given = {(c.task, c.protocol): resources(grid, "evaluate", c.task, c.protocol) for c in cells}
    groups: dict[str, tuple[Resources, list[Evaluation]]] = {}
    for cell in cells:
        found = given[cell.task, cell.protocol]
        groups.setdefault(found.model_dump_json(), (found, []))[1].append(cell)
    return list(groups.values())


def _packed(cells: list[Evaluation], given: Resources, costs: Costs) -> Iterator[list[Evaluation]]:
    """Cells in their order, in packs of about the same length near the target duration."""
    seconds = [costs.cell(cell, given) for cell in cells]
    count = max(1, min(len(cells), math.ceil(sum(seconds) / max(1.0, 60 * given.pack_minutes))))
    share = max(1e-9, sum(seconds) / count)
    # A cell belongs to the share of the time in which its middle lies.
    middles = (end - cost / 2 for end, cost in zip(accumulate(seconds), seconds, strict=True))
    shares = (min(middle // share, count - 1) for middle in middles)
    for _, pack in groupby(zip(shares, cells, strict=True), lambda pair: pair[0]):
        yield [cell for _, cell in pack]


def _bins(works: list[Work], given: Resources, costs: Costs) -> Iterator[tuple[Work, ...]]:
    """Works in their order, in jobs of about the target duration."""
    job: list[Work] = []
    total = 0.0
    for work in works:
        seconds = _seconds(work, given, costs)
        if job and total + seconds > 60 * given.pack_minutes:
            yield tuple(job)
            job, total = [], 0.0
        job.append(work)
        total += seconds
    if job:
        yield tuple(job)


def _seconds(work: Work, given: Resources, costs: Costs) -> float:
    return sum(costs.cell(cell, given) for cell in work.cells)


def _chunks(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
