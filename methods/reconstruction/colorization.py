"""Colorization: tell the colours of an image from its lightness.

Zhang, Isola, Efros. Colorful Image Colorization. ECCV 2016. arXiv:1603.08511.

Defaults: section 2 and the authors' training (batches of 40, Adam, weight decay 1e-3, learning rate
3e-5; 14 epochs are the paper's 450,000 updates on ImageNet, where the released code stops later).
Differs from the paper: the bins are the 261 that are nearest to some colour of sRGB, where its list
of in-gamut ones has 313; any encoder of lightness takes the place of the network, and transposed
convolutions on its deepest map predict the colours; the colour of a cell is the mean of its pixels'
ab; colours are counted in at most 2,000 images; what smoothing would carry out of the gamut stays
inside; grey images count too; the learning rate falls along a cosine instead of in steps, and the
weight decay is decoupled; crops of varying size and flips.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained-lightness` of the same encoder: kNN +.150 [.131, .169] to .368, linear
+.124 [.110, .137] to .390, at the best layer +.053 [.009, .097] to .455; linear, less `pixels`:
+.014 [−.009, .036].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): uniform 1 .347 and .369, 0.5 .315 and .351.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.data.augment import Augmentation
from sslbench.data.color_ops import lab
from sslbench.data.image_ops import resize
from sslbench.data.split import Batch, Split
from sslbench.encoder import ImageEncoder
from sslbench.errors import NotApplicable
from sslbench.method import Method, Recipe
from sslbench.random import Random

CROP_FLIP = Augmentation((0.2, 1.0), jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
WIDEST = 256  # channels of the head, as in the paper's last block


class Colorization(Method):
    """Classification of each cell's colour over bins of CIE ab, rare colours counting more.

    Args:
        encoder: its variant that sees lightness only is trained; needs feature maps.
        data: images; labels are not looked at.
        factor: by which the map of colours is smaller than the image.
        grid: width of the bins.
        neighbours: bins among which a true colour is shared.
        sigma: σ of the Gaussians by which it is shared, and by which the distribution of the data's
            colours is smoothed.
        uniform: λ, share of the uniform distribution mixed into that; 1 weighs all colours equally.
        augmentation: distribution of the images.
    """

    paper = "arXiv:1603.08511"
    pseudo_label = "the colour of each cell, as a bin of ab"
    recipe = Recipe(
        "adamw", lr=3e-5, weight_decay=1e-3, batch_size=40, epochs=14, betas=(0.9, 0.99)
    )
    encoder: ImageEncoder
    bins: Tensor
    weights: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        factor: int = 4,
        grid: int = 10,
        neighbours: int = 5,
        sigma: float = 5.0,
        uniform: float = 0.5,
        augmentation: Augmentation = CROP_FLIP,
    ) -> None:
        super().__init__(encoder.variant(sees="lightness"), data)
        size = encoder.image_size
        if not 1 <= factor <= size:
            raise ValueError(f"factor: 1 to {size} expected, got {factor}")
        if grid < 1 or sigma <= 0:
            raise ValueError(f"grid and sigma: positive ones expected, got {grid} and {sigma}")
        if not 0 < uniform <= 1:
            raise ValueError(f"uniform: more than 0, at most 1 expected, got {uniform}")
        bins = gamut(grid)
        if not 1 <= neighbours <= len(bins):
            raise ValueError(f"neighbours: 1 to {len(bins)} bins expected, got {neighbours}")
        self.side, self.neighbours, self.sigma = size // factor, neighbours, sigma
        self.augmentation = augmentation
        self.register_buffer("bins", bins, persistent=False)
        counted = frequencies(data, size, self.side, grid)
        self.register_buffer("weights", rebalancing(counted, bins, sigma, uniform).float())
        channels, deepest, _ = encoder.shapes()[-1]
        self.head = classifier(channels, deepest, self.side, len(bins))

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, S, S), and of each cell the nearest bins and their shares, (B, K, h, w)."""
        images = self.augmentation(batch, self.encoder.image_size, random)
        ab = colours(images, self.side)
        return images, *soft_encoding(ab, self.bins, self.neighbours, self.sigma)

    def loss(self, views: tuple[Tensor, Tensor, Tensor], progress: float) -> Tensor:
        """Eq. 2 per cell; logs the mean of the deepest feature map as `embedding`."""
        images, nearest, shares = views
        deepest = self.encoder.stages(images)[-1]
        self.log(embedding=deepest.mean((2, 3)))
        return cross_entropy(self.head(deepest), nearest, shares, self.weights)


