"""Submitting what is missing of a grid, and waiting for it where it runs on this machine."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sslbench.errors import UserError
from sslbench.grid.config import Grid
from sslbench.grid.job import Job, checkpoint_folder, done, record_reason
from sslbench.grid.plan import Pretraining, Work, check
from sslbench.lock import exclusive
from sslbench.records import Store
from sslbench.storage import write_atomic

POLL_SECONDS = 0.5


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


def finished(folder: Path, run: Pretraining) -> bool:
    """Whether the run's checkpoint is complete."""
    return (checkpoint_folder(folder, run) / "encoder" / "encoder.json").exists()


def execute(
    grid: Grid,
    path: Path,
    work: list[Work],
    folder: Path,
    *,
    executor: str,
    parallel: int | None = None,
    retry_failed: bool = False,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Run what is missing, one job per source of weights, and return when all has ended.

    Args:
        grid: the checked file.
        path: of the file; a copy goes into the run folder.
        work: the whole plan.
        folder: the run folder; no other process may run in it.
        executor: "debug" (in this process) or "local" (processes of this machine).
        parallel: local jobs at a time; None: as many as the cores hold.
        retry_failed: compute cells again whose record says "failed".
        report: called with (cells done, cells) whenever it may have changed.

    Raises:
        UserError: wrong settings, or another process runs in the folder.
    """
    try:
        with exclusive(folder):
            write_atomic(folder / "grid.toml", lambda temporary: shutil.copy(path, temporary))
            left = missing(work, folder, retry_failed)
            impossible = check(left.work)
            store = Store(folder / "records")
            jobs = []
            for item in left.work:
                if item.source.key in impossible:
                    reason = impossible[item.source.key]
                    record_reason(store, item.source, item.cells, "not_applicable", reason)
                else:
                    jobs.append(_job(grid, item, folder, retry_failed))
            _submit(jobs, folder, grid, executor, parallel, lambda: _count(work, store, report))
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from None


def _job(grid: Grid, item: Work, folder: Path, retry_failed: bool) -> Job:
    return Job((item,), folder, grid.resources.pretrain, retry_failed)


def _count(work: list[Work], store: Store, report: Callable[[int, int], None]) -> None:
    keys = [cell.key for item in work for cell in item.cells]
    report(sum(store.path(key).exists() for key in keys), len(keys))


def _submit(
    jobs: list[Job],
    folder: Path,
    grid: Grid,
    executor: str,
    parallel: int | None,
    tick: Callable[[], None],
) -> None:
    """Hand the jobs to submitit, at most `parallel` at a time, and wait for them."""
    import submitit

    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    resources = grid.resources.pretrain
    engine = submitit.AutoExecutor(folder / "jobs" / f"{stamp}-{os.getpid()}", cluster=executor)
    engine.update_parameters(
        name=grid.name,
        timeout_min=round(60 * resources.hours),
        cpus_per_task=resources.cpus,
        gpus_per_node=resources.gpus,
    )
    most = parallel or max(1, (os.cpu_count() or 1) // resources.cpus)
    if resources.gpus and parallel is None:
        most = 1  # local jobs all see the same first GPUs
    waiting = list(jobs)
    running: list[Any] = []
    broken: list[str] = []
    tick()
    try:
        while waiting or running:
            while waiting and len(running) < most:
                running.append(engine.submit(waiting.pop(0)))
            if executor == "debug":
                running[0].result()
            ended = [job for job in running if job.done()]
            running = [job for job in running if job not in ended]
            broken += [reason for job in ended if (reason := _broken(job)) is not None]
            tick()
            if not ended:
                time.sleep(POLL_SECONDS)
    finally:
        for job in running:
            job.cancel()
    if broken:
        raise UserError(f"{len(broken)} jobs died, run again to go on: {'; '.join(broken)}")


def _broken(job: Any) -> str | None:
    """Why a job died; one ends well even where its cells fail."""
    error = job.exception()
    if error is None:
        return None
    last = str(error).strip().splitlines()[-1:]
    return f"job {job.job_id} ({' '.join(last)}; log {job.paths.stderr})"
