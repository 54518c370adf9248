"""The logs of the job that had a cell or a pretraining run."""

import re
from collections.abc import Iterator
from pathlib import Path

from sslbench.errors import UserError
from sslbench.grid.cells import Work
from sslbench.grid.slurm import submissions

SHORTEST = 6  # characters of a key


def find(work: list[Work], folder: Path, prefix: str) -> list[Path]:
    """Logs of the newest job that had the cell or the run and has written any.

    Args:
        work: the whole plan.
        folder: the run folder.
        prefix: of the record key of a cell, or of the key of a source of weights.

    Raises:
        UserError: no such key, several, or no log.
    """
    key = _key(work, prefix)
    for _, logs in sorted(_jobs(folder, key), reverse=True):
        if logs:
            return sorted(logs)
    raise UserError(f"{folder}: no job with {key} has written a log yet")


def _key(work: list[Work], prefix: str) -> str:
    """The whole key."""
    if len(prefix) < SHORTEST:
        raise UserError(f"{prefix!r}: at least {SHORTEST} characters of a key expected")
    keys = {cell.key for item in work for cell in item.cells} | {item.source.key for item in work}
    found = sorted(key for key in keys if key.startswith(prefix))
    if not found:
        raise UserError(
            f"{prefix!r}: no cell or pretraining run of this grid has such a key; "
            "sslbench status shows the keys"
        )
    if len(found) > 1:
        raise UserError(f"{prefix!r}: several keys start so: {', '.join(found)}")
    return found[0]


def _jobs(folder: Path, key: str) -> Iterator[tuple[float, list[Path]]]:
    """When each job that had the key was made, and its logs."""
    for submission in submissions(folder):
        pretrains = submission.stage == "pretrain"
        made = (submission.folder / "submission.json").stat().st_mtime
        for index, cells in enumerate(submission.cells):
            if key in cells or (pretrains and key in submission.sources[index]):
                job = rf"\d+_{index}" if len(submission.cells) > 1 else r"\d+"
                yield made, _logs(submission.folder, job)
    for pickle in (folder / "jobs").glob("*/*_submitted.pkl"):
        local = not (pickle.parent / "submission.json").exists()
        if local and key.encode() in pickle.read_bytes():  # keys lie in it as they are
            job = pickle.name.removesuffix("_submitted.pkl")
            yield pickle.stat().st_mtime, _logs(pickle.parent, job)


def _logs(folder: Path, job: str) -> list[Path]:
    """Of all processes of a job, given as a regular expression of its id."""
    name = re.compile(rf"{job}_\d+_log\.(out|err)")
    return [path for path in folder.iterdir() if name.fullmatch(path.name)]
