"""What is said of a grid: of its folder, of the queue and of the costs."""

import json
import os
import re
from datetime import datetime, timedelta

import pytest
from rich.console import Console

from sslbench import records
from sslbench.errors import UserError
from sslbench.grid import disk
from sslbench.grid.cancel import cancel
from sslbench.grid.config import Grid
from sslbench.grid.logs import find
from sslbench.grid.status import status, view
from sslbench.lock import exclusive
from tests.grid.test_arrange import external, grid, run, work

CUT = "squeue: Unable to contact slurm controller (connect failure)"


def both(number, **settings):
    """A run with two cells."""
    return work(run(number, **settings), "quick", "slow")


def shown(found):
    console = Console(width=300, highlight=False)
    with console.capture() as capture:
        console.print(view(found))
    return capture.get()


# ------------------------------------------------------------------------------ states


def test_every_state_of_a_run_and_of_its_cells(folder, slurm):
    plan = [both(number) for number in range(10)]
    names = [
        "finished",
        "running",
        "queued",
        "lost",
        "interrupted",
        "waiting",
        "failed",
        "na",
        "requeued",
        "locked",
    ]
    items = dict(zip(names, plan, strict=True))
    source = {name: item.source for name, item in items.items()}
    for name in ("finished", "failed", "na"):
        for cell in items[name].cells:
            kind = {"finished": "ok", "na": "not_applicable"}.get(name, name)
            why = {"failed": "Traceback\n  line\nValueError: no", "na": "no ViT"}.get(name)
            folder.record(source[name], cell, kind, reason=why)
    folder.finished(source["finished"])
    folder.begun(source["running"], 30.0, 90.0)
    folder.begun(source["requeued"], 90.0, 10.0)
    folder.begun(source["interrupted"], 0.0, 0.0)
    (folder.checkpoint(source["failed"]) / "run.json").write_text("{}")
    flying = [items[name] for name in ("running", "queued", "lost", "requeued")]
    parents = folder.submitted(1, "pretrain", *flying)
    children = folder.submitted(2, "evaluate", *flying)
    slurm.say("squeue", f"""\
{parents}|7_0|RUNNING|None|1:00
{parents}|7_1|PENDING|Resources|1:00
{parents}|7_3|PENDING|BeginTime|1:00
{children}|8_0|PENDING|Dependency|1:00
{children}|8_1|PENDING|Dependency|1:00
{children}|8_3|PENDING|Dependency|1:00
""")  # fmt: skip
    with exclusive(folder.checkpoint(source["locked"])):
        found = status(grid(), plan, folder.path)
    rows = dict(zip(names, found.rows, strict=True))
    assert {name: (row.state, row.reason, row.done) for name, row in rows.items()} == {
        "finished": ("finished", "", 1.0),
        "running": ("running", "", 0.25),
        "queued": ("queued", "Resources", 0.0),
        "lost": ("lost", "", 0.0),
        "interrupted": ("interrupted", "", 0.0),
        "waiting": ("waiting", "", 0.0),
        "failed": ("failed", "", 0.0),
        "na": ("not_applicable", "", 0.0),
        "requeued": ("queued", "BeginTime", 0.9),
        "locked": ("running", "", 0.0),
    }
    cells = {name: {k: n for k, n in row.cells.items() if n} for name, row in rows.items()}
    assert cells == {
        "finished": {"ok": 2},
        "running": {"queued": 2},
        "queued": {"queued": 2},
        "lost": {"lost": 2},
        "interrupted": {"missing": 2},
        "waiting": {"missing": 2},
        "failed": {"failed": 2},
        "na": {"not_applicable": 2},
        "requeued": {"queued": 2},
        "locked": {"missing": 2},
    }
    (reason,) = rows["failed"].reasons
    first = items["failed"].cells[0].key
    assert (reason.text, reason.cells, reason.cell) == ("ValueError: no", 2, first)
    assert [reason.text for reason in rows["queued"].reasons] == ["Dependency"]
    assert len(slurm.calls) == 1
    text = shown(found)
    assert f"2 failed ({first[:8]}): ValueError: no" in text
    assert "queued 90% (BeginTime)" in text
    assert "6 of 20 cells recorded" in text


