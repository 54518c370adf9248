"""One pretraining run or one evaluation outside a grid, with the same keys, steps and numbers."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from sslbench import distributed, registry
from sslbench.checkpoint import load_encoder
from sslbench.data import load, load_train
from sslbench.data.weights import located
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError, suggest
from sslbench.evaluation import evaluate as evaluate_cell
from sslbench.evaluation import suited
from sslbench.features import features
from sslbench.grid import plan
from sslbench.grid.cells import Evaluation, Pretraining
from sslbench.grid.job import threads
from sslbench.neighbors import knn_accuracy
from sslbench.pretrain import Options, Outcome, train
from sslbench.records import Checkpoint, Record, Store
from sslbench.task import Task


def pretraining(
    method: str,
    dataset: str,
    encoder: dict[str, Any],
    given: dict[str, Any],
    epochs: int | None,
    seed: int,
    precision: str,
) -> Pretraining:
    """One checked run. The image size is the dataset's where the encoder has none.

    Raises:
        UserError: a wrong name or setting.
    """
    registry.entry("methods", method)
    _, data = load_train(dataset)
    if "image_size" not in encoder:
        images = data[torch.zeros(1, dtype=torch.long)].images
        if images is not None:
            encoder = {**encoder, "image_size": min(images[0].shape[1:])}
    return plan.pretraining(
        method, dataset, encoder, given=given, epochs=epochs, seed=seed, precision=precision
    )


def pretrain(
    run: Pretraining,
    out: Path,
    *,
    online: int,
    save_seconds: float,
    cpus: int | None,
    report: Callable[[int, int, dict[str, float]], None],
) -> Outcome:
    """Train into `out`, or go on there.

    Args:
        run: what to train.
        out: checkpoint folder.
        save_seconds: time between saved states.
        online: epochs between kNN evaluations on validation, 0 for none.
        cpus: threads, None for all cores.
        report: called with (step, steps, log line).
    """
    method = run.build()
    with distributed.launched() as device, threads(cpus or os.cpu_count() or 1):
        options = Options(
            device=device,
            precision=run.precision,
            save_seconds=save_seconds,
            progress=report,
            online=_online(run.dataset),
            online_epochs=online,
        )
        return train(
            method,
            out,
            epochs=run.epochs,
            seed=run.seed,
            about=run.about(method),
            options=options,
        )


def _online(dataset: str) -> Callable[[torch.nn.Module], dict[str, float]]:
    """KNN accuracy on the validation split; test stays unseen."""

    def measure(encoder: torch.nn.Module) -> dict[str, float]:
        if not isinstance(encoder, Encoder):
            return {}
        data, _ = load_train(dataset)
        train, held_out = data["train"], data["validation"]
        if train.labels is None or held_out.labels is None:
            return {}
        (bank,) = features(encoder, train, cache=False).values()
        (queries,) = features(encoder, held_out, cache=False).values()
        return {"knn_validation": knn_accuracy(bank, train.labels, queries, held_out.labels)}

    return measure


def evaluate(
    path: Path,
    tasks: list[str],
    datasets: list[str],
    given: dict[str, Any],
    seed: int,
    out: Path | None,
    cpus: int | None,
    report: Callable[[int, int, str, Path], None],
) -> list[Record]:
    """Evaluate a checkpoint folder, as a grid would.

    Args:
        path: of the checkpoint.
        tasks: names; empty for all that take the encoder's modality and do not train it.
        datasets: names; empty for the pretraining dataset.
        given: settings by task, or of the only task.
        seed: of what the protocols leave to chance.
        out: run folder for the records, None to keep none.
        cpus: threads, None for all cores.
        report: called with (number, number of cells, name, folder of its work) before each cell.

    Raises:
        UserError: a wrong name or setting, or no checkpoint.
    """
    known = registry.entries("tasks")
    for name in tasks:
        registry.entry("tasks", name)
    encoder, about = load_encoder(located(str(path), Path()))
    names = tasks or [name for name in known if _usual(registry.task(name), encoder)]
    if len(names) == 1 and names[0] not in given:
        given = {names[0]: given}
    for name in given:
        if name not in names:
            raise UserError(f"--set {name}…: names no task that runs; {suggest(name, names)}")
    checkpoint = Checkpoint(**about)
    if not datasets and checkpoint.pretrain_dataset is None:
        raise UserError(f"{path} does not say what it was pretrained on: name a --dataset")
    own, _ = load_train(checkpoint.pretrain_dataset or "") if not datasets else (None, None)
    data = [load(name) for name in datasets] if own is None else [own]
    cells = []
    for name in names:
        cls = registry.task(name)
        checked = registry.settings(cls, given.get(name, {}))
        try:
            cls(**checked)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
        settings = registry.plain(checked)
        for dataset in data:
            cells.append(
                Evaluation(
                    checkpoint.key,
                    checkpoint.at,
                    name,
                    name,
                    cls.version,
                    settings,
                    dataset.name,
                    dataset.hash,
                    seed,
                )
            )
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    return _records(encoder, checkpoint, cells, out, cpus, report)


def _usual(task: type[Task], encoder: Encoder) -> bool:
    """Whether a task runs unasked: it takes the encoder and does not take long."""
    try:
        suited(task, encoder)
    except NotApplicable:
        return False
    return not task.long


def _records(
    encoder: Encoder,
    checkpoint: Checkpoint,
    cells: list[Evaluation],
    out: Path | None,
    cpus: int | None,
    report: Callable[[int, int, str, Path], None],
) -> list[Record]:
    records = []
    with threads(cpus or os.cpu_count() or 1), tempfile.TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        store = Store(folder / "records")
        for number, cell in enumerate(cells):
            work = folder / "work" / cell.key[:2] / cell.key
            report(number, len(cells), f"{cell.task} on {cell.dataset}", work)
            data = load(cell.dataset)
            record, examples = evaluate_cell(encoder, checkpoint, cell, data, work)
            records.append(store.put(record, examples))
            shutil.rmtree(work, ignore_errors=True)
    return records


def table(records: list[Record]) -> Table:
    """Every score with its interval, or the reason why there is none."""
    shown = Table(box=None, pad_edge=False)
    for column in ("task", "dataset", "metric", "value", "95 % interval", "n", "chance"):
        shown.add_column(column, justify="left" if column in ("task", "dataset") else "right")
    for record in records:
        place = (record.task, record.dataset)
        if record.status != "ok":
            reason = (record.reason or "").splitlines()[-1:]
            shown.add_row(*place, record.status.replace("_", " "), *reason)
        for name, score in record.scores.items():
            wide = score.low is not None and score.high is not None
            between = f"{score.low:.4f} – {score.high:.4f}" if wide else ""
            chance = record.chance if name == record.headline else None
            shown.add_row(
                *place,
                name,
                f"{score.value:.4f}",
                between,
                str(score.n),
                "" if chance is None else f"{chance:.4f}",
            )
    return shown
