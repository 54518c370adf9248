"""Submitting what is missing of a grid to SLURM, and knowing later what of it is on its way.

Nothing stays alive on the login node. What a submission contains is written before sbatch is
called, under the name that its jobs have; squeue then tells which of it is still queued. A job id
is never trusted to mean anything later: SLURM can give it again.
"""

import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslbench.errors import UserError
from sslbench.grid.arrange import Array
from sslbench.grid.cells import Work
from sslbench.grid.config import Resources
from sslbench.grid.job import Job
from sslbench.grid.scheduler import Cluster, Queued, fits, patiently, queue
from sslbench.hashing import digest
from sslbench.storage import cache_root, write_json

MOST = 300  # jobs of an array: each puts three files into the array's folder
WARNING_SECONDS = 90  # between the signal and the end of a job
BUSY = "Requested node configuration is not available"  # `fits` knows better: nodes are drained
LIMIT = "SubmitJob"  # in AssocMaxSubmitJobLimit, QOSGrpSubmitJobsLimit and their like
PAUSE_SECONDS = 0.2  # between two calls of sbatch
ENDLESS = 1_000_000  # time limits that submitit lets pass; attempts are counted by the job itself


@dataclass(frozen=True)
class Submission:
    """One array that was (or was about to be) submitted.

    Attributes:
        name: of its jobs in the queue.
        folder: with its script, pickles and logs.
        stage: "pretrain" or "evaluate".
        cells: keys of the cells of each job.
        sources: keys of the sources of weights of each job.
        gpus: of each job.
    """

    name: str
    folder: Path
    stage: str
    cells: list[list[str]]
    sources: list[list[str]]
    gpus: int


@dataclass(frozen=True)
class Flight:
    """What of a run folder is queued or running.

    Attributes:
        cells: key of a cell → the job that will compute it.
        runs: key of a source → the job that pretrains it.
        jobs: number of jobs in the queue.
    """

    cells: dict[str, Queued]
    runs: dict[str, Queued]
    jobs: int


def prefix(folder: Path) -> str:
    """What the names of all jobs of a run folder start with."""
    return f"sslbench-{digest(str(folder.resolve()))[:8]}-"


def submissions(folder: Path) -> Iterator[Submission]:
    """Everything that was ever submitted for a run folder."""
    for path in sorted((folder / "jobs").glob("*/submission.json")):
        yield Submission(folder=path.parent, **json.loads(path.read_text(encoding="utf-8")))


def flight(folder: Path, patient: bool = True) -> Flight:
    """Compare the submissions of a run folder with the queue: one query, whatever their number."""
    known = {submission.name: submission for submission in submissions(folder)}
    if not known:
        return Flight({}, {}, 0)
    cells: dict[str, Queued] = {}
    runs: dict[str, Queued] = {}
    jobs = 0
    for name, queued in queue(prefix(folder), patient).items():
        if (submission := known.get(name)) is None:
            continue
        jobs += len(queued)
        for job in queued:
            if submission.stage == "evaluate":
                cells |= dict.fromkeys(submission.cells[job.index], job)
            else:
                runs |= dict.fromkeys(submission.sources[job.index], job)
    return Flight(cells, runs, jobs)


def processes(array: Array) -> tuple[int, int]:
    """Nodes of one job, and processes on each of them."""
    if array.stage == "evaluate":
        return 1, 1
    return array.resources.nodes, array.resources.world // array.resources.nodes


def parameters(array: Array, name: str, code: Path, dependency: str | None) -> dict[str, Any]:
    """What submitit's SLURM executor is told about an array."""
    given = array.resources
    nodes, tasks = processes(array)
    more: dict[str, Any] = {"requeue": True, **given.options}
    if given.memory_gb is not None:
        more["mem"] = f"{math.ceil(1024 * given.memory_gb)}M"
    if dependency is not None:
        more |= {"dependency": dependency, "kill-on-invalid-dep": "yes"}
    wanted = {
        "partition": given.partition,
        "account": given.account,
        "qos": given.qos,
        "constraint": given.constraint,
        "gpus_per_node": given.gpus or None,
    }
    return {
        **{key: value for key, value in wanted.items() if value is not None},
        "job_name": name,
        "time": math.ceil(60 * given.hours),
        "nodes": nodes,
        "ntasks_per_node": tasks,
        "cpus_per_task": given.cpus,
        "array_parallelism": given.throttle or len(array.jobs),
        "signal_delay_s": WARNING_SECONDS,
        "stderr_to_stdout": True,
        "srun_args": ["--kill-on-bad-exit=1"],
        "setup": [*_environment(given, code), *given.setup],
        "additional_parameters": more,
    }


def _environment(given: Resources, code: Path) -> list[str]:
    plugins = [str(path) for path in sorted((code / "plugins").glob("*"))]
    values = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")])),
        "SSLBENCH_CACHE": str(cache_root().resolve()),
        "SSLBENCH_PLUGINS": os.pathsep.join(plugins),
        "OMP_NUM_THREADS": str(given.cpus),
    }
    if "SSLBENCH_DATA" in os.environ:
        values["SSLBENCH_DATA"] = os.environ["SSLBENCH_DATA"]
    return [f"export {name}={shlex.quote(value)}" for name, value in values.items()]


