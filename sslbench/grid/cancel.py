"""Taking the jobs of a run folder out of the queue."""

from pathlib import Path

from sslbench.grid.scheduler import ask, queue
from sslbench.grid.slurm import prefix, submissions


def cancel(folder: Path) -> int:
    """End all queued and running jobs of a run folder; what lies on disk stays.

    Returns:
        Number of jobs.

    Raises:
        UserError: no SLURM, or it does not answer.
    """
    if next(submissions(folder), None) is None:
        return 0
    jobs = [job.job for queued in queue(prefix(folder)).values() for job in queued]
    if jobs:
        ask("scancel", *sorted({job.partition("_")[0] for job in jobs}))
    return len(jobs)
