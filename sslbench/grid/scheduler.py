"""What SLURM says of its queue, its limits and its partitions."""

import getpass
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from sslbench.errors import UserError, suggest
from sslbench.grid.config import Resources

TRANSIENT = (  # what SLURM says when it is busy or restarting
    "timed out",
    "Unable to contact slurm controller",
    "Connection refused",
    "Zero Bytes were transmitted",
    "temporarily unavailable",
    "Transport endpoint",
    "Connection reset",
    "Communication connection failure",
    "slurm_persist_conn",
)
WAITS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # seconds between tries


@dataclass(frozen=True)
class Queued:
    """One job that SLURM still has.

    Attributes:
        job: id, "123" or "123_4".
        index: in its array, 0 without one.
        state: "PENDING", "RUNNING", …
        reason: why it waits.
        left: time that it may still run, as squeue writes it.
    """

    job: str
    index: int
    state: str
    reason: str
    left: str


@dataclass(frozen=True)
class Partition:
    """What one job can get in a partition, on one kind of node.

    Attributes:
        nodes: how many there are.
        cpus: of a node.
        memory_mb: of a node.
        gpus: of a node.
        hours: time limit, infinite where there is none.
        features: what a constraint may ask for.
    """

    nodes: int
    cpus: int
    memory_mb: int
    gpus: int
    hours: float
    features: frozenset[str]


@dataclass(frozen=True)
class Cluster:
    """Limits and partitions.

    Attributes:
        partitions: by name.
        default: name of the default partition.
        array: largest number of jobs in one array.
        submitted: most jobs that this user may have in the queue at a time, None without a limit.
    """

    partitions: dict[str, list[Partition]]
    default: str | None
    array: int
    submitted: int | None = None


def ask(*command: str, patient: bool = True) -> str:
    """Output of a command of SLURM's; `patient`: tried again while the controller is busy.

    Raises:
        UserError: SLURM is not installed, or refuses.
    """
    if shutil.which(command[0]) is None:
        raise UserError(f"{command[0]} not found: this is no login node of a SLURM cluster")

    def once() -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or f"exit code {done.returncode}")
        return done.stdout

    return patiently(once, command[0], patient)


def patiently(once: Callable[[], str], what: str, patient: bool = True) -> str:
    """The result of `once`; `patient`: called again after a while as long as SLURM is busy.

    Raises:
        UserError: it refuses, or stays busy.
    """
    for wait in (*WAITS, None) if patient else (None,):
        try:
            return once()
        except (RuntimeError, subprocess.SubprocessError) as error:
            text = " ".join(str(error).split())
            if wait is None or not any(words in text for words in TRANSIENT):
                raise UserError(f"{what}: {text}") from None
        time.sleep(wait)
    raise AssertionError


def queue(prefix: str, patient: bool = True) -> dict[str, list[Queued]]:
    """This user's jobs whose name starts with `prefix`, by name, in one query."""
    columns = "--format=%j|%i|%T|%r|%L"
    text = ask("squeue", "--me", "--noheader", "--array", columns, patient=patient)
    found: dict[str, list[Queued]] = {}
    for line in text.splitlines():
        name, job, state, reason, left = line.strip().rsplit("|", 4)  # a name may have anything
        if name.startswith(prefix):
            index = int(job.partition("_")[2] or 0)
            found.setdefault(name, []).append(Queued(job, index, state, reason, left))
    return found


def cluster() -> Cluster:
    """Ask SLURM for its limits and partitions; accounting may be off."""
    settings = dict(
        re.findall(r"^(\w+)\s*= (.*?)\s*$", ask("scontrol", "show", "config"), re.MULTILINE)
    )
    partitions: dict[str, list[Partition]] = {}
    default = None
    for line in ask("sinfo", "--noheader", "--format=%P|%D|%c|%m|%G|%l|%f").splitlines():
        name, nodes, cpus, memory, gres, limit, features = line.strip().split("|")
        if name.endswith("*"):
            name = default = name.removesuffix("*")
        partitions.setdefault(name, []).append(
            Partition(
                int(nodes),
                int(cpus.rstrip("+")),
                int(memory.rstrip("+")),
                sum(int(n) for n in re.findall(r"gpu:(?:[\w.-]+:)?(\d+)", gres)),
                hours(limit),
                frozenset(features.split(",")),
            )
        )
    array = min(int(settings["MaxArraySize"]), int(settings["MaxJobCount"]))
    return Cluster(partitions, default, max(1, array), _most_submitted())


def _most_submitted() -> int | None:
    """The smallest MaxSubmitJobs of this user's associations; None without one or accounting."""
    if shutil.which("sacctmgr") is None:
        return None
    command = ["sacctmgr", "--noheader", "--parsable2", "show", "assoc"]
    command += [f"user={getpass.getuser()}", "format=MaxSubmitJobs"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return None
    limits = [int(line) for line in done.stdout.split() if line.isdigit()]
    return min(limits, default=None)


def hours(text: str) -> float:
    """`3-12:00:00`, `30:00` or `infinite`, as SLURM writes times, in hours."""
    if text in ("infinite", "UNLIMITED", "n/a", "NOT_SET"):
        return float("inf")
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    while len(parts) < 3:
        parts.insert(0, 0)
    return 24 * int(days or 0) + parts[0] + parts[1] / 60 + parts[2] / 3600


def fits(given: Resources, nodes: int, processes: int, known: Cluster, where: str) -> None:
    """Check what a job asks for against what there is.

    Args:
        given: resources of a job.
        nodes: that it takes.
        processes: of it on each node.
        known: the cluster.
        where: which jobs, for the message.

    Raises:
        UserError: no node of the partition can give it.
    """
    name = given.partition or known.default
    if name is None:
        raise UserError(
            f"{where}: no partition given, and the cluster has no default one; allowed: "
            f"{', '.join(sorted(known.partitions))}"
        )
    for one in name.split(","):  # the job goes to the first of several that has room
        if one not in known.partitions:
            raise UserError(
                f"{where}: unknown partition {one!r}; {suggest(one, sorted(known.partitions))}"
            )
    kinds = [kind for one in name.split(",") for kind in known.partitions[one]]
    memory = max(kind.memory_mb for kind in kinds) / 1024
    asked = {  # what, and the most that there is of it
        "GPUs on a node": (given.gpus, max(kind.gpus for kind in kinds)),
        "CPUs on a node": (given.cpus * processes, max(kind.cpus for kind in kinds)),
        "GB of memory on a node": (given.memory_gb or 0, memory),
        "hours": (given.hours, max(kind.hours for kind in kinds)),
        "nodes": (nodes, sum(kind.nodes for kind in kinds)),
    }
    for what, (value, most) in asked.items():
        if value > most:
            raise UserError(
                f"{where}: {value:g} {what} asked for; partition {name} has at most {most:g}"
            )
    # `a100&fast`, `[rack1|rack2]`, `gpu*2`: features between operators, and how many nodes of each
    wanted = set(re.findall(r"[^\s&|,()[\]]+", re.sub(r"\*\d+", "", given.constraint or "")))
    features = frozenset().union(*(kind.features for kind in kinds))
    missing = wanted - features
    if missing and ("|" not in str(given.constraint) or missing == wanted):
        unknown = ", ".join(sorted(missing))
        there = ", ".join(sorted(features - {"(null)"})) or "none"
        raise UserError(f"{where}: constraint {unknown}: partition {name} has features {there}")
