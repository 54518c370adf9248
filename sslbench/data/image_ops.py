"""Image operations on a batch, each image with parameters of its own.

They compute what the functions of `torchvision.transforms.v2.functional` compute on float images.
Images are (B, 3, H, W) float32 in [0, 1] unless said otherwise; every operation works on each image
alone, so what comes out does not depend on its neighbours.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.threads import spread

Images = Tensor | list[Tensor]  # (B, 3, H, W), or B of (3, H_i, W_i) on the CPU

_DENSE = 64  # px; above, a CPU is faster image by image: the matrices are mostly zeros


def on(
    images: Tensor, hit: Tensor, operation: Callable[..., Tensor], *parameters: Tensor
) -> Tensor:
    """`operation` on the images that are `hit` (B,) bool; the others stay as they are.

    Args:
        images: (B, …), written into where some are hit and others are not.
        hit: which images it is computed on.
        operation: called as operation(images, *parameters).
        parameters: (B, …) each.
    """
    index = hit.nonzero().flatten()
    if len(index) == 0:
        return images
    if len(index) == len(images):
        # In one layout, or sums over an image would depend on whether all the others are hit.
        return operation(images, *parameters).contiguous()
    changed = operation(*(x.index_select(0, index) for x in (images, *parameters)))
    return images.index_copy_(0, index, changed)


def sizes_of(images: Images) -> Tensor:
    """(B, 2) int64, height and width of each image, where the images are."""
    if isinstance(images, Tensor):
        return torch.tensor(images.shape[2:], device=images.device).expand(len(images), 2)
    return torch.tensor([image.shape[1:] for image in images], dtype=torch.long).view(-1, 2)


def resized_crop(images: Images, boxes: Tensor, size: int, flip: Tensor | None = None) -> Tensor:
    """Cut a box out of each image and resize it, antialiased bilinear.

    Args:
        images: uint8, or float in [0, 1].
        boxes: (B, 4) int64, top, left, height, width in pixels.
        size: side of the result in pixels.
        flip: (B,) bool, mirrored left to right afterwards; None for none.

    Returns:
        (B, 3, size, size) float32 in [0, 1].
    """
    shape = torch.full_like(boxes[:, 2:], size)
    return _resample(images, boxes, shape, torch.zeros_like(shape), size, "bilinear", flip)


def resize(
    images: Images,
    size: int,
    crop: float = 1.0,
    interpolation: str = "bilinear",
    *,
    squash: bool = False,
) -> Tensor:
    """Resize the shorter side to size / crop, antialiased, and cut out the centre: for evaluation.

    Args:
        images: uint8, or float in [0, 1].
        size: side of the result in pixels.
        crop: side of the centre crop as a share of the shorter side, in (0, 1].
        interpolation: "bilinear" or "bicubic".
        squash: resize both sides, whatever their proportion, before the centre is cut out.

    Returns:
        (B, 3, size, size) float32 in [0, 1] (bicubic overshoots are clamped).
    """
    if not 0 < crop <= 1:
        raise ValueError(f"crop: a share in (0, 1] expected, got {crop}")
    if interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"interpolation: bilinear or bicubic expected, got {interpolation!r}")
    sizes = sizes_of(images)
    side = int(size / crop + 1e-6)  # a crop of 224 / 354 is of 354 pixels, in spite of rounding
    shape = sizes * side // (sizes if squash else sizes.amin(1, keepdim=True))
    corner = ((shape - size) / 2).round().long()
    boxes = torch.cat([torch.zeros_like(sizes), sizes], dim=1)
    return _resample(images, boxes, shape, corner, size, interpolation)


def _resample(
    images: Images,
    boxes: Tensor,
    shape: Tensor,
    corner: Tensor,
    size: int,
    interpolation: str,
    flip: Tensor | None = None,
) -> Tensor:
    """Resize each box to `shape` (B, 2), cut (size, size) out at `corner` (B, 2), flip."""
    if flip is None:
        flip = torch.zeros(len(images), dtype=torch.bool, device=boxes.device)
    if isinstance(images, list) or (boxes.is_cpu and max(images.shape[2:]) > _DENSE):
        result = torch.empty(len(images), 3, size, size)
        one = partial(_resample_file if isinstance(images, list) else _resample_row, interpolation)
        cuts = map(_Cut, boxes.tolist(), shape.tolist(), corner.tolist(), flip.tolist())
        spread(one, result, images, cuts)
    else:
        B, C, H, W = images.shape
        pixel = torch.arange(size, device=boxes.device).expand(B, 2, size) + corner[:, :, None]
        pixel[:, 1] = torch.where(flip[:, None], pixel[:, 1].flip(1), pixel[:, 1])
        weights = _weights(boxes[:, :2], boxes[:, 2:], shape, pixel, max(H, W), interpolation)
        scale = 255 if images.dtype == torch.uint8 else 1
        rows, columns = weights[:, 0, :, :H] / scale, weights[:, 1, :, :W]
        # Along the width all channels share one product; along the height each has its own.
        narrow = torch.bmm(images.reshape(B, C * H, W).float(), columns.transpose(1, 2))
        rows = rows[:, None].expand(B, C, size, H).reshape(B * C, size, H)
        result = torch.bmm(rows, narrow.view(B * C, H, size)).view(B, C, size, size)
        result.clamp_(0, 1)
    return result


class _Cut(NamedTuple):
    """What `_resample` does with one image, in pixels."""

    box: Sequence[int]  # top, left, height, width
    shape: Sequence[int]  # height and width that the box is resized to
    corner: Sequence[int]  # top and left of what is cut out of that
    flip: bool


@torch.inference_mode()
def _resample_file(interpolation: str, out: Tensor, image: Tensor, cut: _Cut) -> None:
    """One image of a list, written into `out` (3, size, size).

    Of bytes, PyTorch makes bytes, as Pillow does: what weights of others were trained and are
    evaluated on. It is twice as fast as `_resample_row`.
    """
    if image.dtype == torch.uint8:
        (top, left, height, width), (y, x), size = cut.box, cut.corner, out.shape[-1]
        seen = image[None, :, top : top + height, left : left + width]
        whole = F.interpolate(seen, tuple(cut.shape), mode=interpolation, antialias=True)
        part = whole[0, :, y : y + size, x : x + size]
        torch.div(part.flip(-1) if cut.flip else part, 255, out=out)
    else:
        _resample_row(interpolation, out, image, cut)


@torch.inference_mode()
def _resample_row(interpolation: str, out: Tensor, image: Tensor, cut: _Cut) -> None:
    """One image of a batch of large ones, as the matrices of `_weights` would have it."""
    (top, left, height, width), size = cut.box, out.shape[-1]
    high, wide = (
        _taps(cut.box[2 + axis], cut.shape[axis], cut.corner[axis], size, interpolation)
        for axis in (0, 1)
    )
    scale = 255 if image.dtype == torch.uint8 else 1
    _resampled(image[:, top : top + height, left : left + width], high, wide, scale, out)
    if cut.flip:
        out.copy_(out.flip(-1))
    out.clamp_(0, 1)


def _weights(
    start: Tensor, extent: Tensor, scaled: Tensor, position: Tensor, total: int, interpolation: str
) -> Tensor:
    """Shares that the pixels of an image have in those of an antialiased resize, along both axes.

    Args:
        start: (B, 2) first row and column of the box.
        extent: (B, 2) rows and columns in the box.
        scaled: (B, 2) rows and columns that the whole box is resized to.
        position: (B, 2, N) which of the latter are wanted.
        total: rows or columns of the image, whichever are more.
        interpolation: "bilinear" or "bicubic".

    Returns:
        (B, 2, N, total) float32; each row sums to 1.
    """
    step = (extent / scaled)[:, :, None]
    center = step * (position + 0.5)
    pixel = torch.arange(total, device=start.device) - start[:, :, None]
    inside = (pixel >= 0) & (pixel < extent[:, :, None])
    middle = torch.where(inside, pixel + 0.5, math.inf)  # no share outside the box
    x = (middle[:, :, None] - center[..., None]).abs_().mul_((1 / step.clamp(min=1))[..., None])
    weights = _kernel(x, interpolation)
    return weights.mul_(1 / weights.sum(3, keepdim=True))


def _kernel(x: Tensor, interpolation: str) -> Tensor:
    """Shares, before they are made to sum to 1, at distances `x`, which are overwritten."""
    if interpolation == "bilinear":
        return x.neg_().add_(1).clamp_(min=0)
    # Keys' cubic convolution with a = −1/2, as in Pillow and torch
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


class _Taps(NamedTuple):
    """The few pixels of `_weights` that have a share, for one axis of one image.

    Attributes:
        first: the first pixel that has one.
        end: the first that has none again.
        pixel: (size, K) int64, counted from `first`.
        share: (size, K).
    """

    first: int
    end: int
    pixel: Tensor
    share: Tensor


@lru_cache(maxsize=512)
def _taps(extent: int, scaled: int, first: int, size: int, interpolation: str) -> _Taps:
    step = extent / scaled
    reach = max(step, 1.0) * (1 if interpolation == "bilinear" else 2)
    count = min(extent, math.ceil(2 * reach) + 1)
    center = step * (torch.arange(first, first + size, dtype=torch.float64) + 0.5)
    begin = (center - reach - 0.5).ceil_().clamp_(0, extent - count)
    pixel = begin[:, None] + torch.arange(count)
    weights = _kernel((pixel + 0.5 - center[:, None]).abs_().div_(max(step, 1.0)), interpolation)
    start, end = int(begin[0]), int(begin[-1]) + count
    share = weights / weights.sum(1, keepdim=True)
    return _Taps(start, end, pixel.long() - start, share.float())


def _resampled(image: Tensor, high: _Taps, wide: _Taps, scale: int, out: Tensor) -> None:
    """Write an image (C, H, W), divided by `scale`, at these taps into `out` (C, size, size)."""
    seen = image[:, high.first : high.end, wide.first : wide.end]
    seen = seen.to(torch.float32, memory_format=torch.contiguous_format)
    (C, H, W), size = seen.shape, len(out[0])
    channel = H * torch.arange(C)[:, None, None]
    rows = F.embedding_bag(
        (high.pixel + channel).flatten(0, 1),
        seen.reshape(C * H, W),
        per_sample_weights=(high.share / scale).repeat(C, 1),
        mode="sum",
    )  # (C · size, W)
    columns = F.embedding_bag(
        wide.pixel, rows.T.contiguous(), per_sample_weights=wide.share, mode="sum"
    )  # (size, C · size)
    out.view(C * size, size).copy_(columns.T)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Blur with standard deviation `sigma` (B,) pixels, `kernel` taps (odd), reflected edges."""
    radius, (height, width) = kernel // 2, images.shape[2:]
    tap = torch.arange(kernel, device=images.device) - radius
    weights = torch.softmax(-0.5 * (tap / sigma[:, None]) ** 2, dim=1)
    taps = weights[:, :, None, None, None].unbind(1)
    # Shifted sums: no slower than matrix products or grouped convolutions, and the same for any B.
    padded = F.pad(images, (radius, radius, radius, radius), mode="reflect")
    rows = padded[:, :, :height] * taps[0]
    for i, weight in enumerate(taps[1:], start=1):
        rows.addcmul_(padded[:, :, i : i + height], weight)
    result = rows[..., :width] * taps[0]
    for i, weight in enumerate(taps[1:], start=1):
        result.addcmul_(rows[..., i : i + width], weight)
    return result.clamp_(0, 1)


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Invert what is at least `threshold`."""
    return torch.where(images >= threshold, 1 - images, images)


def rotate90(images: Tensor, turns: Tensor) -> Tensor:
    """Square images (B, C, S, S) turned counterclockwise by `turns` (B,) int64 times 90°."""
    if images.shape[2] != images.shape[3]:
        raise ValueError(f"images: square ones expected, got {tuple(images.shape[2:])}")
    images = images.clone()
    for turn in (1, 2, 3):
        images = on(images, turns % 4 == turn, partial(torch.rot90, k=turn, dims=(2, 3)))
    return images


def cutout(images: Tensor, center: Tensor, side: int, fill: float = 0.5) -> Tensor:
    """Fill a square of `side` pixels around `center` (B, 2) int64; it may reach over the edge.

    The source fills with the mean; mid-grey stands for it. DeVries & Taylor 2017, arXiv:1708.04552.
    """

    def inside(middle: Tensor, length: int) -> Tensor:
        pixel = torch.arange(length, device=images.device) - (middle[:, None] - side // 2)
        return (pixel >= 0) & (pixel < side)  # (B, length)

    rows, columns = (inside(center[:, axis], images.shape[2 + axis]) for axis in (0, 1))
    return images.masked_fill((rows[:, :, None] & columns[:, None])[:, None], fill)


def gaussian_noise(images: Tensor, noise: Tensor, std: float) -> Tensor:
    """Add `std` times standard normal `noise` (B, 3, H, W)."""
    return torch.add(images, noise, alpha=std).clamp_(0, 1)


def patches(images: Tensor, corners: Tensor, size: int) -> Tensor:
    """Square patches of (B, 3, H, W) at `corners` (B, P, 2) int64, top and left → (B, P, 3, s, s).

    Raises:
        ValueError: a patch reaches over the edge.
    """
    B, channels, height, width = images.shape
    low, high = corners.amin(), corners.amax((0, 1)) + size
    if low < 0 or high[0] > height or high[1] > width:
        found = f"{int(low)} to {high.tolist()} of {(height, width)}"
        raise ValueError(f"patches of {size} pixels must lie inside the image, found {found}")
    pixel = corners[..., None] + torch.arange(size, device=images.device)  # (B, P, 2, s)
    rows, columns = pixel[:, :, 0, :, None], pixel[:, :, 1, None]
    index = (rows * width + columns).flatten(1)[:, None].expand(-1, channels, -1)
    cut = images.flatten(2).gather(2, index).view(B, channels, -1, size, size)
    return cut.transpose(1, 2)


def sobel(images: Tensor) -> Tensor:
    """Horizontal gradient, vertical gradient and their length, of the mean of the channels.

    DeepCluster (Caron 2018, arXiv:1807.05520) takes the two gradients. Here they are mapped from
    [−4, 4] to [0, 1], no gradient being 1/2, and the length from [0, √20] to [0, 1] makes three
    channels of them, so that any encoder takes them and any operation can follow. Edge pixels are
    repeated: a zero there would be black, not the mean as after DeepCluster's normalisation.
    """
    grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")[:, 0]
    down = grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]
    right = grey[..., :-2] + 2 * grey[..., 1:-1] + grey[..., 2:]
    horizontal = down[..., 2:] - down[..., :-2]
    vertical = right[:, 2:] - right[:, :-2]
    length = torch.hypot(horizontal, vertical) / math.sqrt(20)
    return torch.stack([horizontal / 8 + 0.5, vertical / 8 + 0.5, length], dim=1).clamp_(0, 1)
