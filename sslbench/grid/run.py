"""What a grid still needs, and its submission to SLURM."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sslbench import suite
from sslbench.errors import UserError
from sslbench.grid import scheduler, slurm
from sslbench.grid.arrange import Array, Costs, arrange
from sslbench.grid.cells import Pretraining, Work
from sslbench.grid.config import Grid, read
from sslbench.grid.job import done, finished, record_reason
from sslbench.grid.plan import check
from sslbench.grid.scheduler import Cluster
from sslbench.grid.snapshot import snapshot
from sslbench.lock import exclusive
from sslbench.records import Store
from sslbench.storage import write_atomic


@dataclass(frozen=True)
class Missing:
    """What a plan still needs.

    Attributes:
        work: sources with the cells that have no record.
        cells: number of cells in the plan.
        pretrainings: number of runs in the plan.
        trained: number of runs whose checkpoint is finished.
    """

    work: list[Work]
    cells: int
    pretrainings: int
    trained: int

    @property
    def open(self) -> int:
        """Number of cells without a record."""
        return sum(len(item.cells) for item in self.work)


def missing(work: list[Work], folder: Path, retry_failed: bool = False) -> Missing:
    """Compare a plan with what lies in the run folder."""
    store = Store(folder / "records")
    left = []
    for item in work:
        cells = [cell for cell in item.cells if not done(store, cell, retry_failed)]
        if cells:
            left.append(Work(item.source, cells))
    runs = [item.source for item in work if isinstance(item.source, Pretraining)]
    return Missing(
        left,
        sum(len(item.cells) for item in work),
        len(runs),
        sum(finished(folder, run) for run in runs),
    )


@dataclass(frozen=True)
class Launch:
    """What one call of `launch` did, or would do.

    Attributes:
        arrays: in the order of their submission.
        known: the cluster, None where SLURM was not asked.
        waiting: arrays that met a limit of the cluster.
        flying: cells that were on their way already.
    """

    arrays: list[Array]
    known: Cluster | None
    waiting: list[Array]
    flying: int


def launch(
    grid: Grid,
    path: Path,
    work: list[Work],
    folder: Path,
    *,
    retry_failed: bool = False,
    report: Callable[[Array, str], None] = lambda array, job: None,
) -> Launch:
    """Submit to SLURM what is neither recorded nor on its way, and return.

    Args:
        grid: the checked file.
        path: of the file; a copy goes into the run folder.
        work: the whole plan.
        folder: the run folder, on a file system that the nodes share.
        retry_failed: compute cells again whose record says "failed".
        report: called with each array and its job id when it was submitted.

    Raises:
        UserError: wrong settings, resources that the cluster does not have, no SLURM, or another
            process submits for this folder now. What was submitted before stays.
    """
    known = scheduler.cluster()
    with opened(folder, path):
        found = slurm.flight(folder)
        left = slurm.without(missing(work, folder, retry_failed).work, found)
        arrays = _arranged(grid, possible(left, folder), folder, known, found)
        if not arrays:
            return Launch([], known, [], len(found.cells))
        code = snapshot(folder.resolve() / "code")
        slurm.refused(arrays, folder, code, known)
        waiting = slurm.submit(
            arrays,
            folder,
            code,
            room=_room(known, found),
            retry_failed=retry_failed,
            report=report,
        )
        return Launch(arrays, known, waiting, len(found.cells))


def arranged(grid: Grid, work: list[Work], folder: Path, retry_failed: bool = False) -> Launch:
    """What `launch` would submit, on a machine with or without SLURM; writes nothing."""
    try:
        known, found = scheduler.cluster(), slurm.flight(folder)
    except UserError:
        known, found = None, slurm.Flight({}, {}, 0)
    left = slurm.without(missing(work, folder, retry_failed).work, found)
    return Launch(_arranged(grid, left, folder, known, found), known, [], len(found.cells))


def _room(known: Cluster, found: slurm.Flight) -> int | None:
    """Jobs that may still be submitted, None for any number."""
    return None if known.submitted is None else max(0, known.submitted - found.jobs)


def _arranged(
    grid: Grid, left: list[Work], folder: Path, known: Cluster | None, found: slurm.Flight
) -> list[Array]:
    longest = slurm.MOST
    if known is not None:  # an array that is longer than the room could never be submitted
        longest = min(longest, known.array, _room(known, found) or longest)
    return arrange(
        grid,
        left,
        folder,
        longest=longest,
        costs=Costs.of(Store(folder / "records")),
        awaited={key: job.job for key, job in found.runs.items()},
    )


@contextmanager
def opened(folder: Path, path: Path) -> Iterator[None]:
    """The run folder, for one process at a time, with a copy of the grid file, and of its suite."""
    given, files = read(path).evaluate.suite, {"grid.toml": path}
    if given is not None and given.endswith(".toml"):
        files[Path(given).name] = suite.find(given, path.parent)
    try:
        with exclusive(folder):
            for name, source in files.items():
                write_atomic(folder / name, partial(shutil.copy, source))
            yield
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from None


def possible(left: list[Work], folder: Path) -> list[Work]:
    """What is left without what cannot be; the reasons are recorded."""
    impossible, store, out = check(left), Store(folder / "records"), []
    for item in left:
        if item.source.key in impossible:
            reason = impossible[item.source.key]
            record_reason(store, item.source, item.cells, "not_applicable", reason)
        else:
            out.append(item)
    return out
