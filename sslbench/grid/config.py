"""grid.toml → a checked description of the grid."""

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from sslbench import suite, toml_file
from sslbench.errors import UserError, suggest
from sslbench.external.request import Request
from sslbench.toml_file import Table, line_of


class PretrainTable(Table):
    """[pretrain]: every combination of these lists is one pretraining run per seed.

    Attributes:
        methods: names of methods or of variants defined under [override].
        datasets: pretraining sees their train split only.
        encoders: tables with name, image_size and the backbone's settings.
        epochs: budgets.
        checkpoints: shares of the training, below 1, whose weights are evaluated too.
        precision: "float32", "bfloat16" or "float16".
    """

    methods: list[str]
    datasets: list[str]
    encoders: list[dict[str, Any]]
    epochs: list[int]
    checkpoints: list[float] = Field(default_factory=list)
    precision: str = "float32"


class CheckpointTable(Table):
    """[[checkpoint]]: a checkpoint that takes part as a method does.

    Attributes:
        name: of its row.
        path: relative to the grid file, or `fetched:NAME`.

    The others say of somebody else's what it does not say itself: see
    `sslbench.external.request.Request`.
    """

    name: str = Field(pattern=r"\S")
    path: str
    encoder: dict[str, Any] = Field(default_factory=dict)
    preprocess: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None
    allow_missing: bool = False
    trust_code: bool = False
    pretrained_on: str | None = None

    @property
    def request(self) -> Request:
        """What the file says of the checkpoint."""
        return Request(**self.model_dump(exclude={"name", "path"}))


class EvaluateTable(suite.EvaluateTable):
    """[evaluate]: every task on every dataset, for each seed.

    Attributes:
        suite: whose tasks, datasets and settings these are: a name, or the path of a file relative
            to the grid's; None: the grid's own.
    """

    suite: str | None = None


class Resources(Table):
    """[resources.pretrain] and [resources.evaluate]: what one job gets.

    Attributes:
        cpus: threads of a process; part of what makes results equal to the last bit.
        gpus: of one node, 0 to train on the CPU.
        nodes: of one pretraining job.
        processes: of a pretraining job on each node; None: one per GPU, or one.
        hours: time limit.
        memory_gb: of one node; None: the cluster's default.
        save_seconds: time between saved states of a pretraining run.
        attempts: starts in a row without progress after which a run is recorded as failed.
        pack_minutes: evaluation cells share a job until they are estimated to take this long.
        cell_minutes: estimate for a cell of which no record tells how long it takes.
        partition: where the jobs go, and account, qos and constraint as sbatch has them.
        throttle: most jobs of one array that run at a time; None: no limit.
        setup: shell lines before each job (modules, virtual environment, container).
        python: command instead of this interpreter, e.g. "apptainer exec --nv image.sif python".
        options: other options of sbatch, e.g. { reservation = "lab" }.
    """

    cpus: int = Field(default=1, ge=1)
    gpus: int = Field(default=0, ge=0)
    nodes: int = Field(default=1, ge=1)
    processes: int | None = Field(default=None, ge=1)
    hours: float = Field(default=24.0, gt=0)
    memory_gb: float | None = Field(default=None, gt=0)
    save_seconds: float = Field(default=60.0, ge=0)
    attempts: int = Field(default=10, ge=1)
    pack_minutes: float = Field(default=60.0, ge=0)
    cell_minutes: float = Field(default=5.0, gt=0)
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    throttle: int | None = Field(default=None, ge=1)
    setup: list[str] = Field(default_factory=list)
    python: str | None = None
    options: dict[str, str] = Field(default_factory=dict)

    @property
    def world(self) -> int:
        """Number of processes of a pretraining job."""
        return self.nodes * (self.processes or max(1, self.gpus))


class ResourcesTable(Table):
    """[resources]: by stage."""

    pretrain: Resources = Resources()
    evaluate: Resources = Resources()


class Keep(Table):
    """[keep]: what stays on disk although no later step needs it.

    Attributes:
        states: training states of runs that have finished.
        features: cached features of checkpoints whose cells are all recorded.
    """

    states: bool = True
    features: bool = True


class Grid(suite.Suite):
    """A whole grid file.

    Attributes:
        name: of the run folder and the leaderboard.
        seeds: of pretraining.
        override: as a suite has it, and method or variant name → its settings, with the tables
            `encoder`, `recipe` and the key `epochs`.
    """

    seeds: list[int] = Field(default_factory=lambda: [0])
    pretrain: PretrainTable | None = None
    checkpoint: list[CheckpointTable] = Field(default_factory=list)
    evaluate: EvaluateTable
    resources: ResourcesTable = ResourcesTable()
    keep: Keep = Keep()


def read(path: Path) -> Grid:
    """Parse and check a grid file; what it takes from a suite stands in it as if it were its own.

    Raises:
        UserError: no file, no TOML, an unknown key (with its line and what is allowed) or a value
            of another type.
    """
    given = toml_file.load(path, "grid file")
    evaluate = given.get("evaluate")
    if not isinstance(evaluate, dict) or not isinstance(name := evaluate.get("suite"), str):
        return toml_file.check(Grid, given, path)
    at = line_of(path, "evaluate", "suite")
    if both := sorted({"tasks", "datasets"} & evaluate.keys()):
        raise UserError(
            f"{at}: [evaluate] has a suite, which says what is evaluated, and {' and '.join(both)}"
        )
    try:
        taken = suite.read(suite.find(name, path.parent))
    except UserError as error:
        raise UserError(f"{at}: {error}") from None
    given["evaluate"] = {**taken.evaluate.model_dump(), **evaluate}
    grid = toml_file.check(Grid, given, path)
    changed = {
        key: suite.changed(taken.override.get(key, {}), grid.override.get(key, {}))
        for key in (*taken.override, *grid.override)
    }
    return grid.model_copy(update={"override": changed})


def merged(base: Resources, changes: Any, where: str) -> Resources:
    """Resources with changes. Raises UserError with what is wrong in them and what is allowed."""
    if not isinstance(changes, dict):
        raise UserError(f"{where}: a table expected, found {changes!r}")
    try:
        return Resources.model_validate({**base.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            allowed = suggest(key, list(Resources.model_fields))
            raise UserError(f"{where}: unknown key {key!r}; {allowed}") from None
        raise UserError(f"{where}.{key}: {first['msg']}, found {first['input']!r}") from None
