"""Noise and blur of the common corruptions, each image of a batch with draws of its own.

Images are (B, 3, H, W) float32 in [0, 1]; what comes out may leave that range and is cut off by
`corruptions.corrupt`, which also says where the constants come from. Filters are sums over shifted
images or one product per image, so that an image does not depend on its neighbours.
"""

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from sslbench.random import Random


def levels(images: Tensor) -> Tensor:
    """[0, 1] → whole numbers in 0 … 255; fractions are cut off, as where the sets were made.

    1e-4 is added before, so that what rounding has left just below a level counts as that level.
    """
    return (images * 255 + 1e-4).floor_().clamp_(0, 255)


def gaussian_noise(images: Tensor, random: Random, std: float) -> Tensor:
    """Independent normal noise."""
    return images + std * random.normal(*images.shape[1:])


def shot_noise(images: Tensor, random: Random, photons: int) -> Tensor:
    """Poisson counts of mean `photons` times the brightness, one of 256 levels."""
    table = _poisson(photons).to(images.device)
    level = (images * 255).round()
    draw = level.double() + random.uniform(*images.shape[1:])
    position = torch.searchsorted(table.flatten(), draw, right=True)
    return (position - level.long() * table.shape[1]).float() / photons


@cache
def _poisson(photons: int) -> Tensor:
    """(256, K) float64, row + probability of at most k counts at that level: sorted throughout."""
    most = photons + 12 * math.isqrt(photons) + 20  # beyond it lies less than a draw resolves
    mean = torch.arange(256).double() / 255 * photons
    table: Tensor = torch.special.gammaincc(torch.arange(1, most + 1).double(), mean[:, None])
    return table + torch.arange(256)[:, None]


def impulse_noise(images: Tensor, random: Random, share: float) -> Tensor:
    """Salt and pepper: this share of the values becomes 0 or 1, each channel by itself."""
    draw = random.uniform(*images.shape[1:])
    return torch.where(draw < share, (draw < share / 2).float(), images)


def defocus_blur(images: Tensor, random: Random, constants: tuple[float, float]) -> Tensor:
    """A disk as the kernel: (radius in pixels, σ of the blur that smooths its edge)."""
    return filtered(images, _disk(*constants))


def _disk(radius: float, sigma: float) -> Tensor:
    """(k, k) float64; about 1 in sum."""
    reach, taps = (8, 1) if radius <= 8 else (int(radius), 2)
    x = torch.arange(-reach, reach + 1).double()
    disk = (x[:, None] ** 2 + x**2 <= radius**2).double()
    weights = torch.softmax(-0.5 * (torch.arange(-taps, taps + 1).double() / sigma) ** 2, 0)
    return filtered((disk / disk.sum())[None, None], torch.outer(weights, weights))[0, 0]


def glass_blur(images: Tensor, random: Random, constants: tuple[float, int, int]) -> Tensor:
    """Pixels replaced by near ones between two blurs: (σ, largest distance + 1, passes).

    The paper exchanges pixels; in the code that made the published sets both end up with the
    second one's colour, and so they do here.
    """
    sigma, delta, passes = constants
    height, width = images.shape[2:]
    rows, columns = (smoothing(n, sigma, truncate=4, mirrored=False) for n in (height, width))
    images = levels(separable(images, rows, columns)) / 255
    for _ in range(passes):
        source = _scattered(random, height, width, delta)[:, None].expand(-1, 3, -1)
        images = images.flatten(2).gather(2, source).view_as(images)
    return separable(images, rows, columns)


def _scattered(random: Random, height: int, width: int, delta: int) -> Tensor:
    """Which pixel (B, H · W) each one has after a pass from the last to the first.

    Each takes the present colour of one at −delta … delta − 1 rows and columns from it. If that one
    comes later in the image, the pass was there already, and it had taken its colour from yet
    another one: such chains are followed by doubling the step until nothing moves.
    """
    number = torch.arange(height * width, device=random.places.device)
    row, column = number // width, number % width
    inside = (row > delta) & (row <= height - delta) & (column > delta) & (column <= width - delta)
    right, down = random.integers(2 * delta, 2, height * width).sub(delta).unbind(1)
    source = number + (down * width + right) * inside  # (B, H · W)
    done = inside[source] & (source > number)
    # 0 … H · W − 1: the colours before the pass, which stay; from H · W: those after it
    chain = torch.cat([number.expand_as(source), source + done * len(number)], dim=1)
    while not torch.equal(jump := chain.gather(1, chain), chain):
        chain = jump
    return chain[:, len(number) :]


def motion_blur(images: Tensor, random: Random, constants: tuple[int, float]) -> Tensor:
    """Moved along a line at −45° to 45°: (radius, σ) as in `trail`."""
    return trail(images, random.uniform(low=-45, high=45), *constants)


