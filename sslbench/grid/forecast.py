"""What a grid has taken and will still take, from measured costs as far as there are any."""

from collections.abc import Mapping
from dataclasses import dataclass

from sslbench.grid.arrange import Costs
from sslbench.grid.cells import Evaluation, Pretraining, Work
from sslbench.grid.config import Grid, Resources
from sslbench.grid.plan import resources


@dataclass
class Hours:
    """GPU-hours, or CPU-hours of what takes no GPU, with the resources that the grid file gives.

    Attributes:
        used: by pretraining and by recorded cells.
        ahead: expected of what is left.
        stated: the part of `ahead` that no measurement backs: time limits and `cell_minutes`.
    """

    used: float = 0.0
    ahead: float = 0.0
    stated: float = 0.0


@dataclass(frozen=True)
class Forecast:
    """The cost of a grid.

    Attributes:
        hours: by unit, "GPU" and "CPU".
        jobs: that run now, None where nobody knows.
        seconds: until everything is done if as many jobs go on running; None: nobody can tell.
        unknown: why nobody can tell.
    """

    hours: dict[str, Hours]
    jobs: int | None
    seconds: float | None
    unknown: str | None = None


def forecast(
    grid: Grid,
    work: list[Work],
    costs: Costs,
    spent: Mapping[str, float],
    left: Mapping[str, float | None],
    jobs: int | None,
) -> Forecast:
    """Add up what was spent and what is left.

    Args:
        grid: the checked file.
        work: the whole plan.
        costs: measured so far.
        spent: key of a run or a cell → seconds.
        left: key of a run or a cell that is not done → seconds that its log tells, None without.
        jobs: that run now, None where nobody knows.
    """
    known = _Known(grid, costs)
    hours = {"GPU": Hours(), "CPU": Hours()}
    total, longest, unmeasured = 0.0, 0.0, list[str]()
    for item in work:
        training, slowest = 0.0, 0.0
        for part in (item.source, *item.cells):
            if not isinstance(part, Pretraining | Evaluation):
                continue  # somebody else's checkpoint costs nothing here
            given = known.resources(part)
            place = hours["GPU" if given.gpus else "CPU"]
            size = _size(part, given) / 3600
            place.used += spent.get(part.key, 0.0) * size
            if part.key not in left:
                continue
            logged = left[part.key]
            seconds, measured = known.cost(part) if logged is None else (logged, True)
            place.ahead += seconds * size
            if not measured:
                place.stated += seconds * size
                unmeasured.append(_name(part))
            total += seconds
            if isinstance(part, Pretraining):
                training = seconds
            else:
                slowest = max(slowest, seconds)  # cells of a checkpoint can run side by side
        longest = max(longest, training + slowest)
    if not left:
        return Forecast(hours, jobs, 0.0)
    if unmeasured:
        return Forecast(hours, jobs, None, f"no record or log tells how long {unmeasured[0]} takes")
    if not jobs:
        nobody = "nobody knows which jobs run" if jobs is None else "no job runs now"
        return Forecast(hours, jobs, None, nobody)
    return Forecast(hours, jobs, max(longest, total / jobs))


class _Known:
    """Resources and costs of runs and kinds of cells, each looked up once."""

    def __init__(self, grid: Grid, costs: Costs) -> None:
        self.grid, self.costs = grid, costs
        self._resources: dict[tuple[str, str], Resources] = {}
        self._cells: dict[tuple[str, str], tuple[float, bool]] = {}

    def resources(self, part: Pretraining | Evaluation) -> Resources:
        if isinstance(part, Pretraining):
            stage, name, of = "pretrain", part.name, part.method
        else:
            stage, name, of = "evaluate", part.task, part.protocol
        if (stage, name) not in self._resources:
            self._resources[stage, name] = resources(self.grid, stage, name, of)
        return self._resources[stage, name]

    def cost(self, part: Pretraining | Evaluation) -> tuple[float, bool]:
        """Seconds, and whether they were measured."""
        given = self.resources(part)
        if isinstance(part, Pretraining):
            kind = (part.method, part.dataset, part.checkpoint().encoder)
            return self.costs.run(part, given), kind in self.costs.runs
        place = (part.task, part.dataset)
        if place not in self._cells:
            measured = (part.protocol, part.dataset) in self.costs.cells
            self._cells[place] = self.costs.cell(part, given), measured
        return self._cells[place]


def _size(part: Pretraining | Evaluation, given: Resources) -> int:
    """GPUs of its job, or CPUs where it has no GPU."""
    if isinstance(part, Evaluation):
        return given.gpus or given.cpus
    return given.gpus * given.nodes or given.cpus * given.world


def _name(part: Pretraining | Evaluation) -> str:
    if isinstance(part, Evaluation):
        return f"{part.task} on {part.dataset}"
    return f"{part.name} on {part.dataset}"
