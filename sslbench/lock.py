"""One process at a time in a folder, without the file locks that network file systems break."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sslbench.errors import UserError

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0
POLL_SECONDS = 0.5


@contextmanager
def exclusive(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold `folder`/.lock, created exclusively and refreshed while held.

    A lock is taken over where its process has died on this host, where it belongs to an earlier
    start of the SLURM job that this process is in, and where it was not refreshed for two minutes
    of the file system's own clock.

    Args:
        folder: made if it does not exist.
        wait: until the other process ends, instead of raising.

    Raises:
        UserError: another process works in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    me = json.dumps(
        {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "start": _start_time(os.getpid()),
            "id": uuid.uuid4().hex,
            **_start_of_job(),
        }
    )
    while not _create(path, me):
        judged = _text(path)
        who = _alive(path)
        if who is not None and wait:
            time.sleep(POLL_SECONDS)
            continue
        if who is not None:
            raise UserError(f"{folder}: another process works in it ({who}); wait for it to end")
        aside = path.with_name(f".lock.{uuid.uuid4().hex[:12]}.partial")
        with suppress(FileNotFoundError):  # whoever renames it has removed it
            path.rename(aside)
            if _text(aside) != judged:  # somebody's fresh lock: give it back
                with suppress(FileExistsError):
                    os.link(aside, path)
            aside.unlink()
    done = threading.Event()
    beat = threading.Thread(target=_refresh, args=(path, done), daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join()
        if _text(path) == me:
            path.unlink(missing_ok=True)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def _create(path: Path, text: str) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return True


def _refresh(path: Path, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        with suppress(OSError):  # a hiccup of the file system must not end the heartbeat
            os.utime(path)


def holder(folder: Path) -> str | None:
    """Who works in a folder, or None if nobody does."""
    return _alive(folder / ".lock")


def _alive(path: Path) -> str | None:
    """Who holds the lock, or None if nobody does any more."""
    if not path.exists():
        return None
    probe = path.with_name(f".clock.{uuid.uuid4().hex[:12]}.partial")
    try:
        probe.touch()  # the file system's clock, not this host's
        age = probe.stat().st_mtime - path.stat().st_mtime
        found = json.loads(path.read_text() or "{}")
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    finally:
        probe.unlink(missing_ok=True)
    if not found:  # created this instant, not yet written, or its writer was killed there
        return "starting" if age < HEARTBEAT_SECONDS else None
    who = f"process {found['pid']} on {found['host']}"
    job = _start_of_job()
    if job and found.get("job") == job["job"] and found["restart"] < job["restart"]:
        return None
    if found["host"] == socket.gethostname():
        return who if _start_time(found["pid"]) == found["start"] else None
    return who if age < STALE_SECONDS else None


def _start_of_job() -> dict[str, Any]:
    """The SLURM job that this process is in, and how often it was queued again."""
    job = os.environ.get("SLURM_JOB_ID")
    return {"job": job, "restart": int(os.environ.get("SLURM_RESTART_COUNT", 0))} if job else {}


def _start_time(pid: int) -> str | None:
    """When a process of this host started, so that a reused number is not mistaken for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "running"
