"""The commands around a grid, as they are typed."""

import json
import sys
from pathlib import Path

import pytest
import typer

from sslbench.__main__ import main
from sslbench.grid import commands
from tests.grid.test_run import BROKEN
from tests.grid.test_scheduler import Commands

GRID = """\
name = "tiny"

[pretrain]
methods = ["untrained", "rotation"]
datasets = ["digits"]
encoders = [{ name = "resnet18", width = 4, image_size = 8 }]
epochs = [1]

[evaluate]
tasks = ["knn", "broken"]
datasets = ["digits"]

[override.rotation]
recipe = { batch_size = 512 }
"""


@pytest.fixture
def sslbench(monkeypatch, capsys):
    """Exit status, standard output and the error of a command in this process."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["sslbench", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "300")
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        error = code if isinstance(code, str) else ""
        return bool(code), capsys.readouterr().out, error

    return call


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a grid file and a task that always fails."""
    plugin = tmp_path / "plugins" / "tasks" / "broken.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(BROKEN)
    (tmp_path / "grid.toml").write_text(GRID)
    monkeypatch.setenv("SSLBENCH_PLUGINS", str(tmp_path / "plugins"))
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return plugin


def test_a_grid_from_its_first_run_to_its_last_retry(sslbench, work, monkeypatch):
    failed, out, error = sslbench("run", "grid.toml", "--executor", "local")
    assert not failed, error
    assert "4 of 4 cells recorded" in out
    _, out, _ = sslbench("status", "grid.toml", "--json")
    found = json.loads(out)
    assert (found["cells"]["ok"], found["cells"]["failed"], found["done"]) == (2, 2, True)
    assert found["disk"] is None
    assert sslbench("status", "runs/tiny", "--json")[1] == out  # the folder has a copy of the file
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir("/")
        _, other, _ = sslbench("status", str(work.parents[2] / "runs" / "tiny"), "--json")
        assert json.loads(other)["cells"] == found["cells"]
    key = found["rows"][1]["reasons"][0]["cell"]
    _, out, _ = sslbench("logs", "grid.toml", key[:8])
    assert "_log.err <==" in out
    assert "broken on digits failed: on purpose" in out
    _, out, _ = sslbench("retry", "grid.toml", "--failed", "--dry-run")
    assert out.count("1 cells to do") == 2
    work.write_text(BROKEN.replace('raise RuntimeError("on purpose")', "raise ValueError('again')"))
    failed, out, error = sslbench("retry", "grid.toml", "--failed", "--parallel", 2)
    assert not failed, error
    assert "ValueError: again" in out
    _, out, _ = sslbench("status", "grid.toml", "--disk", "--watch")  # ends: all is recorded
    assert "training states" in out
    _, out, error = sslbench("clean", "grid.toml")
    assert "training states of finished runs: 1, " in out
    assert error == "sslbench: nothing was removed: no terminal to ask on; --yes removes it"
    assert len(list(Path("runs").rglob("state.pt"))) == 1
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(typer, "confirm", lambda text: False)
    assert not sslbench("clean", "grid.toml")[0]
    assert len(list(Path("runs").rglob("state.pt"))) == 1
    monkeypatch.setattr(typer, "confirm", lambda text: True)
    _, out, _ = sslbench("clean", "grid.toml")
    assert out.endswith(" removed\n")
    assert not list(Path("runs").rglob("state.pt"))
    assert "nothing to remove" in sslbench("clean", "grid.toml", "--yes")[1]
    assert "4 of 4 cells recorded" in sslbench("status", "grid.toml")[1]


def test_watching_goes_on_until_it_is_ended_and_is_no_error(sslbench, work, monkeypatch):
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(commands.time, "sleep", sleep)
    failed, out, _ = sslbench("status", "grid.toml", "--watch")
    assert not failed
    assert out.count("0 of 4 cells recorded") == 3
    assert all(seconds >= commands.WATCH_SECONDS for seconds in waits)


def test_a_folder_that_takes_long_to_read_is_read_less_often(sslbench, work, monkeypatch):
    clock, waits = iter([100.0, 102.0]), []

    def sleep(seconds):
        waits.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "time", type("Time", (), {
        "sleep": staticmethod(sleep), "monotonic": staticmethod(lambda: next(clock))}))  # fmt: skip
    sslbench("status", "grid.toml", "--watch")
    assert waits == [20.0]


def test_nothing_to_cancel_is_said_so(sslbench, work, tmp_path, monkeypatch):
    failed, out, _ = sslbench("cancel", "grid.toml")
    assert (failed, out) == (False, "runs/tiny: no job is queued or running\n")


def test_jobs_are_cancelled(sslbench, work, tmp_path, monkeypatch):
    from sslbench.grid.slurm import prefix

    name = f"{prefix(Path('elsewhere'))}00001"
    folder = Path("elsewhere") / "jobs" / name
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text(
        json.dumps({"name": name, "stage": "evaluate", "cells": [], "sources": [], "gpus": 0})
    )
    slurm = Commands(tmp_path / "bin", monkeypatch)
    slurm.say("squeue", f"{name}|7_0|RUNNING|None|1:00\n{name}|7_3|PENDING|None|1:00")
    slurm.add("scancel", "")
    _, out, error = sslbench("cancel", "grid.toml", "--out", "elsewhere")
    assert out == "elsewhere: 2 jobs cancelled\n", error
    assert slurm.calls[-1] == "scancel 7"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["retry", "grid.toml"], "nothing was named to be tried again; allowed: --failed"),
        (["run", "grid.toml", "--executor", "lokal"], "executor 'lokal'; did you mean 'local'?"),
        (["status", "grid.toml", "--json", "--watch"], "--watch and --json exclude each other"),
        (["status", "gone.toml"], "gone.toml: cannot read the grid file"),
        (["cancel", "gone.toml"], "gone.toml: cannot read the grid file"),
        (["clean", "grid.toml"], "runs/tiny: no such run folder"),
        (["logs", "grid.toml", "abc"], "'abc': at least 6 characters"),
        (["logs", "grid.toml", "zzzzzz"], "'zzzzzz': no cell or pretraining run of this grid"),
    ],
)
def test_wrong_input_is_one_line(sslbench, work, words, message):
    failed, _, error = sslbench(*words)
    assert failed
    assert message in error
    assert "\n" not in error
