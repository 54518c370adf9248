"""What SLURM is told, with small shell scripts in the place of its commands."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from submitit.core.utils import DelayedSubmission

from sslbench.errors import UserError
from sslbench.grid import scheduler, slurm
from sslbench.grid.arrange import Array
from sslbench.grid.config import Resources, read
from sslbench.grid.job import Job
from sslbench.grid.plan import plan
from sslbench.grid.run import arranged, launch
from tests.grid.test_arrange import run, work
from tests.grid.test_config import GOOD
from tests.grid.test_scheduler import CONFIG, KNOWN, NODES, Commands

HOSTILE = 'it\'s a "run" of $HOME; `false` && (#1) ü'  # tried as a run folder on a real SLURM
LIMITS = (
    "AssocMaxSubmitJobLimit",
    "AssocGrpSubmitJobsLimit",
    "QOSMaxSubmitJobPerUserLimit",
    "QOSGrpSubmitJobsLimit",
)
COUNT = """\
here=${1%/*}
number=$(/bin/cat "$here/../count" 2>/dev/null || echo 40)
number=$((number + 1))
echo $number >"$here/../count"
/bin/cp "$1" "$here/../$number.sh"
/bin/cp "$here/submission.json" "$here/../$number.json" || exit 1
echo "Submitted batch job $number"
"""


def array(jobs: int = 2, stage: str = "pretrain", after: int | str | None = None,
          first: int = 0, **resources: object) -> Array:  # fmt: skip
    works = [work(run(first + number), "quick", "slow") for number in range(jobs)]
    given = Resources.model_validate(resources)
    return Array(stage, given, tuple((item,) for item in works), after)


def flags(script: str) -> dict[str, str]:
    """The options of a script, its quotes removed by a shell's rules."""
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH ")]
    pairs = [shlex.split(line.removeprefix("#SBATCH "))[0].partition("=") for line in lines]
    return {name.removeprefix("--"): value for name, _, value in pairs}


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))
    for name in ("PYTHONPATH", "SSLBENCH_DATA", "SSLBENCH_PLUGINS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def commands(tmp_path, monkeypatch) -> Commands:
    """A cluster that takes every job."""
    found = Commands(tmp_path / "bin", monkeypatch)
    found.say("scontrol", CONFIG.format(array=1001, jobs=10000))
    found.say("sinfo", NODES)
    found.add("squeue", "")
    found.add("srun", "")
    found.add("sbatch", f'[ "$1" = --test-only ] && exit 0\n{COUNT}')
    return found


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(scheduler, "time", SimpleNamespace(sleep=found.append))
    return found


# ------------------------------------------------------------------------------ the script


def text(found: Array, folder: Path, dependency: str | None = None) -> str:
    return slurm.script(found, "name-00001", folder, folder / "code" / "abc", dependency)


def test_the_script_asks_for_everything_that_the_grid_says(tmp_path):
    found = array(
        5, cpus=6, gpus=4, hours=1.51, memory_gb=15.5, partition="gpu,low", account="lab",
        qos="high", constraint="a100&fast", throttle=3, options={"reservation": "my lab"},
    )  # fmt: skip
    logs = tmp_path / "jobs" / "name-00001" / "%A_%a_0_log.out"
    assert flags(text(found, tmp_path, "aftercorr:7")) == {
        "job-name": "name-00001",
        "array": "0-4%3",
        "nodes": "1",
        "ntasks-per-node": "4",
        "cpus-per-task": "6",
        "gpus-per-node": "4",
        "time": "91",
        "mem": "15872M",
        "partition": "gpu,low",
        "account": "lab",
        "qos": "high",
        "constraint": "a100&fast",
        "reservation": "my lab",
        "dependency": "aftercorr:7",
        "kill-on-invalid-dep": "yes",
        "signal": "USR2@90",
        "requeue": "",
        "output": str(logs),
        "open-mode": "append",
        "wckey": "submitit",
    }


def test_the_script_says_nothing_of_what_the_grid_leaves_to_the_cluster(tmp_path):
    assert flags(text(array(1), tmp_path)) == {
        "job-name": "name-00001",
        "nodes": "1",
        "ntasks-per-node": "1",
        "cpus-per-task": "1",
        "time": "1440",
        "signal": "USR2@90",
        "requeue": "",
        "output": str(tmp_path / "jobs" / "name-00001" / "%j_0_log.out"),
        "open-mode": "append",
        "wckey": "submitit",
    }


@pytest.mark.parametrize(
    ("stage", "resources", "nodes", "tasks"),
    [
        ("pretrain", {"nodes": 2, "gpus": 4}, "2", "4"),
        ("pretrain", {"nodes": 3}, "3", "1"),
        ("pretrain", {"nodes": 2, "processes": 2}, "2", "2"),
        ("pretrain", {"nodes": 2, "processes": 1, "gpus": 4}, "2", "1"),
        ("evaluate", {"nodes": 2, "processes": 2, "gpus": 4}, "1", "1"),
    ],
)
def test_processes_of_a_job(tmp_path, stage, resources, nodes, tasks):
    """An evaluation is one process, whatever its resources say."""
    found = array(2, stage, **resources)
    asked = flags(text(found, tmp_path))
    assert (asked["nodes"], asked["ntasks-per-node"]) == (nodes, tasks)
    assert slurm.processes(found) == (int(nodes), int(tasks))
    assert asked.get("gpus-per-node") == (str(resources["gpus"]) if "gpus" in resources else None)


def test_setup_lines_come_after_our_own_and_before_the_job(tmp_path):
    setup = ["module load cuda", "source env/bin/activate"]
    lines = text(array(setup=setup), tmp_path).splitlines()
    places = [
        next(place for place, line in enumerate(lines) if line.startswith(start))
        for start in ("#SBATCH", "export PYTHONPATH=", "export OMP_NUM_THREADS=", *setup, "srun ")
    ]
    assert places == sorted(places)


@pytest.mark.parametrize("name", ["plain", HOSTILE])
def test_the_script_gives_the_job_its_environment_and_its_command(tmp_path, monkeypatch, name):
    """A shell runs it, with an srun that prints what it was given."""
    folder, code = tmp_path / name, tmp_path / name / "code" / "abc"
    for number in ("0", "1"):
        (code / "plugins" / number).mkdir(parents=True)
    monkeypatch.setenv("SSLBENCH_CACHE", f"{tmp_path}/{name}/cache")
    monkeypatch.setenv("SSLBENCH_DATA", f"/data/{name}")
    monkeypatch.setenv("PYTHONPATH", f"/own/{name}")
    monkeypatch.setattr(sys, "executable", f"/opt/{name}/python")
    given = {"cpus": 3, "setup": ["export TRICKY='a  b'"], "options": {"comment": name}}
    script = text(array(**given), folder)
    assert flags(script)["comment"] == name
    assert flags(script)["output"] == f"{folder}/jobs/name-00001/%A_%a_0_log.out"
    commands = Commands(tmp_path / "bin", monkeypatch)
    commands.add("srun", "printf '%s\\0' \"$@\" ''; /usr/bin/env -0")
    monkeypatch.setenv("HOME", "/root")
    done = subprocess.run(["/bin/bash"], input=script, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    arguments, _, rest = done.stdout.partition("\0\0")
    assert arguments.split("\0") == [
        "--unbuffered", "--output", f"{folder}/jobs/name-00001/%A_%a_%t_log.out",
        "--kill-on-bad-exit=1", f"/opt/{name}/python", "-u", "-m", "submitit.core._submit",
        f"{folder}/jobs/name-00001",
    ]  # fmt: skip
    seen = dict(pair.split("=", 1) for pair in rest.split("\0") if pair)
    assert seen["PYTHONPATH"] == f"{code}:/own/{name}"
    assert seen["SSLBENCH_PLUGINS"] == f"{code}/plugins/0:{code}/plugins/1"
    assert seen["SSLBENCH_CACHE"] == f"{tmp_path}/{name}/cache"
    assert seen["SSLBENCH_DATA"] == f"/data/{name}"
    assert (seen["OMP_NUM_THREADS"], seen["TRICKY"]) == ("3", "a  b")


@pytest.mark.parametrize("jobs", [1, 2])
def test_bash_can_read_the_script(tmp_path, jobs):
    python = f"apptainer exec --bind {shlex.quote(HOSTILE)} image.sif python"
    given = {"account": HOSTILE, "partition": HOSTILE, "constraint": HOSTILE, "python": python}
    script = text(array(jobs, **given), tmp_path / HOSTILE)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, capture_output=True)
    asked = flags(script)
    assert [asked[name] for name in ("account", "partition", "constraint")] == [HOSTILE] * 3


def test_a_container_is_a_command_and_not_a_path(tmp_path):
    python = "apptainer exec --nv image.sif python"
    assert f" {python} -u -m submitit.core._submit " in text(array(python=python), tmp_path)


def test_a_relative_run_folder_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert text(array(), Path("runs")) == text(array(), tmp_path / "runs").replace(
        f"{tmp_path}/runs/code", "runs/code"
    )


# ------------------------------------------------------------------------------ submission


def submit(arrays: list[Array], folder: Path, room: int | None = None) -> tuple[list[str], int]:
    """Ids of the jobs that were submitted, and the number of arrays that wait."""
    ids: list[str] = []
    waiting = slurm.submit(arrays, folder, folder / "code" / "abc", room=room, retry_failed=False,
                           report=lambda _, job: ids.append(job))  # fmt: skip
    assert waiting == arrays[len(ids) :]
    return ids, len(waiting)


def test_children_are_submitted_after_their_parents(tmp_path, commands):
    arrays = [
        array(3), array(3, "evaluate", 0), array(3, "evaluate", 0),
        array(1), array(1, "evaluate", 3), array(1, "evaluate", "12_4"), array(2, "evaluate"),
    ]  # fmt: skip
    assert submit(arrays, tmp_path) == (["41", "42", "43", "44", "45", "46", "47"], 0)
    found = [flags((tmp_path / "jobs" / f"{n}.sh").read_text()) for n in range(41, 48)]
    assert [asked.get("dependency") for asked in found] == [
        None, "aftercorr:41", "aftercorr:41", None, "afterok:44", "afterany:12_4", None
    ]  # fmt: skip
    assert [asked.get("array") for asked in found] == [
        "0-2%3", "0-2%3", "0-2%3", None, None, None, "0-1%2"
    ]  # fmt: skip
    names = [asked["job-name"] for asked in found]
    assert names == [f"{slurm.prefix(tmp_path)}{n:05d}" for n in range(1, 8)]
    assert [call.partition(" ")[0] for call in commands.calls] == ["sbatch"] * 7


@pytest.mark.parametrize("jobs", [1, 3])
def test_sbatch_gets_the_script_that_a_dry_run_prints(tmp_path, commands, jobs):
    found = array(jobs, gpus=1, python="apptainer exec image.sif python")
    submit([found], tmp_path)
    name = f"{slurm.prefix(tmp_path)}00001"
    printed = slurm.script(found, name, tmp_path, tmp_path / "code" / "abc", None)
    assert (tmp_path / "jobs" / "41.sh").read_text() == printed


def test_what_is_submitted_is_written_down_before_sbatch_is_called(tmp_path, commands):
    """The sbatch of these tests fails where it finds no manifest beside the script."""
    found = array(2, gpus=2, nodes=3)
    submit([found], tmp_path)
    name = f"{slurm.prefix(tmp_path)}00001"
    seen = json.loads((tmp_path / "jobs" / "41.json").read_text())
    assert seen == {
        "name": name,
        "stage": "pretrain",
        "cells": [[cell.key for cell in item.cells] for (item,) in found.jobs],
        "sources": [[item.source.key] for (item,) in found.jobs],
        "gpus": 6,
    }
    (known,) = slurm.submissions(tmp_path)
    assert known == slurm.Submission(folder=tmp_path / "jobs" / name, **seen)


def test_each_job_finds_its_work_and_nothing_else_is_left_behind(tmp_path, commands):
    found = array(3)
    submit([found], tmp_path)
    place = tmp_path / "jobs" / f"{slurm.prefix(tmp_path)}00001"
    pickles = sorted(place.glob("*.pkl"))
    assert [path.name for path in pickles] == [f"41_{n}_submitted.pkl" for n in range(3)]
    for path, job in zip(pickles, found.jobs, strict=True):
        wanted = Job(job, tmp_path, found.resources, "pretrain", False)
        assert DelayedSubmission.load(path).function == wanted


def test_a_later_submission_has_names_of_its_own(tmp_path, commands):
    submit([array(2), array(2)], tmp_path)
    submit([array(2)], tmp_path)
    names = [submission.name for submission in slurm.submissions(tmp_path)]
    assert names == [f"{slurm.prefix(tmp_path)}{n:05d}" for n in (1, 2, 3)]
    assert slurm.prefix(tmp_path) != slurm.prefix(tmp_path / "other")


def test_what_has_no_room_in_the_queue_waits(tmp_path, commands):
    arrays = [array(3), array(3, "evaluate", 0), array(3, "evaluate", 0)]
    assert submit(arrays, tmp_path, room=8) == (["41", "42"], 1)
    assert submit(arrays, tmp_path, room=2) == ([], 3)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_met_on_the_way_keeps_what_was_submitted(tmp_path, commands, waits, limit):
    error = f"sbatch: error: {limit}\nsbatch: error: Job violates accounting/QOS policy"
    commands.add("sbatch", f'[ -e "${{1%/*}}/../41.sh" ] && {{ echo "{error}" >&2; exit 1; }}\n'
                 f"{COUNT}")  # fmt: skip
    assert submit([array(2), array(2, "evaluate", 0), array(1)], tmp_path) == (["41"], 2)
    assert waits == []


def test_a_refusal_is_an_error_and_not_a_limit(tmp_path, commands, waits):
    commands.fail("sbatch", "sbatch: error: Invalid account or account/partition combination")
    with pytest.raises(UserError, match=r"sbatch \(sslbench-.*00001\): .*Invalid account"):
        submit([array(2)], tmp_path)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_busy_controller_is_asked_once_more(tmp_path, commands, waits, jobs):
    commands.fail_once("sbatch", "sbatch: error: Socket timed out on send/recv operation", COUNT)
    assert submit([array(jobs)], tmp_path) == (["41"], 0)
    assert waits == [scheduler.WAITS[0]]
    assert [call.split()[0] for call in commands.calls] == ["sbatch", "squeue", "sbatch"]
    place = tmp_path / "jobs" / f"{slurm.prefix(tmp_path)}00001"
    assert len(list(place.glob("*.pkl"))) == jobs  # none of the first try


def test_what_sbatch_did_not_hear_of_is_cancelled_before_it_is_submitted_again(
    tmp_path, commands, waits
):
    name = f"{slurm.prefix(tmp_path)}00001"
    commands.fail_once("sbatch", "Unable to contact slurm controller", COUNT)
    commands.say("squeue", f"{name}|39_0|PENDING|None|1:00\n{name}|39_1|PENDING|None|1:00")
    commands.add("scancel", "")
    assert submit([array(2)], tmp_path) == (["41"], 0)
    assert [call.split()[0] for call in commands.calls] == ["sbatch", "squeue", "scancel", "sbatch"]
    assert commands.calls[2] == f"scancel --name={name}"


# ------------------------------------------------------------------------------ before and after


def test_one_job_of_each_kind_is_tried_before_anything_is_queued(tmp_path, commands):
    arrays = [array(2, gpus=1), array(3, gpus=1), array(2, "evaluate", 0, gpus=1), array(1)]
    slurm.refused(arrays, tmp_path, tmp_path / "code" / "abc", KNOWN)
    assert commands.calls == ["sbatch --test-only"] * 3
    with pytest.raises(UserError, match=r"pretrain jobs \(small\): 9 GPUs on a node"):
        slurm.refused([array(gpus=9)], tmp_path, tmp_path / "code" / "abc", KNOWN)


@pytest.mark.parametrize("name", ["50%", "back\\slash"])
def test_a_run_folder_that_slurm_would_read_as_a_pattern_is_refused(tmp_path, commands, name):
    with pytest.raises(UserError, match="in the path of a log as a pattern"):
        slurm.refused([array()], tmp_path / name, tmp_path / "code" / "abc", KNOWN)
    assert commands.calls == []


@pytest.mark.parametrize("error", [*LIMITS, slurm.BUSY])
def test_what_cannot_be_taken_now_is_not_refused(tmp_path, commands, waits, error):
    commands.fail("sbatch", f"sbatch: error: {error}")
    slurm.refused([array()], tmp_path, tmp_path / "code" / "abc", KNOWN)


def test_what_slurm_would_not_take_is_said_with_its_reason(tmp_path, commands, waits):
    commands.fail("sbatch", "allocation failure: Invalid qos specification")
    with pytest.raises(
        UserError, match=r"evaluate jobs \(small\): refused by SLURM: .*Invalid qos"
    ):
        slurm.refused([array(2, "evaluate")], tmp_path, tmp_path / "code" / "abc", KNOWN)


def test_what_is_queued_is_known_by_its_name(tmp_path, commands):
    trained, evaluated = array(3), array(2, "evaluate", first=10)
    submit([trained, evaluated], tmp_path)
    one, two = (submission.name for submission in slurm.submissions(tmp_path))
    commands.say("squeue", f"""\
{one}|41_1|RUNNING|None|1:00
{one}|41_2|PENDING|Priority|1:00
{two}|42_1|PENDING|Priority|1:00
{slurm.prefix(tmp_path)}00099|50_0|RUNNING|None|1:00
other|51_0|RUNNING|None|1:00
""")  # fmt: skip
    before = len(commands.calls)
    found = slurm.flight(tmp_path)
    assert len(commands.calls) == before + 1
    works = [[item for (item,) in part.jobs] for part in (trained, evaluated)]
    assert {key: job.job for key, job in found.runs.items()} == {
        works[0][1].source.key: "41_1",
        works[0][2].source.key: "41_2",
    }
    assert {key: job.job for key, job in found.cells.items()} == {
        cell.key: "42_1" for cell in works[1][1].cells
    }
    assert found.jobs == 3
    left = slurm.without(works[1], found)
    assert [item.source for item in left] == [works[1][0].source]


def test_nothing_submitted_asks_nobody(tmp_path, commands):
    assert slurm.flight(tmp_path) == slurm.Flight({}, {}, 0)
    assert commands.calls == []


# ------------------------------------------------------------------------------ the whole way

GRID = GOOD.replace('["untrained"]', '["simclr"]').replace("[0, 1]", "[0, 1, 2, 3, 4]")


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return read(path), path, plan(read(path), path)


def test_arrays_are_no_longer_than_the_queue_has_room_for(tmp_path, commands, grid):
    """Or a grid of more runs than MaxSubmitJobs would wait for ever."""
    commands.say("sacctmgr", "3")
    folder = tmp_path / "run"
    assert {len(a.jobs) for a in arranged(grid[0], grid[2], folder).arrays} == {2, 3}
    found = launch(*grid, folder)
    assert [len(a.jobs) for a in found.arrays] == [3, 3, 2, 2]
    assert found.waiting == found.arrays[1:]
    (name,) = (submission.name for submission in slurm.submissions(folder))
    commands.say("squeue", "\n".join(f"{name}|41_{n}|RUNNING|None|1:00" for n in range(3)))
    found = launch(*grid, folder)
    assert found.waiting == found.arrays
    assert len(list(slurm.submissions(folder))) == 1
    commands.add("squeue", "")
    found = launch(*grid, folder)
    assert found.waiting == found.arrays[1:]
    assert [len(submission.sources) for submission in slurm.submissions(folder)] == [3, 3]


def test_nothing_is_queued_where_one_kind_of_job_is_refused(tmp_path, commands, grid):
    commands.add("sbatch", "echo 'Invalid account' >&2; exit 1")
    with pytest.raises(UserError, match="refused by SLURM: Invalid account"):
        launch(*grid, tmp_path / "run")
    assert [c for c in commands.calls if c.startswith("sbatch")] == ["sbatch --test-only"]
    assert not (tmp_path / "run" / "jobs").exists()


def test_a_second_launch_submits_nothing_again(tmp_path, commands, grid):
    folder = tmp_path / "run"
    launch(*grid, folder)
    names = [submission.name for submission in slurm.submissions(folder)]
    jobs = [f"{name}|41_{n}|PENDING|None|1:00" for name in names for n in range(5)]
    commands.say("squeue", "\n".join(jobs))
    found = launch(*grid, folder)
    assert (found.arrays, found.flying) == ([], 5)
    assert len(list(slurm.submissions(folder))) == len(names) == 2


def test_a_dry_run_writes_nothing_and_needs_no_slurm(tmp_path, monkeypatch, grid):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    before = set(tmp_path.rglob("*"))
    found = arranged(grid[0], grid[2], tmp_path / "run")
    assert found.known is None
    assert [len(a.jobs) for a in found.arrays] == [5, 5]
    assert set(tmp_path.rglob("*")) == before


def test_the_snapshot_is_what_the_jobs_import(tmp_path, commands, grid):
    folder = tmp_path / "run"
    launch(*grid, folder)
    (code,) = (folder / "code").iterdir()
    script = (folder / "jobs" / "41.sh").read_text()
    assert f"export PYTHONPATH={code}\n" in script
    assert (code / "sslbench" / "__init__.py").exists()
    assert os.pathsep not in str(code)
