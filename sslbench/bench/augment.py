"""SimCLR's views of small images, against torchvision's pipeline in a DataLoader on the same cores.

The peer is what its documentation shows: transforms v2 on one image at a time, a PIL image as
torchvision's CIFAR10 gives it or a tensor, and a DataLoader with a worker per core. Its workers are
kept from one epoch to the next and their start is not counted.
"""

import os
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from sslbench.bench.timing import Goal, Timing, UnequalError, close, in_turn
from sslbench.data.augment import Augmentation, Parameters
from sslbench.data.split import Batch, ImageArray
from sslbench.random import Random

IMAGES, BATCH, SIDE = 2_048, 256, 32
VIEW = Augmentation()  # SimCLR at full strength
DRAWS = 4_000
ADJUST = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
PIPELINE = v2.Compose(
    [
        v2.RandomResizedCrop(SIDE, VIEW.crop_scale, VIEW.crop_ratio),
        v2.RandomHorizontalFlip(VIEW.flip_p),
        v2.RandomApply(
            [v2.ColorJitter(VIEW.brightness, VIEW.contrast, VIEW.saturation, VIEW.hue)],
            VIEW.jitter_p,
        ),
        v2.RandomGrayscale(VIEW.grayscale_p),
        v2.RandomApply([v2.GaussianBlur(2 * (SIDE // 20) + 1, VIEW.blur_sigma)], VIEW.blur_p),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
    ]
)


class _Images(Dataset[Tensor]):
    """An array (n, H, W, 3) of which each image is made a PIL image or a tensor."""

    def __init__(self, images: np.ndarray, kind: str) -> None:
        self.images, self.kind = images, kind

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        pixels = self.images[index]
        image: Any = (
            Image.fromarray(pixels) if self.kind == "pil" else v2.functional.to_image(pixels)
        )
        view: Tensor = PIPELINE(image)
        return view


def measure(rounds: int) -> Iterator[Timing]:
    """Views of an epoch."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    split = ImageArray(pixels.transpose(0, 3, 1, 2).copy(), None)
    same = f"{_equal_pixels(split.images[:64])}; {_equal_draws()}"
    workers = os.cpu_count() or 1

    def ours() -> None:
        for step, places in enumerate(torch.arange(IMAGES).split(BATCH)):
            VIEW(split[places], SIDE, Random(0, step, torch.arange(len(places)), BATCH))

    for kind in ("pil", "tensor"):
        loader = DataLoader(
            _Images(pixels, kind), BATCH, shuffle=True, num_workers=workers, persistent_workers=True
        )
        times = in_turn(ours, partial(deque[Tensor], loader, maxlen=0), rounds)
        yield Timing(
            f"augment/{kind}",
            f"{IMAGES:,} SimCLR views of {SIDE}×{SIDE} images: crop, flip, jitter, grayscale, blur",
            f"torchvision {torchvision.__version__} v2 on {kind} images, DataLoader with "
            f"{workers} workers",
            *times,
            Goal("faster", 15),
            same,
            {"views_per_second": IMAGES / sorted(times[0])[rounds // 2]},
        )


def _equal_pixels(images: Tensor) -> str:
    """Views with given parameters, by torchvision one at a time."""
    random = [Random(0, 0, torch.arange(len(images)), len(images)) for _ in range(2)]
    drawn = VIEW.draw(torch.tensor(images.shape[2:]).expand(len(images), 2), SIDE, random[0])
    views = VIEW(Batch(torch.arange(len(images)), images), SIDE, random[1])
    expected = [
        _one(image, Parameters(*(value[i] for value in drawn)))
        for i, image in enumerate(images.float() / 255)
    ]
    return close("views with the same parameters", views, torch.stack(expected), 1e-4)


def _one(image: Tensor, own: Parameters) -> Tensor:
    view = TF.resized_crop(image, *own.boxes.tolist(), [SIDE, SIDE], antialias=True)
    if own.flip:
        view = TF.horizontal_flip(view)
    if own.jitter:
        for kind in own.order.tolist():
            view = ADJUST[kind](view, float(own.factors[kind]))
    if own.grayscale:
        view = TF.rgb_to_grayscale(view, 3)
    if own.blur:
        view = TF.gaussian_blur(view, [2 * (SIDE // 20) + 1] * 2, [float(own.sigma)] * 2)
    return torch.as_tensor(view)


def _equal_draws() -> str:
    """Parameters of both, by Kolmogorov and Smirnov's distance."""
    from scipy import stats

    random = Random(0, 1, torch.arange(DRAWS), DRAWS)
    drawn = VIEW.draw(torch.tensor((SIDE, SIDE)).expand(DRAWS, 2), SIDE, random)
    crop, jitter = (
        v2.RandomResizedCrop(SIDE, VIEW.crop_scale, VIEW.crop_ratio),
        v2.ColorJitter(VIEW.brightness, VIEW.contrast, VIEW.saturation, VIEW.hue),
    )
    image = torch.empty(3, SIDE, SIDE)
    torch.manual_seed(0)
    boxes = [crop.make_params([image]) for _ in range(DRAWS)]
    factors = [jitter.make_params([image]) for _ in range(DRAWS)]
    names = ("brightness", "contrast", "saturation", "hue")
    pairs = {
        "area": (
            drawn.boxes[:, 2] * drawn.boxes[:, 3],
            [box["height"] * box["width"] for box in boxes],
        ),
        "left": (drawn.boxes[:, 1], [box["left"] for box in boxes]),
        **{
            name: (drawn.factors[:, place], [one[f"{name}_factor"] for one in factors])
            for place, name in enumerate(names)
        },
    }
    for name, (ours, theirs) in pairs.items():
        p = stats.ks_2samp(ours.numpy(), np.array(theirs, np.float64)).pvalue
        if p < 1e-4:
            raise UnequalError(f"distribution of {name}: p = {p:.1e}")
    return f"distributions of {', '.join(pairs)} alike (Kolmogorov–Smirnov, n = {DRAWS:,})"