def test_a_running_evaluation_and_a_record_that_came_before_its_job_ended(folder, slurm):
    item = both(0)
    folder.finished(item.source)
    folder.record(item.source, item.cells[0])
    name = folder.submitted(1, "evaluate", item)
    slurm.say("squeue", f"{name}|7|RUNNING|None|1:00")
    (row,) = status(grid(), [item], folder.path).rows
    assert (row.cells["ok"], row.cells["running"], row.cells["queued"]) == (1, 1, 0)


def test_the_queue_knows_more_of_a_run_than_its_lock_and_its_records(folder, slurm):
    """The lock of a killed job looks held for a while, and failed cells may be tried again."""
    killed, failed = both(0), both(1)
    for cell in failed.cells:
        folder.record(failed.source, cell, "failed", reason="no")
    name = folder.submitted(1, "pretrain", killed, failed)
    slurm.say("squeue", f"{name}|7_0|PENDING|BeginTime|1:00\n{name}|7_1|RUNNING|None|1:00")
    with exclusive(folder.checkpoint(killed.source)):
        rows = status(grid(), [killed, failed], folder.path).rows
    assert [row.state for row in rows] == ["queued", "running"]


def test_a_cell_whose_evaluation_was_not_submitted_yet_is_not_lost(folder, slurm):
    """A limit may let the pretraining into the queue and keep the evaluation out."""
    item = both(0)
    folder.submitted(1, "pretrain", item)
    slurm.add("squeue", "")
    (row,) = status(grid(), [item], folder.path).rows
    assert (row.state, row.cells["missing"], row.cells["lost"]) == ("lost", 2, 0)


def test_what_needs_no_training_and_what_comes_from_elsewhere(folder, slurm):
    plan = [both(0, epochs=0), work(external(1), "quick")]
    found = status(grid(), plan, folder.path)
    assert [row.state for row in found.rows] == ["no_training", "external"]
    assert found.total("missing") == 3
    assert slurm.calls == []  # nothing was ever submitted


def test_a_damaged_record_is_counted_and_named(folder, slurm):
    item = both(0)
    path = folder.record(item.source, item.cells[0])
    path.write_text(path.read_text()[:-20])
    found = status(grid(), [item], folder.path)
    assert found.total("damaged") == 1
    assert not found.done
    assert str(path) in found.rows[0].reasons[0].text
    assert "damaged" in shown(found)


def test_silence_of_slurm_leaves_what_lies_on_disk(folder, slurm):
    item, other = both(0), both(1)
    folder.submitted(1, "pretrain", item)
    folder.submitted(2, "evaluate", item)
    folder.record(other.source, other.cells[0])
    slurm.fail("squeue", CUT)
    found = status(grid(), [item, other], folder.path)
    assert len(slurm.calls) == 1  # and no waiting
    assert (found.total("submitted"), found.total("ok"), found.total("missing")) == (2, 1, 1)
    assert found.rows[0].state == "submitted"
    assert CUT in found.as_json()["scheduler"]
    (line,) = [line for line in shown(found).splitlines() if CUT in line]
    assert line.startswith("SLURM does not answer")


def test_nothing_is_called_lost_while_it_is_being_submitted(folder, slurm):
    item = both(0)
    folder.submitted(1, "evaluate", item)
    slurm.add("squeue", "")
    with exclusive(folder.path):
        assert status(grid(), [item], folder.path).total("submitted") == 2
    assert status(grid(), [item], folder.path).total("lost") == 2


def test_one_query_and_one_look_at_each_record(folder, slurm, monkeypatch):
    plan = [both(number) for number in range(50)]
    for item in plan:
        for cell in item.cells:
            folder.record(item.source, cell)
    name = folder.submitted(1, "evaluate", *plan)
    slurm.say("squeue", "\n".join(f"{name}|7_{i}|RUNNING|None|1:00" for i in range(50)))
    read, seen = records.read_record, []
    monkeypatch.setattr(records, "read_record", lambda path: seen.append(path) or read(path))
    found = status(grid(), plan, folder.path)
    assert found.done
    assert len(seen) == len(set(seen)) == 100
    assert slurm.calls == ["squeue --me --noheader --array --format=%j|%i|%T|%r|%L"]


