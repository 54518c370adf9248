"""What is made of SLURM's words, with small shell scripts in the place of its commands."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from sslbench.errors import UserError
from sslbench.grid import scheduler
from sslbench.grid.config import Resources
from sslbench.grid.scheduler import Cluster, Partition, Queued, ask, fits, hours, patiently

CONFIG = """\
Configuration data as of 2024-05-01T10:00:00
MaxArraySize            = {array}
MaxJobCount             = {jobs}
MinJobAge               = 300 sec
SlurmctldParameters     = a=1,b = 2

Slurmctld(primary) at login is UP
"""
NODES = """\
gpu*|4|64|256000|gpu:a100:4(S:0-1)|3-00:00:00|a100,CPU_GEN:rome
gpu*|2|32+|512000+|gpu:tesla:2(S:0),gpu:kepler:6(S:1)|3-00:00:00|old
cpu|10|128|64000|(null)|infinite|(null)
"""
KNOWN = Cluster(
    partitions={
        "gpu": [
            Partition(4, 64, 256000, 4, 72.0, frozenset({"a100", "CPU_GEN:rome"})),
            Partition(2, 32, 512000, 8, 72.0, frozenset({"old"})),
        ],
        "cpu": [Partition(10, 128, 64000, 0, float("inf"), frozenset({"(null)"}))],
    },
    default="gpu",
    array=1001,
)


class Commands:
    """Commands that are alone on PATH; every call of one is noted.

    Args:
        folder: where they lie.
        monkeypatch: undoes the change of PATH.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self._folder = folder
        monkeypatch.setenv("PATH", str(folder))

    def add(self, name: str, script: str) -> None:
        """A command from lines of sh, which find no other program."""
        note = f'echo "{name} $*" >>"{self._folder}/calls"'
        path = self._folder / name
        path.write_text(f"#!/bin/sh\n{note}\n{script}\n")
        path.chmod(0o755)

    def say(self, name: str, text: str) -> None:
        """A command that prints a text."""
        self.add(name, f"/bin/cat <<'END'\n{text.rstrip()}\nEND")

    def fail(self, name: str, text: str) -> None:
        """A command that refuses."""
        self.add(name, f"echo '{text}' >&2\nexit 1")

    def fail_once(self, name: str, text: str, then: str) -> None:
        """A command that refuses the first time, and does what `then` says from there on."""
        done = f'"{self._folder}/{name}.failed"'
        self.add(name, f"if [ ! -e {done} ]; then : >{done}; echo '{text}' >&2; exit 1; fi\n{then}")

    @property
    def calls(self) -> list[str]:
        """Name and arguments of each call so far."""
        path = self._folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path / "bin", monkeypatch)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited, which nobody waits here."""
    found: list[float] = []
    monkeypatch.setattr(scheduler, "time", SimpleNamespace(sleep=found.append))
    return found


# ------------------------------------------------------------------------------ asking


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:30", 30 / 3600),
        ("30:00", 0.5),
        ("1:30:00", 1.5),
        ("3-12:00:00", 84.0),
        ("10-00:00:36", 240.01),
        ("infinite", float("inf")),
        ("UNLIMITED", float("inf")),
    ],
)
def test_times_as_slurm_writes_them(text, expected):
    assert hours(text) == pytest.approx(expected)


def test_the_queue_in_one_query(slurm):
    slurm.say("squeue", """\
