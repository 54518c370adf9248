"""Weather and digital corruptions of the common ones, each image of a batch with its own draws.

Images are (B, 3, H, W) float32 in [0, 1]; what comes out may leave that range and is cut off by
`corruptions.corrupt`, which also says where the constants come from.
"""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sslbench.data.corruptions_blur import (
    enlarging,
    fold,
    levels,
    separable,
    smoothing,
    trail,
)
from sslbench.data.frost import textures
from sslbench.random import Random

_LUMA = (0.299, 0.587, 0.114)


def snow(
    images: Tensor, random: Random, constants: tuple[float, float, float, float, int, float, float]
) -> Tensor:
    """Flakes that fall, over a whitened image.

    The constants are mean and deviation of the noise, by how much it is enlarged, from which value
    on it is snow, radius and σ of its motion, and the share of the image that stays as it is.
    """
    mean, std, zoom, threshold, radius, sigma, stays = constants
    flakes = mean + std * random.normal(1, *images.shape[2:])
    flakes = separable(flakes, *(enlarging(n, zoom) for n in images.shape[2:]))
    flakes = levels(torch.where(flakes < threshold, 0, flakes)) / 255
    flakes = trail(flakes, random.uniform(low=-135, high=-45), radius, sigma)
    flakes = (flakes * 255).round() / 255
    weights = torch.tensor(_LUMA, device=images.device)[:, None, None]
    white = torch.maximum(images, (images * weights).sum(1, keepdim=True) * 1.5 + 0.5)
    return stays * images + (1 - stays) * white + flakes + flakes.flip(2, 3)


def frost(images: Tensor, random: Random, constants: tuple[float, float, float]) -> Tensor:
    """A piece of a photograph of frost laid over: (share of the image, of the frost, its scale).

    A photograph that is no larger than the image is enlarged to 1.1 times its size.

    Raises:
        UserError: the photographs were not fetched.
    """
    clean, icy, scale = constants
    size = images.shape[2:]
    photographs = textures()
    chosen, corner = random.integers(len(photographs)), random.uniform(2)
    result = clean * images
    for number, photograph in enumerate(photographs):
        hit = (chosen == number).nonzero().flatten()
        least = max(n / m for n, m in zip(size, photograph.shape[1:], strict=True))
        factor = scale if scale > least else 1.1 * least
        ice = photograph.to(images.device) / 255
        if factor != 1:
            ice = F.interpolate(ice[None], scale_factor=factor, mode="bilinear")[0]
        rows, columns = (
            (corner[hit, axis, None] * (ice.shape[1 + axis] - n)).long()
            + torch.arange(n, device=images.device)
            for axis, n in enumerate(size)
        )  # (b, H), (b, W)
        pieces = ice[:, rows[:, :, None], columns[:, None]].transpose(0, 1)
        result.index_add_(0, hit, pieces, alpha=icy)
    return result


def fog(images: Tensor, random: Random, constants: tuple[float, float]) -> Tensor:
    """A fractal cloud: (its weight, by what its detail decays); the largest value stays."""
    weight, decay = constants
    height, width = images.shape[2:]
    side = 1 << (max(height, width) - 1).bit_length()
    cloud = _plasma(random, side, decay)[:, None, :height, :width]
    largest = images.amax((1, 2, 3), keepdim=True)
    return (images + weight * cloud) * largest / (largest + weight)


def _plasma(random: Random, side: int, decay: float) -> Tensor:
    """(B, side, side) in [0, 1]: the diamond–square algorithm on a torus, `side` a power of 2."""
    cloud = torch.zeros(len(random.places), side, side, device=random.places.device)
    step, wobble = side, 100.0

    def moved(corners: Tensor) -> Tensor:
        return corners / 4 + wobble * random.uniform(*corners.shape[1:], low=-wobble, high=wobble)

    while step >= 2:
        half = step // 2
        corner = cloud[:, ::step, ::step]
        pairs = corner + corner.roll(-1, 1)
        cloud[:, half::step, half::step] = moved(pairs + pairs.roll(-1, 2))
        middle = cloud[:, half::step, half::step]
        above = middle + middle.roll(1, 1) + corner + corner.roll(-1, 2)
        cloud[:, ::step, half::step] = moved(above)
        beside = middle + middle.roll(1, 2) + corner + corner.roll(-1, 1)
        cloud[:, half::step, ::step] = moved(beside)
        step, wobble = half, wobble / decay
    cloud -= cloud.amin((1, 2), keepdim=True)
    return cloud / cloud.amax((1, 2), keepdim=True).clamp(min=1e-12)


