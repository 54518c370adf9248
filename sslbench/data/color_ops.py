"""Colour operations on a batch, each image with parameters of its own, and CIE Lab.

The former compute what `torchvision.transforms.v2.functional` computes on float images, clamped to
[0, 1] after each step. Images are (B, 3, H, W) float32 in [0, 1].
"""

import torch
from torch import Tensor

from sslbench.data.image_ops import on

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601, rounded as in torchvision
_XYZ = (  # of linear sRGB, IEC 61966-2-1
    (0.4124, 0.3576, 0.1805),
    (0.2126, 0.7152, 0.0722),
    (0.0193, 0.1192, 0.9505),
)
_WHITE = (0.9505, 1.0, 1.089)  # D65


def color_jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, in an order that differs from image to image.

    Args:
        images: (B, 3, H, W).
        factors: (B, 4), one for each operation: of brightness, contrast and saturation 1 changes
            nothing; of hue it is the shift in turns.
        order: (B, 4) int64, permutations of BRIGHTNESS, CONTRAST, SATURATION, HUE: which is first.
    """
    images = images.clone()
    for kind, factor in zip(order.unbind(1), factors.gather(1, order).unbind(1), strict=True):
        images = on(images, kind == HUE, adjust_hue, factor)
        images = on(images, kind != HUE, blend, kind, factor)
    return images


def blend(images: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """Brightness, contrast or saturation: move away from black, from mean grey, or from greyscale.

    Args:
        images: (B, 3, H, W).
        kind: (B,) int64, BRIGHTNESS, CONTRAST or SATURATION.
        factor: (B,) at least 0; 1 changes nothing, 0 leaves only what is moved away from.
    """
    grey = _luma(images)
    mean = grey.mean((1, 2)) * (kind == CONTRAST)
    origin = grey.mul_(_spread(kind == SATURATION)).add_(_spread(mean))
    return torch.lerp(origin[:, None], images, _spread(factor)[:, None]).clamp_(0, 1)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` (B,) turns, in [−1/2, 1/2], at the same HSV saturation and value.

    Both ways between RGB and HSV are written without cases. With R, G, B scaled so that the largest
    is 1 and the smallest 0, and hue h in [0, 6], h − 3 has the sign of B − G and the absolute value
    2 + R − G − B; back, R = 1 − clamp(2 − |h − 3|), G = 1 − clamp(|h − 2| − 1) and
    B = 1 − clamp(|h − 4| − 1), clamped to [0, 1].
    """
    red, green, blue = images.unbind(1)
    low = torch.minimum(torch.minimum(red, green), blue)
    value = torch.maximum(torch.maximum(red, green), blue)
    span = low - value
    hue = torch.sub(red, green).sub_(blue).add_(low).div_(span.clamp(max=-1e-12)).sub_(2)
    hue.copysign_(blue - green).div_(6).add_(_spread(shift))
    hue.sub_(hue.round()).mul_(6)  # h − 3, in [−3, 3]
    result = torch.empty_like(images)
    torch.addcmul(value, span, (2 - hue.abs()).clamp_(0, 1), out=result[:, 0])
    torch.addcmul(value, span, (hue + 1).abs_().sub_(1).clamp_(0, 1), out=result[:, 1])
    torch.addcmul(value, span, (hue - 1).abs_().sub_(1).clamp_(0, 1), out=result[:, 2])
    return result


def grayscale(images: Tensor) -> Tensor:
    """Luma in all three channels."""
    return _luma(images)[:, None].repeat(1, 3, 1, 1)


def lab(images: Tensor) -> Tensor:
    """SRGB (B, 3, H, W) in [0, 1] → CIE Lab: L in [0, 100], a and b within ±110."""
    linear = torch.where(images > 0.04045, ((images + 0.055) / 1.055) ** 2.4, images / 12.92)
    matrix = torch.tensor(_XYZ, dtype=images.dtype, device=images.device)
    white = torch.tensor(_WHITE, dtype=images.dtype, device=images.device)
    xyz = torch.einsum("ij,bjhw->bihw", matrix / white[:, None], linear)
    x, y, z = torch.where(
        xyz > (6 / 29) ** 3, xyz.clamp_min(1e-6) ** (1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29
    ).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def lightness(images: Tensor) -> Tensor:
    """L of CIE Lab in [0, 1], in all three channels."""
    return (lab(images)[:, :1] / 100).expand(-1, 3, -1, -1)


def chroma(images: Tensor) -> Tensor:
    """A and b of CIE Lab, [−127.5, 127.5] mapped to [0, 1]; the third channel is 1/2 throughout."""
    ab = lab(images)[:, 1:] / 255 + 0.5
    return torch.cat([ab, torch.full_like(ab[:, :1], 0.5)], dim=1)


def _luma(images: Tensor) -> Tensor:
    """(B, H, W) weighted mean of the channels."""
    red, green, blue = images.unbind(1)
    return red.mul(_LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _spread(values: Tensor) -> Tensor:
    """(B,) → (B, 1, 1), to go with (B, H, W)."""
    return values[:, None, None]
