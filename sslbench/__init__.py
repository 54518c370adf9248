"""Benchmark and evaluation harness for learned representations.

    import sslbench

    encoder = sslbench.load("runs/simclr-digits")
    frame = sslbench.evaluate(encoder, tasks=["knn"], datasets=["digits"])

The same as the command line, with the same numbers. torch is imported when it is needed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from sslbench.single import Loaded

__all__ = ["__version__", "evaluate", "load", "results"]
__version__ = "0.2.0"


def load(
    path: str | Path,
    *,
    encoder: str | Mapping[str, Any] = "",
    preprocess: Mapping[str, Any] | None = None,
    weights: str | None = None,
    allow_missing: bool = False,
    trust_code: bool = False,
    pretrained_on: str | None = None,
    name: str | None = None,
) -> "Loaded":
    """The encoder of a checkpoint, and what it is.

    Args:
        path: of the checkpoint, or "fetched:NAME".
        encoder: configuration, as a table or as "resnet18(width=16)"; only for a checkpoint that
            does not tell it, as all that follows.
        preprocess: changes of what the checkpoint says.
        weights: which of several sets of weights, by a part of its place.
        allow_missing: load although weights are missing, which keep their initialisation.
        trust_code: whether a Python file may run.
        pretrained_on: dataset that the weights saw.
        name: of its row; None: the method's, or that of the file or folder.

    Raises:
        sslbench.errors.UserError: no checkpoint, a damaged one, or one that does not fit.
    """
    from sslbench import cli, single
    from sslbench.external.request import Request

    given = cli.parse_encoder(encoder) if isinstance(encoder, str) and encoder else encoder
    config, changes = (dict(x) if isinstance(x, Mapping) else x or {} for x in (given, preprocess))
    request = Request(
        encoder=config,
        preprocess=changes,
        weights=weights,
        allow_missing=allow_missing,
        trust_code=trust_code,
        pretrained_on=pretrained_on,
    )
    return single.load(path, request, name)


def evaluate(
    checkpoint: "Loaded",
    *,
    suite: str | Path | None = None,
    tasks: Sequence[str] = (),
    datasets: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
) -> "pd.DataFrame":
    """Evaluate a checkpoint: one row per task, dataset and metric, as in records.csv.

    Args:
        checkpoint: what `load` gives.
        suite: name or TOML file, instead of tasks, datasets and settings.
        tasks: names; empty for all that take the encoder and do not take long.
        datasets: names; empty for the one it was pretrained on.
        settings: by task, or of the only task.
        seed: of what the protocols leave to chance; None for 0, or the suite's.
        out: run folder for the records, None to keep none.

    Raises:
        sslbench.errors.UserError: a wrong name or setting, or a dataset that was not fetched. What
            goes wrong later is in the rows: "status" and "reason".
    """
    from sslbench import single
    from sslbench.leaderboard.tables import frame, long
    from sslbench.wanted import Wanted

    wanted = Wanted(
        suite=None if suite is None else str(suite),
        tasks=tasks,
        datasets=datasets,
        settings=settings or {},
        seed=seed,
    )
    folder = None if out is None else Path(out)
    return frame(long(single.evaluate(checkpoint, wanted, out=folder)))


def results(path: str | Path) -> "pd.DataFrame":
    """The records of a run folder or a records.jsonl, with the columns of records.csv.

    Raises:
        sslbench.errors.UserError: no records, or a damaged one.
    """
    from sslbench.leaderboard.tables import frame, long
    from sslbench.records import read_records

    return frame(long(read_records(Path(path))))
