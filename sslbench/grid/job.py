"""What runs in one job: pretraining runs, evaluations of their checkpoints, or both."""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslbench import distributed
from sslbench.checkpoint import external_key, load_encoder
from sslbench.data import load
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError
from sslbench.evaluation import evaluate, failure, without_result
from sslbench.features import features
from sslbench.grid.cells import Evaluation, External, Pretraining, Work
from sslbench.grid.config import Resources
from sslbench.grid.interruption import Requeue
from sslbench.pretrain import Options, train
from sslbench.records import Checkpoint, Status, Store
from sslbench.storage import write_json
from sslbench.threads import threads

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Brings cells to their records. Calling it again goes on where it stopped.

    Attributes:
        work: what to do, in order.
        folder: the run folder.
        resources: threads, GPUs and how often to save.
        stage: "pretrain", "evaluate" (what was pretrained), or "both".
        retry_failed: compute cells again whose record says "failed".
    """

    work: tuple[Work, ...]
    folder: Path
    resources: Resources
    stage: str = "both"
    retry_failed: bool = False

    def __call__(self) -> None:
        """Do what is missing; a failure becomes a record and the job ends well."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        if self.resources.world > 1 and self.stage == "pretrain":
            from submitit.helpers import TorchDistributedEnvironment

            TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        with threads(self.resources.cpus), distributed.launched() as device:
            for work in self.work:
                self._one(work, device if self.resources.gpus else "cpu")
            if distributed.rank() == 0:
                from sslbench.grid.retention import tidy  # which knows submissions, made of jobs

                tidy(self.folder, self.work)

    def checkpoint(self) -> Any:
        """What submitit queues again when the job is preempted or runs out of time."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _one(self, work: Work, device: str) -> None:
        store = Store(self.folder / "records")
        cells = [c for c in work.cells if not done(store, c, self.retry_failed)]
        if not cells:
            return
        if self.stage == "evaluate" and untrained(self.folder, work.source):
            log.error("%s: its pretraining has not finished; left for later", work.source.name)
            return
        try:
            folder = self._weights(work.source, device)
        except Exception as error:  # the reason goes into the records, and the other cells go on
            if distributed.lost(error):
                raise  # another process died: whoever runs the grid next submits this again
            status: Status = "not_applicable" if isinstance(error, NotApplicable) else "failed"
            log.exception("%s: pretraining %s", work.source.name, status)
            record_reason(store, work.source, cells, status, failure(error))
            if distributed.world() > 1:
                raise  # the other processes wait for this one: SLURM ends them with it
            return
        if self.stage == "pretrain":
            return
        for share in sorted({cell.at for cell in cells}):
            here = [cell for cell in cells if cell.at == share]
            try:
                self._share(store, work.source, folder, share, here, device)
            except Exception as error:
                log.exception("%s: evaluation failed", work.source.name)
                left = [cell for cell in here if not done(store, cell, self.retry_failed)]
                record_reason(store, work.source, left, "failed", failure(error))

    def _share(
        self,
        store: Store,
        source: Pretraining | External,
        folder: Path,
        share: float,
        cells: list[Evaluation],
        device: str,
    ) -> None:
        """All cells of the checkpoint at one share of the pretraining."""
        if isinstance(source, External):
            encoder, about = load_encoder(folder, source.request)
            if external_key(source.name, about) != source.key:
                raise UserError(f"{folder}: changed since the grid was planned; run it again")
        else:
            encoder, about = load_encoder(folder / f"encoder-{share:g}" if share < 1 else folder)
        about |= {"name": source.name, "key": source.key}
        encoder.to(device)
        for name in dict.fromkeys(cell.dataset for cell in cells):
            here = [cell for cell in cells if cell.dataset == name]
            self._evaluate(store, encoder, Checkpoint(**about), here, load(name))

    def _evaluate(
        self,
        store: Store,
        encoder: Encoder,
        checkpoint: Checkpoint,
        cells: list[Evaluation],
        data: Dataset,
    ) -> None:
        if any(cell.settings.get("layer") == "all" for cell in cells):
            for split in ("train", "validation", "test"):  # one pass serves every task
                features(encoder, data[split], "all")
        for cell in cells:
            log.info("%s: %s on %s", checkpoint.name, cell.task, data.name)
            folder = self.folder / "work" / cell.key[:2] / cell.key
            try:
                count_attempt(folder, "", self.resources.attempts)
            except RuntimeError as error:
                store.put(without_result(checkpoint, cell, data, "failed", str(error)))
                continue
            record, examples = evaluate(encoder, checkpoint, cell, data, folder)
            store.put(record, examples)
            shutil.rmtree(folder)

    def _weights(self, source: Pretraining | External, device: str) -> Path:
        """The folder of the finished checkpoint."""
        if isinstance(source, External):
            return Path(source.path)
        folder = checkpoint_folder(self.folder, source)
        if finished(self.folder, source):
            return folder
        if distributed.rank() == 0 and source.epochs:
            state = folder / "state.pt"
            saved = str(state.stat().st_mtime_ns) if state.exists() else ""
            count_attempt(folder, saved, self.resources.attempts)
        method = source.build()
        with Requeue() as interruption:
            options = Options(
                device=device,
                precision=source.precision,
                save_seconds=self.resources.save_seconds,
                at=source.at,
                wait=True,
                progress=_logged(source.name),
                interruption=interruption,
            )
            train(
                method,
                folder,
                epochs=source.epochs,
                seed=source.seed,
                about=source.about(method),
                options=options,
            )
        return folder


def checkpoint_folder(run: Path, source: Pretraining) -> Path:
    """Where a run folder keeps this pretraining."""
    return run / "checkpoints" / source.key[:2] / source.key


def finished(run: Path, source: Pretraining) -> bool:
    """Whether the run's checkpoint is complete."""
    return (checkpoint_folder(run, source) / "encoder" / "encoder.json").exists()


