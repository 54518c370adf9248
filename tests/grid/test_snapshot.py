"""Copies of the code from which jobs run."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sslbench
from sslbench import registry
from sslbench.grid.snapshot import snapshot
from sslbench.provenance import code_hash, commit

COMMIT = {"git_commit": "0123456789abcdef", "git_dirty": True}
METHOD = '''"""Mine."""

from sslbench.method import Method, Recipe


class Mine(Method):
    """Nothing."""

    paper = "none"
    recipe = Recipe("sgd", lr=0.1, batch_size=16)

    def views(self, batch, random):
        return batch

    def loss(self, views, progress):
        raise NotImplementedError
'''
LOOK = """
import json, sys
from sslbench import registry
from sslbench.grid import job, snapshot
from sslbench.provenance import code_hash, commit
registry.task("knn"), [registry.method(name) for name in sys.argv[1:]]
names = [n for n in sys.modules if n.partition(".")[0] == "sslbench"]
print(json.dumps({
    "hash": code_hash(), "commit": commit(), "modules": names,
    "files": [f for n in names if (f := sys.modules[n].__file__)],
    "methods": {name: str(e.path) for name, e in registry.entries("methods").items()},
}))
"""
COPY = """
import json, sys
from pathlib import Path
from sslbench.grid.snapshot import snapshot
print(json.dumps(str(snapshot(Path(sys.argv[1])))))
"""


def python(code: str, source: Path, *arguments: str, plugins: str = "") -> Any:
    """What a process prints that finds the package through PYTHONPATH alone."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd="/",
        env={**keep, "PYTHONPATH": str(source), "SSLBENCH_PLUGINS": plugins},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found
            if "__pycache__" not in path.parts}  # fmt: skip


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A plugin folder with a method and a dataset, and what else people keep there."""
    folder = tmp_path / "own"
    for name in ("methods", "datasets", "notebooks"):
        (folder / name).mkdir(parents=True)
    (folder / "methods" / "mine.py").write_text(METHOD)
    (folder / "datasets" / "cells.py").write_text("row = None\n")
    (folder / "notebooks" / "draft.py").write_text("raise RuntimeError\n")
    (folder / "setup.py").write_text("raise RuntimeError\n")
    monkeypatch.setenv("SSLBENCH_PLUGINS", str(folder))
    code_hash.cache_clear()
    yield folder
    code_hash.cache_clear()


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of a checkout at the commit `COMMIT`."""
    code_hash.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sslbench.grid.snapshot.commit", lambda: COMMIT)
        return snapshot(tmp_path_factory.mktemp("code"))


def test_the_copy_is_imported_by_itself_and_says_the_same_of_itself(copy):
    found = python(LOOK, copy, "simclr")
    assert copy.name == found["hash"] == code_hash()
    assert found["commit"] == COMMIT
    inside = str(copy / "sslbench") + os.sep
    assert {"sslbench.methods.contrastive.simclr", "sslbench.tasks.knn"} <= set(found["modules"])
    assert all(path.startswith(inside) for path in [*found["files"], *found["methods"].values()])
    assert set(found["methods"]) == set(registry.entries("methods"))


def test_the_copy_has_every_file_of_the_package(copy):
    found = contents(copy / "sslbench")
    roots = {"": Path(sslbench.__file__).parent}
    for kind in registry.KINDS:
        (folder,) = importlib.import_module(f"sslbench.{kind}").__path__
        roots[f"{kind}/"] = Path(folder)
    wanted = {under + name: text for under, root in roots.items()
              for name, text in contents(root).items()}  # fmt: skip
    assert set(found) == {*wanted, "snapshot.json"}
    assert all(found[name] == text for name, text in wanted.items())


def test_the_commit_is_that_of_the_checkout(tmp_path):
    carried = (snapshot(tmp_path) / "sslbench" / "snapshot.json").read_text()
    assert json.loads(carried) == commit()


def test_a_second_call_copies_nothing(copy):
    mark = copy / "mark"
    mark.touch()
    assert snapshot(copy.parent) == copy
    mark.unlink()
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_a_copy_half_made_is_no_copy(tmp_path, monkeypatch):
    monkeypatch.setattr("sslbench.grid.snapshot.commit", lambda: {}["broken"])
    with pytest.raises(KeyError):
        snapshot(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_plugins_are_copied_and_found_there(plugins, tmp_path):
    made = snapshot(tmp_path / "code")
    assert set(contents(made / "plugins")) == {"0/methods/mine.py", "0/datasets/cells.py"}
    found = python(LOOK, made, "mine", plugins=str(made / "plugins" / "0"))
    assert made.name == found["hash"] == code_hash()
    assert found["methods"]["mine"] == str(made / "plugins" / "0" / "methods" / "mine.py")
    (plugins / "methods" / "mine.py").write_text(METHOD.replace("lr=0.1", "lr=0.2"))
    assert contents(made / "plugins")["0/methods/mine.py"] == METHOD.encode()
    code_hash.cache_clear()
    assert snapshot(tmp_path / "code") != made


def test_an_edit_of_the_original_reaches_no_copy(copy, tmp_path):
    """The original is itself a copy here, so that it can be edited."""
    original = tmp_path / "original"
    shutil.copytree(copy, original)
    made = Path(python(COPY, original, str(tmp_path / "code")))
    assert made.name == copy.name
    before = contents(made)
    edited = original / "sslbench" / "methods" / "contrastive" / "simclr.py"
    edited.write_text(edited.read_text() + "\nRAISED = True\n")
    assert contents(made) == before == contents(copy)
    again = Path(python(COPY, original, str(tmp_path / "code")))
    assert again != made
    changed = {name for name, text in contents(again).items() if before[name] != text}
    assert changed == {"sslbench/methods/contrastive/simclr.py"}
    assert contents(made) == before