def test_the_last_line_of_a_long_log_counts(folder, slurm):
    item = both(0)
    log = folder.begun(item.source, 30.0, 30.0) / "log.jsonl"
    line = json.dumps({"seconds": 1.0, "remaining_seconds": 99.0}) + "\n"
    log.write_text(line * 5000 + log.read_text())
    (row,) = status(grid(), [item], folder.path).rows
    assert row.done == 0.5


def test_columns_tell_the_rows_of_a_grid_apart(folder, slurm):
    head = shown(status(grid(), [both(0), both(1)], folder.path)).splitlines()[0]
    assert "seed" in head
    assert "epochs" not in head
    plan = [both(0, epochs=3), both(0, epochs=4)]
    head = shown(status(grid(), plan, folder.path)).splitlines()[0]
    assert "epochs" in head
    assert "seed" not in head


def test_the_keys_of_the_json_are_always_there(folder, slurm):
    found = status(grid(), [both(0)], folder.path).as_json()
    assert json.loads(json.dumps(found)) == found
    assert list(found) == [
        "folder", "done", "scheduler", "pretrainings", "cells", "forecast", "rows",
    ]  # fmt: skip
    assert found["cells"] == {
        "ok": 0, "failed": 0, "not_applicable": 0, "running": 0, "queued": 0, "lost": 0,
        "missing": 2, "submitted": 0, "damaged": 0,
    }  # fmt: skip
    assert found["pretrainings"]["waiting"] == 1
    assert sum(found["pretrainings"].values()) == 1
    assert list(found["forecast"]) == ["hours", "jobs", "seconds", "unknown"]
    assert list(found["rows"][0]) == [
        "key", "name", "encoder", "dataset", "epochs", "seed", "state", "reason", "done", "cells",
        "reasons",
    ]  # fmt: skip


# ------------------------------------------------------------------------------ costs


def test_hours_used_and_to_come(folder, slurm):
    """Method "large" takes 2 GPUs, task "wide" 4 CPUs; the grid states 2 hours and 1 minute."""
    trained, half, fresh = (run(number, "large") for number in range(3))
    plan = [work(source, "quick", "wide") for source in (trained, half, fresh)]
    folder.finished(trained, 1700.0)  # logged before the last save
    folder.record(trained, plan[0].cells[0], seconds=36.0, trained=1800.0)
    folder.record(trained, plan[0].cells[1], seconds=90.0)
    folder.begun(half, 900.0, 1000.0)
    found = status(grid(), plan, folder.path).forecast.hours
    assert found["GPU"].used == pytest.approx(2 * (1800 + 900) / 3600)
    assert found["GPU"].ahead == pytest.approx(2 * (1000 + (1800 + 1900) / 2) / 3600)
    assert found["GPU"].stated == 0
    assert found["CPU"].used == pytest.approx((36 + 4 * 90) / 3600)
    assert found["CPU"].ahead == pytest.approx(2 * (36 + 4 * 90) / 3600)
    nothing = status(grid(), plan[2:], folder.path).forecast.hours
    assert nothing["GPU"].ahead == nothing["GPU"].stated == pytest.approx(2 * 2)
    assert nothing["CPU"].stated == pytest.approx((1 + 4) * 60 / 3600)


def test_a_failed_run_has_taken_its_time_and_will_take_no_more(folder, slurm):
    item = both(0)
    folder.begun(item.source, 720.0, 9000.0)
    for cell in item.cells:
        folder.record(item.source, cell, "failed", seconds=0.0, reason="no")
    hours = status(grid(), [item], folder.path).forecast.hours["CPU"]
    assert (hours.used, hours.ahead) == (pytest.approx(0.2), 0)


def test_the_resources_of_several_nodes(folder, slurm):
    table = {"nodes": 3, "processes": 2, "cpus": 4}
    config = Grid.model_validate(
        {**grid().model_dump(), "resources": {"pretrain": table}, "override": {}}
    )
    item = both(0)
    folder.begun(item.source, 3600.0, 0.0)
    assert status(config, [item], folder.path).forecast.hours["CPU"].used == 24


def flying(folder, slurm, items, running):
    """All of `items` in the queue, the first ones running."""
    name = folder.submitted(1, "evaluate", *items)
    states = ["RUNNING" if i < running else "PENDING" for i in range(len(items))]
    lines = [f"{name}|7_{i}|{state}|None|1:00" for i, state in enumerate(states)]
    slurm.say("squeue", "\n".join(lines))


