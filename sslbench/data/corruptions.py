"""The 15 common corruptions at 5 severities: what test images look like on a bad day.

Hendrycks, Dietterich. Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations. ICLR 2019. arXiv:1903.12261. The constants are those of the code that made the
published sets: CIFAR-10-C's for images whose shorter side has at most 32 pixels, ImageNet-C's
(made for 224) for larger ones. As there, values are cut off to 8 bits, clean ones and corrupted
ones; `glass_blur` copies pixels where the paper exchanges them.

The draws of an image depend on the corruption, the severity and its place in the split: every
corrupted split is one fixed set, the same for all encoders and seeds.

Differs from the published sets: other random draws. Motion is blurred in floating point, not by
ImageMagick, and affine maps are not rounded to 1/32 of a pixel, both within about one level. Sides
other than 32 and 224 pixels, which have no published constants: the displacements of
`elastic_transform` and the cloud of `fog` grow with the side, all else is in pixels.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslbench.data import corruptions_blur as blur
from sslbench.data import corruptions_weather as weather
from sslbench.data.image_ops import resize
from sslbench.data.split import Batch, Split
from sslbench.errors import NotApplicable
from sslbench.random import Random

SEVERITIES = (1, 2, 3, 4, 5)
SMALL = 32  # px; up to here CIFAR-10-C's constants
SIDE = 256  # px, of images that come from files
_SEED = 0xC0DE
_PIXELS = 1 << 19  # corrupted at a time, in about 100 MB
_AS_224 = 244 / 224  # ImageNet-C's elastic transform takes 224 pixels for 244


class Corruption(NamedTuple):
    """What is done to images, and its constants at severities 1 … 5."""

    apply: Callable[[Tensor, Random, Any], Tensor]
    small: list[Any]  # CIFAR-10-C
    large: list[Any]  # ImageNet-C


# fmt: off
CORRUPTIONS = {
    "gaussian_noise": Corruption(
        blur.gaussian_noise,
        [0.04, 0.06, 0.08, 0.09, 0.10],
        [0.08, 0.12, 0.18, 0.26, 0.38]),
    "shot_noise": Corruption(
        blur.shot_noise,
        [500, 250, 100, 75, 50],
        [60, 25, 12, 5, 3]),
    "impulse_noise": Corruption(
        blur.impulse_noise,
        [0.01, 0.02, 0.03, 0.05, 0.07],
        [0.03, 0.06, 0.09, 0.17, 0.27]),
    "defocus_blur": Corruption(
        blur.defocus_blur,
        [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
        [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)]),
    "glass_blur": Corruption(
        blur.glass_blur,
        [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
        [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)]),
    "motion_blur": Corruption(
        blur.motion_blur,
        [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
        [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)]),
    "zoom_blur": Corruption(
        blur.zoom_blur,
        [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
        [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)]),
    "snow": Corruption(
        weather.snow,
        [(0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
         (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9), (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
         (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)],
        [(0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
         (0.55, 0.3, 4, 0.9, 12, 8, 0.7), (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
         (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55)]),
    "frost": Corruption(
        weather.frost,
        [(1, 0.2, 0.2), (1, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)],
        [(1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)]),
    "fog": Corruption(
        weather.fog,
        [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
        [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)]),
    "brightness": Corruption(
        weather.brightness,
        [0.05, 0.1, 0.15, 0.2, 0.3],
        [0.1, 0.2, 0.3, 0.4, 0.5]),
    "contrast": Corruption(
        weather.contrast,
        [0.75, 0.5, 0.4, 0.3, 0.15],
        [0.4, 0.3, 0.2, 0.1, 0.05]),
    "elastic_transform": Corruption(
        weather.elastic_transform,
        [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05),
         (0.1, 0.03, 0.03)],
        [(2 * _AS_224, 0.7 * _AS_224, 0.1 * _AS_224),
         (2 * _AS_224, 0.08 * _AS_224, 0.2 * _AS_224),
         (0.05 * _AS_224, 0.01 * _AS_224, 0.02 * _AS_224),
         (0.07 * _AS_224, 0.01 * _AS_224, 0.02 * _AS_224),
         (0.12 * _AS_224, 0.01 * _AS_224, 0.02 * _AS_224)]),
    "pixelate": Corruption(
        weather.pixelate,
        [0.95, 0.9, 0.85, 0.75, 0.65],
        [0.6, 0.5, 0.4, 0.3, 0.25]),
    "jpeg_compression": Corruption(
        weather.jpeg_compression,
        [80, 65, 58, 50, 40],
        [25, 18, 15, 10, 7]),
}
# fmt: on


def corrupt(images: Tensor, name: str, severity: int, places: Tensor) -> Tensor:
    """Corrupted images (B, 3, H, W) uint8, on the device of the clean ones.

    Args:
        images: (B, 3, H, W) uint8.
        name: of the corruption.
        severity: 1 … 5.
        places: (B,) int64 positions in the split, from which the draws are.

    Raises:
        UserError: `frost` without its photographs.
    """
    corruption, (height, width) = CORRUPTIONS[name], images.shape[2:]
    constants = corruption.small if min(height, width) <= SMALL else corruption.large
    step = list(CORRUPTIONS).index(name) * len(SEVERITIES) + severity
    size = max(1, _PIXELS // (height * width))
    result = torch.empty_like(images)
    parts = (x.split(size) for x in (images, places.to(images.device), result))
    for part, place, out in zip(*parts, strict=True):
        random = Random(_SEED, step, place, len(place))
        changed = corruption.apply(part.float() / 255, random, constants[severity - 1])
        out.copy_(blur.levels(changed))
    return result


def corrupted(split: Split, name: str, severity: int, device: torch.device | str = "cpu") -> Split:
    """A split with one corruption at one severity, computed on `device`.

    Images of a split that is in memory are corrupted as they are, like CIFAR-10-C's. Those in files
    are first brought to a square of 256 pixels (the shorter side resized, the centre cut out), in
    which an encoder's own preprocessing finds what it sees of the clean image; ImageNet-C's are the
    central 224 of these 256.

    Raises:
        NotApplicable: on reading, the examples have no images.
    """
    return split.map(partial(_corrupted, name, severity, device), f"{name}-{severity}")


def _corrupted(name: str, severity: int, device: torch.device | str, batch: Batch) -> Batch:
    if batch.images is None:
        raise NotApplicable("corruptions are of images, the data have none")
    images = batch.images
    if isinstance(images, list):
        images = (resize(images, SIDE) * 255).round().byte()
    return replace(batch, images=corrupt(images.to(device), name, severity, batch.index))