def script(array: Array, name: str, folder: Path, code: Path, dependency: str | None) -> str:
    """The text that sbatch is given."""
    from submitit.slurm.slurm import _make_sbatch_string

    place = (folder / "jobs" / name).resolve()
    python = array.resources.python or shlex.quote(sys.executable)
    text: str = _make_sbatch_string(
        command=f"{python} -u -m submitit.core._submit {shlex.quote(str(place))}",
        folder=place,
        map_count=len(array.jobs) if len(array.jobs) > 1 else None,
        **parameters(array, name, code, dependency),
    )
    return text


def refused(arrays: list[Array], folder: Path, code: Path, known: Cluster) -> None:
    """Ask SLURM about one job of each kind before anything is queued.

    Raises:
        UserError: no partition can run it, or SLURM would not take it (account, QoS, …) or would
            not find its log.
    """
    if found := {"%", "\\"} & set(str(folder.resolve())):
        raise UserError(
            f"{folder.resolve()}: SLURM reads {' and '.join(sorted(found))} in the path "
            "of a log as a pattern; choose another run folder"
        )
    kinds = {(a.stage, a.resources.model_dump_json()): a for a in arrays}
    for (stage, _), array in kinds.items():
        where = f"resources of {stage} jobs ({array.jobs[0][0].source.name})"
        fits(array.resources, *processes(array), known, where)
        text = script(array, f"{prefix(folder)}test", folder, code, None)

        def once(text: str = text) -> str:
            done = subprocess.run(
                ["sbatch", "--test-only"], input=text, capture_output=True, text=True, check=False
            )
            if done.returncode and not any(words in done.stderr for words in (BUSY, LIMIT)):
                raise RuntimeError(done.stderr.strip())
            return done.stderr

        patiently(once, f"{where}: refused by SLURM")


def submit(
    arrays: list[Array],
    folder: Path,
    code: Path,
    *,
    room: int | None,
    retry_failed: bool,
    report: Callable[[Array, str], None],
) -> list[Array]:
    """Submit arrays in their order, parents before children.

    Args:
        arrays: what to submit.
        folder: the run folder.
        code: the snapshot that the jobs run.
        room: jobs that may still be queued for this user; None: no limit.
        retry_failed: compute cells again whose record says "failed".
        report: called with each array and its job id after it was submitted.

    Returns:
        What could not be submitted because of a limit; submitting again later goes on there.
    """
    serial = 1 + max(
        (int(path.name.rpartition("-")[2]) for path in (folder / "jobs").glob("sslbench-*-*")),
        default=0,
    )
    ids: dict[int, str] = {}
    for number, array in enumerate(arrays):
        if number:
            time.sleep(PAUSE_SECONDS)  # the controller has others to serve
        if room is not None and len(array.jobs) > room:
            return [a for i, a in enumerate(arrays) if i >= number and i not in ids]
        if isinstance(array.after, int):
            kind = "aftercorr" if len(array.jobs) > 1 else "afterok"
            dependency: str | None = f"{kind}:{ids[array.after]}"
        else:
            dependency = None if array.after is None else f"afterany:{array.after}"
        name = f"{prefix(folder)}{serial:05d}"
        serial += 1
        try:
            ids[number] = _sbatch(array, name, folder, code, dependency, retry_failed)
        except _LimitError:
            return [a for i, a in enumerate(arrays) if i >= number and i not in ids]
        room = None if room is None else room - len(array.jobs)
        report(array, ids[number])
    return []


class _LimitError(Exception):
    """The user's or the cluster's limit of queued jobs is reached."""


def _sbatch(
    array: Array, name: str, folder: Path, code: Path, dependency: str | None, retry_failed: bool
) -> str:
    """One call of sbatch; returns the job id."""
    import submitit

    place = (folder / "jobs" / name).resolve()
    about = {
        "name": name,
        "stage": array.stage,
        "cells": [[cell.key for work in job for cell in work.cells] for job in array.jobs],
        "sources": [[work.source.key for work in job] for job in array.jobs],
        "gpus": array.resources.gpus * processes(array)[0],
    }
    write_json(place / "submission.json", about)
    engine = submitit.SlurmExecutor(place, max_num_timeout=ENDLESS, python=array.resources.python)
    engine.update_parameters(**parameters(array, name, code, dependency))
    jobs = [
        Job(work, folder.resolve(), array.resources, array.stage, retry_failed)
        for work in array.jobs
    ]

    tried = False

    def once() -> str:
        nonlocal tried
        if tried and queue(name):  # taken although sbatch did not hear of it
            subprocess.run(["scancel", f"--name={name}"], check=False, timeout=60)
        tried = True
        try:
            with engine.batch():
                submitted = [engine.submit(job) for job in jobs]
            return str(submitted[0].job_id).partition("_")[0]
        except submitit.core.utils.FailedJobError as error:
            raise RuntimeError(str(error)) from None
        finally:
            for pickle in place.glob("*.pkl"):
                if "_" not in pickle.name:
                    pickle.unlink()

    try:
        return patiently(once, f"sbatch ({name})")
    except UserError as error:
        if LIMIT in str(error):
            raise _LimitError from None
        raise


def without(left: list[Work], found: Flight) -> list[Work]:
    """What is left without the cells that are on their way."""
    out = []
    for item in left:
        cells = [cell for cell in item.cells if cell.key not in found.cells]
        if cells:
            out.append(Work(item.source, cells))
    return out