def test_the_finish_if_as_many_jobs_go_on_running(folder, slurm):
    plan = [both(number) for number in range(9)]
    for item in plan:
        folder.finished(item.source)
    folder.record(plan[0].source, plan[0].cells[0], seconds=100.0)
    folder.record(plan[0].source, plan[0].cells[1], seconds=20.0)
    flying(folder, slurm, plan[1:], 4)
    found = status(grid(), plan, folder.path)
    assert found.forecast.jobs == 4
    assert found.forecast.seconds == pytest.approx(8 * 120 / 4)
    at = datetime.now() + timedelta(seconds=240)
    text = re.search(r"finish: (\S+ \S+), in 0\.1 hours, if 4 jobs go on", shown(found))
    assert text is not None
    assert abs(datetime.fromisoformat(text[1]) - at) < timedelta(minutes=2)


def test_the_finish_is_not_before_the_longest_chain(folder, slurm):
    """A run that has long to go holds its cells up, however many jobs run."""
    plan = [both(number) for number in range(4)]
    for item in plan[:3]:
        folder.finished(item.source, 10.0)
    folder.record(plan[0].source, plan[0].cells[0], seconds=100.0)
    folder.record(plan[0].source, plan[0].cells[1], seconds=20.0)
    folder.begun(plan[3].source, 10.0, 5000.0)
    flying(folder, slurm, plan[1:], 3)
    assert status(grid(), plan, folder.path).forecast.seconds == pytest.approx(5000 + 100)


def test_where_nothing_is_known_the_finish_is_unknown(folder, slurm):
    plan = [both(0), both(1)]
    folder.finished(plan[0].source)
    found = status(grid(), plan, folder.path).forecast
    assert found.seconds is None
    assert found.unknown == "no record or log tells how long quick on digits takes"
    for cell in plan[0].cells:
        folder.record(plan[0].source, cell)
    found = status(grid(), plan, folder.path)
    assert found.forecast.unknown == "no job runs now"
    assert "estimated finish: unknown, because no job runs now" in shown(found)
    for cell in plan[1].cells:
        folder.record(plan[1].source, cell)
    found = status(grid(), plan, folder.path)
    assert found.forecast.seconds == 0
    assert "every cell is recorded" in shown(found)


def test_a_local_run_counts_as_a_running_job(folder, slurm):
    item = both(0)
    folder.begun(item.source, 10.0, 50.0)
    for task in item.cells:
        folder.record(run(9), work(run(9), task.task).cells[0])
    plan = [item, work(run(9), "quick", "slow")]
    for cell in plan[1].cells:
        folder.record(run(9), cell, seconds=5.0)
    with exclusive(folder.path), exclusive(folder.checkpoint(item.source)):
        found = status(grid(), plan, folder.path).forecast
    assert (found.jobs, found.seconds) == (1, pytest.approx(50 + 5 + 5))


def test_a_cell_that_a_local_run_is_at(folder, slurm):
    item = both(0)
    key = item.cells[1].key
    (folder.path / "work" / key[:2] / key).mkdir(parents=True)  # or was, when it was killed
    assert status(grid(), [item], folder.path).total("missing") == 2
    with exclusive(folder.path):
        found = status(grid(), [item], folder.path)
    assert (found.total("running"), found.total("missing")) == (1, 1)


# ------------------------------------------------------------------------------ logs


def write(folder, name, *files):
    for file in files:
        (folder.path / "jobs" / name / file).write_text(file)


def test_logs_of_an_array_are_found_by_the_index_of_the_job(folder, slurm):
    plan = [both(number) for number in range(12)]
    name = folder.submitted(1, "pretrain", *plan)
    write(folder, name, "9_1_0_log.out", "9_1_1_log.out", "9_0_1_log.out", "9_11_1_log.out")
    children = folder.submitted(2, "evaluate", *plan)
    write(folder, children, "10_1_0_log.out")

    def names(key):
        return [path.name for path in find(plan, folder.path, key)]

    assert names(plan[1].source.key) == ["9_1_0_log.out", "9_1_1_log.out"]
    assert names(plan[11].source.key[:8]) == ["9_11_1_log.out"]
    assert names(plan[1].cells[1].key) == ["10_1_0_log.out"]
    # The evaluation was never started, because its pretraining had died.
    assert names(plan[11].cells[0].key) == ["9_11_1_log.out"]


