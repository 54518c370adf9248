"""One task on one encoder and one dataset → a record, whatever happens."""

import logging
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from sslbench import registry
from sslbench.checkpoint import weights_hash
from sslbench.data.overlap import overlap
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError
from sslbench.grid.cells import Evaluation
from sslbench.provenance import provenance
from sslbench.records import Checkpoint, Provenance, Record, Status
from sslbench.records import Score as ScoreRecord
from sslbench.statistics import LEVEL, interval
from sslbench.task import Result, Score, Task

REASON_LINES = 6
OUT_OF_MEMORY = (
    "out of GPU memory: ask for a larger GPU, or for more of them (gpus, nodes), which share the "
    "batch; a smaller batch would be another method"
)

log = logging.getLogger(__name__)


def headline(task: type[Task], data: Dataset) -> str:
    """The metric that tables show: the task's, or the dataset's own convention for accuracy."""
    return data.metric if task.metric == "top1" else task.metric


def evaluate(
    encoder: Encoder,
    checkpoint: Checkpoint,
    cell: Evaluation,
    data: Dataset,
    folder: Path,
) -> tuple[Record, dict[str, np.ndarray]]:
    """Run a task and make its record; an exception becomes a record with the reason.

    Args:
        encoder: in eval mode; checked to come back with the same weights and buffers.
        checkpoint: what the encoder is.
        cell: the protocol with its settings and seed, and the record's key.
        data: the dataset that the cell names.
        folder: for the task's work in progress.

    Returns:
        The record, and per-example scores by metric (and "groups", where examples have them).
    """
    cls, start = registry.task(cell.protocol), time.monotonic()
    settings = registry.settings(cls, cell.settings)
    status: Status = "ok"
    reason, result, scores = None, Result({}), {}
    groups = data["test"].groups
    try:
        result = _run(cls(**settings), encoder, data, cell.seed, folder)
        if groups is not None and result.places is not None:
            groups = groups[result.places]
        scores = {name: _score(score, groups) for name, score in result.scores.items()}
    except NotApplicable as error:
        status, reason, result = "not_applicable", str(error), Result({})
    except Exception as error:  # whatever a task does, the grid goes on
        status, reason, result = "failed", failure(error), Result({})
        log.warning("%s on %s failed: %s", cell.task, data.name, error)
    record = without_result(checkpoint, cell, data, status, reason).model_copy(
        update={
            "n_train": len(data["train"]),
            "n_test": len(data["test"]),
            "chance": cls(**settings).chance(data) if status == "ok" else None,
            "selected": dict(result.selected),
            "scores": scores,
            "provenance": Provenance(**provenance(time.monotonic() - start, str(encoder.device))),
        }
    )
    examples = {n: s.examples for n, s in result.scores.items() if s.examples is not None}
    if examples and groups is not None:
        examples["groups"] = groups
    return record, examples


def _run(task: Task, encoder: Encoder, data: Dataset, seed: int, folder: Path) -> Result:
    """The task's result. Raises RuntimeError where the task broke its contract."""
    encoder = suited(task, encoder)
    if task.target is not None and task.target not in data.targets:
        raise NotApplicable(
            f"needs targets of the kind {task.target}; {data.name} has "
            f"{', '.join(data.targets) or 'none'}"
        )
    before = weights_hash(encoder)
    folder.mkdir(parents=True, exist_ok=True)
    result = task.run(encoder.eval(), data, seed=seed, folder=folder)
    if weights_hash(encoder) != before:
        raise RuntimeError("the task changed the encoder, which must stay frozen")
    wanted = headline(type(task), data)
    if wanted not in result.scores:
        raise RuntimeError(f"no score {wanted!r} among {', '.join(result.scores)}")
    return result


def suited(task: Task | type[Task], encoder: Encoder) -> Encoder:
    """The encoder that a task works on: of an image–text model, the one of captions for texts.

    Raises:
        NotApplicable: the task is for another modality.
    """
    if task.modality == "image_text" and encoder.text is not None:
        return encoder
    if task.modality == "text" and encoder.text is not None:
        return encoder.text
    if task.modality in ("any", encoder.modality):
        return encoder
    kind = "images and captions" if task.modality == "image_text" else task.modality
    raise NotApplicable(f"needs an encoder of {kind}, this one is of {encoder.modality}")


def _score(score: Score, groups: np.ndarray | None) -> ScoreRecord:
    """A score with its standard error and 95 % interval over the examples."""
    if not np.isfinite(score.value):
        raise FloatingPointError(f"score is {score.value}")
    if score.examples is not None:
        fits = groups is not None and len(groups) == len(score.examples)
        stderr, low, high = interval(score.examples, groups if fits else None)
        return ScoreRecord(value=score.value, n=score.n, standard_error=stderr, low=low, high=high)
    if score.stderr is None:
        return ScoreRecord(value=score.value, n=score.n)
    half = float(stats.t.ppf(1 - LEVEL / 2, max(score.n - 1, 1))) * score.stderr
    return ScoreRecord(
        value=score.value,
        n=score.n,
        standard_error=score.stderr,
        low=score.value - half,
        high=score.value + half,
    )


def failure(error: BaseException) -> str:
    """The last lines of a traceback, ending with the error itself."""
    if isinstance(error, UserError | NotApplicable):
        return str(error)
    lines = "".join(traceback.format_exception(error)).rstrip().splitlines()[-REASON_LINES:]
    if isinstance(error, torch.OutOfMemoryError):
        lines.append(OUT_OF_MEMORY)
    return "\n".join(lines)


def without_result(
    checkpoint: Checkpoint, cell: Evaluation, data: Dataset, status: Status, reason: str | None
) -> Record:
    """The record of a cell that was not computed, with the reason."""
    cls = registry.task(cell.protocol)
    return Record(
        key=cell.key,
        status=status,
        reason=reason,
        checkpoint=checkpoint,
        task=cell.task,
        protocol=cell.protocol,
        task_version=cell.version,
        task_settings=cell.settings,
        dataset=data.name,
        dataset_hash=data.hash,
        overlap=overlap(checkpoint.pretrain_dataset, data.name),
        headline=headline(cls, data),
        higher_is_better=cls.higher_is_better,
        eval_seed=cell.seed,
        provenance=Provenance(**provenance(0.0)),
    )
