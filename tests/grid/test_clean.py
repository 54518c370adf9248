"""What may be removed from a run folder, what must stay, and that nothing misses what is gone."""

import shutil
from pathlib import Path

import pytest
import torch

from sslbench import registry
from sslbench.errors import UserError
from sslbench.grid.clean import leftovers, remove
from sslbench.grid.config import read
from sslbench.grid.local import execute
from sslbench.grid.plan import plan
from sslbench.grid.run import missing
from sslbench.lock import exclusive
from sslbench.pretrain import train
from sslbench.records import Store
from tests.conftest import tiny_images, tiny_resnet
from tests.grid.test_arrange import run, work
from tests.grid.test_run import GRID

NAMES = {
    "training states of finished runs": "states",
    "work of recorded cells": "work",
    "scripts and pickles of jobs that are over": "scripts",
    "code that no job waits for": "code",
}


def found(folder):
    """What would go, by kind, as paths in the run folder."""
    with leftovers(folder.path) as listed:
        return {
            NAMES[leftover.name]: {str(path.relative_to(folder.path)) for path in leftover.paths}
            for leftover in listed
        }


def files(path):
    return {str(found.relative_to(path)) for found in path.rglob("*") if found.is_file()}


def both(number):
    return work(run(number), "quick", "slow")


def working(folder, cell):
    place = folder.path / "work" / cell.key[:2] / cell.key
    place.mkdir(parents=True)
    (place / "half.pt").write_bytes(b"x" * 10)
    return f"work/{cell.key[:2]}/{cell.key}"


def snapshots(folder, *names):
    for name in names:
        package = folder.path / "code" / name / "sslbench"
        package.mkdir(parents=True)
        (package / "task.py").write_text("code")


def test_states_of_finished_runs_go_and_of_all_others_stay(folder, slurm):
    done, half, torn, held, queued, bare = (run(number) for number in range(6))
    for source in (done, torn, held, queued, bare):
        folder.finished(source)
    shutil.rmtree(folder.checkpoint(bare) / "encoder")
    folder.begun(half, 5.0, 5.0)
    (folder.checkpoint(torn) / "run.json").write_text('{"status": "running"}')
    (folder.checkpoint(done) / ".state.pt.0123456789ab.partial").write_bytes(b"cut")
    name = folder.submitted(1, "pretrain", work(done, "quick"), work(queued, "quick"))
    slurm.say("squeue", f"{name}|7_1|RUNNING|None|1:00")
    place = f"checkpoints/{done.key[:2]}/{done.key}"
    with exclusive(folder.checkpoint(held)):
        assert found(folder) == {
            "states": {f"{place}/state.pt", f"{place}/.state.pt.0123456789ab.partial"}
        }


def test_training_does_not_miss_the_state_of_a_run_that_has_finished(tmp_path):
    def trained():
        torch.manual_seed(0)
        method = registry.method("rotation")(tiny_resnet(), tiny_images())
        method.recipe = method.recipe.override(batch_size=32)
        return train(method, tmp_path / "run" / "checkpoints" / "ab" / "abc", epochs=1, seed=0)

    before = trained()
    with leftovers(tmp_path / "run") as listed:
        assert [path.name for leftover in listed for path in leftover.paths] == ["state.pt"]
        assert sum(leftover.bytes for leftover in listed) > 10_000
        remove(listed)
    kept = files(tmp_path / "run")
    assert not any("state" in name for name in kept)
    assert trained() == before
    assert files(tmp_path / "run") == kept  # and nothing was trained again


def test_work_of_recorded_cells_goes_and_of_all_others_stays(folder, slurm):
    recorded, open_, retried = both(0), both(1), both(2)
    for item in (recorded, retried):
        folder.record(item.source, item.cells[0], "failed", reason="no")
    gone = working(folder, recorded.cells[0])
    for cell in (recorded.cells[1], open_.cells[0], retried.cells[0]):
        working(folder, cell)
    name = folder.submitted(1, "evaluate", retried)
    slurm.say("squeue", f"{name}|7|PENDING|Priority|1:00")
    assert found(folder) == {"work": {gone}}


