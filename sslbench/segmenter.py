"""An encoder with a head for segmentation on its feature maps, and how it is trained and judged.

A mask is (H, W) uint8: the class of each pixel, or 255 where it does not count.
"""

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench import distributed
from sslbench.confusions import IGNORED, confusion
from sslbench.data.augment import crop_boxes
from sslbench.data.image_ops import Images, resized_crop, sizes_of
from sslbench.data.split import Batch, Split
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.method import Method
from sslbench.random import Random

BATCH = 16
CROP_SCALE, CROP_RATIO = (0.5, 1.0), (3 / 4, 4 / 3)  # of the crops that it is trained on


def linear(channels: int, classes: int) -> nn.Module:
    """Batch norm and a 1×1 convolution: the linear evaluation of DINOv2 (arXiv:2304.07193, 7.4).

    The norm has no affine parameters: the convolution's are enough.
    """
    convolution = nn.Conv2d(channels, classes, 1)
    nn.init.normal_(convolution.weight, std=0.01)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return nn.Sequential(nn.BatchNorm2d(channels, affine=False), convolution)


def fcn(channels: int, classes: int) -> nn.Module:
    """The head of torchvision's FCN: a 3×3 convolution to a quarter of the channels, then 1×1."""
    width = max(1, channels // 4)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(width, classes, 1),
    )


class Head(nn.Module):
    """Logits from every feature map, added at the resolution of the finest.

    A linear map of upsampled maps side by side (hypercolumns: Hariharan 2015, arXiv:1411.5752) is
    the sum of upsampled linear maps, which is cheaper, and how FCN's skips add up scores (Long
    2015, arXiv:1411.4038, section 4.2).

    Args:
        channels: of each feature map.
        classes: K.
        part: makes the part for one map out of its channels and the classes.
    """

    def __init__(
        self, channels: Sequence[int], classes: int, part: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(part(width, classes) for width in channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, H_i, W_i) → logits (B, K, H, W) of the largest H and W."""
        logits = [part(features) for part, features in zip(self.parts, maps, strict=True)]
        finest = max((x.shape[2:] for x in logits), key=lambda shape: shape.numel())
        return torch.stack([upsampled(x, finest) for x in logits]).sum(0)


class Segmenter(Method):
    """An encoder with a head on its feature maps.

    Args:
        encoder: a copy; frozen or trained with the head.
        data: images with masks of their size.
        classes: K.
        part: of the head, `linear` or `fcn`.
        frozen: whether only the head is trained.
        last: whether the head has the last feature map only.
        size: side in pixels of the images that the encoder is given.

    Raises:
        NotApplicable: the encoder has no feature maps.
    """

    paper = ""

    def __init__(
        self,
        encoder: Encoder,
        data: Split,
        classes: int,
        part: Callable[[int, int], nn.Module],
        *,
        frozen: bool,
        last: bool,
        size: int,
    ) -> None:
        super().__init__(encoder.requires_grad_(not frozen), data)
        self.classes, self.frozen, self.last, self.size = classes, frozen, last, size
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, 3, size, size, device=encoder.device))
        head = Head([features.shape[1] for features in maps], classes, part)
        self.head = head.to(encoder.device)

    def train(self, mode: bool = True) -> Self:
        """A frozen encoder stays in eval mode."""
        super().train(mode)
        self.encoder.train(mode and not self.frozen)
        return self

    def _maps(self, images: Tensor) -> list[Tensor]:
        maps = self.encoder.stages(images)
        return maps[-1:] if self.last else maps

    def logits(self, images: Tensor) -> Tensor:
        """(B, K, h, w) on the grid of the finest feature map."""
        logits: Tensor = self.head(self._maps(images))
        return logits

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor]:
        """A random crop of each image (B, 3, S, S), half of them mirrored, and of its mask."""
        images = _images(batch)
        here = random.on_cpu if isinstance(images, list) else random
        boxes = crop_boxes(sizes_of(images), CROP_SCALE, CROP_RATIO, here)
        flip = here.uniform() < 0.5
        masks = cut_masks(batch.target, boxes, self.size, flip)
        cut = resized_crop(images, boxes, self.size, flip)
        return cut.to(random.places.device), masks.to(random.places.device)

    def loss(self, views: tuple[Tensor, Tensor], progress: float) -> Tensor:
        """Cross-entropy, the mean over the pixels that count."""
        images, masks = views
        logits = upsampled(self.logits(images), masks.shape[1:])
        losses = F.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="none")
        return distributed.mean(losses[masks != IGNORED])

    @torch.inference_mode()
    def confusions(self, split: Split) -> np.ndarray:
        """(n, K, K), the confusion matrix of each image at the resolution of its mask.

        Images are resized as a whole, whatever their proportions.
        """
        found = []
        for index in torch.arange(len(split)).split(BATCH):
            batch = split[index].to(self.encoder.device)
            images = _images(batch)
            sizes = sizes_of(images)
            boxes = torch.cat([torch.zeros_like(sizes), sizes], dim=1)
            whole = resized_crop(images, boxes, self.size).to(self.encoder.device)
            for logits, mask in zip(self.logits(whole), batch.target, strict=True):
                predicted = upsampled(logits[None], mask.shape)[0].argmax(0)
                found.append(confusion(mask, predicted.cpu().numpy(), self.classes))
        return np.stack(found)


def upsampled(logits: Tensor, shape: Sequence[int]) -> Tensor:
    """Logits (B, K, h, w) at (H, W), bilinear."""
    return F.interpolate(logits, tuple(shape), mode="bilinear", align_corners=False)


def cut_masks(masks: Sequence[np.ndarray], boxes: Tensor, size: int, flip: Tensor) -> Tensor:
    """Cut a box out of each mask as `image_ops.resized_crop` does out of images: nearest pixels.

    Args:
        masks: B masks (H_i, W_i).
        boxes: (B, 4) int64, top, left, height, width in pixels.
        size: side of the result in pixels.
        flip: (B,) bool, mirrored left to right afterwards.

    Returns:
        (B, size, size) int64, on the CPU.
    """
    cut = np.empty((len(masks), size, size), np.int64)
    centre = 2 * np.arange(size) + 1  # of a pixel, in halves of pixels
    for out, mask, box, mirrored in zip(cut, masks, boxes.tolist(), flip.tolist(), strict=True):
        top, left, height, width = box
        rows = top + centre * height // (2 * size)
        columns = left + centre * width // (2 * size)
        out[:] = mask[np.ix_(rows, columns[::-1] if mirrored else columns)]
    return torch.from_numpy(cut)


def _images(batch: Batch) -> Images:
    """The images of a batch. Raises ValueError where a mask is of another size."""
    if batch.images is None:
        raise NotApplicable("segmentation needs images")
    for image, mask in zip(batch.images, batch.target, strict=True):
        if image.shape[1:] != mask.shape:
            found = f"{tuple(image.shape[1:])} and {mask.shape}"
            raise ValueError(f"image and mask of one size expected, found {found}")
    return batch.images
