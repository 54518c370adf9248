"""Jobs that are told to end, and jobs that die without being told."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE, LocalJobEnvironment

from sslbench.checkpoint import load_state
from sslbench.grid import interruption, job
from sslbench.grid.config import read
from sslbench.grid.interruption import Requeue
from sslbench.grid.job import Job, checkpoint_folder, count_attempt
from sslbench.grid.plan import plan
from sslbench.pretrain import Options, Outcome
from sslbench.records import Store
from tests.grid.test_config import GOOD
from tests.test_pretrain import Dummy, make, read_log
from tests.test_pretrain import run as train

NEVER = 1e9  # seconds between saves: what is saved was asked for
USR2, TERM = signal.SIGUSR2, signal.SIGTERM
GRID = GOOD.replace('["untrained"]', '["simclr"]').replace("[0, 1]", "[0]").replace(
    "temperature = 0.2", "recipe = { batch_size = 64 }\naugmentation = { blur_p = 0.0 }"
)  # fmt: skip


class Told(Dummy):
    """Is sent signals while it computes the loss of some steps, counted from this start."""

    def __init__(self, encoder, data, *, signals):
        super().__init__(encoder, data)
        self.signals = signals

    def loss(self, views, progress):
        for number in self.signals.get(len(self.losses), ()):
            os.kill(os.getpid(), number)
        return super().loss(views, progress)


def told(folder: Path, signals: dict[int, tuple[int, ...]], **options: Any) -> Outcome:
    """Train or resume, and be sent signals at some steps."""
    with Requeue() as asked:
        given = Options(save_seconds=NEVER, log_steps=1, interruption=asked, **options)
        return train(make(Told, signals=signals), folder, given)


def saved(folder: Path) -> int | None:
    """The step of the state on disk."""
    path = folder / "state.pt"
    return load_state(path, "cpu")["step"] if path.exists() else None


@pytest.fixture
def handled(tmp_path):
    """Signals that came to the handlers of before, as submitit has them, and what was on disk."""
    found: list[tuple[signal.Signals, int | None]] = []

    def requeue(number, frame):
        found.append((signal.Signals(number), saved(tmp_path)))
        raise SystemExit(LOCAL_REQUEUE_RETURN_CODE)

    def bypass(number, frame):
        found.append((signal.Signals(number), saved(tmp_path)))

    before = {number: signal.getsignal(number) for number in (USR2, TERM, signal.SIGCONT)}
    signal.signal(USR2, requeue)
    signal.signal(TERM, bypass)
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


# ------------------------------------------------------------------------------ training


@pytest.mark.parametrize("step", [0, 3, 6])
def test_a_job_that_is_to_end_saves_after_the_step_and_is_then_queued_again(
    tmp_path, handled, step
):
    with pytest.raises(SystemExit) as stopped:
        told(tmp_path, {step: (USR2,)})
    assert stopped.value.code == LOCAL_REQUEUE_RETURN_CODE
    assert handled == [(USR2, step + 1)]
    assert saved(tmp_path) == step + 1


def test_a_job_that_will_be_killed_saves_and_goes_on(tmp_path, handled):
    whole, states = train(make(), tmp_path / "whole"), []
    outcome = told(tmp_path, {2: (TERM,)}, progress=lambda *_: states.append(saved(tmp_path)))
    assert states == [None] * 3 + [3] * 5
    assert handled == []
    assert outcome.weights_hash == whole.weights_hash


def test_a_job_is_told_twice(tmp_path, handled):
    with pytest.raises(SystemExit):
        told(tmp_path, {2: (TERM,), 5: (USR2,)})
    assert handled == [(USR2, 6)]


@pytest.mark.parametrize("both", [(USR2, TERM), (TERM, USR2), (USR2, USR2)])
def test_two_signals_in_one_step_are_one(tmp_path, handled, both):
    with pytest.raises(SystemExit):
        told(tmp_path, {4: both})
    assert handled == [(USR2, 5)]


def test_a_run_that_was_queued_again_twice_is_the_run_that_nobody_disturbed(tmp_path, handled):
    whole = train(make(), tmp_path / "whole")
    for number, step in enumerate((2, 1)):  # the second start goes on at step 3
        with pytest.raises(SystemExit):
            told(tmp_path, {step: (USR2,)})
        assert handled[number] == (USR2, (3, 5)[number])
    outcome = told(tmp_path, {})
    assert (outcome.weights_hash, outcome.loss) == (whole.weights_hash, whole.loss)
    losses = [[line["loss"] for line in read_log(f)] for f in (tmp_path, tmp_path / "whole")]
    assert losses[0] == losses[1]


def test_a_signal_after_the_last_step_still_queues_the_job_again(tmp_path, handled):
    with pytest.raises(SystemExit):
        told(tmp_path, {7: (USR2,)})
    assert handled == [(USR2, 8)]
    assert (tmp_path / "encoder" / "encoder.json").exists()
    assert told(tmp_path, {}).steps == 8


def test_the_handlers_of_before_come_back(tmp_path, handled):
    before = [signal.getsignal(number) for number in (USR2, TERM)]
    told(tmp_path, {1: (TERM,)})
    assert [signal.getsignal(number) for number in (USR2, TERM)] == before
    with pytest.raises(SystemExit):
        told(tmp_path / "again", {1: (USR2,)})
    assert [signal.getsignal(number) for number in (USR2, TERM)] == before


def test_an_error_of_the_run_is_not_hidden_by_a_signal(handled):
    def run() -> None:
        with Requeue():
            os.kill(os.getpid(), USR2)
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        run()
    assert handled == []


@pytest.mark.parametrize("answer", ["returns", "raises"])
def test_a_job_that_could_not_be_queued_again_ends_and_is_no_failure_of_the_method(
    handled, monkeypatch, answer
):
    """submitit's handler returns in every process but the first."""

    def handler(number, frame):
        if answer == "raises":
            raise RuntimeError("scontrol failed")

    monkeypatch.setattr(interruption, "PATIENCE_SECONDS", 0.01)
    signal.signal(USR2, handler)
    asked = Requeue()
    with asked:
        os.kill(os.getpid(), USR2)
        assert asked.asked()
        with pytest.raises(SystemExit) as stopped:
            asked.saved()
        assert not asked.asked()
    assert stopped.value.code == 1


