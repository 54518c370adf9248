"""Datasets: the table, fetching, splits; `load` gives one by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sslbench.registry import plugin_folders

if TYPE_CHECKING:
    from sslbench.data.split import Dataset


def load(name: str, plugins: Sequence[Path] | None = None) -> "Dataset":
    """The dataset called `name`, from disk only; see sslbench.data.loading.

    Args:
        name: as in the table.
        plugins: folders with datasets of one's own; None: those of $SSLBENCH_PLUGINS.
    """
    from sslbench.data import loading  # torch waits until data are wanted

    return loading.load(name, plugin_folders() if plugins is None else plugins)
