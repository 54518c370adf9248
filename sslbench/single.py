"""One pretraining run or one evaluation outside a grid, with the same keys, steps and numbers."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from sslbench import distributed, registry
from sslbench.checkpoint import external_key, load_encoder
from sslbench.data import load_all, load_train
from sslbench.data.split import Dataset
from sslbench.data.weights import completed, located
from sslbench.encoder import Encoder
from sslbench.errors import UserError
from sslbench.evaluation import evaluate as evaluate_cell
from sslbench.external.request import Request
from sslbench.features import features
from sslbench.grid import plan
from sslbench.grid.cells import Evaluation, Pretraining
from sslbench.grid.columns import cells
from sslbench.neighbors import knn_accuracy
from sslbench.pretrain import Options, Outcome, train
from sslbench.records import Checkpoint, Record, Store
from sslbench.threads import threads
from sslbench.wanted import Wanted, chosen


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


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory: its encoder, in eval mode, and what that is."""

    encoder: Encoder
    checkpoint: Checkpoint


def load(path: str | Path, request: Request, name: str | None = None) -> Loaded:
    """The encoder of a checkpoint, on the GPU where there is one.

    Args:
        path: of the checkpoint, or `fetched:NAME`.
        request: what the checkpoint does not say itself.
        name: of its row; None: the method's, or that of the file or folder.

    Raises:
        UserError: no checkpoint, or a damaged one.
    """
    place = str(path)
    encoder, about = load_encoder(located(place, Path()), completed(place, request))
    if name is not None:
        if not name.strip():
            raise UserError("--name: a name expected, found none")
        about |= {"name": name, "key": external_key(name, about)}
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    return Loaded(encoder, Checkpoint(**about))


def evaluate(
    loaded: Loaded,
    wanted: Wanted,
    *,
    out: Path | None = None,
    cpus: int | None = None,
    report: Callable[[int, int, str, Path], None] = lambda number, of, name, folder: None,
) -> list[Record]:
    """Evaluate a checkpoint, as a grid would.

    Args:
        loaded: the checkpoint.
        wanted: tasks and datasets.
        out: run folder for the records, where those that are there are not computed again; None to
            keep none.
        cpus: threads, None for all cores.
        report: called with (number, number of cells, name, folder of its work) before each cell.

    Raises:
        UserError: no checkpoint, a wrong name or setting, or a dataset that was not fetched.
    """
    if not isinstance(loaded, Loaded):  # a path, or a module, of a notebook
        raise UserError(f"what sslbench.load gives expected, found {type(loaded).__name__}")
    checkpoint = loaded.checkpoint
    columns, seeds = chosen(wanted, loaded.encoder, checkpoint)
    names = dict.fromkeys(name for column in columns for name in column.datasets)
    data = load_all(names, (row for column in columns for row in column.needs))
    work = cells(columns, data, seeds, checkpoint.key, checkpoint.at)
    return _records(loaded, work, data, out, cpus, report)


def _records(
    loaded: Loaded,
    cells: list[Evaluation],
    datasets: Mapping[str, Dataset],
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
            before = store.get(cell.key)
            if before is not None and before.status == "ok":
                records.append(before)
                continue
            record, examples = evaluate_cell(
                loaded.encoder, loaded.checkpoint, cell, datasets[cell.dataset], work
            )
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
