"""Grids run to the end, whatever happens to them on the way."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from sslbench.__main__ import INTERRUPTED
from sslbench.errors import UserError
from sslbench.grid.config import read
from sslbench.grid.job import Job, checkpoint_folder
from sslbench.grid.local import execute
from sslbench.grid.plan import plan
from sslbench.grid.run import missing
from sslbench.grid.status import status
from sslbench.records import Store

GRID = """\
name = "tiny"

[pretrain]
methods = ["untrained", "simclr"]
datasets = ["digits"]
encoders = [{ name = "resnet18", width = 4, image_size = 8 }]
epochs = [2]
checkpoints = [0.5]

[evaluate]
tasks = ["knn", "representation"]
datasets = ["digits"]

[override.simclr]
recipe = { batch_size = 256 }
augmentation = { blur_p = 0.0 }
"""
BROKEN = '''"""Breaks."""

from sslbench.task import Task


class Broken(Task):
    """Raises."""

    paper = "none"
    metric = "top1"

    def run(self, encoder, data, *, seed, folder):
        raise RuntimeError("on purpose")
'''


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def grid(tmp_path):
    def write(text=GRID):
        path = tmp_path / "grid.toml"
        path.write_text(text)
        return read(path), path, plan(read(path), path)

    return write


def scores(folder):
    """What must not depend on how a run got to its end."""
    return {
        record.key: (record.status, record.scores, record.examples, record.selected,
                     record.checkpoint.weights_hash, record.checkpoint.pretrain_loss)
        for record in Store(folder / "records")
    }  # fmt: skip


def test_a_grid_completes_and_a_second_run_computes_nothing(grid, tmp_path, monkeypatch):
    config, path, work = grid()
    execute(config, path, work, tmp_path / "run", executor="debug")
    found = scores(tmp_path / "run")
    assert len(found) == 6  # untrained; simclr at a half and at its end; two tasks
    assert {status for status, *_ in found.values()} == {"ok"}
    left = missing(work, tmp_path / "run")
    assert (left.open, left.trained, left.pretrainings) == (0, 2, 2)
    monkeypatch.setattr(Job, "__call__", lambda self: pytest.fail("nothing was missing"))
    execute(config, path, work, tmp_path / "run", executor="debug")


def test_local_processes_give_the_scores_of_this_process(grid, tmp_path):
    config, path, work = grid()
    execute(config, path, work, tmp_path / "one", executor="debug")
    seen = []
    execute(config, path, work, tmp_path / "two", executor="local", parallel=2,
            report=lambda done, of: seen.append((done, of)))  # fmt: skip
    assert scores(tmp_path / "one") == scores(tmp_path / "two")
    assert seen[0] == (0, 6)
    assert seen[-1] == (6, 6)


def test_a_failing_cell_leaves_its_reason_and_the_rest_completes(grid, tmp_path, monkeypatch):
    (tmp_path / "plugins" / "tasks").mkdir(parents=True)
    plugin = tmp_path / "plugins" / "tasks" / "broken.py"
    plugin.write_text(BROKEN)
    monkeypatch.setenv("SSLBENCH_PLUGINS", str(tmp_path / "plugins"))
    text = GRID.replace('"simclr"]', '"mae"]').replace('"representation"', '"broken"')
    config, path, work = grid(text)
    execute(config, path, work, tmp_path / "run", executor="debug")
    found = {(r.checkpoint.name, r.task): r for r in Store(tmp_path / "run" / "records")}
    assert found["untrained", "knn"].status == "ok"
    assert found["untrained", "broken"].status == "failed"
    assert found["untrained", "broken"].reason.endswith("RuntimeError: on purpose")
    assert found["mae", "knn"].status == "not_applicable"
    assert "resnet18" in found["mae", "knn"].reason
    shown = status(config, work, tmp_path / "run").as_json()
    counts = {kind: count for kind, count in shown["cells"].items() if count}
    assert counts == {"ok": 1, "failed": 1, "not_applicable": 4}
    plugin.write_text(BROKEN.replace('raise RuntimeError("on purpose")', "return None"))
    assert missing(work, tmp_path / "run").open == 0
    assert missing(work, tmp_path / "run", retry_failed=True).open == 1


def test_a_failing_pretraining_leaves_its_reason_in_each_of_its_cells(grid, tmp_path):
    config, path, work = grid(GRID.replace("batch_size = 256", "batch_size = 256, lr = 1e30"))
    execute(config, path, work, tmp_path / "run", executor="debug")
    reasons = {r.checkpoint.name: r.reason for r in Store(tmp_path / "run" / "records")}
    assert "FloatingPointError: " in reasons["simclr"]
    assert reasons["untrained"] is None


def test_a_job_that_dies_does_not_take_the_others_along(grid, tmp_path, monkeypatch):
    (tmp_path / "plugins" / "tasks").mkdir(parents=True)
    dies = BROKEN.replace("from sslbench.task", "import os\n\nfrom sslbench.task").replace(
        'raise RuntimeError("on purpose")',
        'os.kill(os.getpid(), 9 if encoder.config.get("width") == 5 else 0)\n        return None',
    )
    (tmp_path / "plugins" / "tasks" / "broken.py").write_text(dies)
    monkeypatch.setenv("SSLBENCH_PLUGINS", str(tmp_path / "plugins"))
    text = GRID.replace('"untrained", "simclr"', '"untrained"').replace(
        '"representation"', '"broken"'
    )
    text = text.replace("[{ name", '[{ name = "resnet18", width = 5, image_size = 8 }, { name')
    config, path, work = grid(text)
    with pytest.raises(UserError, match="1 jobs died, run again to go on"):
        execute(config, path, work, tmp_path / "run", executor="local", parallel=1)
    found = [r.checkpoint.encoder_config["width"] for r in Store(tmp_path / "run" / "records")]
    assert sorted(found) == [4, 4, 5]


def test_a_damaged_checkpoint_becomes_a_failure_record(grid, tmp_path):
    config, path, work = grid()
    execute(config, path, work, tmp_path / "run", executor="debug")
    run = next(item.source for item in work if item.source.name == "simclr")
    weights = checkpoint_folder(tmp_path / "run", run) / "encoder" / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    shutil.rmtree(tmp_path / "run" / "records")
    execute(config, path, work, tmp_path / "run", executor="debug")
    found = list(Store(tmp_path / "run" / "records"))
    failed = [r for r in found if r.status == "failed"]
    assert len(found) == 6
    assert {(r.checkpoint.name, r.checkpoint.at) for r in failed} == {("simclr", 1.0)}
    assert all("damaged checkpoint" in r.reason for r in failed)


def test_checkpoints_along_one_run_are_different_checkpoints_elsewhere(grid, tmp_path):
    config, path, work = grid()
    execute(config, path, work, tmp_path / "run", executor="debug")
    run = next(item.source for item in work if item.source.name == "simclr")
    folder = checkpoint_folder(tmp_path / "run", run)
    text = 'name = "other"\n[evaluate]\ntasks = ["knn"]\ndatasets = ["digits"]\n'
    for name in ("encoder", "encoder-0.5"):
        text += f'[[checkpoint]]\nname = "{name}"\npath = "{folder / name}"\n'
    config, path, work = grid(text)
    execute(config, path, work, tmp_path / "other", executor="debug")
    found = {r.checkpoint.name: r for r in Store(tmp_path / "other" / "records")}
    assert {name: r.checkpoint.at for name, r in found.items()} == {
        "encoder": 1,
        "encoder-0.5": 0.5,
    }
    hashes = {r.checkpoint.weights_hash for r in found.values()}
    assert len(hashes) == 2


def test_two_runs_in_one_folder_are_refused(grid, tmp_path):
    from sslbench.lock import exclusive

    config, path, work = grid()
    with exclusive(tmp_path / "run"), pytest.raises(UserError, match="another process works in"):
        execute(config, path, work, tmp_path / "run", executor="debug")


def test_a_checkpoint_of_a_run_takes_part_in_another_grid_with_the_same_scores(grid, tmp_path):
    config, path, work = grid()
    execute(config, path, work, tmp_path / "run", executor="debug")
    run = next(item.source for item in work if item.source.name == "simclr")
    folder = checkpoint_folder(tmp_path / "run", run)
    text = f'name = "other"\n[[checkpoint]]\nname = "mine"\npath = "{folder}"\n'
    text += '[evaluate]\ntasks = ["knn"]\ndatasets = ["digits"]\n'
    config, path, work = grid(text)
    execute(config, path, work, tmp_path / "other", executor="debug")
    (record,) = Store(tmp_path / "other" / "records")
    before = {
        (r.task, r.checkpoint.name, r.checkpoint.at): r for r in Store(tmp_path / "run" / "records")
    }
    assert record.checkpoint.name == "mine"
    assert record.scores == before["knn", "simclr", 1].scores


def kill_and_resume(command, environment, moment, kills):
    """Kill `command` and its children when `moment` returns, then let it finish; count the hits."""
    hits = 0
    for _ in range(kills):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        moment(process)
        if process.poll() is None:
            hits += 1
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return hits


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_kill_nine_of_pretraining_at_random_steps_changes_nothing(tmp_path, kills):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    base = [sys.executable, "-m", "sslbench", "pretrain", "simclr", "--dataset", "digits",
            "--encoder", "resnet18(width=4)", "--epochs", str(6 * kills), "--cpus", "1",
            "--set", "recipe.batch_size=128", "--save-seconds", "0", "--out"]  # fmt: skip
    subprocess.run([*base, str(tmp_path / "whole")], env=environment, check=True)
    state, rng = tmp_path / "killed" / "state.pt", random.Random(kills)

    def saved_a_step(process):
        before = _changed(state)
        while process.poll() is None and _changed(state) == before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))

    assert kill_and_resume([*base, str(tmp_path / "killed")], environment, saved_a_step, kills) > 0
    whole, killed = (json.loads(_text(tmp_path / n / "run.json")) for n in ("whole", "killed"))
    assert whole["outcome"]["weights_hash"] == killed["outcome"]["weights_hash"]
    assert whole["outcome"]["loss"] == killed["outcome"]["loss"]


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_kill_nine_of_a_grid_at_random_moments_changes_nothing(grid, tmp_path, kills):
    config, path, work = grid(GRID + "[resources.pretrain]\nsave_seconds = 0\n")
    execute(config, path, work, tmp_path / "whole", executor="debug")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SSLBENCH_CACHE": str(tmp_path / "own")}
    command = [sys.executable, "-m", "sslbench", "run", str(path), "--out", str(tmp_path / "kill"),
               "--parallel", "2"]  # fmt: skip
    rng = random.Random(kills)
    hits = kill_and_resume(
        command, environment, lambda process: time.sleep(rng.uniform(0.5, 6.0)), kills
    )
    assert hits > 0
    assert scores(tmp_path / "kill") == scores(tmp_path / "whole")


def _changed(path):
    return path.stat().st_mtime_ns if path.exists() else 0


def _text(path):
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("ignored", [False, True])
def test_a_local_run_that_is_terminated_takes_its_jobs_along(tmp_path, ignored):
    """Also where a shell has made it ignore SIGINT, as of commands in the background."""
    path, run = tmp_path / "grid.toml", tmp_path / "run"
    path.write_text(GRID.replace("epochs = [2]", "epochs = [2000]"))
    process = subprocess.Popen(
        [sys.executable, "-m", "sslbench", "run", str(path), "--out", str(run)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN) if ignored else None,
    )  # fmt: skip
    with process:
        while not list(run.glob("checkpoints/*/*/log.jsonl")):
            assert process.poll() is None
            time.sleep(0.1)
        process.terminate()
        assert process.wait(60) == INTERRUPTED
        assert "run the same command again to go on" in process.stderr.read()
        for _ in range(600):
            if not (left := _of_session(process.pid)):
                break
            time.sleep(0.1)
    assert not left


def _of_session(number):
    """Processes of a session, from /proc/PID/stat behind the name in brackets."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session, *_ = place.read_text().rpartition(")")[2].split()
            if int(session) == number and state != "Z":
                found.append(place.parent.name)
    return found
