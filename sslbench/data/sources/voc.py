"""Pascal VOC's objects in boxes, from the official files in $SSLBENCH_DATA/VOCdevkit/VOC20xx.

Everingham, Van Gool, Williams, Winn, Zisserman. The PASCAL Visual Object Classes (VOC) Challenge.
IJCV 2010. VOC2007: the official trainval and test. VOC2012: the official train, and as the test
split val, because the annotations of its test split are not public. A tenth of train is dealt to
validation (carve.py). Objects marked "difficult" are ignored, as in the challenge.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sslbench.data.files import ImageFiles, data_root
from sslbench.data.parts import complete
from sslbench.data.split import Boxes, Split, with_targets
from sslbench.data.table import Row
from sslbench.errors import UserError, suggest
from sslbench.hashing import digest

# fmt: off
_CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
]
# fmt: on
ANY_SIZE = 1 << 30  # pixels: an image that is reduced would no longer fit its boxes


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """Twenty classes; train, validation and test."""
    root = data_root() / "VOCdevkit" / row.options["folder"]
    parts = {name: _read(root, listed) for name, listed in row.options["lists"].items()}
    return _CLASSES, complete(parts, str(root))


def _read(root: Path, listed: str) -> Split:
    """The images that ImageSets/Main/`listed`.txt names, in its order."""
    path = root / "ImageSets" / "Main" / f"{listed}.txt"
    if not path.is_file():
        raise UserError(
            f"{path} is not there; expected VOC's Annotations/, ImageSets/Main/ and JPEGImages/ in "
            f"{root} (SSLBENCH_DATA names another folder)"
        )
    stems = [line.split()[0] for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not stems:
        raise UserError(f"{path} is empty; expected the name of an image on each line")
    targets = [_boxes(root / "Annotations" / f"{stem}.xml") for stem in stems]
    files = ImageFiles(root, [f"JPEGImages/{stem}.jpg" for stem in stems], None, limit=ANY_SIZE)
    return boxed(files, targets)


def boxed(images: Split, targets: list[Boxes]) -> Split:
    """Images with the boxes of each."""
    content = digest(*(array for boxes in targets for array in boxes))
    return with_targets(images, targets, content)


def _boxes(path: Path) -> Boxes:
    if not path.is_file():
        raise UserError(f"{path} is not there; expected one annotation for each image")
    found = objects(path.read_bytes(), str(path))
    for name in found[0]:
        if name not in _CLASSES:
            raise UserError(f"{path}: unknown class {name!r}; {suggest(name, _CLASSES)}")
    return Boxes(found[1], np.array([_CLASSES.index(n) for n in found[0]], np.int64), found[2])


def objects(xml: bytes, origin: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The objects of an annotation in Pascal VOC's format.

    VOC counts pixels from 1 and both corners lie inside; ours from 0, right and bottom outside.

    Args:
        xml: content of the file.
        origin: its name, for errors.

    Returns:
        k names, boxes (k, 4) float32, and which are difficult (k,) bool.

    Raises:
        UserError: it is not such an annotation.
    """
    try:
        found = list(_objects(ET.fromstring(xml)))
    except (ET.ParseError, ValueError) as error:
        raise UserError(f"{origin}: not an annotation in Pascal VOC's format: {error}") from error
    boxes = np.array([box for _, box, _ in found], np.float32).reshape(-1, 4)
    return [name for name, _, _ in found], boxes, np.array([hard for *_, hard in found], bool)


def _objects(root: ET.Element) -> Iterable[tuple[str, list[float], bool]]:
    if root.tag != "annotation":
        raise ValueError(f"<annotation> expected, found <{root.tag}>")
    for item in root.iter("object"):
        name, box = item.findtext("name"), item.find("bndbox")
        corners = [] if box is None else [box.findtext(k) for k in ("xmin", "ymin", "xmax", "ymax")]
        if name is None or not corners or None in corners:
            raise ValueError("an <object> needs <name> and <bndbox> with xmin, ymin, xmax and ymax")
        left, top, right, bottom = (float(corner or "") for corner in corners)
        if right < left or bottom < top:
            raise ValueError(f"box {corners} has no area")
        hard = item.findtext("difficult", "0").strip() == "1"
        yield name.strip(), [left - 1, top - 1, right, bottom], hard