def cross_entropy(logits: Tensor, nearest: Tensor, shares: Tensor, weights: Tensor) -> Tensor:
    """Mean over cells of −v Σ_q Z_q log Ẑ_q, equation 2, with v of the nearest bin, equation 3.

    Not divided by the weights of the batch at hand, which would differ between processes.

    Args:
        logits: of Ẑ (B, Q, h, w).
        nearest: bins (B, K, h, w) in which Z is not 0, the nearest first.
        shares: Z there.
        weights: (Q,).
    """
    error = -(shares * logits.log_softmax(1).gather(1, nearest)).sum(1)  # (B, h, w)
    return (weights[nearest[:, 0]] * error).mean()


def soft_encoding(ab: Tensor, bins: Tensor, count: int, sigma: float) -> tuple[Tensor, Tensor]:
    """The `count` nearest bins, nearest first, and Gaussian shares that sum to 1 (section 2.1).

    Args:
        ab: colours (B, 2, h, w).
        bins: (Q, 2).
        count: K.
        sigma: σ.

    Returns:
        Two times (B, K, h, w), int64 and float.
    """
    a, b = bins.to(ab.dtype).T[:, None, :, None, None]  # (1, Q, 1, 1) each
    squares = (ab[:, :1] - a).square() + (ab[:, 1:] - b).square()  # (B, Q, h, w)
    nearest = squares.topk(count, dim=1, largest=False)
    return nearest.indices, (-nearest.values / (2 * sigma**2)).softmax(1)


def rebalancing(shares: Tensor, bins: Tensor, sigma: float, uniform: float) -> Tensor:
    """Equation 4: w ∝ 1 / ((1 − λ) p̃ + λ / Q) with Σ p̃ w = 1, where p̃ is p smoothed.

    Args:
        shares: p (Q,) float64.
        bins: (Q, 2).
        sigma: σ.
        uniform: λ.
    """
    kernel = torch.exp(-torch.cdist(bins.double(), bins.double()).square() / (2 * sigma**2))
    smooth = (kernel / kernel.sum(0)) @ shares
    weights = 1 / ((1 - uniform) * smooth + uniform / len(bins))
    return weights / (smooth @ weights)


@cache
def frequencies(data: Split, size: int, side: int, grid: int, most: int = 2000) -> Tensor:
    """Shares (Q,) float64 of the bins in the colours of at most `most` images, evenly spaced."""
    bins = gamut(grid)
    counts = torch.zeros(len(bins), dtype=torch.float64)
    for index in torch.linspace(0, len(data) - 1, min(most, len(data))).long().split(16):
        images = data[index].images
        if images is None:
            raise NotApplicable("colorization needs images")
        nearest, _ = soft_encoding(colours(resize(images, size), side), bins, 1, 1.0)
        counts += nearest.flatten().bincount(minlength=len(bins))
    return counts / counts.sum()


@cache
def gamut(grid: int) -> Tensor:
    """(Q, 2) int64: multiples of `grid` to which a and b of some sRGB colour round.

    The faces of the colour cube show them all: lines of equal a and b leave it through them.
    """
    levels = torch.linspace(0, 1, 256, dtype=torch.float64)
    u, v = torch.meshgrid(levels, levels, indexing="ij")
    ends = torch.zeros_like(u), torch.ones_like(u)
    faces = [torch.stack([end, u, v]).roll(axis, 0) for end in ends for axis in range(3)]
    ab = lab(torch.stack(faces))[:, 1:].movedim(1, -1).flatten(0, 2)
    return torch.unique((ab / grid).round().long(), dim=0) * grid  # type: ignore[no-any-return]


def colours(images: Tensor, side: int) -> Tensor:
    """(B, 3, S, S) in [0, 1] → mean a and b of each cell, (B, 2, side, side)."""
    return F.adaptive_avg_pool2d(lab(images)[:, 1:], side)


def classifier(channels: int, side: int, target: int, bins: int) -> nn.Sequential:
    """(B, C, side, side) → (B, bins, target, target), doubling the side at each layer."""
    width = min(channels, WIDEST)
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
    while side < target:
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.ConvTranspose2d(width, width, 4, 2, 1, bias=False))
        side *= 2
    layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, bins, 1)]
    return nn.Sequential(*layers, nn.Upsample((target, target), mode="bilinear"))
