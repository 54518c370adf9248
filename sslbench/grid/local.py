"""Running what is missing of a grid on this machine, and waiting for it."""

import logging
import math
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import torch

from sslbench.errors import UserError
from sslbench.grid.cells import Pretraining, Work
from sslbench.grid.config import Grid, Resources
from sslbench.grid.job import Job
from sslbench.grid.plan import resources
from sslbench.grid.run import missing, opened, possible
from sslbench.records import Store

POLL_SECONDS = 0.5

log = logging.getLogger(__name__)


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
        parallel: local jobs at a time; None: as many as the cores hold. Jobs that ask for GPUs get
            GPUs of their own in any case, and wait while others have them.
        retry_failed: compute cells again whose record says "failed".
        report: called with (cells done, cells) whenever it may have changed.

    Raises:
        UserError: wrong settings, more GPUs asked for than there are, or another process runs in
            the folder.
    """
    with ended_together(), opened(folder, path):
        left = possible(missing(work, folder, retry_failed).work, folder)
        gpus = _gpus()
        jobs = [
            Job((item,), folder, given, "both", retry_failed)
            for item, given in zip(left, _local(grid, left, len(gpus)), strict=True)
        ]
        store = Store(folder / "records")
        _submit(jobs, folder, executor, parallel, gpus, lambda: _count(work, store, report))


@contextmanager
def ended_together() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does, and its jobs with it.

    Jobs end by SIGINT, and what a shell lets a process ignore (`sslbench run … &` in a script) its
    children ignore, too; what it handles they do not. Outside the main thread nothing changes.
    """
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, _interrupted)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupted(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _count(work: list[Work], store: Store, report: Callable[[int, int], None]) -> None:
    keys = [cell.key for item in work for cell in item.cells]
    report(sum(store.path(key).exists() for key in keys), len(keys))


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()  # asks the driver and takes no memory of a GPU
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(n) for n in range(count)] if given is None else given.split(",")
    return [name.strip() for name in names[:count]]


def _local(grid: Grid, left: list[Work], gpus: int) -> list[Resources]:
    """What the one job of each source gets on a machine with so many GPUs.

    Raises:
        UserError: a job asks for more GPUs than there are.
    """
    given = [
        resources(grid, "pretrain", item.source.name, item.source.method)
        if isinstance(item.source, Pretraining)
        else grid.resources.evaluate
        for item in left
    ]
    if not gpus and any(found.gpus for found in given):
        log.warning("this machine has no GPU: what asks for one runs on the CPU")
        return [found.model_copy(update={"gpus": 0}) for found in given]
    for item, found in zip(left, given, strict=True):
        if found.gpus > gpus:
            raise UserError(
                f"{item.source.name}: gpus = {found.gpus} for one job; this machine has {gpus}"
            )
    return given


def _submit(
    jobs: list[Job],
    folder: Path,
    executor: str,
    parallel: int | None,
    gpus: list[str],
    tick: Callable[[], None],
) -> None:
    """Run the jobs, as many at a time as there is room for, each with GPUs of its own; wait."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    place = folder / "jobs" / f"{stamp}-{os.getpid()}"
    most = 1 if executor == "debug" else parallel
    waiting, free = list(jobs), list(gpus)
    running: list[tuple[Any, Resources, list[str]]] = []
    ended: list[Any] = []

    def room(given: Resources) -> bool:
        """Whether a job fits beside those that run; alone it always does."""
        cpus = given.cpus + sum(other.cpus for _, other, _ in running)
        enough = cpus <= (os.cpu_count() or 1) if most is None else len(running) < most
        return not running or (enough and given.gpus <= len(free))

    tick()
    try:
        while waiting or running:
            for job in list(waiting):
                if room(job.resources):
                    waiting.remove(job)
                    taken = [free.pop(0) for _ in range(job.resources.gpus)]
                    running.append((_start(job, place, executor, taken), job.resources, taken))
            if executor == "debug":
                running[0][0].result()
            over = [entry for entry in running if entry[0].done()]
            running = [entry for entry in running if entry not in over]
            for handle, _, taken in over:
                free += taken
                ended.append(handle)
            tick()
            if not over:
                time.sleep(POLL_SECONDS)
    finally:
        for handle, _, _ in running:
            handle.cancel()
    broken = [reason for handle in ended if (reason := _broken(handle)) is not None]
    if broken:
        raise UserError(f"{len(broken)} jobs died, run again to go on: {'; '.join(broken)}")


def _start(job: Job, place: Path, executor: str, gpus: list[str]) -> Any:
    """Hand one job to submitit."""
    import submitit

    # Not by submitit's visible_gpus, which takes numbers only and no UUIDs.
    python = f"env CUDA_VISIBLE_DEVICES={','.join(gpus)} {shlex.quote(sys.executable)}"
    engine = submitit.AutoExecutor(place, cluster=executor, local_python=python)
    engine.update_parameters(timeout_min=math.ceil(60 * job.resources.hours))
    return engine.submit(job)


def _broken(job: Any) -> str | None:
    """Why a job died; one ends well even where its cells fail."""
    error = job.exception()
    if error is None:
        return None
    last = str(error).strip().splitlines()[-1:]
    return f"job {job.job_id} ({' '.join(last)}; log {job.paths.stderr})"
