import json
import os
import subprocess
import sys
import threading
import time

import pytest

from sslbench import lock
from sslbench.errors import UserError


def test_a_second_holder_is_refused(tmp_path):
    with lock.exclusive(tmp_path):
        assert str(os.getpid()) in lock.holder(tmp_path)
        with (
            pytest.raises(UserError, match="another process works in it"),
            lock.exclusive(tmp_path),
        ):
            pass
    assert lock.holder(tmp_path) is None
    with lock.exclusive(tmp_path):
        pass


def test_a_dead_process_leaves_no_lock(tmp_path):
    code = (
        "import sys, os; from pathlib import Path; from sslbench.lock import exclusive\n"
        "context = exclusive(Path(sys.argv[1])); context.__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / ".lock").exists()
    with lock.exclusive(tmp_path):
        pass


@pytest.mark.parametrize(("age", "free"), [(10, False), (1000, True)])
def test_a_lock_of_another_host_lives_as_long_as_it_is_refreshed(tmp_path, age, free):
    path = tmp_path / ".lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "start": "1"}))
    then = time.time() - age
    os.utime(path, (then, then))
    if free:
        with lock.exclusive(tmp_path):
            assert str(os.getpid()) in lock.holder(tmp_path)
    else:
        with pytest.raises(UserError, match="process 1 on elsewhere"), lock.exclusive(tmp_path):
            pass


def test_a_reused_process_number_is_not_the_holder(tmp_path):
    import socket

    held = {"host": socket.gethostname(), "pid": os.getpid(), "start": "not mine"}
    (tmp_path / ".lock").write_text(json.dumps(held))
    with lock.exclusive(tmp_path):
        pass


def test_waiting_ends_when_the_holder_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.01)
    order, inside = [], threading.Event()

    def hold():
        with lock.exclusive(tmp_path):
            inside.set()
            time.sleep(0.1)
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    with lock.exclusive(tmp_path, wait=True):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
