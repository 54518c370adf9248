"""COCO's average precision of detected objects, and what each image contributes to it.

Lin et al. Microsoft COCO. ECCV 2014. arXiv:1405.0312; the numbers are pycocotools'. An ignored
object is treated as COCO's crowds are: what lies in it, by the share of the detection's own area,
is neither right nor wrong.
"""

from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sslbench.contributions import jackknife
from sslbench.data.split import Boxes

DETECTIONS = 100  # of an image, that count
BLOCKS = 200

Array = NDArray[np.float64]


class Found(NamedTuple):
    """The objects that were found on one image.

    Attributes:
        boxes: (k, 4) float32, left, top, right and bottom in pixels.
        labels: (k,) int64, from 0.
        scores: (k,) float32, higher is surer.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


class AveragePrecision:
    """Average precision over the recalls 0, 0.01 … 1, averaged over the classes that occur.

    Args:
        truth: objects of n images.
        found: what was found on them.
        classes: number of classes.
    """

    def __init__(self, truth: Sequence[Boxes], found: Sequence[Found], classes: int) -> None:
        with redirect_stdout(None):  # it prints
            self._coco = COCOeval(_coco(truth, classes), _coco(found, classes), "bbox")
            self._coco.params.areaRng, self._coco.params.areaRngLbl = [[0, 1e10]], ["all"]
            self._coco.params.maxDets = [DETECTIONS]
            self._coco.evaluate()
        each = np.empty(classes * len(truth), object)  # of one class on one image, or None
        each[:] = self._coco.evalImgs
        self._each: np.ndarray = each.reshape(classes, len(truth))

    def values(self, left_out: Any = ()) -> dict[str, float]:
        """`map` (mean of the IoUs .5, .55 … .95), `map50` and `map75`; 0 without any object.

        Args:
            left_out: positions of images that do not count.
        """
        kept = self._each.copy()
        kept[:, np.asarray(left_out, np.int64)] = None
        self._coco.evalImgs = kept.ravel().tolist()
        with redirect_stdout(None):
            self._coco.accumulate()
        precision = self._coco.eval["precision"][..., 0, 0]  # (IoUs, recalls, classes)
        thresholds = {"map": slice(None), "map50": slice(0, 1), "map75": slice(5, 6)}
        return {name: _mean(precision[which]) for name, which in thresholds.items()}

    def contributions(self, groups: np.ndarray | None = None) -> dict[str, Array]:
        """(n,) jackknife values by metric; their mean is the metric, their spread its error.

        Each image is left out once. Of more than 200 images, 200 blocks of neighbours are, since
        every time all detections are counted again; the images (or the groups) of a block then
        share what it contributes such that the standard error of their mean is the blocks'.

        Args:
            groups: (n,) labels of images that belong together: of many images, blocks hold whole
                groups.
        """
        n = self._each.shape[1]
        unit = np.arange(n)
        if groups is not None and n > BLOCKS:
            unit = np.unique(groups, return_inverse=True)[1]
        units = int(unit.max()) + 1
        count = min(units, BLOCKS)
        block = unit * count // units  # (n,)
        left_out = [self.values(np.flatnonzero(block == b)) for b in range(count)]
        members = np.bincount(np.arange(units) * count // units)[block]  # units of the block
        share = n / (count * np.sqrt(members) * np.bincount(unit)[unit])  # 1 for single images
        contributions = {}
        for name, value in self.values().items():
            pseudo = jackknife(value, np.array([values[name] for values in left_out]))[block]
            moved = value + (pseudo - value) * share
            contributions[name] = moved + (value - moved.mean())
        return contributions


def _mean(precision: Array) -> float:
    there = precision[precision > -1]  # −1 marks classes without an object
    return float(there.mean()) if there.size else 0.0


def _coco(images: Sequence[Boxes] | Sequence[Found], classes: int) -> COCO:
    """Objects in pycocotools' own form; ids start at 1 because it takes 0 for none."""
    annotations: list[dict[str, Any]] = []
    for image, objects in enumerate(images):
        boxes, labels, third = (values.tolist() for values in objects)
        for (left, top, right, bottom), label, value in zip(boxes, labels, third, strict=True):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": label,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
            }
            if isinstance(objects, Found):
                annotation |= {"score": value, "iscrowd": 0}
            else:
                annotation |= {"iscrowd": int(value)}
            annotations.append(annotation)
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in range(len(images))],
        "categories": [{"id": i} for i in range(classes)],
        "annotations": annotations,
    }
    with redirect_stdout(None):
        coco.createIndex()
    return coco
