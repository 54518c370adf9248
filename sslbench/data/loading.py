"""From a row of the table to a Dataset, from disk only."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from sslbench.data.fetch import NotFetched, dataset_folder, problem
from sslbench.data.files import data_root
from sslbench.data.split import Dataset, Split
from sslbench.data.table import Row, find, resolve
from sslbench.errors import UserError


def load(name: str, plugins: Sequence[Path] = ()) -> Dataset:
    """The dataset called `name`; read once per process.

    Args:
        name: as in the table, or "folder:PATH".
        plugins: folders with datasets/NAME.py.

    Raises:
        UserError: there is no such dataset, it was not fetched, or its files are damaged.
    """
    folders = tuple(map(Path, plugins))
    return _load(name, folders, (dataset_folder(find(name, folders)), data_root()))


@cache
def _load(name: str, plugins: tuple[Path, ...], where: tuple[Path, Path]) -> Dataset:
    row = find(name, plugins)
    if row.archives and (found := problem(row)) is not None:
        raise NotFetched((row, found))
    class_names, parts = resolve(row.loader)(row, where[0])
    if row.classes is not None and len(class_names) != row.classes:
        raise UserError(f"{row.name}: {row.classes} classes expected, {len(class_names)} found")
    splits = _Splits(row, len(class_names), parts)
    for required in ("train", "validation", "test"):
        if required not in splits:
            raise UserError(f"{row.name}: there is no {required!r} split, only {[*splits]}")
    chance = row.chance
    if chance is None:
        chance = chance_level(row.metric, splits["test"].labels, len(class_names))
    dataset = Dataset(
        row.name,
        row.modality,
        row.targets,
        len(class_names),
        tuple(class_names),
        row.metric,
        chance,
        splits,
    )
    if row.hash is not None and dataset.hash != row.hash:
        warnings.warn(
            f"{row.name}: the data (hash {dataset.hash}) are not those of the table ({row.hash}), "
            "perhaps for another image decoder: scores do not compare with published ones",
            stacklevel=2,
        )
    return dataset


def chance_level(metric: str, labels: np.ndarray | None, classes: int) -> float:
    """Score of `metric` on labels (n,) that needs no input, in [0, 1].

    Of top1, the share of the largest class; of mean_per_class, 1 / classes; 0 without labels.
    """
    if labels is None or classes == 0:
        return 0.0
    if metric == "mean_per_class":
        return 1 / classes
    return float(np.bincount(labels).max() / len(labels))


def _place(name: str) -> int:
    order = ("train", "validation", "test")
    return order.index(name) if name in order else len(order)


class _Splits(Mapping[str, Split]):
    """Splits that are read when first asked for, and then compared with the table."""

    def __init__(
        self, row: Row, classes: int, parts: Mapping[str, Split | Callable[[], Split]]
    ) -> None:
        self._row, self._classes = row, classes
        self._parts = {name: parts[name] for name in sorted(parts, key=_place)}
        self._read: dict[str, Split] = {}

    def __getitem__(self, name: str) -> Split:
        if name not in self._read:
            part = self._parts[name]
            self._read[name] = self._checked(name, part if isinstance(part, Split) else part())
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def _checked(self, name: str, split: Split) -> Split:
        expected = self._row.splits.get(name)
        if expected is not None and len(split) != expected:
            raise UserError(
                f"{self._row.name}: {expected} {name} examples expected, {len(split)} found: "
                "files are missing or of another version"
            )
        labels = split.labels
        if labels is not None and len(labels) != len(split):
            raise UserError(f"{self._row.name}: {len(split)} {name} examples, {len(labels)} labels")
        if labels is not None and labels.ndim == 1 and labels.dtype.kind != "f" and len(labels):
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self._classes:
                raise UserError(
                    f"{self._row.name}: {name} labels must lie in 0 … {self._classes - 1}, "
                    f"found {low} … {high}"
                )
        return split
