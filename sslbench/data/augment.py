"""Random views of a batch of images.

An `Augmentation` is the distribution of one view: numbers only, so that it can be written in TOML
and recorded. Each image draws parameters of its own, for every operation and whether or not it is
hit, indexed by its place in the global batch: neither the number of processes nor the other images
change a view. Images of several sizes are cropped where they lie, on the CPU, and only the crops
travel to the device: memory does not grow with the images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sslbench.data import color_ops, image_ops
from sslbench.data.color_ops import HUE
from sslbench.data.image_ops import on
from sslbench.data.split import Batch
from sslbench.random import Random

_TRIES = 10  # crops drawn until one fits, as in torchvision
_PIXELS = 1 << 16  # of a view, worked on at a time on a CPU: what its cache holds
_RANGES = {  # allowed values; everything else is a probability or a share in [0, 1]
    "crop_scale": (1e-4, 1.0),
    "crop_ratio": (1e-2, 1e2),
    "brightness": (0.0, math.inf),
    "contrast": (0.0, math.inf),
    "saturation": (0.0, math.inf),
    "hue": (0.0, 0.5),
    "blur_sigma": (1e-2, 1e2),
    "noise_std": (0.0, math.inf),
}


class Parameters(NamedTuple):
    """What one view of each image is made with; B rows each."""

    boxes: Tensor  # (B, 4) int64: top, left, height, width
    flip: Tensor  # (B,) bool
    turns: Tensor  # (B,) int64: quarter turns
    jitter: Tensor  # (B,) bool
    factors: Tensor  # (B, 4): brightness, contrast, saturation, hue
    order: Tensor  # (B, 4) int64: which of the four comes first
    grayscale: Tensor  # (B,) bool
    blur: Tensor  # (B,) bool
    sigma: Tensor  # (B,) pixels
    solarize: Tensor  # (B,) bool
    sobel: Tensor  # (B,) bool
    noise: Tensor  # (B,) bool
    normal: Tensor  # (B, 3, size, size) standard normal; (B, 0) where there is no noise
    cutout: Tensor  # (B,) bool
    center: Tensor  # (B, 2) int64: row, column


@dataclass(frozen=True)
class Augmentation:
    """The distribution of one view, its operations in the order in which they are applied.

    The defaults are those of SimCLR at full strength (Chen 2020, arXiv:2002.05709, appendix A); for
    CIFAR-10 its appendix B.9 halves the four jitter strengths and leaves out the blur.

    Attributes:
        crop_scale: range of the crop's share of the image's area; (1, 1) takes the central square.
        crop_ratio: range of the crop's width / height, drawn log-uniformly.
        flip_p: probability of mirroring left to right.
        rotation_p: probability of turning by 90°, 180° or 270°.
        jitter_p: probability of changing brightness, contrast, saturation and hue, in random order.
        brightness: the factor is uniform in [max(0, 1 − brightness), 1 + brightness].
        contrast: as brightness.
        saturation: as brightness.
        hue: the shift is uniform in [−hue, hue] turns.
        grayscale_p: probability of dropping colour.
        blur_p: probability of a Gaussian blur, its kernel a tenth of the image wide.
        blur_sigma: range of its standard deviation in pixels.
        solarize_p: probability of inverting bright pixels.
        solarize_threshold: from which value on.
        sobel_p: probability of showing gradients instead of colours.
        noise_p: probability of adding Gaussian noise.
        noise_std: its standard deviation.
        cutout_p: probability of blanking a square around a random pixel.
        cutout_size: its side as a share of the image's.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_p: float = 0.5
    rotation_p: float = 0.0
    jitter_p: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    grayscale_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_p: float = 0.0
    solarize_threshold: float = 0.5
    sobel_p: float = 0.0
    noise_p: float = 0.0
    noise_std: float = 0.1
    cutout_p: float = 0.0
    cutout_size: float = 0.5

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value, (low, high) = getattr(self, name), _RANGES.get(name, (0.0, 1.0))
            pair = isinstance(getattr(type(self), name), tuple)
            numbers = value if pair and isinstance(value, list | tuple) else [value]
            if not (
                len(numbers) == 1 + pair
                and all(isinstance(n, int | float) and low <= n <= high for n in numbers)
                and numbers[0] <= numbers[-1] < math.inf
            ):
                kind = "two numbers (min, max)" if pair else "a number"
                raise ValueError(f"{name}: {kind} in [{low:g}, {high:g}] expected, got {value!r}")
            floats = tuple(float(n) for n in numbers)  # TOML has lists and integers
            object.__setattr__(self, name, floats if pair else floats[0])

    def __call__(self, batch: Batch, size: int, random: Random) -> Tensor:
        """One view of each image: (B, 3, size, size) float32 in [0, 1], on the images' device."""
        images = batch.images
        if images is None:
            raise ValueError("a batch with images expected, got one without")
        if len(random.places) != len(images):
            raise ValueError(f"{len(random.places)} places for {len(images)} images")
        device = random.places.device
        views = torch.empty(len(images), 3, size, size, device=device)
        with torch.inference_mode():  # `views` is an ordinary tensor; only the bookkeeping is saved
            here = random.on_cpu if isinstance(images, list) else random
            drawn = self.draw(image_ops.sizes_of(images), size, here)
            if isinstance(images, list):
                views.copy_(image_ops.resized_crop(images, drawn.boxes, size, drawn.flip))
                drawn = Parameters(*(value.to(device) for value in drawn))
            for part in _parts(drawn, size):
                some = Parameters(*(value.index_select(0, part) for value in drawn))
                if isinstance(images, list):
                    view = views[part]
                else:
                    whole = images.index_select(0, part)
                    view = image_ops.resized_crop(whole, some.boxes, size, some.flip)
                views.index_copy_(0, part, self.change(view, some))
        return views

    def draw(self, sizes: Tensor, size: int, random: Random) -> Parameters:
        """Parameters of a view of side `size`, for images of height and width `sizes` (B, 2)."""
        probabilities = [self.flip_p, self.rotation_p, self.jitter_p, self.grayscale_p]
        probabilities += [self.blur_p, self.solarize_p, self.sobel_p, self.noise_p, self.cutout_p]
        tones = (self.brightness, self.contrast, self.saturation)
        ranges = [(max(0.0, 1 - s), 1 + s) for s in tones] + [(-self.hue, self.hue)]
        ranges += [self.blur_sigma, (1, 4), (0, size), (0, size)]
        low, high = torch.tensor(ranges, device=sizes.device).unbind(1)
        chance, u = random.uniform(17).split([9, 8], dim=1)
        hits = (chance < torch.tensor(probabilities, device=sizes.device)).unbind(1)
        flip, rotation, jitter, grayscale, blur, solarize, sobel, noise, cutout = hits
        values = low + (high - low) * u
        return Parameters(
            boxes=crop_boxes(sizes, self.crop_scale, self.crop_ratio, random),
            flip=flip,
            turns=values[:, 5].long() * rotation,
            jitter=jitter,
            factors=values[:, :4],
            order=random.permutation(4),
            grayscale=grayscale,
            blur=blur,
            sigma=values[:, 4],
            solarize=solarize,
            sobel=sobel,
            noise=noise,
            normal=random.normal(3, size, size) if self.noise_p else u[:, :0],
            cutout=cutout,
            center=values[:, 6:].long(),
        )

    def change(self, views: Tensor, parameters: Parameters) -> Tensor:
        """What follows the crop, of views (B, 3, size, size) float in [0, 1]."""
        p, size = parameters, views.shape[-1]
        kernel = 2 * max(1, size // 20) + 1
        views = on(views, p.turns > 0, image_ops.rotate90, p.turns)
        views = on(views, p.jitter, color_ops.color_jitter, p.factors, p.order)
        views = on(views, p.grayscale, color_ops.grayscale)
        views = on(views, p.blur, partial(image_ops.gaussian_blur, kernel=kernel), p.sigma)
        solarize = partial(image_ops.solarize, threshold=self.solarize_threshold)
        views = on(views, p.solarize, solarize)
        views = on(views, p.sobel, image_ops.sobel)
        noise = partial(image_ops.gaussian_noise, std=self.noise_std)
        views = on(views, p.noise, noise, p.normal)
        cutout = partial(image_ops.cutout, side=round(self.cutout_size * size))
        return on(views, p.cutout, cutout, p.center)


def _parts(drawn: Parameters, size: int) -> list[Tensor]:
    """Indices of the images that are worked on together; on a GPU, all of them."""
    if drawn.order.device.type != "cpu":
        return [torch.arange(len(drawn.order), device=drawn.order.device)]
    # A few at a time stay in the cache, and `color_jitter` has nothing to sort where all have hue
    # at the same place.
    place = torch.where(drawn.jitter, (drawn.order == HUE).int().argmax(1), -1)
    groups = [(place == group).nonzero().flatten() for group in place.unique()]
    return [part for group in groups for part in group.split(max(1, _PIXELS // size**2))]


def crop_boxes(
    sizes: Tensor, scale: tuple[float, float], ratio: tuple[float, float], random: Random
) -> Tensor:
    """Boxes as torchvision's RandomResizedCrop draws them.

    Args:
        sizes: (B, 2) int64, height and width of each image.
        scale: range of the box's share of the area, uniform; (1, 1) gives the central square.
        ratio: range of width / height, log-uniform.
        random: draws for these images.

    Returns:
        (B, 4) int64, top, left, height, width. Where ten tries do not fit into the image, the
        largest central box whose ratio is within the range.
    """
    u = random.uniform(2 * _TRIES + 2).double()
    height, width = sizes.double().unbind(1)
    area = (height * width)[:, None] * (scale[0] + (scale[1] - scale[0]) * u[:, :_TRIES])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * u[:, _TRIES:-2])
    tries = torch.stack([(area / aspect).sqrt().round(), (area * aspect).sqrt().round()], dim=2)
    fits = ((tries > 0) & (tries <= sizes[:, None])).all(2)  # (B, tries)
    found = fits.any(1) & (scale != (1, 1))
    first = fits.int().argmax(1)
    drawn = tries[torch.arange(len(sizes), device=sizes.device), first]  # (B, 2) height, width

    narrow, wide = (1.0, 1.0) if scale == (1, 1) else ratio
    largest = torch.stack([width / narrow, height * wide], dim=1).round().clamp(min=1)
    box = torch.where(found[:, None], drawn, largest.minimum(sizes))
    free = sizes - box
    corner = torch.where(found[:, None], u[:, -2:] * (free + 1), free / 2).floor()
    return torch.cat([corner, box], dim=1).long()


def multi_crop(
    batch: Batch, specs: Sequence[tuple[Augmentation, int, int]], random: Random
) -> list[Tensor]:
    """Several views of several sizes, as in SwAV (Caron 2020, arXiv:2006.09882) and DINO.

    Args:
        batch: B images.
        specs: augmentation, side in pixels and number of views, for each kind of view.
        random: draws for these images.

    Returns:
        One (B, 3, side, side) for each view, in the order of `specs`.
    """
    return [view(batch, size, random) for view, size, count in specs for _ in range(count)]
