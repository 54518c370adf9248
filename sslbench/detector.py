"""Faster R-CNN on the feature pyramid of any encoder.

Ren, He, Girshick, Sun. Faster R-CNN. NeurIPS 2015. arXiv:1506.01497; with a feature pyramid: Lin et
al., arXiv:1612.03144; torchvision's implementation. What differs from its defaults:

- The encoder normalises the images; what fills a batch up to one size is grey.
- Anchors measure 8 strides of their level, which is 32 pixels at stride 4 as in the paper, so that
  an encoder that keeps a finer map sees smaller objects.
- Batch norm in the pyramid and in the box head, as in MoCo (see `sslbench.pyramid`). The head is
  one convolution and one layer of 4 × as many units as the pyramid has channels.
- 64 regions per image are drawn for the loss (Fast R-CNN's number; torchvision: 512) from 1,000
  proposals (2,000), and 300 are judged in the end (Faster R-CNN's number; 1,000).
"""

import math
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from sslbench.average_precision import DETECTIONS, Found
from sslbench.data.split import Boxes
from sslbench.encoder import Encoder
from sslbench.pyramid import Pyramid

LONGEST = 1333  # pixels, of a longer side
GREY = 0.5
ANCHOR = 8  # strides
REGIONS = 64
PROPOSALS = {"train": 1000, "test": 300}
CELLS = 7  # of a region, per side


class Detector(nn.Module):
    """Objects in boxes, from a pyramid on an encoder.

    Args:
        encoder: taken over, not copied.
        classes: kinds of objects.
        frozen: train only what stands on the encoder.
        side: shorter side in pixels to which images are scaled, the longer one reaching at most
            1,333; 0: their own size, unless the longer one exceeds 1,333.

    Raises:
        NotApplicable: the encoder has no feature maps.
    """

    def __init__(self, encoder: Encoder, classes: int, *, frozen: bool, side: int = 0) -> None:
        super().__init__()
        levels = _Levels(Pyramid(encoder, frozen=frozen))
        channels, strides = levels.out_channels, levels.pyramid.strides
        sizes = tuple((ANCHOR * stride,) for stride in (*strides, 2 * strides[-1]))
        units = 4 * channels
        self.network = FasterRCNN(
            levels,
            rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
            box_roi_pool=_regions(strides),
            box_head=FastRCNNConvFCHead(
                (channels, CELLS, CELLS), [channels], [units], norm_layer=nn.BatchNorm2d
            ),
            box_predictor=FastRCNNPredictor(units, classes + 1),
            rpn_pre_nms_top_n_train=PROPOSALS["train"],
            rpn_post_nms_top_n_train=PROPOSALS["train"],
            rpn_pre_nms_top_n_test=PROPOSALS["train"],
            rpn_post_nms_top_n_test=PROPOSALS["test"],
            box_batch_size_per_image=REGIONS,
            box_detections_per_img=DETECTIONS,
        )
        self.network.transform = _Scaled(side, strides[-1])
        self.to(encoder.device)

    def loss(self, images: Sequence[Tensor], objects: Sequence[Boxes]) -> Tensor:
        """The four losses of Faster R-CNN, added; draws from torch's global generator.

        Args:
            images: B of (3, H_i, W_i) in [0, 1].
            objects: their boxes; the ignored are left out.
        """
        targets = []
        for image, (boxes, labels, ignored) in zip(images, objects, strict=True):
            wanted = {"boxes": boxes[~ignored], "labels": labels[~ignored] + 1}  # 0: background
            targets.append({k: torch.from_numpy(v).to(image.device) for k, v in wanted.items()})
        losses: dict[str, Tensor] = self.network.train()(list(images), targets)
        return torch.stack(list(losses.values())).sum()

    @torch.inference_mode()
    def detect(self, images: Sequence[Tensor]) -> list[Found]:
        """At most 100 objects of each image (3, H_i, W_i) in [0, 1], the surest first."""
        return [
            Found(
                found["boxes"].cpu().numpy(),
                (found["labels"] - 1).cpu().numpy(),
                found["scores"].cpu().numpy(),
            )
            for found in self.network.eval()(list(images))
        ]


class _Levels(nn.Module):
    """A pyramid and one more level for large objects: every other cell of the coarsest."""

    def __init__(self, pyramid: Pyramid) -> None:
        super().__init__()
        self.pyramid, self.out_channels = pyramid, pyramid.out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.pyramid(images)
        *_, coarsest = maps.values()
        return OrderedDict({**maps, "pool": F.max_pool2d(coarsest, 1, 2)})


class _Scaled(GeneralizedRCNNTransform):  # type: ignore[misc]
    """Images of `side`, filled up with grey to a multiple of the coarsest stride."""

    def __init__(self, side: int, multiple: int) -> None:
        super().__init__(side or LONGEST, LONGEST, [GREY] * 3, [1.0] * 3, size_divisible=multiple)
        self.side = side

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        if not self.side and max(image.shape[-2:]) <= LONGEST:
            return image, target
        return super().resize(image, target)  # type: ignore[no-any-return]

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[object, list[dict[str, Tensor]] | None]:
        batch, targets = super().forward(images, targets)  # filled up with 0 after grey went off
        batch.tensors = batch.tensors + GREY
        return batch, targets


def _regions(strides: list[int]) -> MultiScaleRoIAlign:
    """Regions of the pyramid's maps; one of 224 pixels at stride 16, as in its paper.

    torchvision would guess the strides from the first batch, and only powers of two.
    """
    names = [str(i) for i in range(len(strides))]
    pool = MultiScaleRoIAlign(names, CELLS, sampling_ratio=2)
    pool.scales = [1 / stride for stride in strides]
    finest = round(math.log2(strides[0]))
    pool.map_levels = initLevelMapper(finest, finest + len(strides) - 1)
    return pool


def flipped(image: Tensor, objects: Boxes) -> tuple[Tensor, Boxes]:
    """An image (3, H, W) and its boxes, left and right exchanged."""
    left, top, right, bottom = objects.boxes.T
    width = np.float32(image.shape[-1])
    boxes = np.stack([width - right, top, width - left, bottom], axis=1)
    return image.flip(-1), objects._replace(boxes=boxes)
