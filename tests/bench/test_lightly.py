"""Peers in environments of their own, and the checks that come before they are timed."""

import subprocess
import sys
import time
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslbench.bench import lightly
from sslbench.bench.peers import Peer, environment, own_seconds_in_turn
from sslbench.bench.timing import UnequalError
from sslbench.errors import UserError

PROGRAM = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "fail":
        raise ValueError(f"cannot {request['what']}")
    print(json.dumps({"twice": 2 * request["number"]}), flush=True)
"""


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and a pip that reaches no network."""
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "cache"


def wheel(folder: Path, name: str, version: str) -> str:
    """A package with one module that says its version."""
    path, about = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = '{version}'\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    records = "".join(f"{file},,\n" for file in (*files, f"{about}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in (*files.items(), (f"{about}/RECORD", records)):
            archive.writestr(file, text)
    return str(path)


def says(python: Path, text: str) -> str:
    return subprocess.run(
        [python, "-I", "-c", text], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_environment_has_the_peer_above_what_is_there(cache, tmp_path):
    # threadpoolctl is in the running environment, too: the peer's own must come first.
    python = environment("fake", wheel(tmp_path, "threadpoolctl", "99.0"))
    assert python == cache / "peers" / "fake" / "bin" / "python"
    assert says(python, "import threadpoolctl; print(threadpoolctl.VERSION)") == "99.0"
    found = says(python, "import importlib.util as u; print(u.find_spec('torch').origin)")
    assert found == torch.__file__
    import threadpoolctl

    assert not hasattr(threadpoolctl, "VERSION")


def test_release_that_is_there_is_installed_again(cache, tmp_path):
    import threadpoolctl

    python = environment("fake", wheel(tmp_path, "threadpoolctl", threadpoolctl.__version__))
    assert says(python, "import threadpoolctl; print(threadpoolctl.__file__)").startswith(
        str(cache)
    )


def test_finished_environment_is_not_made_again(cache, tmp_path, monkeypatch):
    path = wheel(tmp_path, "peer", "1.0")
    python = environment("fake", path)
    with monkeypatch.context() as context:
        context.setattr("subprocess.run", lambda *_, **__: pytest.fail("made again"))
        assert environment("fake", path) == python
    environment("fake", wheel(tmp_path, "peer", "2.0"))
    assert says(python, "import peer; print(peer.VERSION)") == "2.0"


def test_failure_of_pip_names_the_peer_and_the_reason(cache):
    with pytest.raises(UserError, match=r"pip could not install fake: .*sslbench-no-such-peer"):
        environment("fake", "sslbench-no-such-peer==1")
    assert not (cache / "peers" / "fake").exists()
    assert not list((cache / "peers").glob("*.partial"))


def test_peer_answers():
    with Peer("echo", Path(sys.executable), PROGRAM) as peer:
        assert peer.ask("double", number=2) == {"twice": 4}
        assert peer.ask("double", number=3) == {"twice": 6}


@pytest.mark.parametrize("asked", ["fail", "die"])
def test_error_of_a_peer_surfaces(asked):
    program = PROGRAM if asked == "fail" else "import no_such_module"
    reason = "ValueError: cannot sing" if asked == "fail" else "ModuleNotFoundError.*no_such_module"
    with (
        Peer("echo", Path(sys.executable), program) as peer,
        pytest.raises(UserError, match=rf"^echo ended with code 1 when asked for 'fail': {reason}"),
    ):
        peer.ask("fail", what="sing")


def test_peer_ends_with_its_input(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + "open(sys.argv[0] + '.ended', 'w').close()")
    with Peer("echo", Path(sys.executable), program) as peer:
        peer.ask("double", number=1)
    assert (tmp_path / "program.py.ended").exists()


def test_peer_does_not_outlive_an_error_or_its_parent():
    sleeper = "import time; time.sleep(300)"
    begun = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        Peer("sleeper", Path(sys.executable), sleeper) as peer,
    ):
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 60
    assert peer._process.returncode is not None

    parent = f"""
import os, sys
from pathlib import Path
from sslbench.bench.peers import Peer
peer = Peer("echo", Path(sys.executable), {PROGRAM!r})
peer.ask("double", number=1)
print(peer._process.pid, flush=True)
os._exit(1)
"""
    pid = subprocess.run(
        [sys.executable, "-c", parent], capture_output=True, text=True, check=False
    ).stdout
    while Path(f"/proc/{int(pid)}/stat").exists():
        if "Z" in Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0]:
            break  # an orphan that nobody has waited for
        assert time.monotonic() - begun < 60
        time.sleep(0.05)


def test_own_seconds_are_taken_in_turn():
    calls: list[str] = []

    def work(name: str, seconds: float) -> float:
        calls.append(name)
        return seconds + len(calls)

    found = own_seconds_in_turn(lambda: work("a", 10.0), lambda: work("b", 20.0), 2)
    assert "".join(calls) == "ab" + "ab" + "ba"
    assert found == ((13.0, 16.0), (24.0, 25.0))


class FakePeer:
    """Answers as lightly would, off by `apart`; the loss is that of a slow loop."""

    def __init__(self, method: Any, apart: float) -> None:
        self.method, self.apart = method, apart

    def ask(self, do: str, folder: str) -> float:
        if do == "loss":
            return self.loss(np.load(f"{folder}/pairs.npy")) + self.apart
        mean, std = (np.array(lightly.IMAGENET[x])[:, None, None] for x in ("mean", "std"))
        views = np.load(f"{folder}/views.npy") * std + mean
        with torch.no_grad():
            features = self.method.encoder(torch.from_numpy(views).float())
        np.save(f"{folder}/features.npy", features.numpy() + self.apart)
        return 0.0

    def loss(self, pairs: np.ndarray) -> float:
        with torch.no_grad():
            z = self.method.projector(torch.from_numpy(pairs).flatten(0, 1)).numpy()
        similarity = np.exp(_cosines(z, z) / 0.5)
        terms = []
        for row in range(len(z)):
            others = similarity[row].sum() - similarity[row, row]
            terms.append(-np.log(similarity[row, (row + len(z) // 2) % len(z)] / others))
        return float(np.mean(terms))


@pytest.mark.parametrize("do", ["features", "loss"])
def test_unequal_results_are_not_timed(do, tmp_path):
    method = lightly._method("simclr", np.zeros((4, 32, 32, 3), np.uint8))

    def check(apart: float) -> str:
        peer: Any = FakePeer(deepcopy(method), apart)
        if do == "features":
            return lightly._same_features(method, peer, tmp_path)
        return lightly._same_loss("simclr", method, peer, tmp_path)

    assert "apart" in check(0.0)
    with pytest.raises(UnequalError, match=do):
        check(0.01)


def test_other_classes_are_unequal(monkeypatch):
    bank, labels, queries, truth = lightly.clusters(1000, 400)
    weight = np.exp(_cosines(queries, bank) / lightly.TEMPERATURE)
    order = np.argsort(-weight, axis=1)[:, : lightly.K]
    votes = np.zeros((400, lightly.CLASSES))
    for row, nearest in enumerate(order):
        np.add.at(votes[row], labels[nearest], weight[row, nearest])
    predicted = votes.argmax(1)
    assert 0.3 < (predicted == truth).mean() < 1  # neither chance nor nothing to decide
    assert lightly.agreement(bank, labels, queries, predicted) == "classes: 100.00% of 400 agree"
    predicted[:2] = (predicted[:2] + 1) % lightly.CLASSES
    with pytest.raises(UnequalError, match=r"99\.50% of 400"):
        lightly.agreement(bank, labels, queries, predicted)


def _cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    return x @ y.T


@pytest.mark.slow
@pytest.mark.network
def test_measure(cache, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setattr(lightly, "IMAGES", 512)
    monkeypatch.setattr(lightly, "BANK", 5000)
    monkeypatch.setattr(lightly, "QUERIES", 1000)
    found = list(lightly.measure(1))
    assert [timing.name for timing in found] == ["lightly/simclr", "lightly/byol", "lightly/knn"]
    for timing in found:
        assert timing.peer == lightly.REQUIREMENT.replace("==", " ")
        assert timing.value > 0
        assert timing.same
        assert timing.goal is None