def brightness(images: Tensor, random: Random, amount: float) -> Tensor:
    """Added to the value of HSV, at the same hue and saturation."""
    value = images.amax(1, keepdim=True)
    brighter = (value + amount).clamp(max=1)
    return torch.where(value > 0, images * (brighter / value), brighter)


def contrast(images: Tensor, random: Random, factor: float) -> Tensor:
    """Each channel is drawn towards its mean."""
    mean = images.double().mean((2, 3), keepdim=True).float()
    return (images - mean) * factor + mean


def elastic_transform(
    images: Tensor, random: Random, constants: tuple[float, float, float]
) -> Tensor:
    """A random affine map, then a smooth field of displacements.

    The constants are shares of the side: how far the field reaches, its σ, and how far the three
    points that define the affine map may move.
    """
    height, width = images.shape[2:]
    side = min(height, width)
    reach, sigma, jitter = (c * side for c in constants)
    x = torch.arange(width, device=images.device).double()
    y = torch.arange(height, device=images.device).double()[:, None]

    spread = torch.tensor([[1, 1], [1, -1], [-1, -1]], device=images.device) * (side // 3)
    points = torch.tensor([width // 2, height // 2], device=images.device) + spread.double()
    moved = points + random.uniform(3, 2, low=-jitter, high=jitter)
    back = torch.linalg.solve(F.pad(moved, (0, 1), value=1), points.expand_as(moved))  # (B, 3, 2)
    back = back[..., None, None]
    at = back[:, 0] * x + back[:, 1] * y + back[:, 2]  # (B, 2, H, W), x and y
    images = _read(images, at, edge=False)
    if reach > 0:
        blur = (smoothing(n, sigma, truncate=3, mirrored=True) for n in (height, width))
        field = separable(random.uniform(2, height, width, low=-1), *blur).double() * reach
        images = _read(images, torch.stack([field[:, 0] + x, field[:, 1] + y], 1), edge=True)
    return images


def _read(images: Tensor, at: Tensor, edge: bool) -> Tensor:
    """Bilinear values at (B, 2, H, W), x and y in pixels; beyond the border as `fold` says."""
    height, width = images.shape[2:]
    low = at.floor()
    share = (at - low).float().flatten(2)
    (x, y), (right, down) = low.long().flatten(2).unbind(1), share.unbind(1)

    def pixel(y: Tensor, x: Tensor) -> Tensor:
        index = fold(y, height, edge) * width + fold(x, width, edge)
        return images.flatten(2).gather(2, index[:, None].expand(-1, 3, -1))

    def row(y: Tensor) -> Tensor:
        return torch.lerp(pixel(y, x), pixel(y, x + 1), right[:, None])

    return torch.lerp(row(y), row(y + 1), down[:, None]).view_as(images)


def pixelate(images: Tensor, random: Random, share: float) -> Tensor:
    """Reduced to this share of the side and enlarged again by repetition, as Pillow's BOX does.

    Pillow rounds to 8 bits after the columns, and again after the rows.
    """
    sides = images.shape[2:]
    rows, columns = (_boxes(n, max(1, int(n * share))) for n in sides)
    small = images * 255
    for matrices in ((torch.eye(sides[0]), columns), (rows, torch.eye(len(columns)))):
        small = (separable(small, *matrices) + 0.5).floor()
    y, x = (
        (2 * torch.arange(n, device=images.device) + 1) * m // (2 * n)
        for n, m in zip(sides, small.shape[2:], strict=True)
    )
    return small[:, :, y][..., x] / 255


def _boxes(n: int, small: int) -> Tensor:
    """(small, n) float64: the mean of the pixels whose centres fall into each box."""
    scale = n / small
    center = (torch.arange(small).double() + 0.5)[:, None] * scale
    distance = (torch.arange(n).double() + 0.5 - center) / scale
    inside = ((distance > -0.5) & (distance <= 0.5)).double()
    return inside / inside.sum(1, keepdim=True)


def jpeg_compression(images: Tensor, random: Random, quality: int) -> Tensor:
    """Through a JPEG file of this quality."""
    shown = levels(images).byte().permute(0, 2, 3, 1).cpu().numpy()
    result = np.empty_like(shown)
    for i, image in enumerate(shown):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        result[i] = np.asarray(Image.open(file))
    return torch.from_numpy(result).permute(0, 3, 1, 2).to(images.device) / 255
