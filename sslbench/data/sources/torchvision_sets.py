"""torchvision's classification sets, from files on disk, in $SSLBENCH_DATA or the cache.

A row's options name the class and, for each split that the source has, the arguments that give it;
the other splits are dealt from train by carve.py. Arrays stay in memory, files are listed in the
order of their paths and decoded on demand.
"""

import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torchvision
from torch import Tensor

from sslbench.data.carve import carve, deal
from sslbench.data.fetch import NotFetched
from sslbench.data.files import ImageFiles, data_root
from sslbench.data.split import ImageArray, Split
from sslbench.data.table import Row
from sslbench.errors import UserError

# Attributes where torchvision keeps arrays, pairs of path and label, or paths; and the labels.
_IMAGES = ("data", "samples", "_samples", "_image_files", "_images")
_LABELS = ("targets", "labels", "_labels")


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split | Callable[[], Split]]]:
    """Train is read now, for the names of its classes, the other splits when they are asked for."""
    source = _open(row, "train")
    names = [str(name) for name in getattr(source, "classes", range(row.classes or 0))]
    parts: dict[str, Split | Callable[[], Split]] = {
        name: partial(_read, row, name) for name in row.options["given"]
    }
    whole = _split(source, row.options["in_memory"])
    parts["train"] = whole
    if row.options["shares"]:
        assert whole.labels is not None  # no source has an unlabelled train split
        carved = carve(whole.labels, row.options["shares"])
        if isinstance(whole, ImageArray):
            parts |= deal(whole.images.numpy(), whole.labels, carved)
        else:
            parts |= {name: whole.take(index) for name, index in carved.items()}
    return names, parts


def download(row: Row, offline: bool) -> None:
    """Let torchvision download what is not there yet.

    Raises:
        UserError: it is not there and cannot be downloaded.
    """
    for name in row.options["given"]:
        if offline:
            _open(row, name)
            continue
        try:
            data_root().mkdir(parents=True, exist_ok=True)
            with redirect_stdout(sys.stderr):
                _construct(row, name, download=True)
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f"torchvision could not download {row.name} into {data_root()}: {error}"
            ) from error


def _construct(row: Row, name: str, download: bool) -> Any:
    dataset = getattr(torchvision.datasets, row.options["dataset"])
    return dataset(data_root(), **row.options["given"][name], download=download)


def _open(row: Row, name: str) -> Any:
    try:
        return _construct(row, name, download=False)
    except (RuntimeError, FileNotFoundError) as error:
        found = f"is not in {data_root()} (SSLBENCH_DATA names another folder)"
        raise NotFetched((row, found)) from error


def _read(row: Row, name: str) -> Split:
    return _split(_open(row, name), row.options["in_memory"])


def _split(source: Any, in_memory: bool) -> Split:
    images, labels = _contents(source)
    labels = np.asarray(labels, dtype=np.int64)
    if isinstance(images, np.ndarray | Tensor):
        return ImageArray(_channels(np.asarray(images)), None if (labels < 0).all() else labels)
    root = data_root()
    paths = np.array([Path(os.path.relpath(path, root)).as_posix() for path in images])
    order = np.argsort(paths)
    files = ImageFiles(root, paths[order].tolist(), labels[order])
    return files.in_memory() if in_memory else files


def _contents(source: Any) -> tuple[Any, Any]:
    """Images and labels of a torchvision dataset."""
    held = vars(source)
    images = next((held[name] for name in _IMAGES if name in held), None)
    if isinstance(images, list) and isinstance(images[0], tuple):
        return tuple(zip(*images, strict=True))  # type: ignore[return-value]
    labels = next((held[name] for name in _LABELS if name in held), None)
    if images is None or labels is None:
        kind, version = type(source).__name__, torchvision.__version__
        raise LookupError(
            f"{kind} of torchvision {version}: none of {_IMAGES} or {_LABELS} is there"
        )
    return images, labels


def _channels(images: np.ndarray) -> np.ndarray:
    """(n, 3, H, W), from that or from (n, H, W, 3) or (n, H, W)."""
    if images.ndim == 3:
        return np.repeat(images[:, None], 3, axis=1)
    return images if images.shape[1] == 3 else images.transpose(0, 3, 1, 2)