def test_logs_are_those_of_the_newest_job_that_has_any(folder, slurm):
    item = both(0)
    for number, ids in ((1, ["5_0_log.out"]), (2, ["6_0_log.out", "6_1_log.out"]), (3, [])):
        name = folder.submitted(number, "evaluate", item)
        write(folder, name, *ids)
        made = folder.path / "jobs" / name / "submission.json"
        os.utime(made, (number, number))
    found = find([item], folder.path, item.cells[0].key[:6])
    assert [path.name for path in found] == ["6_0_log.out", "6_1_log.out"]


def test_a_key_that_is_short_unknown_or_of_several_cells(folder, slurm, monkeypatch):
    item = both(0)
    with pytest.raises(UserError, match="'abcde': at least 6 characters"):
        find([item], folder.path, "abcde")
    with pytest.raises(UserError, match="'zzzzzz': no cell or pretraining run"):
        find([item], folder.path, "zzzzzz")
    with pytest.raises(UserError, match="has written a log yet"):
        find([item], folder.path, item.source.key)
    for cell, key in zip(item.cells, ("abcdef1", "abcdef2"), strict=True):
        cell.__dict__["key"] = key  # where the cached property keeps it
    with pytest.raises(UserError, match="several keys start so: abcdef1, abcdef2"):
        find([item], folder.path, "abcdef")


# ------------------------------------------------------------------------------ cancelling


def test_all_jobs_of_a_run_folder_are_cancelled_in_one_call(folder, slurm, tmp_path):
    one = folder.submitted(1, "pretrain", both(0), both(1))
    two = folder.submitted(2, "evaluate", both(0), both(1))
    slurm.say("squeue", f"""\
{one}|7_0|RUNNING|None|1:00
{one}|7_1|PENDING|Priority|1:00
{two}|8_1|PENDING|Dependency|1:00
sslbench-another-00001|9|RUNNING|None|1:00
""")  # fmt: skip
    slurm.add("scancel", "")
    assert cancel(folder.path) == 3
    assert slurm.calls[1:] == ["scancel 7 8"]


def test_where_no_job_is_there_is_nothing_to_cancel(folder, slurm):
    assert cancel(folder.path) == 0
    assert slurm.calls == []
    folder.submitted(1, "evaluate", both(0))
    slurm.add("squeue", "")
    assert cancel(folder.path) == 0
    assert len(slurm.calls) == 1


# ------------------------------------------------------------------------------ disk


def test_what_the_parts_of_a_run_folder_take(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))
    sizes = {
        "records/ab/KEY.json": 10,
        "records/ab/KEY.npz": 20,
        "checkpoints/ab/KEY/state.pt": 1000,
        "checkpoints/ab/KEY/.state.pt.0123.partial": 500,
        "checkpoints/ab/KEY/encoder/encoder.safetensors": 300,
        "checkpoints/ab/KEY/encoder-0.5/encoder.safetensors": 300,
        "checkpoints/ab/KEY/.encoder.0123.partial/encoder.safetensors": 50,
        "checkpoints/ab/KEY/log.jsonl": 7,
        "checkpoints/ab/KEY/run.json": 8,
        "jobs/sslbench-00001/1_0_log.out": 40,
        "code/HASH/sslbench/task.py": 60,
        "work/ab/KEY/state.pt": 70,
        "grid.toml": 5,
    }
    for name, size in sizes.items():
        path = folder.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    (tmp_path / "cache" / "features" / "HASH").mkdir(parents=True)
    (tmp_path / "cache" / "features" / "HASH" / "last.npy").write_bytes(b"x" * 900)
    found = {part.name: (part.files, part.bytes) for part in disk.usage(folder.path)}
    assert found == {
        "records": (2, 30),
        "encoders": (3, 650),
        "training states": (2, 1500),
        "training logs": (2, 15),
        "job logs and scripts": (1, 40),
        "code": (1, 60),
        "work": (1, 70),
        "other": (1, 5),
        "feature cache": (1, 900),
    }


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_560_000, "2.6 MB"), (7.1e15, "7100.0 TB")],
)
def test_sizes_are_readable(size, text):
    assert disk.text(size) == text
