"""A checked grid → its cells."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sslbench import registry, suite
from sslbench.checkpoint import external_key, load_encoder
from sslbench.data import load_all, load_train
from sslbench.data.weights import completed, located
from sslbench.errors import NotApplicable, UserError, suggest
from sslbench.grid.cells import External, Pretraining, Work
from sslbench.grid.columns import cells, columns, override, rows
from sslbench.grid.config import Grid, Resources, merged
from sslbench.hashing import digest
from sslbench.pretrain import PRECISIONS
from sslbench.toml_file import line_of


def plan(grid: Grid, path: Path) -> list[Work]:
    """Expand a grid and check every name and setting in it.

    Args:
        grid: the checked file.
        path: of the file; checkpoint paths are relative to it, and errors name its lines.

    Raises:
        UserError: an unknown method, task, dataset, encoder or setting.
    """
    if grid.evaluate.suite is not None:  # by itself first: errors name its file and not the grid's
        place = suite.find(grid.evaluate.suite, path.parent)
        columns(suite.read(place), place)
    protocols = columns(grid, path, ("methods", "tasks"))
    datasets, seeds = load_all(grid.evaluate.datasets), grid.evaluate.seeds
    out = []
    for run in _pretrainings(grid, path):
        out.append(Work(run, cells(protocols, datasets, seeds, run.key, *run.at, 1.0)))
    if grid.pretrain is None and not grid.checkpoint:
        raise UserError(f"{path}: nothing to evaluate; [pretrain] or [[checkpoint]] expected")
    for name, count in Counter(table.name for table in grid.checkpoint).items():
        if count > 1:
            raise UserError(f"{path}: {count} checkpoints have the name {name!r}")
    for table in grid.checkpoint:
        place, request = located(table.path, path.parent), completed(table.path, table.request)
        try:
            _, about = load_encoder(place, request)
        except UserError as error:
            raise UserError(f"{path}, checkpoint {table.name!r}: {error}") from None
        source = External(table.name, str(place), external_key(table.name, about), request)
        out.append(Work(source, cells(protocols, datasets, seeds, source.key, about["at"])))
    return out


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


def _pretrainings(grid: Grid, path: Path) -> Iterator[Pretraining]:
    table = grid.pretrain
    if table is None:
        return
    for name, of in rows(grid, "methods", table.methods, path).items():
        given = override(grid, name, of)
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
