"""What runs in one job: a pretraining run and the evaluation of its checkpoints."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslbench.checkpoint import load_encoder
from sslbench.data import load
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.evaluation import evaluate, failure, without_result
from sslbench.features import features
from sslbench.grid.config import Resources
from sslbench.grid.plan import Evaluation, External, Pretraining, Work
from sslbench.pretrain import Options, train
from sslbench.records import Checkpoint, Status, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Brings cells to their records. Calling it again goes on where it stopped.

    Attributes:
        work: what to do, in order.
        folder: the run folder.
        resources: threads, GPUs and how often to save.
        retry_failed: compute cells again whose record says "failed".
    """

    work: tuple[Work, ...]
    folder: Path
    resources: Resources
    retry_failed: bool = False

    def __call__(self) -> None:
        """Do what is missing; a failure becomes a record and the job ends well."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        with threads(self.resources.cpus):
            for work in self.work:
                self._one(work)

    def checkpoint(self) -> Any:
        """What submitit queues again when the job is preempted or runs out of time."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _one(self, work: Work) -> None:
        store = Store(self.folder / "records")
        cells = [c for c in work.cells if not done(store, c, self.retry_failed)]
        if not cells:
            return
        try:
            folder = self._weights(work.source)
        except Exception as error:  # the reason goes into the records, and the other cells go on
            status: Status = "not_applicable" if isinstance(error, NotApplicable) else "failed"
            log.exception("%s: pretraining %s", work.source.name, status)
            record_reason(store, work.source, cells, status, failure(error))
            return
        for share in sorted({cell.at for cell in cells}):
            here = [cell for cell in cells if cell.at == share]
            try:
                self._share(store, work.source, folder, share, here)
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
    ) -> None:
        """All cells of the checkpoint at one share of the pretraining."""
        along = isinstance(source, Pretraining) and share < 1
        encoder, about = load_encoder(folder / f"encoder-{share:g}" if along else folder)
        about |= {"name": source.name, "key": source.key}
        encoder.to(self._device())
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
            record, examples = evaluate(
                encoder, checkpoint, cell, data, self.folder / "work" / cell.key
            )
            store.put(record, examples)

    def _weights(self, source: Pretraining | External) -> Path:
        """The folder of the finished checkpoint."""
        if isinstance(source, External):
            return Path(source.path)
        folder = checkpoint_folder(self.folder, source)
        method = source.build()
        options = Options(
            device=self._device(),
            precision=source.precision,
            save_seconds=self.resources.save_seconds,
            at=source.at,
            wait=True,
            progress=_logged(source.name),
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

    def _device(self) -> str:
        import torch

        return "cuda" if self.resources.gpus and torch.cuda.is_available() else "cpu"


def checkpoint_folder(run: Path, source: Pretraining) -> Path:
    """Where a run folder keeps this pretraining."""
    return run / "checkpoints" / source.key[:2] / source.key


def done(store: Store, cell: Evaluation, retry_failed: bool) -> bool:
    """Whether the cell has its record."""
    if not store.path(cell.key).exists():
        return False
    record = store.get(cell.key)
    return record is not None and not (retry_failed and record.status == "failed")


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


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Bound the threads of torch, faiss and BLAS; what they compute may depend on it."""
    import faiss
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)
    try:
        with threadpool_limits(count), warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    finally:
        torch.set_num_threads(before)
