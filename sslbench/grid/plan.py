"""A checked grid → its cells, named by hashes of all that determines them."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sslbench import registry
from sslbench.checkpoint import load_encoder
from sslbench.data import load, load_train
from sslbench.encoder import build, label
from sslbench.errors import NotApplicable, UserError, suggest
from sslbench.features import EXTRACTOR_VERSION
from sslbench.grid.config import Grid, line_of
from sslbench.hashing import digest
from sslbench.method import Method, Recipe
from sslbench.pretrain import LOOP_VERSION, PRECISIONS
from sslbench.random import mix
from sslbench.records import Checkpoint


@dataclass(frozen=True)
class Pretraining:
    """One pretraining run; names and numbers only, so that it travels to a job.

    Attributes:
        name: of the row; a variant's differs from its method's.
        method: as in the registry.
        settings: all of the method's, as plain values.
        recipe: the whole recipe, as plain values.
        encoder: configuration, without what is taken from the data.
        dataset: as `load_train` takes it.
        dataset_hash: of the split that is trained on.
        at: shares of the training, below 1, at which the encoder is kept.
    """

    name: str
    method: str
    method_version: int
    family: str
    settings: dict[str, Any]
    recipe: dict[str, Any]
    encoder: dict[str, Any]
    dataset: str
    dataset_hash: str
    epochs: int
    seed: int
    at: tuple[float, ...] = ()
    precision: str = "float32"

    @cached_property
    def key(self) -> str:
        """Hash of everything that determines the weights, and of the row's name."""
        return digest(asdict(self), LOOP_VERSION)

    def build(self) -> Method:
        """The method on its freshly initialised encoder, the same at every call.

        Raises:
            NotApplicable: the method cannot train this encoder or this data.
            UserError: a setting is wrong.
        """
        import torch

        cls = registry.method(self.method)
        _, data = load_train(self.dataset)
        settings = registry.settings(cls, self.settings)
        with torch.random.fork_rng():
            torch.manual_seed(mix(self.seed, 1))
            encoder = build(self.encoder, data)
            torch.manual_seed(mix(self.seed, 2))
            try:
                method = cls(encoder, data, **settings)
            except ValueError as error:
                raise UserError(f"{self.method}: {error}") from None
        method.recipe = registry.override(Recipe(), self.recipe, f"{self.method}.recipe")
        return method

    def about(self, method: Method) -> dict[str, Any]:
        """What the checkpoint and its records say of this run."""
        return {
            "key": self.key,
            "name": self.name,
            "family": self.family,
            "method": self.method,
            "method_version": self.method_version,
            "settings": self.settings,
            "recipe": self.recipe,
            "encoder": method.encoder.label,
            "encoder_config": method.encoder.config,
            "pretrain_dataset": self.dataset,
            "pretrain_dataset_hash": self.dataset_hash,
            "pretrain_epochs": self.epochs,
            "pretrain_seed": self.seed,
        }

    def checkpoint(self) -> Checkpoint:
        """What a record says where the method could not even be built."""
        return Checkpoint(
            key=self.key,
            name=self.name,
            family=self.family,
            method=self.method,
            method_version=self.method_version,
            settings=self.settings,
            recipe=self.recipe,
            encoder=label(self.encoder),
            pretrain_dataset=self.dataset,
            pretrain_dataset_hash=self.dataset_hash,
            pretrain_epochs=self.epochs,
            pretrain_seed=self.seed,
        )


@dataclass(frozen=True)
class Evaluation:
    """One cell: a task on a dataset, for one checkpoint.

    Attributes:
        checkpoint: key of what determined the weights.
        at: share of the pretraining, 1 for its end.
        task: name of the column; a variant's differs from its protocol's.
        protocol: as in the registry.
    """

    checkpoint: str
    at: float
    task: str
    protocol: str
    version: int
    settings: dict[str, Any]
    dataset: str
    dataset_hash: str
    seed: int

    @cached_property
    def key(self) -> str:
        """Hash of everything that determines the scores."""
        return digest(asdict(self), EXTRACTOR_VERSION)


@dataclass(frozen=True)
class External:
    """A checkpoint folder that takes part as it is."""

    name: str
    path: str
    key: str


@dataclass(frozen=True)
class Work:
    """One source of weights, and the cells that evaluate it."""

    source: Pretraining | External
    cells: list[Evaluation]


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
            Evaluation(key, at, *protocol, name, data.hash, seed)
            for at in shares
            for protocol in protocols
            for name, data in datasets.items()
            for seed in grid.evaluate.seeds
        ]

    protocols = [_protocol(grid, name, of, path) for name, of in tasks.items()]
    for run in _pretrainings(grid, path):
        out.append(Work(run, evaluations(run.key, *run.at, 1.0)))
    for table in grid.checkpoint:
        folder = path.parent / table.path
        _, about = load_encoder(folder)
        source = External(table.name, str(folder), digest(table.name, about["weights_hash"]))
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
    merged = dict(grid.override.get(of, {})) if of != name else {}
    for key, value in grid.override.get(name, {}).items():
        base = merged.get(key)
        both = isinstance(base, dict) and isinstance(value, dict) and key != "encoder"
        merged[key] = {**base, **value} if both else value  # type: ignore[dict-item]
    return {key: value for key, value in merged.items() if key != "of"}


def _protocol(grid: Grid, name: str, of: str, path: Path) -> tuple[str, str, int, dict[str, Any]]:
    """Name, protocol, version and all settings of a column."""
    cls = registry.task(of)
    try:
        settings = registry.settings(cls, _override(grid, name, of))
        cls(**settings)
    except (UserError, ValueError) as error:
        raise UserError(f"{line_of(path, 'override', name)}: {error}") from None
    return name, of, cls.version, registry.plain(settings)


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
                    for seed in grid.seeds:
                        try:
                            yield pretraining(
                                of,
                                dataset,
                                encoder,
                                name=name,
                                given=given,
                                epochs=budget,
                                seed=seed,
                                at=tuple(table.checkpoints),
                                precision=table.precision,
                            )
                        except UserError as error:
                            at = line_of(path, "override", name)
                            raise UserError(f"{at}: {error}") from None


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