def test_nothing_happens_outside_the_main_thread(handled):
    before, seen = [signal.getsignal(number) for number in (USR2, TERM)], []

    def run() -> None:
        with Requeue() as asked:
            os.kill(os.getpid(), TERM)
            time.sleep(0.05)
            seen.extend([asked.asked(), *(signal.getsignal(number) for number in (USR2, TERM))])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False, *before]
    assert handled == [(TERM, None)]


def test_nothing_happens_where_nobody_handles_signals(handled):
    for number in (USR2, TERM):
        signal.signal(number, signal.SIG_DFL)
    with Requeue():
        assert [signal.getsignal(number) for number in (USR2, TERM)] == [signal.SIG_DFL] * 2


# ------------------------------------------------------------------------------ processes

SLOW = """
import signal, sys, time
from pathlib import Path
from tests.grid.test_interruption import Requeue, NEVER, Options, make, train
for number in (signal.SIGUSR2, signal.SIGTERM):
    signal.signal(number, lambda *_: sys.exit(3))
with Requeue() as asked:
    train(make(), Path(sys.argv[1]), Options(
        save_seconds=NEVER, log_steps=1, interruption=asked, progress=lambda *_: time.sleep(0.3)))
"""


@pytest.mark.parametrize("number", [USR2, TERM])
def test_a_process_that_is_signalled_and_killed_resumes_to_the_same_weights(tmp_path, number):
    """SLURM requeues with SIGTERM, and kills a while later what has not ended by then."""
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)])
    try:
        log = tmp_path / "log.jsonl"
        while not log.exists() or not log.read_text():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        if number == TERM:
            while saved(tmp_path) is None:
                time.sleep(0.02)
            process.kill()
        assert process.wait(60) == {USR2: 3, TERM: -signal.SIGKILL}[number]
    finally:
        process.kill()
        process.wait()
    assert 1 <= saved(tmp_path) < 8
    whole = train(make(), tmp_path / "whole")
    assert train(make(), tmp_path).weights_hash == whole.weights_hash


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return read(path), tuple(plan(read(path), path))


