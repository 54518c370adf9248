"""Datasets: the table, fetching, splits; `load` gives one by name."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sslbench.errors import UserError
from sslbench.registry import plugin_folders

if TYPE_CHECKING:
    from sslbench.data.split import Dataset, Split
    from sslbench.data.table import Row


def load(name: str, plugins: Sequence[Path] | None = None) -> "Dataset":
    """The dataset called `name`, from disk only; see sslbench.data.loading.

    Args:
        name: as in the table.
        plugins: folders with datasets of one's own; None: those of $SSLBENCH_PLUGINS.
    """
    from sslbench.data import loading  # torch waits until data are wanted

    return loading.load(name, plugin_folders() if plugins is None else plugins)


def load_all(names: Iterable[str], needs: "Iterable[Row]" = ()) -> "dict[str, Dataset]":
    """Datasets by name.

    Args:
        names: as in the table.
        needs: what must be there besides.

    Raises:
        UserError: there is no such dataset, or some were not fetched: it names all of them.
    """
    from sslbench.data.fetch import NotFetched, problem

    found: dict[str, Dataset] = {}
    lacking: dict[str, tuple[Row, str]] = {}
    for name in names:
        try:
            found[name] = load(name)
        except NotFetched as error:
            lacking |= {row.name: (row, what) for row, what in error.lacking}
    lacking |= {row.name: (row, what) for row in needs if (what := problem(row)) is not None}
    if lacking:
        raise NotFetched(*lacking.values())
    return found


def load_train(name: str) -> tuple["Dataset", "Split"]:
    """The dataset, and the split of it to pretrain on.

    Args:
        name: "stl10" for its train split, "stl10/unlabelled" or "stl10/train+unlabelled" for
            others; "folder:PATH" for the train split of a folder.

    Raises:
        UserError: there is no such dataset or split, or it is the one to test on.
    """
    base, _, split = (name, "", "") if ":" in name else name.partition("/")
    data = load(base)
    if "test" in split.split("+"):
        raise UserError(f"{name}: pretraining on the test split would invalidate every score on it")
    try:
        return data, data[split or "train"]
    except LookupError as error:
        raise UserError(f"{name}: {error}") from None
