"""Small grids, run through the command line as a user would."""

import os
import subprocess
import sys
from pathlib import Path

from sslbench.records import Record, Store
from tests.slurm.cluster import Cluster

GRID = """\
name = "tiny"
seeds = [0, 1]

[pretrain]
methods = ["untrained", "rotation", "simclr"]
datasets = ["digits"]
encoders = [{{ name = "resnet18", width = 4, image_size = 8, stem = "conv3" }}]
epochs = [{epochs}]

[evaluate]
tasks = ["knn", "few_shot"]
datasets = ["digits"]

[override.few_shot]
episodes = 20

[override.rotation]
recipe = {{ batch_size = 128, lr = 0.05 }}
{rotation}

[override.simclr]
recipe = {{ optimizer = "sgd", lr = 0.1, batch_size = 128 }}
{simclr}

[resources.pretrain]
hours = 1
save_seconds = {save}
partition = "low"
"""
SECONDS = 400  # until a grid has ended, on a busy machine


def write(folder: Path, *, epochs: int = 2, save: int = 60, rotation: str = "", simclr: str = ""):
    """A grid file; `rotation` and `simclr` are lines for these two methods."""
    path = folder / "grid.toml"
    path.write_text(GRID.format(epochs=epochs, save=save, rotation=rotation, simclr=simclr))
    return path


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "sslbench", *map(str, words)]


def sslbench(*words: object, fails: bool = False) -> str:
    """What a command prints; of one that `fails`, its error."""
    done = subprocess.run(
        command(*words), capture_output=True, text=True, timeout=300, env=os.environ, check=False
    )
    assert bool(done.returncode) == fails, done.stderr
    return done.stderr.strip() if fails else done.stdout


def through_slurm(cluster: Cluster, grid: Path, run: Path) -> str:
    """Submit a grid and wait until nothing of it is in the queue."""
    printed = sslbench("run", grid, "--executor", "slurm", "--out", run)
    cluster.wait(lambda: not cluster.squeue(), SECONDS)
    return printed


def records(run: Path) -> dict[str, Record]:
    return {record.key: record for record in Store(run / "records")}


def results(run: Path) -> dict[str, object]:
    """All that must be equal however a grid was run: scores and weights, by cell."""
    return {
        key: (record.status, record.checkpoint.weights_hash, record.scores)
        for key, record in records(run).items()
    }
