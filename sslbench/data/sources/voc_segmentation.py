"""voc2012-segmentation: photographs in which every pixel has a class, from the official files.

Everingham et al. The Pascal Visual Object Classes (VOC) Challenge. IJCV 2010,
doi:10.1007/s11263-009-0275-4. The files are those of VOCtrainval_11-May-2012.tar as unpacked, in
$SSLBENCH_DATA/VOCdevkit/VOC2012. Test is the official val, because the official test has no public
masks; carve.py takes a tenth of the official train for validation. A mask is a palette PNG whose
indices are the classes; 255, the borders of objects and what is hard to tell, is ignored.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sslbench.data.carve import carve
from sslbench.data.fetch import NotFetched
from sslbench.data.files import ImageFiles, data_root
from sslbench.data.sources import torchvision_sets
from sslbench.data.split import Split, with_targets
from sslbench.data.table import Row
from sslbench.errors import UserError

# fmt: off
_CLASSES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
]
# fmt: on
_IGNORED = 255
_FOLDER = Path("VOCdevkit", "VOC2012")


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split | Callable[[], Split]]]:
    """Background and 20 kinds of objects; train, validation and test, masks read when asked for."""
    train, test = (_names(row, part) for part in ("train", "val"))
    carved = carve(np.zeros(len(train), np.int64), {"validation": 0.1})
    whole = _split(train)
    parts = {name: whole.take(index) for name, index in carved.items()}
    return _CLASSES, {**parts, "test": partial(_split, test)}


def download(row: Row, offline: bool) -> None:
    """Let torchvision download what is not there yet.

    Raises:
        UserError: it is not there and cannot be downloaded.
    """
    try:
        load(row, data_root())
    except UserError:
        if offline:
            raise
        torchvision_sets.download(row, offline)


def _names(row: Row, part: str) -> list[str]:
    """The images of an official split, e.g. 2007_000032."""
    path = data_root() / _FOLDER / "ImageSets" / "Segmentation" / f"{part}.txt"
    try:
        return path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        found = f"is not in {data_root()}: {path} expected (SSLBENCH_DATA names another folder)"
        raise NotFetched((row, found)) from None


def _split(names: list[str]) -> Split:
    images = [str(_FOLDER / "JPEGImages" / f"{name}.jpg") for name in names]
    masks = [str(_FOLDER / "SegmentationClass" / f"{name}.png") for name in names]
    content = ImageFiles(data_root(), masks, None).hash
    paths = [data_root() / mask for mask in masks]
    return with_targets(ImageFiles(data_root(), images, None), _Masks(paths), content)


class _Masks(Sequence[np.ndarray]):
    """Palette PNGs as masks (H, W) uint8; each is read when it is asked for.

    Raises:
        UserError: on reading, a file that is no such mask.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                mode, mask = image.mode, np.array(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        if mode != "P":
            raise UserError(f"{path}: a palette image of classes expected, found mode {mode}")
        highest = int(mask[mask != _IGNORED].max(initial=0))
        if highest >= len(_CLASSES):
            allowed = f"classes 0 … {len(_CLASSES) - 1} and {_IGNORED}"
            raise UserError(f"{path}: {allowed} expected, found {highest}")
        return mask
