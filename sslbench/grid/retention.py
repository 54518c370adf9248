"""What a job removes at its end, because the grid file says that it is not to be kept."""

import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from sslbench.data import load
from sslbench.errors import UserError
from sslbench.features import place
from sslbench.grid.cells import Pretraining, Work
from sslbench.grid.config import read
from sslbench.grid.job import checkpoint_folder, finished
from sslbench.grid.slurm import submissions
from sslbench.records import Store

log = logging.getLogger(__name__)


def tidy(folder: Path, work: Iterable[Work]) -> None:
    """Apply [keep] to what a job has worked on.

    Args:
        folder: the run folder; the grid file in it counts, as it is now.
        work: of the job.
    """
    try:
        grid = read(folder / "grid.toml")
    except UserError as error:  # e.g. written for a later version than this job's
        log.warning("everything is kept: %s", error)
        return
    for item in work:
        source = item.source
        if not grid.keep.states and isinstance(source, Pretraining) and finished(folder, source):
            (checkpoint_folder(folder, source) / "state.pt").unlink(missing_ok=True)
        if not grid.keep.features and _recorded(folder, item):
            for features in _features(folder, item, grid.evaluate.datasets):
                shutil.rmtree(features, ignore_errors=True)


def _recorded(folder: Path, item: Work) -> bool:
    """Whether no cell of the source is left, in this job or in another that was submitted.

    Other jobs write their records before they look, so that the last of them sees all.
    """
    store, keys = Store(folder / "records"), {cell.key for cell in item.cells}
    for submission in submissions(folder):
        for sources, cells in zip(submission.sources, submission.cells, strict=True):
            keys.update(cells if item.source.key in sources else ())
    return all(store.path(key).exists() for key in keys)


def _features(folder: Path, item: Work, datasets: list[str]) -> Iterator[Path]:
    """Where the features of all checkpoints of the source are."""
    source = item.source
    if isinstance(source, Pretraining):
        checkpoint = checkpoint_folder(folder, source)
    else:
        checkpoint = Path(source.path)
    for path in [*checkpoint.glob("encoder*/encoder.json"), *checkpoint.glob("encoder.json")]:
        said = json.loads(path.read_text(encoding="utf-8"))
        for name in datasets:
            data = load(name)
            for split in ("train", "validation", "test"):
                yield place(said["config"], said["about"]["weights_hash"], data[split])