def test_submitit_queues_a_job_again_that_goes_on_to_the_same_weights(
    tmp_path, monkeypatch, work, handled
):
    """With submitit's own handlers, and what it would start again."""
    grid, (item,) = work
    given = grid.resources.pretrain
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "7")
    paths = JobPaths(tmp_path / "jobs", "7", 0)
    paths.folder.mkdir()
    Job((item,), tmp_path / "whole", given, "pretrain")()
    whole = checkpoint_folder(tmp_path / "whole", item.source)
    delayed = DelayedSubmission(Job((item,), tmp_path / "run", given, "pretrain"))
    delayed.set_timeout(60, 3)
    LocalJobEnvironment()._handle_signals(paths, delayed)
    folder, seen = checkpoint_folder(tmp_path / "run", item.source), []

    def logged(name):
        def report(step, steps, line):
            seen.append(step)
            if step == 10:
                os.kill(os.getpid(), USR2)

        return report

    monkeypatch.setattr(job, "_logged", logged)
    with pytest.raises(SystemExit) as stopped:
        delayed.result()
    assert stopped.value.code == LOCAL_REQUEUE_RETURN_CODE
    assert (saved(folder), seen) == (10, [10])
    again = DelayedSubmission.load(paths.submitted_pickle)
    assert again.function == delayed.function
    again.result()
    assert seen == [10, 19]
    one, two = (json.loads((f / "run.json").read_text())["outcome"] for f in (folder, whole))
    assert (one["weights_hash"], one["loss"]) == (two["weights_hash"], two["loss"])


# ------------------------------------------------------------------------------ attempts


def test_starts_without_progress_are_counted_and_bounded(tmp_path):
    for _ in range(3):
        count_attempt(tmp_path, "step 5", 3)
    with pytest.raises(RuntimeError, match=r"died 3 times in a row .* more memory or more time"):
        count_attempt(tmp_path, "step 5", 3)
    for _ in range(3):  # whoever tries again after that has as many attempts as before
        count_attempt(tmp_path, "step 5", 3)


def test_progress_starts_the_count_anew(tmp_path):
    for step in range(20):
        count_attempt(tmp_path, f"step {step // 2}", 2)
    with pytest.raises(RuntimeError):
        count_attempt(tmp_path, "step 9", 2)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"count": 9}', '{"progress": "a"}'])
def test_a_damaged_count_is_none(tmp_path, text):
    (tmp_path / "attempts.json").write_text(text)
    count_attempt(tmp_path, "a", 1)
    with pytest.raises(RuntimeError, match="died 1 times"):
        count_attempt(tmp_path, "a", 1)


def test_a_run_that_kills_its_job_again_and_again_becomes_a_failure_record(tmp_path, work):
    grid, (item,) = work
    given = grid.resources.pretrain.model_copy(update={"attempts": 2})
    folder = checkpoint_folder(tmp_path / "run", item.source)
    for _ in range(2):
        count_attempt(folder, "", given.attempts)
    Job((item,), tmp_path / "run", given)()
    (record,) = Store(tmp_path / "run" / "records")
    assert record.status == "failed"
    assert "died 2 times in a row" in record.reason
    assert not (folder / "log.jsonl").exists()
    Job((item,), tmp_path / "run", given, retry_failed=True)()
    assert [r.status for r in Store(tmp_path / "run" / "records")] == ["ok"]


def test_a_cell_that_kills_its_job_again_and_again_becomes_a_failure_record(tmp_path, work):
    grid, (item,) = work
    (cell,) = item.cells
    folder = tmp_path / "run" / "work" / cell.key[:2] / cell.key
    for _ in range(grid.resources.pretrain.attempts):
        count_attempt(folder, "", grid.resources.pretrain.attempts)
    Job((item,), tmp_path / "run", grid.resources.pretrain)()
    (record,) = Store(tmp_path / "run" / "records")
    assert (record.status, record.checkpoint.weights_hash is None) == ("failed", False)
    assert "died 10 times in a row" in record.reason
