"""Grids through a real SLURM: the same numbers as on one machine, whatever happens on the way."""

import itertools
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sslbench.grid.slurm import submissions
from tests.slurm.grids import SECONDS, command, records, results, sslbench, through_slurm, write


@pytest.fixture(autouse=True)
def _own_cache(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    cluster.run("scancel", "--user=root")
    cluster.wait(lambda: not cluster.squeue(), SECONDS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The results of a grid on this machine, by its number of epochs."""
    found: dict[int, dict[str, object]] = {}

    def get(epochs: int) -> dict[str, object]:
        if epochs not in found:
            folder = tmp_path_factory.mktemp("local")
            grid = write(folder, epochs=epochs)
            sslbench("run", grid, "--out", folder / "run", "--parallel", 2)
            found[epochs] = results(folder / "run")
        return found[epochs]

    return get


def test_slurm_computes_what_the_local_executor_computes(cluster, tmp_path, undisturbed):
    grid, run = write(tmp_path, simclr="resources = { gpus = 1 }"), tmp_path / "run"
    printed = through_slurm(cluster, grid, run)
    assert "12 cells in 9 jobs, 5 calls of sbatch" in printed
    assert results(run) == undisturbed(2)
    (code,) = {record.provenance.code for record in records(run).values()}
    assert [path.name for path in (run / "code").iterdir()] == [code]
    jobs = {r["name"]: r["state"] for r in cluster.sacct() if r["name"].startswith("sslbench-")}
    assert set(jobs.values()) == {"COMPLETED"}
    assert "nothing to submit" in sslbench("run", grid, "--executor", "slurm", "--out", run)


def test_what_is_on_its_way_is_not_submitted_again(cluster, tmp_path):
    grid, run = write(tmp_path), tmp_path / "run"
    for node in cluster.nodes:
        cluster.run("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    try:
        sslbench("run", grid, "--executor", "slurm", "--out", run)
        before = len(cluster.squeue())
        again = sslbench("run", grid, "--executor", "slurm", "--out", run)
        assert "nothing to submit; 12 cells are on their way" in again
        cluster.run("scancel", f"--name={next(submissions(run)).name}")
        last = sslbench("run", grid, "--executor", "slurm", "--out", run)
        assert before > len(cluster.squeue()) - 8
        assert "cells were on their way" in last
    finally:
        for node in cluster.nodes:
            cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")


def test_pretraining_over_two_nodes_survives_a_requeue(cluster, tmp_path):
    """Two nodes with two processes each take the steps of one process, also after a requeue."""
    grid, alone, run = write(tmp_path, epochs=10), tmp_path / "alone", tmp_path / "run"
    text = grid.read_text().replace('["untrained", "rotation", "simclr"]', '["rotation"]')
    text = text.replace("seeds = [0, 1]", "seeds = [0]").replace("lr = 0.05", "lr = 0.0005")
    grid.write_text(text)
    sslbench("run", grid, "--out", alone)
    grid.write_text(text + "nodes = 2\nprocesses = 2\n")
    sslbench("run", grid, "--executor", "slurm", "--out", run)

    def at_work() -> bool:
        return any(path.stat().st_size for path in run.glob("checkpoints/*/*/log.jsonl"))

    cluster.wait(at_work, SECONDS)
    (job,) = cluster.squeue("--states=running")
    cluster.run("scancel", "--signal=USR2", job["id"])
    cluster.wait(lambda: not cluster.squeue(), SECONDS)
    (log,) = run.glob("jobs/*-00001/*_0_log.out")
    assert log.read_text().count("Starting with") == 2, log.read_text()
    assert {record.status for record in records(run).values()} == {"ok"}
    (one,) = alone.glob("checkpoints/*/*")
    (other,) = run.glob("checkpoints/*/*")
    losses = [
        [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (one, other)
    ]
    # In float32, where training amplifies rounding: a change of 1e-6 in the initial weights moves
    # these losses by 2e-3 after 40 steps (at lr = 0.05 by 3e-2 after five).
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-3)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert sorted(p.name for p in other.iterdir()) == sorted(p.name for p in one.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('resources = { partition = "gpuu" }', "unknown partition 'gpuu'; did you mean 'gpu'"),
        ("resources = { gpus = 3 }", "3 GPUs on a node asked for; partition low has at most 2"),
        ("resources = { nodes = 5 }", "5 nodes asked for; partition low has at most 2"),
        ("resources = { memory_gb = 99 }", "99 GB of memory on a node asked for"),
        ('resources = { account = "nobody" }', "refused by SLURM: allocation failure: Invalid acc"),
        ("resources = { cpu = 3 }", "unknown key 'cpu'; did you mean 'cpus'"),
    ],
)
def test_what_the_cluster_does_not_have_is_said_before_anything_is_queued(
    cluster, tmp_path, line, message
):
    grid = write(tmp_path, simclr=line)
    error = sslbench("run", grid, "--executor", "slurm", "--out", tmp_path / "run", fails=True)
    assert message in error
    assert len(error.splitlines()) == 1
    assert not cluster.squeue()
    assert not list((tmp_path / "run").glob("jobs/*"))


def test_without_slurm_there_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    error = sslbench(
        "run", write(tmp_path), "--executor", "slurm", "--out", tmp_path / "run", fails=True
    )
    assert error == "sslbench: scontrol not found: this is no login node of a SLURM cluster"


# ------------------------------------------------------------------------------------- chaos


class Chaos:
    """Random misfortunes of a grid that runs through SLURM.

    Attributes:
        hits: how many of them came while a pretraining run was between its first and last step.
    """

    def __init__(self, cluster, grid: Path, run: Path, seed: int) -> None:
        self.cluster, self.grid, self.run = cluster, grid, run
        self.random, self.hits = random.Random(seed), 0
        self.events = [
            self.requeue,
            self.preempt,
            self.end_of_time,
            self.cancel,
            self.kill_slurmd,
            self.cut_power,
            self.kill_worker,
            self.restart_controller,
            self.kill_submission,
        ]

    def training(self) -> list[Path]:
        """Folders of the pretraining runs that are somewhere in the middle."""
        return [
            path.parent
            for path in self.run.glob("checkpoints/*/*/log.jsonl")
            if path.stat().st_size and not (path.parent / "encoder").exists()
        ]

    def running(self) -> dict[str, str] | None:
        """A random job, rather one that pretrains."""
        stages = {s.name: s.stage for s in submissions(self.run)}
        jobs = [job for job in self.cluster.squeue("--states=running") if job["name"] in stages]
        first = [job for job in jobs if stages[job["name"]] == "pretrain"]
        return self.random.choice(first or jobs) if jobs else None

    def strikes(self, count: int) -> Iterator[Callable[..., None]]:
        """So many events in random order, of each kind about as many."""
        kinds = list(itertools.islice(itertools.cycle(self.events), count))
        self.random.shuffle(kinds)
        return iter(kinds)

    def strike(self, event: Callable[..., None]) -> None:
        """One event, on something that runs if there is anything."""
        before = bool(self.training())
        try:
            target = self.cluster.wait(self.running, 20)
        except TimeoutError:
            target = None
        if target is None:
            sslbench("run", self.grid, "--executor", "slurm", "--out", self.run)
        elif event is self.kill_submission:
            event()
        else:
            try:
                event(target)
            except RuntimeError:  # the job has ended or waits again since it was looked up
                self.strike(event)
            else:
                self.hits += before

    def requeue(self, job: dict[str, str]) -> None:
        self.cluster.run("scontrol", "requeue", job["id"])

    def preempt(self, job: dict[str, str]) -> None:
        wanted = [
            "--partition=gpu",
            f"--nodelist={job['node']}",
            f"--cpus-per-task={self.cluster.cpus}",
        ]
        self.cluster.run("sbatch", "--output=/dev/null", *wanted, "--wrap=sleep 2")

    def end_of_time(self, job: dict[str, str]) -> None:
        self.cluster.run("scontrol", "update", f"JobId={job['id']}", "TimeLimit=2")

    def cancel(self, job: dict[str, str]) -> None:
        self.cluster.run("scancel", job["id"])

    def kill_slurmd(self, job: dict[str, str]) -> None:
        self.cluster.kill_node(job["node"])
        self.cluster.start_node(job["node"])

    def cut_power(self, job: dict[str, str]) -> None:
        self.cluster.kill_node(job["node"], jobs=True)
        self.cluster.start_node(job["node"])

    def kill_worker(self, job: dict[str, str]) -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode().split("\0")
                environ = (path.parent / "environ").read_bytes().decode()
            except (OSError, UnicodeDecodeError):
                continue
            if "submitit.core._submit" in words and job["name"] in environ:
                os.kill(int(path.parent.name), signal.SIGKILL)
                return

    def restart_controller(self, job: dict[str, str]) -> None:
        self.cluster.restart_controller()

    def kill_submission(self, job: dict[str, str] | None = None) -> None:
        words = command("run", self.grid, "--executor", "slurm", "--out", self.run)
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as login:
            time.sleep(self.random.uniform(3, 12))
            login.kill()


def settle(cluster) -> None:
    """What an administrator does after a crash, and then waiting."""
    for node in cluster.nodes:
        if "drain" in cluster.run("sinfo", "-h", "-n", node, "-o", "%T"):
            cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
    for job in cluster.squeue():
        if "held" in job["reason"].lower() or "Held" in job["reason"]:
            cluster.run("scontrol", "release", job["id"])


@pytest.mark.timeout(3600)
def test_chaos_loses_nothing(cluster, tmp_path, undisturbed, request, capsys):
    """Random events, then one more `run`: every cell once, with the numbers of a quiet run."""
    events = request.config.getoption("--slurm-events")
    epochs = max(40, 8 * events)
    expected = undisturbed(epochs)
    grid, run = write(tmp_path, epochs=epochs, save=1), tmp_path / "run"
    sslbench("run", grid, "--executor", "slurm", "--out", run)
    chaos = Chaos(cluster, grid, run, seed=events)
    struck: Counter[str] = Counter()
    for event in chaos.strikes(events):
        time.sleep(chaos.random.uniform(0, 6))
        chaos.strike(event)
        struck[event.__name__] += 1

    def quiet() -> bool:
        settle(cluster)
        return not cluster.squeue()

    cluster.wait(quiet, SECONDS)
    sslbench("run", grid, "--executor", "slurm", "--out", run)
    cluster.wait(quiet, SECONDS)
    with capsys.disabled():
        print(f"\n{events} events, {chaos.hits} of them while a pretraining run was at work")
        print(", ".join(f"{name} {count}" for name, count in sorted(struck.items())))
    assert results(run) == expected