def trail(images: Tensor, angle: Tensor, radius: int, sigma: float) -> Tensor:
    """ImageMagick's motion blur: half a Gaussian along a line of 2 · radius + 1 pixels.

    Args:
        images: (B, C, H, W); the border is repeated.
        angle: (B,) degrees.
        radius: in pixels.
        sigma: in pixels.
    """
    height, width = images.shape[2:]
    step = torch.arange(2 * radius + 1, device=images.device).double()
    weights = torch.softmax(-0.5 * (step / sigma) ** 2, 0).tolist()
    angle = torch.deg2rad(angle.double())[:, None]

    def places(along: Tensor, n: int) -> Tensor:
        pixel = torch.arange(n, device=images.device)
        offset = (step * along - 0.5).ceil().long()
        return (offset[:, :, None] + pixel).clamp(0, n - 1)  # (B, steps, n)

    rows, columns = places(angle.sin(), height), places(angle.cos(), width)
    flat, result = images.flatten(2), torch.zeros_like(images).flatten(2)
    for i, weight in enumerate(weights):
        index = (rows[:, i, :, None] * width + columns[:, i, None]).flatten(1)
        result.add_(flat.gather(2, index[:, None].expand_as(flat)), alpha=weight)
    return result.view_as(images)


def zoom_blur(images: Tensor, random: Random, constants: tuple[float, float]) -> Tensor:
    """The mean of the image and of it enlarged by 1, 1 + step, … up to (end, step)."""
    factors = np.arange(1, *constants)
    result = images.clone()
    for factor in factors.tolist():
        result += separable(images, *(enlarging(n, factor) for n in images.shape[2:]))
    return result / (len(factors) + 1)


def enlarging(n: int, factor: float) -> Tensor:
    """(n, n) float64: of n pixels the middle ones, enlarged by linear interpolation and cut to n.

    Corners fall on corners, as in SciPy's `zoom`.
    """
    kept = math.ceil(n / factor)
    total = round(kept * factor)
    place = (torch.arange(n) + (total - n) // 2).double() * (kept - 1) / max(total - 1, 1)
    low = place.long().clamp(max=max(kept - 2, 0))[:, None]
    share, first = place[:, None] - low, (n - kept) // 2
    matrix = torch.zeros(n, n, dtype=torch.double).scatter_(1, first + low, 1 - share)
    return matrix.scatter_add_(1, first + (low + 1).clamp(max=kept - 1), share)


def smoothing(n: int, sigma: float, truncate: float, mirrored: bool) -> Tensor:
    """(n, n) float64: a Gaussian of σ > 0 pixels, cut off at `truncate` σ.

    Beyond the border the image is mirrored, its last pixel included, or that pixel is repeated.
    """
    radius = int(truncate * sigma + 0.5)
    tap = torch.arange(-radius, radius + 1)
    weights = torch.softmax(-0.5 * (tap / sigma).double() ** 2, 0)
    source = torch.arange(n)[:, None] + tap
    source = fold(source, n, edge=True) if mirrored else source.clamp(0, n - 1)
    matrix = torch.zeros(n, n, dtype=torch.double)
    return matrix.scatter_add_(1, source, weights.expand_as(source))


def separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Products with (H', H) from above and (W', W) from the side: (B, C, H, W) → (B, C, H', W')."""
    x = images.flatten(0, 1)
    left, right = (matrix.to(x).expand(len(x), -1, -1) for matrix in (rows, columns))
    result = left.bmm(x.bmm(right.transpose(1, 2)))
    return result.view(*images.shape[:2], len(rows), len(columns))


def filtered(images: Tensor, kernel: Tensor) -> Tensor:
    """Correlation with a kernel (k, k), k odd; mirrored beyond the border, its pixel not twice."""
    radius, (height, width) = len(kernel) // 2, images.shape[2:]
    tap = torch.arange(-radius, radius + max(height, width), device=images.device)
    rows, columns = (fold(tap[: n + 2 * radius], n, edge=False) for n in (height, width))
    padded = images[:, :, rows][..., columns]
    result = torch.zeros_like(images)
    for y, x in kernel.nonzero().tolist():
        window = padded[..., y : y + height, x : x + width]
        result.add_(window, alpha=float(kernel[y, x]))
    return result


def fold(index: Tensor, n: int, edge: bool) -> Tensor:
    """Any integers, mirrored into 0 … n − 1; with `edge` the border pixel comes twice."""
    period = 2 * n if edge else max(2 * n - 2, 1)
    index = index.remainder(period)
    return torch.minimum(index, period - int(edge) - index)