def untrained(run: Path, source: Pretraining | External) -> bool:
    """Whether the source still needs a pretraining job."""
    return isinstance(source, Pretraining) and source.epochs > 0 and not finished(run, source)


def done(store: Store, cell: Evaluation, retry_failed: bool) -> bool:
    """Whether the cell has its record."""
    record = store.get(cell.key)
    return record is not None and not (retry_failed and record.status == "failed")


def count_attempt(folder: Path, progress: str, most: int) -> None:
    """Note that work in `folder` starts once more.

    Args:
        folder: of the work.
        progress: tells what was saved so far; a start from something new counts as the first.
        most: starts in a row from the same place.

    Raises:
        RuntimeError: it died too often there; the next call starts counting anew.
    """
    path, count = folder / "attempts.json", 0
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        count = before["count"] if before["progress"] == progress else 0
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if count >= most:
        path.unlink()
        raise RuntimeError(
            f"died {count} times in a row without an error of its own and without saving anything "
            "new: give it more memory or more time, or let it save more often (save_seconds)"
        )
    write_json(path, {"progress": progress, "count": count + 1})


def record_reason(
    store: Store,
    source: Pretraining | External,
    cells: list[Evaluation],
    status: Status,
    reason: str,
) -> None:
    """Records that say why cells could not be computed."""
    if isinstance(source, External):
        checkpoint = Checkpoint(key=source.key, name=source.name, family="external", encoder="")
    else:
        checkpoint = source.checkpoint()
    for cell in cells:
        partly = checkpoint.model_copy(update={"at": cell.at})
        store.put(without_result(partly, cell, load(cell.dataset), status, reason))


def _logged(name: str) -> Any:
    def report(step: int, steps: int, line: dict[str, float]) -> None:
        if step % max(1, steps // 10) < 10:
            log.info("%s: step %d of %d, loss %.4f", name, step, steps, line["loss"])

    return report