def test_scripts_and_pickles_of_jobs_that_are_over_go_and_their_logs_stay(folder, slurm):
    over, live = (folder.submitted(number, "evaluate", both(number)) for number in (1, 2))
    for name in (over, live):
        (folder.path / "jobs" / name / ".submission_file_0123.sh").write_text("script")
        (folder.path / "jobs" / name / "5_0_log.out").write_text("log")
    local = folder.path / "jobs" / "20260101-000000-77"
    local.mkdir()
    (local / "78_submitted.pkl").write_bytes(b"says which cells a local job had")
    slurm.say("squeue", f"{live}|7|RUNNING|None|1:00")
    names = ("1_submission.sh", "1_0_submitted.pkl", ".submission_file_0123.sh")
    assert found(folder) == {"scripts": {f"jobs/{over}/{name}" for name in names}}
    with leftovers(folder.path) as listed:
        remove(listed)
    assert files(folder.path / "jobs" / over) == {"submission.json", "5_0_log.out"}


def test_code_goes_that_no_queued_job_runs(folder, slurm):
    snapshots(folder, folder.code, "ffff", ".eeee.0123456789ab.partial")
    name = folder.submitted(1, "evaluate", both(0))
    slurm.say("squeue", f"{name}|7|PENDING|Priority|1:00")
    assert found(folder) == {"code": {"code/ffff", "code/.eeee.0123456789ab.partial"}}
    with leftovers(folder.path) as listed:
        remove(listed)
    assert [path.name for path in (folder.path / "code").iterdir()] == [folder.code]
    for script in (folder.path / "jobs" / name).glob("*.sh"):
        script.unlink()
    assert found(folder) == {}  # nobody knows what that job runs
    slurm.add("squeue", "")
    assert found(folder)["code"] == {f"code/{folder.code}"}


def test_a_snapshot_is_never_seen_with_half_of_its_files(folder, slurm, monkeypatch):
    """Another submission takes a snapshot that is there for a whole one."""
    snapshots(folder, "ffff")
    real, seen = shutil.rmtree, []

    def dies(path, *args):
        seen.append(Path(path).name)
        (Path(path) / "sslbench" / "task.py").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", dies)
    with pytest.raises(KeyboardInterrupt), leftovers(folder.path) as listed:
        remove(listed)
    assert not (folder.path / "code" / "ffff").exists()
    monkeypatch.setattr(shutil, "rmtree", real)
    assert found(folder) == {"code": {f"code/{seen[0]}"}}
    with leftovers(folder.path) as listed:
        remove(listed)
    assert not (folder.path / "code").exists()


def test_a_removal_that_was_cut_off_is_finished_by_the_next(folder, slurm):
    item = both(0)
    folder.record(item.source, item.cells[0])
    place = folder.path / working(folder, item.cells[0])
    aside = place.rename(place.with_name(f".{place.name}.0123456789ab.partial"))
    assert found(folder) == {"work": {str(aside.relative_to(folder.path))}}
    with leftovers(folder.path) as listed:
        remove(listed)
    assert not (folder.path / "work").exists() or not any((folder.path / "work").iterdir())


def test_nothing_goes_while_slurm_is_silent(folder, slurm):
    folder.finished(run(0))
    folder.submitted(1, "pretrain", both(0))
    slurm.fail("squeue", "squeue: Invalid user")
    with pytest.raises(UserError, match="Invalid user; nothing is removed"):
        found(folder)


def test_slurm_is_not_asked_where_nothing_was_submitted(folder, slurm):
    folder.finished(run(0))
    assert set(found(folder)) == {"states"}
    assert slurm.calls == []


def test_nothing_goes_while_another_process_works_in_the_folder(folder, slurm, tmp_path):
    with exclusive(folder.path), pytest.raises(UserError, match="another process works in it"):
        found(folder)
    with leftovers(folder.path), pytest.raises(UserError, match="another process works in it"):
        found(folder)
    with pytest.raises(UserError, match="no such run folder"), leftovers(tmp_path / "gone"):
        pass


def test_a_grid_that_was_cleaned_is_complete_and_goes_on_to_the_same_scores(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))
    path, folder = tmp_path / "grid.toml", tmp_path / "run"
    path.write_text(GRID)
    work = plan(read(path), path)
    execute(read(path), path, work, folder, executor="debug")
    before = {record.key: record.scores for record in Store(folder / "records")}
    with leftovers(folder) as listed:
        assert [leftover.name for leftover in listed] == ["training states of finished runs"]
        remove(listed)
    assert missing(work, folder).open == 0
    trained = []
    monkeypatch.setattr("sslbench.grid.job.train", lambda *a, **k: trained.append(a))
    assert missing(work, folder).trained == 2
    shutil.rmtree(folder / "records")
    execute(read(path), path, work, folder, executor="debug")
    assert {record.key: record.scores for record in Store(folder / "records")} == before
    assert trained == []
