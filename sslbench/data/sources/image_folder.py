"""Any folder of images: one folder per class, below train/ and test/ or at the top.

With test/, its images are the test split; without it those of validation/ or val/ are, as in
ImageNet. What is then still missing, carve.py deals from the rest: of each class a fifth to test,
a tenth to validation.
"""

import os
from pathlib import Path

import numpy as np

from sslbench.data.carve import carve
from sslbench.data.files import ImageFiles, data_root
from sslbench.data.split import Split
from sslbench.data.table import Row
from sslbench.errors import UserError

_IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """The classes are the names of the folders that train images lie in."""
    return _splits(row.options["path"], validation=0.1)


def imagenet(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """ImageNet-1k: val/ is the test split; a hundredth of train/ the validation split."""
    return _splits(data_root() / "imagenet", validation=0.01)


def _splits(root: Path, validation: float) -> tuple[list[str], dict[str, Split]]:
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; expected one with a folder of images per class")
    part = "train" if _folders(root / "train") else "."
    names = _folders(root / part)
    files: dict[str, ImageFiles] = {"train": _files(root, part, names)}
    if part == "train":
        held_out = [p for p in ("test", "validation", "val") if (root / p).is_dir()]
        files |= {
            name: _files(root, p, names)
            for name, p in zip(("test", "validation"), held_out, strict=False)
        }
    shares = {n: s for n, s in (("test", 0.2), ("validation", validation)) if n not in files}
    labels = files["train"].labels
    assert labels is not None  # every file lies in a class's folder
    carved = {name: files["train"].take(index) for name, index in carve(labels, shares).items()}
    return names, {**files, **carved}


def _folders(folder: Path) -> list[str]:
    """Names of the folders inside, hidden ones left out."""
    if not folder.is_dir():
        return []
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")


def _files(root: Path, part: str, names: list[str]) -> ImageFiles:
    """The images below `root`/`part`, class by class, in the order of their paths."""
    if unknown := set(_folders(root / part)) - set(names):
        raise UserError(f"{root / part}: classes {sorted(unknown)} are not among those of train")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = [
            os.path.relpath(os.path.join(folder, file), root)
            for folder, _, files in os.walk(root / part / name, followlinks=True)
            for file in files
            if file.lower().endswith(_IMAGES) and file[0] != "."
        ]
        paths += sorted(Path(path).as_posix() for path in found)
        labels += [label] * len(found)
    if not paths:
        raise UserError(f"{root / part}: expected a folder of images per class, found no image")
    return ImageFiles(root, paths, np.array(labels, dtype=np.int64))
