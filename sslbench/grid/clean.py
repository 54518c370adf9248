"""Removing from a run folder what can be made again or is not needed any more."""

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sslbench.errors import UserError
from sslbench.grid.disk import contents
from sslbench.grid.scheduler import queue
from sslbench.grid.slurm import Submission, prefix, submissions
from sslbench.lock import exclusive, holder
from sslbench.records import Store


@dataclass(frozen=True)
class Leftover:
    """Files and folders that can go, for one reason.

    Attributes:
        name: what they are.
        paths: of the files and folders.
        bytes: what they take.
    """

    name: str
    paths: list[Path]
    bytes: int


@contextmanager
def leftovers(folder: Path) -> Iterator[list[Leftover]]:
    """What can go; as long as the block lasts nothing else is started or submitted in the folder.

    Nothing of a job that is queued or running is among it, nor of a run that has not finished, nor
    records, encoders and logs.

    Raises:
        UserError: no run folder, another process works in it, or something was submitted from it
            and SLURM does not answer.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder")
    with exclusive(folder):
        known = list(submissions(folder))
        try:
            queued = queue(prefix(folder), patient=False) if known else {}
        except UserError as error:
            raise UserError(f"{error}; nothing is removed without knowing the queue") from None
        live = [submission for submission in known if submission.name in queued]
        wanted = {
            key
            for submission in live
            for job in queued[submission.name]
            for key in _keys(submission)[job.index]
        }
        found = {
            "training states of finished runs": _states(folder, wanted),
            "work of recorded cells": _work(folder, wanted),
            "scripts and pickles of jobs that are over": [
                path
                for submission in known
                if submission not in live
                for kind in ("*.pkl", "*.sh")
                for path in submission.folder.glob(kind)
            ],
            "code that no job waits for": _code(folder, live),
        }
        yield [
            Leftover(name, paths, sum(size for path in paths for _, size in contents(path)))
            for name, paths in found.items()
            if paths
        ]


def remove(found: list[Leftover]) -> None:
    """Remove them; a folder gets another name before anything in it is missing."""
    for path in (path for leftover in found for path in leftover.paths):
        if path.is_dir():
            aside = path.with_name(f".{path.name.strip('.')}.{uuid.uuid4().hex[:12]}.partial")
            shutil.rmtree(path.rename(aside))
        else:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # the folder that it lay in, where nothing else does
            path.parent.rmdir()


def _keys(submission: Submission) -> list[list[str]]:
    """Of what each job of a submission works on: runs, or cells."""
    return submission.sources if submission.stage == "pretrain" else submission.cells


def _states(folder: Path, wanted: set[str]) -> list[Path]:
    """Of runs whose outcome is written: training only reads that from then on."""
    return [
        path
        for place in sorted((folder / "checkpoints").glob("??/*"))
        if place.name not in wanted and _ended(place) and holder(place) is None
        for kind in ("state.pt", ".[se]*.partial")
        for path in place.glob(kind)
    ]


def _ended(place: Path) -> bool:
    try:
        run = json.loads((place / "run.json").read_text(encoding="utf-8"))
        ended = run["outcome"] is not None
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return ended and (place / "encoder" / "encoder.json").exists()


def _work(folder: Path, wanted: set[str]) -> list[Path]:
    store, found = Store(folder / "records"), []
    for place in sorted((folder / "work").glob("??/*")):
        key = place.name.strip(".").partition(".")[0]  # a removal that was interrupted
        if key not in wanted and store.path(key).exists():
            found.append(place)
    return found


def _code(folder: Path, live: list[Submission]) -> list[Path]:
    """Snapshots that no script of a queued or running job names."""
    scripts = [b"".join(path.read_bytes() for path in s.folder.glob("*.sh")) for s in live]
    if not all(scripts):
        return []  # nobody knows what such a job would read
    places = sorted((folder / "code").glob("*"))
    return [
        place for place in places if not any(place.name.encode() in script for script in scripts)
    ]
