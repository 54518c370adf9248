"""The tasks and datasets of a grid or a suite → columns, and a checkpoint's cells in them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslbench import registry
from sslbench.data.split import Dataset
from sslbench.data.table import Row, find
from sslbench.errors import UserError, suggest
from sslbench.grid.cells import Evaluation
from sslbench.suite import Suite, changed
from sslbench.toml_file import line_of


@dataclass(frozen=True)
class Column:
    """A task with all its settings, and the datasets that it is run on.

    Attributes:
        task: name of the column; a variant's differs from its protocol's.
        protocol: as in the registry.
        needs: what must have been fetched besides the datasets.
    """

    task: str
    protocol: str
    version: int
    settings: dict[str, Any]
    datasets: Sequence[str]
    needs: tuple[Row, ...] = ()


def columns(suite: Suite, path: Path, kinds: Sequence[str] = ("tasks",)) -> list[Column]:
    """The columns of a suite, or of a grid, with every name and setting checked.

    Args:
        suite: what the file says.
        path: of the file; errors name its lines.
        kinds: what [override] may have settings for.

    Raises:
        UserError: an unknown task, dataset or setting.
    """
    _check_overrides(suite, path, kinds)
    try:
        targets = targets_of(suite.evaluate.datasets)
    except UserError as error:
        raise UserError(f"{line_of(path, 'evaluate', 'datasets')}: {error}") from None
    out = []
    for name, of in rows(suite, "tasks", suite.evaluate.tasks, path).items():
        given = override(suite, name, of)
        try:
            chosen = _chosen(given.pop("datasets", None), of, targets)
            out.append(column(name, of, given, chosen))
        except UserError as error:
            raise UserError(f"{line_of(path, 'override', name)}: {error}") from None
    return out


def column(name: str, of: str, given: dict[str, Any], datasets: Sequence[str]) -> Column:
    """One column, its settings checked.

    Args:
        name: of the column.
        of: its protocol.
        given: settings that differ from the defaults.
        datasets: names.

    Raises:
        UserError: a wrong setting.
    """
    cls = registry.task(of)
    settings = registry.settings(cls, given)
    try:
        needs = cls(**settings).needs()
    except ValueError as error:
        raise UserError(f"{of}: {error}") from None
    return Column(name, of, cls.version, registry.plain(settings), datasets, needs)


def cells(
    columns: Iterable[Column],
    datasets: Mapping[str, Dataset],
    seeds: Sequence[int],
    checkpoint: str,
    *shares: float,
) -> list[Evaluation]:
    """The cells of one pretraining run, or of a checkpoint.

    Args:
        columns: what is evaluated.
        datasets: by name.
        seeds: of what the protocols leave to chance.
        checkpoint: key of what determined the weights.
        shares: of the pretraining after which its weights were taken, 1 for the end.
    """
    return [
        Evaluation(
            checkpoint,
            at,
            column.task,
            column.protocol,
            column.version,
            column.settings,
            name,
            datasets[name].hash,
            seed,
        )
        for at in shares
        for column in columns
        for name in column.datasets
        for seed in seeds
    ]


def targets_of(datasets: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Name of each dataset → the kinds of its targets. Raises UserError for an unknown name."""
    return {name: find(name, registry.plugin_folders()).targets for name in datasets}


def fitting(of: str, targets: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The datasets that have a task's targets.

    Where none has them, all: the records say so.
    """
    needed = registry.task(of).target
    return [name for name in targets if needed is None or needed in targets[name]] or [*targets]


def _chosen(given: Any, of: str, targets: Mapping[str, tuple[str, ...]]) -> list[str]:
    """A task's own choice of the datasets, or those that fit."""
    if given is None:
        return fitting(of, targets)
    if not isinstance(given, list) or not given or not set(given) <= set(targets):
        known = ", ".join(targets)
        raise UserError(f"datasets = {given!r}; some of [evaluate]'s expected: {known}")
    return given


def rows(suite: Suite, kind: str, names: list[str], path: Path) -> dict[str, str]:
    """Row or column name → registry name, for the listed names and the variants of them."""
    known = registry.entries(kind)
    variants = {n: t["of"] for n, t in suite.override.items() if t.get("of") in known}
    table, key = ("pretrain", "methods") if kind == "methods" else ("evaluate", "tasks")
    for name in names:
        if name not in known and name not in variants:
            what = f"unknown {kind.removesuffix('s')} {name!r}"
            hint = suggest(name, [*known, *variants])
            raise UserError(f"{line_of(path, table, key)}: {what}; {hint}")
    return {name: variants.get(name, name) for name in dict.fromkeys([*names, *variants])}


def override(suite: Suite, name: str, of: str) -> dict[str, Any]:
    """Settings of a row or column: its method's or task's, then its own."""
    both = suite.override.get(of, {}) if of != name else {}
    both = changed(both, suite.override.get(name, {}))
    return {key: value for key, value in both.items() if key not in ("of", "resources")}


def _check_overrides(suite: Suite, path: Path, kinds: Sequence[str]) -> None:
    """Raise UserError for settings of something else than methods and tasks."""
    known = {name for kind in kinds for name in registry.entries(kind)}
    for name, settings in suite.override.items():
        target = settings.get("of", name)
        if not isinstance(target, str) or target not in known:
            nothing = "neither a method nor a task" if len(kinds) > 1 else "not a task"
            raise UserError(
                f"{line_of(path, 'override', name)}: {target!r} is {nothing}; "
                f"{suggest(str(target), sorted(known))}"
            )
