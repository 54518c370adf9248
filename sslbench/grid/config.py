"""grid.toml → a checked description of the grid."""

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sslbench.errors import UserError, suggest


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PretrainTable(_Table):
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


class CheckpointTable(_Table):
    """[[checkpoint]]: a checkpoint folder that takes part as a method does."""

    name: str
    path: str


class EvaluateTable(_Table):
    """[evaluate]: every task on every dataset, for each seed."""

    tasks: list[str]
    datasets: list[str]
    seeds: list[int] = Field(default_factory=lambda: [0])


class Resources(_Table):
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


class ResourcesTable(_Table):
    """[resources]: by stage."""

    pretrain: Resources = Resources()
    evaluate: Resources = Resources()


class Keep(_Table):
    """[keep]: what stays on disk although no later step needs it.

    Attributes:
        states: training states of runs that have finished.
        features: cached features of checkpoints whose cells are all recorded.
    """

    states: bool = True
    features: bool = True


class Grid(_Table):
    """A whole grid file.

    Attributes:
        name: of the run folder and the leaderboard.
        seeds: of pretraining.
        override: method, task or variant name → its settings, with the tables `encoder`, `recipe`
            and the key `epochs` for methods, `datasets` (some of [evaluate]'s) for tasks, and
            `resources`; `of` makes it a variant with a row of
            its own.
    """

    name: str = Field(pattern=r"^[\w.-]+$")
    seeds: list[int] = Field(default_factory=lambda: [0])
    pretrain: PretrainTable | None = None
    checkpoint: list[CheckpointTable] = Field(default_factory=list)
    evaluate: EvaluateTable
    override: dict[str, dict[str, Any]] = Field(default_factory=dict)
    resources: ResourcesTable = ResourcesTable()
    keep: Keep = Keep()


def read(path: Path) -> Grid:
    """Parse and check a grid file.

    Raises:
        UserError: no file, no TOML, an unknown key (with its line and what is allowed) or a value
            of another type.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: cannot read the grid file: {reason}") from None
    try:
        return Grid.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}") from None
    except ValidationError as error:
        # An unknown key says more than the required one that it was meant to be.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        where = [part for part in first["loc"] if isinstance(part, str)]
        place = ".".join(str(part) for part in first["loc"])
        line = _line(text, where)
        at = f"{path}, line {line}" if line else str(path)
        if first["type"] == "extra_forbidden":
            allowed = suggest(where[-1], list(_fields(where[:-1])))
            raise UserError(f"{at}: unknown key {place!r}; {allowed}") from None
        found = "" if first["type"] == "missing" else f", found {first['input']!r}"
        raise UserError(f"{at}: {place}: {first['msg']}{found}") from None


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


def _fields(where: list[str]) -> dict[str, Any]:
    """The fields of the table at `where`."""
    model: Any = Grid
    for name in where:
        options = [model.model_fields[name].annotation]
        while options and not (isinstance(options[0], type) and issubclass(options[0], BaseModel)):
            options = [*getattr(options[0], "__args__", ()), *options[1:]]
        model = options[0]
    return dict(model.model_fields)


def _line(text: str, where: list[str]) -> int | None:
    """Number of the line that sets the key at `where`, or opens its table."""
    section: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line):
            section = [part.strip(" \"'") for part in match[1].split(".")]
            if section == where:
                return number
        elif match := re.match(r"\s*([\w\"'.-]+)\s*=", line):
            key = [part.strip("\"'") for part in match[1].split(".")]
            if [*section, *key] == where[: len(section) + len(key)] and len(key) + len(section) > 0:
                return number
    return None


def line_of(path: Path, *where: str) -> str:
    """Where a key stands, as `FILE, line N`, or just the file where the line is not found."""
    line = _line(path.read_text(encoding="utf-8"), list(where))
    return f"{path}, line {line}" if line else str(path)
