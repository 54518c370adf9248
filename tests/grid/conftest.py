"""What tests of a grid's folder and of its queue share."""

import pytest

from tests.grid.folders import RunFolder
from tests.grid.test_scheduler import Commands


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    return Commands(tmp_path / "bin", monkeypatch)
