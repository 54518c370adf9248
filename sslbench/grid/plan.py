"""A checked grid → its cells."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sslbench import registry
from sslbench.checkpoint import load_encoder
from sslbench.data import load, load_train
from sslbench.data.weights import located
from sslbench.errors import NotApplicable, UserError, suggest
from sslbench.grid.cells import Evaluation, External, Pretraining, Work
from sslbench.grid.config import Grid, Resources, line_of, merged
from sslbench.hashing import digest
from sslbench.pretrain import PRECISIONS


def plan(grid: Grid, path: Path) -> list[Work]:
    """Expand a grid and check every name and setting in it.

    Args:
        grid: the checked file.
        path: of the file; checkpoint paths are relative to it, and errors name its lines.

    Raises:
        UserError: an unknown method, task, dataset, encoder or setting.
    """
    tasks = _rows(grid, "tasks", grid.evaluate.tasks, path)
    datasets = {name: load(name) for name in grid.evaluate.datasets}
    out = []

    def evaluations(key: str, *shares: float) -> list[Evaluation]:
        return [
            Evaluation(key, at, *protocol, name, datasets[name].hash, seed)
            for at in shares
            for protocol in protocols
            for name in wanted[protocol[0]]
            for seed in grid.evaluate.seeds
        ]

    protocols = [_protocol(grid, name, of, path) for name, of in tasks.items()]
    targets = {name: data.targets for name, data in datasets.items()}
    wanted = {name: _datasets(grid, name, of, path, targets) for name, of in tasks.items()}
    for run in _pretrainings(grid, path):
        out.append(Work(run, evaluations(run.key, *run.at, 1.0)))
    for table in grid.checkpoint:
        folder = located(table.path, path.parent)
        _, about = load_encoder(folder)
        source = External(
            table.name,
            str(folder),
            digest(table.name, about.get("encoder_config"), about["weights_hash"]),
        )
        out.append(Work(source, evaluations(source.key, about["at"])))
    return out


def _rows(grid: Grid, kind: str, names: list[str], path: Path) -> dict[str, str]:
    """Row name → registry name, for the listed names and the variants of them."""
    known = registry.entries(kind)
    variants = {n: t["of"] for n, t in grid.override.items() if t.get("of") in known}
    table, key = ("pretrain", "methods") if kind == "methods" else ("evaluate", "tasks")
    for name in names:
        if name not in known and name not in variants:
            what = f"unknown {kind.removesuffix('s')} {name!r}"
            hint = suggest(name, [*known, *variants])
            raise UserError(f"{line_of(path, table, key)}: {what}; {hint}")
    everything = {*registry.entries("methods"), *registry.entries("tasks")}
    for name, override in grid.override.items():
        target = override.get("of", name)
        if target not in everything:
            raise UserError(
                f"{line_of(path, 'override', name)}: {target!r} is neither a method nor a task; "
                f"{suggest(target, sorted(everything))}"
            )
    return {name: variants.get(name, name) for name in dict.fromkeys([*names, *variants])}


def _override(grid: Grid, name: str, of: str) -> dict[str, Any]:
    """Settings of a row: its method's or task's, then its own."""
    both = dict(grid.override.get(of, {})) if of != name else {}
    for key, value in grid.override.get(name, {}).items():
        base = both.get(key)
        tables = isinstance(base, dict) and isinstance(value, dict) and key != "encoder"
        both[key] = {**base, **value} if tables else value  # type: ignore[dict-item]
    return {key: value for key, value in both.items() if key not in ("of", "resources")}


def resources(grid: Grid, stage: str, name: str, of: str) -> Resources:
    """What a row's jobs get: the stage's, changed by its method's or task's, then by its own.

    Args:
        grid: the checked file.
        stage: "pretrain" or "evaluate".
        name: of the row or column.
        of: its method or task.

    Raises:
        UserError: an unknown resource, or a value of another type.
    """
    found: Resources = getattr(grid.resources, stage)
    for key in dict.fromkeys((of, name)):
        if changes := grid.override.get(key, {}).get("resources"):
            found = merged(found, changes, f"override.{key}.resources")
    return found


def _protocol(grid: Grid, name: str, of: str, path: Path) -> tuple[str, str, int, dict[str, Any]]:
    """Name, protocol, version and all settings of a column."""
    cls = registry.task(of)
    try:
        given = _override(grid, name, of)
        given.pop("datasets", None)
        settings = registry.settings(cls, given)
        cls(**settings)
    except (UserError, ValueError) as error:
        raise UserError(f"{line_of(path, 'override', name)}: {error}") from None
    return name, of, cls.version, registry.plain(settings)


def _datasets(
    grid: Grid, name: str, of: str, path: Path, targets: dict[str, tuple[str, ...]]
) -> list[str]:
    """What a task is run on: its own choice of the grid's datasets, or those with its targets.

    Where none has them, all: the records say so.
    """
    known, needed = grid.evaluate.datasets, registry.task(of).target
    fitting = [dataset for dataset in known if needed is None or needed in targets[dataset]]
    given = _override(grid, name, of).get("datasets", fitting or known)
    if not isinstance(given, list) or not given or not set(given) <= set(known):
        found = f"datasets = {given!r}; some of [evaluate]'s expected: {', '.join(known)}"
        raise UserError(f"{line_of(path, 'override', name)}: {found}")
    return given


def _pretrainings(grid: Grid, path: Path) -> Iterator[Pretraining]:
    table = grid.pretrain
    if table is None:
        return
    for name, of in _rows(grid, "methods", table.methods, path).items():
        given = _override(grid, name, of)
        encoders = [given.pop("encoder")] if "encoder" in given else table.encoders
        epochs = [given.pop("epochs")] if "epochs" in given else table.epochs
        for dataset in table.datasets:
            for encoder in encoders:
                for budget in epochs:
                    try:
                        run = pretraining(
                            of,
                            dataset,
                            encoder,
                            name=name,
                            given=given,
                            epochs=budget,
                            seed=0,
                            at=tuple(table.checkpoints),
                            precision=table.precision,
                        )
                    except UserError as error:
                        at = line_of(path, "override", name)
                        raise UserError(f"{at}: {error}") from None
                    yield from (replace(run, seed=seed) for seed in grid.seeds)


def pretraining(
    method: str,
    dataset: str,
    encoder: dict[str, Any],
    *,
    given: dict[str, Any],
    epochs: int | None,
    seed: int,
    name: str | None = None,
    at: tuple[float, ...] = (),
    precision: str = "float32",
) -> Pretraining:
    """One run with all its settings filled in and checked.

    Args:
        method: as in the registry.
        dataset: "NAME" for its train split, or "NAME/SPLIT".
        encoder: configuration.
        given: settings that differ from the defaults, and the table "recipe".
        epochs: None for the paper's.
        seed: of initialisation, order and draws.
        name: of the row, the method's if None.
        at: shares at which the encoder is kept too.
        precision: of the training.

    Raises:
        UserError: a wrong setting.
    """
    entry, cls = registry.entry("methods", method), registry.method(method)
    _, data = load_train(dataset)
    given = dict(given)
    changes = given.pop("recipe", {})
    if not isinstance(changes, dict):
        raise UserError(f"{method}.recipe = {changes!r}: expected a table of its settings")
    checked = registry.override(cls.recipe, changes, f"{method}.recipe")
    recipe = cls.recipe.override(**{key: getattr(checked, key) for key in changes})
    if recipe.batch_size > len(data):
        recipe = recipe.override(batch_size=len(data))
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r}; {suggest(precision, list(PRECISIONS))}")
    bad = [share for share in at if not 0 < share < 1]
    if bad:
        raise UserError(f"checkpoints are shares of the training between 0 and 1, found {bad}")
    if epochs is not None and epochs < 1:
        raise UserError(f"epochs = {epochs}: expected at least 1")
    return Pretraining(
        name=name or method,
        method=method,
        method_version=cls.version,
        family=entry.family,
        settings=registry.plain(registry.settings(cls, given)),
        recipe=registry.plain(asdict(recipe)),
        encoder=dict(encoder),
        dataset=dataset,
        dataset_hash=data.hash,
        epochs=0 if cls.phases == 0 else (recipe.epochs if epochs is None else epochs),
        seed=seed,
        at=() if cls.phases == 0 else tuple(sorted(at)),
        precision=precision,
    )


def check(work: list[Work]) -> dict[str, str]:
    """Build each distinct method and encoder once.

    Returns:
        Key of each pretraining that cannot be → the reason.

    Raises:
        UserError: a wrong setting, before anything was queued.
    """
    reasons: dict[str, str | None] = {}
    out = {}
    for run in (item.source for item in work):
        if not isinstance(run, Pretraining):
            continue
        distinct = digest(run.method, run.settings, run.recipe, run.encoder, run.dataset)
        if distinct not in reasons:
            try:
                run.build()
                reasons[distinct] = None
            except NotApplicable as error:
                reasons[distinct] = str(error)
        reason = reasons[distinct]
        if reason is not None:
            out[run.key] = reason
    return out
