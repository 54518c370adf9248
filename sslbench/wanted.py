"""What a user wants evaluated → columns, as those of a grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslbench import registry, suite
from sslbench.data import load_train
from sslbench.data.table import find
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError, suggest
from sslbench.evaluation import suited
from sslbench.grid.columns import Column, column, columns, fitting, targets_of
from sslbench.records import Checkpoint
from sslbench.task import Task


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to evaluate, as a user says it.

    Attributes:
        suite: name, or path of a TOML file; None: the tasks, datasets and settings that follow.
        tasks: names; empty for all that take the encoder's modality and do not take long.
        datasets: names; empty for the pretraining dataset. A task is run on those that have its
            targets, as in a grid.
        settings: by task, or of the only task.
        seed: of what the protocols leave to chance; None for 0, or the suite's.

    Raises:
        UserError: one name where a list of them is expected.
    """

    suite: str | None = None
    tasks: Sequence[str] = ()
    datasets: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        for what, given in (("tasks", self.tasks), ("datasets", self.datasets)):
            if isinstance(given, str):  # its letters would be names
                raise UserError(f"{what} = {given!r}: expected a list of names")
        if self.seed is not None and not isinstance(self.seed, int):
            raise UserError(f"seed = {self.seed!r}: a whole number expected")


def chosen(
    wanted: Wanted, encoder: Encoder, checkpoint: Checkpoint
) -> tuple[list[Column], list[int]]:
    """The columns, and the seeds.

    Args:
        wanted: what a user says.
        encoder: decides which tasks run unasked.
        checkpoint: knows the pretraining dataset.

    Raises:
        UserError: a wrong name or setting, or a suite together with other names.
    """
    if wanted.suite is None:
        found, seeds = _named(wanted, encoder, checkpoint), [0]
    else:
        found, seeds = _of_suite(wanted, wanted.suite)
    return found, seeds if wanted.seed is None else [wanted.seed]


def _of_suite(wanted: Wanted, name: str) -> tuple[list[Column], list[int]]:
    """The columns of a suite, and its seeds."""
    given = {
        "tasks (--task)": wanted.tasks,
        "datasets (--dataset)": wanted.datasets,
        "settings (--set)": wanted.settings,
    }
    if also := [what for what, value in given.items() if value]:
        raise UserError(
            f"a suite (--suite) says what is evaluated, and excludes {' and '.join(also)}; one of "
            "your own, a TOML file, may say something else"
        )
    path = suite.find(name, Path())
    found = suite.read(path)
    return columns(found, path), found.evaluate.seeds


def _named(wanted: Wanted, encoder: Encoder, checkpoint: Checkpoint) -> list[Column]:
    """The columns of tasks and datasets that a user names."""
    names = [registry.entry("tasks", name).name for name in dict.fromkeys(wanted.tasks)] or [
        name for name in registry.entries("tasks") if _usual(registry.task(name), encoder)
    ]
    given = wanted.settings
    if len(names) == 1 and names[0] not in given:
        given = {names[0]: given}
    for name in given:
        if name not in names:
            raise UserError(f"--set {name}…: names no task that runs; {suggest(name, names)}")
    targets = targets_of(_datasets(wanted.datasets, checkpoint))
    return [column(name, name, given.get(name, {}), fitting(name, targets)) for name in names]


def _datasets(names: Sequence[str], checkpoint: Checkpoint) -> list[str]:
    """The datasets that a user names, or the one that the checkpoint was pretrained on."""
    if names:  # of a folder, the whole path
        return [find(name, registry.plugin_folders()).name for name in names]
    if checkpoint.family == "external" or checkpoint.pretrain_dataset is None:
        raise UserError(f"{checkpoint.name} is no checkpoint of sslbench's: name a --dataset")
    return [load_train(checkpoint.pretrain_dataset)[0].name]


def _usual(task: type[Task], encoder: Encoder) -> bool:
    """Whether a task runs unasked: it takes the encoder and does not take long."""
    try:
        suited(task, encoder)
    except NotApplicable:
        return False
    return not task.long
