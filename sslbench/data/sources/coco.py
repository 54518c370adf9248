"""Any folder in COCO's format: annotations/instances_*.json beside the images.

    PATH/annotations/instances_train2017.json     train, whatever follows the word
    PATH/annotations/instances_val2017.json       validation (val, validation); and test
    PATH/train2017/000000000009.jpg               the images: in the folder that the annotations
    PATH/val2017/000000000139.jpg                 are named after, in images/, or at the top

Lin, Maire, Belongie et al. Microsoft COCO: Common Objects in Context. ECCV 2014. arXiv:1405.0312.

Without test annotations (COCO's are not public) those of validation are the test split; what is
then missing is dealt from train, see parts.py. Classes are COCO's categories in the order of their
ids. Crowds ("iscrowd") are ignored; boxes without width or height are left out.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sslbench.data.files import ImageFiles, data_root
from sslbench.data.parts import complete
from sslbench.data.sources.voc import ANY_SIZE, boxed
from sslbench.data.split import Boxes, Split
from sslbench.data.table import Row
from sslbench.data.tabular import SPLITS
from sslbench.errors import UserError


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """The categories of the train annotations, which all must share."""
    root = row.options["path"]
    files = _annotations(root)
    if "train" not in files:
        raise UserError(f"{root}: expected annotations/instances_train*.json; found none")
    names: dict[int, str] = {}
    parts = {}
    for name, path in sorted(files.items(), key=lambda item: item[0] != "train"):
        found, split = _read(root, path)
        if found != (names := names or found):
            raise UserError(f"{path}: categories {found} are not those of train, {names}")
        parts[name] = split
    return list(names.values()), complete(parts, str(root))


def official(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """COCO 2017 in $SSLBENCH_DATA/coco."""
    path = data_root() / row.options["folder"]
    return load(replace(row, options={"path": path}), folder)


def _annotations(root: Path) -> dict[str, Path]:
    """The files of annotations by split."""
    files: dict[str, Path] = {}
    for path in sorted((root / "annotations").glob("instances_*.json")):
        stem = path.stem.removeprefix("instances_")
        name = next((split for word, split in SPLITS.items() if stem.startswith(word)), None)
        if name is None:
            expected = ", ".join(f"instances_{word}*.json" for word in SPLITS)
            raise UserError(f"{path}: unknown split {stem!r}; expected {expected}")
        if name in files:
            raise UserError(f"{root}: {files[name].name} and {path.name} are both {name}")
        files[name] = path
    if not files:
        raise UserError(
            f"{root}: expected COCO's format, annotations/instances_train*.json beside the images; "
            f"found {'no such file' if root.is_dir() else 'no such folder'}"
        )
    return files


def _read(root: Path, path: Path) -> tuple[dict[int, str], Split]:
    """Names of the categories by id, and the images in the order of their ids, with their boxes."""
    try:
        content = json.loads(path.read_bytes())
        names = {int(c["id"]): str(c["name"]) for c in content["categories"]}
        names = dict(sorted(names.items()))
        images = {int(i["id"]): str(i["file_name"]) for i in content["images"]}
        targets = _targets(content["annotations"], sorted(images), [*names])
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not instances in COCO's format: {reason}") from error
    if not images or not names:
        raise UserError(f"{path}: {len(images)} images and {len(names)} categories found")
    files = [images[i] for i in sorted(images)]
    places = (path.stem.removeprefix("instances_"), "images", ".")
    place = next((p for p in places if (root / p / files[0]).is_file()), None)
    if place is None:
        looked = ", ".join(str(root / p) for p in places)
        raise UserError(f"{path}: there is no image {files[0]!r} in any of {looked}")
    at = [(Path(place) / file).as_posix() for file in files]
    return names, boxed(ImageFiles(root, at, None, limit=ANY_SIZE), targets)


def _targets(annotations: list[dict[str, Any]], images: list[int], ids: list[int]) -> list[Boxes]:
    """The boxes of each image; COCO's are left, top, width and height."""
    found: dict[int, list[tuple[list[float], int, bool]]] = {image: [] for image in images}
    label = {category: i for i, category in enumerate(ids)}
    for annotation in annotations:
        left, top, width, height = map(float, annotation["bbox"])
        if width > 0 and height > 0:
            box = [left, top, left + width, top + height]
            crowd = bool(annotation.get("iscrowd", 0))
            of = annotation["image_id"], annotation["category_id"]
            found[of[0]].append((box, label[of[1]], crowd))
    return [
        Boxes(
            np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4),
            np.array([its for _, its, _ in objects], np.int64),
            np.array([crowd for *_, crowd in objects], bool),
        )
        for objects in found.values()
    ]
