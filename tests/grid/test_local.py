"""Jobs of this machine: how many at a time, and which GPUs each of them sees."""

import json
import logging
import os
import time
from dataclasses import dataclass

import pytest
import submitit
import torch

from sslbench.errors import UserError
from sslbench.grid import local as module
from sslbench.grid.cells import External, Work
from sslbench.grid.config import Resources, read
from sslbench.grid.local import execute
from sslbench.grid.plan import plan
from tests.grid.test_config import GOOD

GRID = GOOD.replace("[0, 1]", "[0, 1, 2]").replace("[override.simclr]\ntemperature = 0.2", "")


@dataclass
class Seen:
    """What one job saw.

    Attributes:
        name: of its source.
        gpus: that it sees.
        given: its resources.
        start: on the clock of this machine.
        end: on the same.
    """

    name: str
    gpus: list[str]
    given: Resources
    start: float
    end: float

    def beside(self, other: "Seen") -> bool:
        return self.start < other.end and other.start < self.end


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Run a grid with jobs that write down what they see, on a machine with so many GPUs.

    A job ends when so many have started (`together`), or dies if its method is called "dies".
    """
    notes = tmp_path / "notes"
    notes.mkdir()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0)

    class Noting:  # local, so that a job gets its code and need not import this file
        together = 1

        def __init__(self, work, folder, resources, stage, retry_failed):
            (item,) = work
            self.name, self.key = item.source.name, item.source.key
            self.resources, self.notes, self.wanted = resources, str(notes), self.together

        def __call__(self):
            start, path = time.monotonic(), os.path.join(self.notes, self.key)
            with open(path, "w"):
                pass
            while len(os.listdir(self.notes)) < self.wanted:
                if time.monotonic() > start + 60:
                    os._exit(2)
                time.sleep(0.01)
            if self.name == "dies":
                os._exit(1)
            gpus = os.environ["CUDA_VISIBLE_DEVICES"]
            given = self.resources.model_dump_json()
            with open(path, "w") as file:
                json.dump([self.name, gpus, given, start, time.monotonic()], file)

    def run(text: str = GRID, *more: Work, gpus: int = 0, cores: int = 8, together: int = 1,
            parallel: int | None = None) -> list[Seen]:  # fmt: skip
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(Noting, "together", together)
        monkeypatch.setattr(module, "Job", Noting)
        path = tmp_path / "grid.toml"
        path.write_text(text)
        work = [*plan(read(path), path), *more]
        execute(read(path), path, work, tmp_path / "run", executor="local", parallel=parallel)
        return seen()

    def seen() -> list[Seen]:
        found = [json.loads(text) for p in notes.iterdir() if (text := p.read_text())]
        return [
            Seen(name, [gpu for gpu in gpus.split(",") if gpu],
                 Resources.model_validate_json(given), start, end)
            for name, gpus, given, start, end in sorted(found, key=lambda note: note[3])
        ]  # fmt: skip

    run.seen = seen
    return run


def at_a_time(jobs: list[Seen]) -> int:
    return max(sum(other.start <= job.start < other.end for other in jobs) for job in jobs)


def test_each_job_has_a_gpu_of_its_own_for_as_long_as_it_runs(machine):
    jobs = machine(GRID + "gpus = 1\n", gpus=2, together=2, parallel=3)
    assert [len(job.gpus) for job in jobs] == [1] * 3
    assert {gpu for job in jobs for gpu in job.gpus} == {"0", "1"}
    assert at_a_time(jobs) == 2
    for job in jobs:
        beside = [other for other in jobs if other is not job and other.beside(job)]
        assert all(set(job.gpus).isdisjoint(other.gpus) for other in beside)


def test_a_method_with_more_gpus_waits_for_them_and_only_named_ones_are_used(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5b1f, 7")
    text = GRID.replace('["untrained"]', '["untrained", "pixels"]').replace("[0, 1, 2]", "[0, 1]")
    text = text.replace("cpus = 1", "cpus = 1\ngpus = 1\n[override.pixels.resources]\ngpus = 2")
    jobs = machine(text, gpus=2)
    for job in jobs:
        assert job.given.gpus == len(job.gpus) == (2 if job.name == "pixels" else 1)
        assert set(job.gpus) <= {"GPU-5b1f", "7"}
        if job.name == "pixels":
            assert not any(other.beside(job) for other in jobs if other is not job)


def test_a_gpu_of_a_job_that_died_is_used_again(machine):
    text = GRID.replace('["untrained"]', '["dies", "untrained"]').replace("[0, 1, 2]", "[0]")
    text += 'gpus = 1\n[override.dies]\nof = "untrained"\n'
    with pytest.raises(UserError, match="1 jobs died, run again to go on"):
        machine(text, gpus=1)
    assert [(job.name, job.gpus) for job in machine.seen()] == [("untrained", ["0"])]


def test_a_job_that_needs_more_gpus_than_there_are_is_refused_before_any_starts(machine, tmp_path):
    text = GRID.replace('["untrained"]', '["untrained", "pixels"]')
    text += "[override.pixels.resources]\ngpus = 4\n"
    with pytest.raises(UserError, match="pixels: gpus = 4 for one job; this machine has 2"):
        machine(text, gpus=2)
    assert machine.seen() == []
    assert not (tmp_path / "run" / "jobs").exists()


def test_without_gpus_the_jobs_run_on_the_cpu_and_it_is_said_once(machine, caplog):
    with caplog.at_level(logging.WARNING, "sslbench"):
        jobs = machine(GRID.replace("[0, 1, 2]", "[0, 1]") + "gpus = 4\n", together=2)
    assert [(job.gpus, job.given.gpus) for job in jobs] == [([], 0)] * 2
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == "this machine has no GPU: what asks for one runs on the CPU"


def test_jobs_share_the_cores(machine):
    """Two of 2 threads fill 4 cores; the one of 9 is more than there are, and runs alone."""
    text = GRID.replace('["untrained"]', '["untrained", "pixels"]').replace("[0, 1, 2]", "[0, 1]")
    text = text.replace("cpus = 1", "cpus = 2\n[override.pixels.resources]\ncpus = 9")
    jobs = machine(text, cores=4, together=2)
    wide = [job for job in jobs if job.name == "pixels"]
    assert [job.given.cpus for job in wide] == [9, 9]
    assert not any(other.beside(job) for job in wide for other in jobs if other is not job)
    assert at_a_time(jobs) == 2


def test_a_checkpoint_that_is_only_evaluated_gets_the_resources_of_an_evaluation(machine, tmp_path):
    text = GRID.replace("[0, 1, 2]", "[0]") + "[resources.evaluate]\ncpus = 3\n"
    path = tmp_path / "plan.toml"
    path.write_text(text)
    cells = plan(read(path), path)[0].cells
    jobs = machine(text, Work(External("mine", str(tmp_path / "mine"), "key"), cells), parallel=1)
    assert {job.name: job.given.cpus for job in jobs} == {"untrained": 1, "mine": 3}
    assert at_a_time(jobs) == 1


@pytest.mark.parametrize(
    ("count", "given", "names"),
    [
        (0, None, []),
        (0, "", []),
        (3, None, ["0", "1", "2"]),
        (2, "3,1", ["3", "1"]),
        (2, "GPU-5b1f, MIG-9", ["GPU-5b1f", "MIG-9"]),
        (1, "2,-1,0", ["2"]),  # CUDA stops at the first that is none
    ],
)
def test_gpus_that_may_be_used(monkeypatch, count, given, names):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert module._gpus() == names


def test_the_time_limit_is_never_rounded_to_nothing(machine):
    jobs = machine(GRID.replace("[0, 1, 2]", "[0]") + "hours = 0.005\n")
    assert len(jobs) == 1