ours-1|12_0|RUNNING|None|1:00:00
ours-1|12_11|PENDING|Dependency|1-00:00:00
ours-2|13|PENDING|Nodes required for job are DOWN, DRAINED|2:00
other|14|RUNNING|None|1:00
a | b|15|RUNNING|None|1:00
""")  # fmt: skip
    assert scheduler.queue("ours-") == {
        "ours-1": [
            Queued("12_0", 0, "RUNNING", "None", "1:00:00"),
            Queued("12_11", 11, "PENDING", "Dependency", "1-00:00:00"),
        ],
        "ours-2": [Queued("13", 0, "PENDING", "Nodes required for job are DOWN, DRAINED", "2:00")],
    }
    assert list(scheduler.queue("a |")) == ["a | b"]
    assert len(slurm.calls) == 2
    assert all("--me" in call and "--array" in call for call in slurm.calls)


def test_an_empty_queue(slurm):
    slurm.add("squeue", "")
    assert scheduler.queue("ours-") == {}


def test_limits_and_partitions(slurm):
    slurm.say("scontrol", CONFIG.format(array=1001, jobs=10000))
    slurm.say("sinfo", NODES)
    slurm.say("sacctmgr", "500\n\n200\n")
    known = scheduler.cluster()
    assert known.partitions == KNOWN.partitions
    assert (known.default, known.array, known.submitted) == ("gpu", 1001, 200)
    assert len(slurm.calls) == 3


@pytest.mark.parametrize(("array", "jobs", "most"), [(101, 10000, 101), (1001, 50, 50), (0, 9, 1)])
def test_an_array_is_bounded_by_its_index_and_by_the_number_of_jobs(slurm, array, jobs, most):
    """MaxArraySize = 0 means that there are no arrays."""
    slurm.say("scontrol", CONFIG.format(array=array, jobs=jobs))
    slurm.say("sinfo", NODES)
    assert scheduler.cluster().array == most


@pytest.mark.parametrize("accounting", ["missing", "failing", "without limit"])
def test_a_cluster_without_accounting_has_no_limit_of_jobs(slurm, accounting):
    slurm.say("scontrol", CONFIG.format(array=1001, jobs=10000))
    slurm.say("sinfo", NODES)
    if accounting == "failing":
        slurm.fail("sacctmgr", "You are not running a supported accounting_storage plugin")
    if accounting == "without limit":
        slurm.say("sacctmgr", "\n\n")
    assert scheduler.cluster().submitted is None


def test_no_default_partition(slurm):
    slurm.say("scontrol", CONFIG.format(array=1001, jobs=10000))
    slurm.say("sinfo", NODES.replace("*", ""))
    assert scheduler.cluster().default is None


def test_a_machine_without_slurm_is_said_so(slurm):
    with pytest.raises(UserError, match="scontrol not found: this is no login node"):
        scheduler.cluster()


# ------------------------------------------------------------------------------ patience


def failing(times: int, error: Exception) -> tuple[Callable[[], str], list[int]]:
    """A function that fails so often before it works, and the list of its calls."""
    calls: list[int] = []

    def once() -> str:
        calls.append(len(calls))
        if len(calls) <= times:
            raise error
        return "done"

    return once, calls


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("sbatch: error: Batch job submission failed: Socket timed out on send/recv"),
        RuntimeError("squeue: error: Unable to contact slurm\n  controller (connect failure)"),
        RuntimeError("slurm_load_jobs error: Connection refused"),
        RuntimeError("Zero Bytes were transmitted or received"),
        RuntimeError("Batch job submission failed: Resource temporarily unavailable"),
        subprocess.TimeoutExpired("squeue", 120),
    ],
)
def test_a_busy_controller_is_asked_again(waits, error):
    once, calls = failing(3, error)
    assert patiently(once, "squeue") == "done"
    assert len(calls) == 4
    assert waits == list(scheduler.WAITS[:3])


def test_patience_ends(waits, monkeypatch):
    monkeypatch.setattr(scheduler, "WAITS", (0.1, 0.2))
    once, calls = failing(99, RuntimeError("Connection refused"))
    with pytest.raises(UserError, match="squeue: Connection refused"):
        patiently(once, "squeue")
    assert len(calls) == 3
    assert waits == [0.1, 0.2]


def test_a_refusal_is_final(waits):
    once, calls = failing(1, RuntimeError("Invalid account\n or account/partition combination"))
    with pytest.raises(UserError, match="sbatch: Invalid account or account/partition"):
        patiently(once, "sbatch")
    assert (len(calls), waits) == (1, [])


def test_an_error_of_our_own_is_not_swallowed(waits):
    once, calls = failing(1, KeyError("bug"))
    with pytest.raises(KeyError):
        patiently(once, "sbatch")
    assert len(calls) == 1


def test_a_command_is_asked_again_and_then_answers(slurm, waits):
    slurm.fail_once("squeue", "slurm_load_jobs error: Connection refused", "echo fine")
    assert ask("squeue", "--me") == "fine\n"
    assert slurm.calls == ["squeue --me"] * 2


def test_a_command_that_fails_says_why(slurm, waits):
    slurm.fail("sinfo", "sinfo: error: Invalid node format")
    with pytest.raises(UserError, match="sinfo: sinfo: error: Invalid node format"):
        ask("sinfo")
    slurm.add("sinfo", "exit 3")
    with pytest.raises(UserError, match="sinfo: exit code 3"):
        ask("sinfo")


# ------------------------------------------------------------------------------ what fits


def fit(asked: dict[str, object], known: Cluster = KNOWN) -> None:
    given = Resources.model_validate(asked)
    fits(given, given.nodes, given.world // given.nodes, known, "resources of x")


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"gpus": 8, "cpus": 8, "memory_gb": 500.0, "hours": 72.0, "nodes": 6},
        {"gpus": 8, "cpus": 64, "processes": 1},
        {"partition": "cpu", "cpus": 128, "hours": 5000.0, "memory_gb": 62.5},
        {"partition": "cpu,gpu", "gpus": 8},
        {"constraint": "a100"},
        {"constraint": "a100&CPU_GEN:rome"},
        {"constraint": "[a100*2&old*4]"},
        {"constraint": "(a100|h100)"},  # one of them is there
    ],
)
def test_what_there_is_may_be_asked_for(asked):
    fit(asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"partition": "gpus"}, "unknown partition 'gpus'; did you mean 'gpu'. allowed: cpu, gpu"),
        ({"partition": "gpu,cpus"}, "unknown partition 'cpus'; did you mean 'cpu'"),
        ({"gpus": 9}, "9 GPUs on a node asked for; partition gpu has at most 8"),
        ({"partition": "cpu", "gpus": 1}, "1 GPUs on a node asked for; .*cpu has at most 0"),
        ({"cpus": 65}, "65 CPUs on a node asked for; partition gpu has at most 64"),
        ({"cpus": 9, "processes": 8}, "72 CPUs on a node asked for"),
        ({"cpus": 9, "gpus": 8}, "72 CPUs on a node asked for"),
        ({"cpus": 9, "processes": 8, "nodes": 2}, "72 CPUs on a node asked for"),
        ({"memory_gb": 501}, "501 GB of memory on a node asked for; .* has at most 500"),
        ({"hours": 72.5}, "72.5 hours asked for; partition gpu has at most 72"),
        ({"nodes": 7}, "7 nodes asked for; partition gpu has at most 6"),
        ({"constraint": "h100"}, "constraint h100: partition gpu has features CPU_GEN:rome, a100,"),
        ({"constraint": "a100&h100"}, "constraint h100: "),
        ({"constraint": "[h100|v100]"}, "constraint h100, v100: "),
        ({"partition": "cpu", "constraint": "old"}, "constraint old: .* cpu has features none"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(asked, message):
    with pytest.raises(UserError, match=f"^resources of x: {message}"):
        fit(asked)


def test_no_partition_given_and_no_default_one():
    known = Cluster(KNOWN.partitions, None, 1001)
    with pytest.raises(UserError, match=r"no partition given, and .* allowed: cpu, gpu"):
        fit({}, known)
    fit({"partition": "cpu"}, known)
