"""Calls of sbatch for a grid of 10,000 cells, against one for each cell."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from sslbench.bench.plan import CELLS, planned
from sslbench.bench.timing import Timing, repeated
from sslbench.grid.arrange import Costs, arrange
from sslbench.grid.config import read

LONGEST = 1_001  # SLURM's MaxArraySize where nobody changed it


def measure(rounds: int) -> Iterator[Timing]:
    """One array for each kind of job, in as many parts as the longest array allows."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        work, run = planned(folder, CELLS)
        config = read(folder / "grid.toml")

        def arranged() -> int:
            return len(arrange(config, work, run, longest=LONGEST, costs=Costs(), awaited={}))

        arrays = arrange(config, work, run, longest=LONGEST, costs=Costs(), awaited={})
        jobs = sum(len(array.jobs) for array in arrays)
        kinds = {(array.stage, str(array.resources)) for array in arrays}
        most = len(kinds) * -(-max(jobs, 1) // LONGEST)
        yield Timing(
            "submit",
            f"jobs and arrays of {CELLS:,} cells; sbatch is called {len(arrays)} times instead of "
            f"{CELLS:,}",
            "",
            repeated(arranged, rounds),
            numbers={"calls": len(arrays), "calls_allowed": most, "jobs": jobs},
        )
