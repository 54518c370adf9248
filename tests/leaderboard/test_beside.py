import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sslbench.leaderboard.beside import beside

copied = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux only")


def running(process):
    """Whether the process with this number exists and has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_it_gives_the_result():
    with beside(lambda: sum(range(10))) as result:
        assert result() == 45


@copied
def test_it_sees_what_was_there_when_the_body_began_in_another_process():
    seen = ["before"]
    with beside(lambda: (os.getpid(), seen)) as result:
        seen.append("after")
        process, found = result()
    assert process != os.getpid()
    assert found == ["before"]


def test_it_raises_what_the_work_raises():
    def work():
        raise ValueError("no such row")

    with beside(work) as result, pytest.raises(ValueError, match="no such row"):
        result()


@copied
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_copy_left_is_done_here(number):
    here = os.getpid()

    def work():
        if os.getpid() != here:
            os.kill(os.getpid(), number)
        return os.getpid()

    with beside(work) as result:
        assert result() == here


@copied
def test_half_an_answer_is_none():
    here = os.getpid()

    def work():
        if os.getpid() != here:
            signal.setitimer(signal.ITIMER_REAL, 0.2)  # kills it while it waits for the pipe
        return bytes(1 << 24)

    with beside(work) as result:
        while multiprocessing.active_children():
            time.sleep(0.01)
        assert result() == bytes(1 << 24)


@copied
def test_without_room_for_a_copy_it_is_done_here(monkeypatch):
    def fork():
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(os, "fork", fork)
    with beside(os.getpid) as result:
        assert result() == os.getpid()


def in_a_pool():
    with beside(os.getpid) as result:
        return result(), os.getpid()


def test_in_a_process_of_a_pool_it_is_done_there():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        done_in, process = pool.apply(in_a_pool)
    assert done_in == process


@copied
def test_what_returns_no_text_of_python_is_done_here():
    with beside(lambda: lambda: "not to be pickled") as result:
        assert result()() == "not to be pickled"


@copied
def test_the_copy_ends_with_the_body(tmp_path):
    def work():
        (tmp_path / "process").write_text(str(os.getpid()))
        time.sleep(600)

    def body():
        with beside(work):
            while not (tmp_path / "process").exists() or not (tmp_path / "process").read_text():
                time.sleep(0.01)
            raise KeyError("body")

    with pytest.raises(KeyError, match="body"):
        body()
    assert not running(int((tmp_path / "process").read_text()))


@copied
def test_the_copy_of_a_killed_process_does_not_wait_for_it(tmp_path):
    code = f"""
import os, signal, time
from pathlib import Path
from sslbench.leaderboard.beside import beside

def work():
    Path({str(tmp_path / "process")!r}).write_text(str(os.getpid()))
    time.sleep(0.5)
    return bytes(1 << 20)  # more than a pipe holds

with beside(work):
    path = Path({str(tmp_path / "process")!r})
    while not path.exists() or not path.read_text():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    copy = int((tmp_path / "process").read_text())
    deadline = time.monotonic() + 60
    while running(copy):
        assert time.monotonic() < deadline, "the copy still waits"
        time.sleep(0.05)
