"""The ready-made grid for a cluster holds all there is, and its scripts are what sbatch takes."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sslbench import registry
from sslbench.__main__ import app
from sslbench.grid.config import read

GRID = Path(__file__).parents[2] / "leaderboards/full/grid.toml"


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What a dry run prints, with a few small images in place of ImageNet-100."""
    folder = tmp_path_factory.mktemp("full")
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            place = folder / "data/imagenet-100" / split / name
            place.mkdir(parents=True)
            for number in range(4):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("SSLBENCH_CACHE", str(folder / "cache"))
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        monkeypatch.delenv("SLURM_CONF", raising=False)
        words = ["run", str(GRID), "--executor", "slurm", "--dry-run"]
        result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_it_holds_every_image_method_and_every_image_task():
    grid = read(GRID)
    methods = set(registry.entries("methods"))
    known = {name: registry.task(name) for name in registry.entries("tasks")}
    of_images = {name: task for name, task in known.items() if task.modality in ("any", "image")}
    tasks = {name for name, task in of_images.items() if task.target in (None, "label")}
    assert {n for n in methods if registry.method(n).modality in ("any", "image")} == set(
        grid.pretrain.methods
    )
    assert tasks == set(grid.evaluate.tasks)


def test_the_scripts_are_shell_and_every_child_has_its_parent(printed):
    arrays = re.split(r"^# array \d+: ", printed, flags=re.MULTILINE)[1:]
    for array in arrays:
        script = array.partition("\n")[2].partition("# no SLURM")[0]
        assert script.startswith("#!/bin/bash")
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
    pretraining = [a for a in arrays if "pretraining runs" in a.splitlines()[0]]
    chained = [a for a in arrays if "aftercorr" in a]
    assert len(chained) >= len(pretraining) > 0
    assert all("--gpus-per-node=" in a for a in arrays)


def test_cells_and_hours_are_stated(printed):
    grid = read(GRID)
    assert grid.pretrain is not None
    rows = len(grid.pretrain.methods) + 1  # and the untrained ViT
    cells = rows * len(grid.seeds) * len(grid.evaluate.tasks)
    assert re.search(rf"^{cells} cells in \d+ jobs, \d+ calls of sbatch, ", printed, re.MULTILINE)
    assert re.search(r"[1-9][\d.]* GPU-hours", printed)
    assert "limits and partitions were not checked" in printed
