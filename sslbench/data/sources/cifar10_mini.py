"""cifar10-mini: the 10,000 test images of CIFAR-10, dealt anew; no CIFAR-10 number compares.

BIG-bench carries them as PNG in base64, sorted by class. Of each class carve.py deals 700 images to
train, 100 to validation and 200 to test.
"""

import base64
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from sslbench.data.carve import carve, deal
from sslbench.data.split import Split
from sslbench.data.table import Row

_MEMBER = "bigbench-1.0.0/bigbench/benchmark_tasks/cifar10_classification/base64/task.json"
_CLASSES = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]


def reduce(archives: Mapping[str, Path], folder: Path) -> None:
    """Write images (10000, 3, 32, 32) uint8 and labels (10000,) uint8, in the source's order."""
    with tarfile.open(archives["bigbench"], "r|gz") as archive:
        task = next(member for member in archive if member.name == _MEMBER)
        file = archive.extractfile(task)
        assert file is not None  # it is a regular file
        examples = json.load(file)["examples"]
    images = [_pixels(example["input"]) for example in examples]
    labels = [
        [example["target_scores"][name] for name in _CLASSES].index(1) for example in examples
    ]
    np.save(folder / "images.npy", np.stack(images))
    np.save(folder / "labels.npy", np.array(labels, dtype=np.uint8))


def _pixels(text: str) -> np.ndarray:
    """(3, 32, 32) uint8."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """Ten classes; train, validation and test."""
    images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npy").astype(np.int64)
    return _CLASSES, deal(images, labels, carve(labels, {"test": 0.2, "validation": 0.1}))
