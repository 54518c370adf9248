"""The plan of a grid of 10,000 cells, when nothing is done and when nearly all is."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from sslbench.bench.timing import Goal, Timing, repeated
from sslbench.grid.cells import Work
from sslbench.grid.config import read
from sslbench.grid.plan import plan
from sslbench.grid.run import missing
from sslbench.provenance import provenance
from sslbench.records import Checkpoint, Provenance, Record, Score, Store

CELLS, LEFT = 10_000, 10


def grid(cells: int) -> str:
    """A grid file of so many cells, 20 for each pretraining run."""
    seeds = list(range(cells // 20))
    return f"""
name = "bench"
seeds = {seeds}
[pretrain]
methods = ["untrained"]
datasets = ["digits"]
encoders = [{{ name = "resnet18", width = 8, image_size = 8 }}]
epochs = [1]
[evaluate]
tasks = ["knn", "linear_probe", "few_shot", "clustering"]
datasets = ["digits"]
seeds = [0, 1, 2, 3, 4]
"""


def planned(folder: Path, cells: int) -> tuple[list[Work], Path]:
    """The plan, and its run folder."""
    path = folder / "grid.toml"
    path.write_text(grid(cells), encoding="utf-8")
    return plan(read(path), path), folder / "run"


def fill(work: list[Work], folder: Path, left: int) -> None:
    """Records for all cells but `left`."""
    store, where = Store(folder / "records"), Provenance(**provenance(1.0))
    cells = [(item.source, cell) for item in work for cell in item.cells]
    for source, cell in cells[: len(cells) - left]:
        store.put(
            Record(
                key=cell.key,
                status="ok",
                checkpoint=Checkpoint(key=source.key, name="a", family="b", encoder="c"),
                task=cell.task,
                protocol=cell.protocol,
                task_version=cell.version,
                dataset=cell.dataset,
                headline="top1",
                scores={"top1": Score(value=0.5, n=100)},
                provenance=where,
            )
        )


def measure(rounds: int) -> Iterator[Timing]:
    """What `sslbench run --dry-run` does before it prints."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        work, run = planned(folder, CELLS)

        def again() -> int:
            return missing(planned(folder, CELLS)[0], run).open

        assert again() == CELLS
        goal = Goal("seconds", 2)
        name = f"a grid of {CELLS:,} cells"
        yield Timing("plan/new", f"{name}, nothing done", "", repeated(again, rounds), goal=goal)
        fill(work, run, LEFT)
        assert again() == LEFT
        done = f"{name}, {CELLS - LEFT:,} done"
        yield Timing("plan/done", done, "", repeated(again, rounds), goal=goal)
