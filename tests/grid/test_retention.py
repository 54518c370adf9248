"""What [keep] removes, and when."""

import json
import logging

import pytest

from sslbench.grid.cells import Work
from sslbench.grid.config import Resources, read
from sslbench.grid.job import Job
from sslbench.grid.local import execute
from sslbench.grid.plan import plan
from sslbench.records import Store
from tests.grid.test_run import GRID, scores

NOTHING = "\n[keep]\nstates = false\nfeatures = false\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Plan a grid file, with a cache of its own; nothing is run."""

    def make(name, text):
        monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / name / "cache"))
        folder = tmp_path / name
        folder.mkdir()
        (folder / "grid.toml").write_text(text)
        return folder, plan(read(folder / "grid.toml"), folder / "grid.toml")

    return make


def there(folder, pattern):
    return sorted(path.name for path in folder.rglob(pattern))


def test_what_is_not_kept_is_gone_and_the_scores_are_the_same(run):
    kept, work = run("kept", GRID)
    execute(read(kept / "grid.toml"), kept / "grid.toml", work, kept, executor="debug")
    gone, work = run("gone", GRID + NOTHING)
    execute(read(gone / "grid.toml"), gone / "grid.toml", work, gone, executor="debug")
    assert there(kept, "state.pt") == ["state.pt"]
    assert there(kept / "cache", "*.npy")
    assert there(gone, "state.pt") == []
    assert there(gone / "cache", "*.npy") == []
    assert there(gone, "encoder-0.5") == ["encoder-0.5"]
    assert scores(kept) == scores(gone)


def test_features_stay_until_the_last_job_with_cells_of_the_checkpoint(run, tmp_path):
    folder, work = run("run", GRID + NOTHING)
    item = next(item for item in work if item.source.name == "simclr")
    halves = [Work(item.source, item.cells[::2]), Work(item.source, item.cells[1::2])]
    for number, half in enumerate(halves):
        place = folder / "jobs" / str(number)
        place.mkdir(parents=True)
        about = {"name": str(number), "stage": "evaluate", "gpus": 0,
                 "cells": [[cell.key for cell in half.cells]],
                 "sources": [[item.source.key]]}  # fmt: skip
        (place / "submission.json").write_text(json.dumps(about))
    Job((halves[0],), folder, Resources(), "both")()
    assert there(folder, "state.pt") == []
    assert there(folder / "cache", "*.npy")
    Job((halves[1],), folder, Resources(), "both")()
    assert len(list(Store(folder / "records"))) == len(item.cells)
    assert there(folder / "cache", "*.npy") == []


def test_a_grid_file_that_cannot_be_read_keeps_everything(run, caplog):
    folder, work = run("run", GRID.replace('"untrained", "simclr"', '"untrained"'))
    (folder / "grid.toml").write_text(GRID + NOTHING + "later = 1\n")
    with caplog.at_level(logging.WARNING):
        Job((work[0],), folder, Resources(), "both")()
    assert "everything is kept" in caplog.text
    assert there(folder / "cache", "*.npy")
