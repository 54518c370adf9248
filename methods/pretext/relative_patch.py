"""Relative patch: tell in which of eight directions from a patch of an image another one lies.

Doersch, Gupta, Efros. Unsupervised Visual Representation Learning by Context Prediction. ICCV 2015.
arXiv:1505.05192.

Defaults: section 3 (patches of 96 pixels in images of 150,000 to 450,000, a gap of 48, jitter of
up to 7), where it is silent the authors' released code: the deviation of each patch is taken out
along with its mean, and SGD without momentum at 1e-5 on the sum over some 2,350 pairs of 506
patches is 0.0235 on their mean. They give no number of epochs.
Differs from the paper: patches are those of 3 × 3 grids, whose middle is paired with all around it,
instead of all neighbours in larger grids; so where the first patch lies says nothing about the
second. Images are square crops that are a third or more of the image; no patch is downsampled; no
layer of 4,096 for each patch before both meet; batch norm in the head scales, shifts and follows
both hidden layers; no momentum of .999, which is not in the released code.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.005 [−.049, .058] to .244, linear −.009
[−.037, .019] to .274, at the best layer +.026 [−.005, .058] to .452; linear, less `pixels`: −.102
[−.127, −.077].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): SGD .266 and .306, AdamW .243 and .285.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.data import image_ops
from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.encoder import ImageEncoder
from sslbench.heads import mlp
from sslbench.method import Method, Recipe
from sslbench.random import Random

CROP = Augmentation((1 / 3, 1.0), (1.0, 1.0), flip_p=0.0, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
COLOURS = ("drop", "project", "keep")
CELLS = torch.cartesian_prod(torch.arange(3), torch.arange(3))  # (9, 2) row and column; 4: middle
GREEN_MAGENTA = (-1.0, 2.0, -1.0)  # the axis along which lenses spread colours


class RelativePatch(Method):
    """Classification of the direction from the features of two patches.

    Args:
        encoder: what is trained.
        data: images; labels are not looked at.
        size: side of the images that patches are cut from; None for the encoder's. Where the last
            stage sees a single pixel of a patch, most of its kernels are not trained: a ResNet of
            stride 16 needs patches of 17.
        patch: side of a patch as a share of that; for a ViT, rounded down to whole tokens.
        gap: between patches, as a share of a patch.
        jitter: largest shift of each patch in each direction, as a share of a patch.
        colour: against chromatic aberration, which tells where in a photograph a patch was: "drop"
            (one channel of each patch stays, the others are noise: running statistics are then not
            those of images with all channels) or "project" (green and magenta become grey); "keep"
            for neither, on small images, which have no aberration.
        per_image: neighbours of each middle patch, 1 to 8; fewer than all are drawn at random.
        hidden: width of the head's two hidden layers.
        augmentation: distribution of the images.
    """

    paper = "arXiv:1505.05192"
    pseudo_label = "in which of eight directions the other patch lies"
    version = 1
    recipe = Recipe("sgd", lr=0.0235, batch_size=64, schedule="constant", momentum=0.0)
    encoder: ImageEncoder
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        size: int | None = None,
        patch: float = 0.22,
        gap: float = 0.5,
        jitter: float = 7 / 96,
        colour: str = "drop",
        per_image: int = 8,
        hidden: int = 4096,
        augmentation: Augmentation = CROP,
    ) -> None:
        super().__init__(encoder, data)
        if colour not in COLOURS:
            raise ValueError(f"colour {colour!r}; allowed: {', '.join(COLOURS)}")
        if not 1 <= per_image <= 8:
            raise ValueError(f"per_image: 1 to 8 expected, got {per_image}")
        self.size = encoder.image_size if size is None else size
        unit = encoder.patch or 1
        self.patch = int(patch * self.size) // unit * unit
        self.gap, self.jitter = math.ceil(gap * self.patch), math.ceil(jitter * self.patch)
        self.free = self.size - 3 * self.patch - 2 * self.gap - 2 * self.jitter
        if self.patch < 1 or self.free < 0 or not 0 <= 2 * self.jitter < self.gap:
            raise ValueError(
                f"patches of {self.patch} pixels, {self.gap} apart, shifted by up to {self.jitter},"
                f" in images of {self.size}: three must fit side by side and never touch; a larger"
                " size makes room"
            )
        self.colour, self.per_image, self.augmentation = colour, per_image, augmentation
        for name in ("mean", "std"):
            values = torch.tensor(encoder.config[name]).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)
        self.head = mlp(2 * encoder.dim, hidden, hidden, 8)

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor]:
        """Patches (b, 1 + R, 3, p, p), the middle one first, and directions (b, R) of the others.

        Directions 0 to 7 are the cells around the middle in raster order.
        """
        images = self.augmentation(batch, self.size, random)
        directions = random.permutation(8)[:, : self.per_image]
        cells = F.pad(directions + (directions >= 4), (1, 0), value=4)  # the middle is skipped
        steps = CELLS.to(images.device)[cells] * (self.patch + self.gap)  # (b, 1 + R, 2)
        shifts = random.integers(2 * self.jitter + 1, steps.shape[1], 2)
        corners = random.integers(self.free + 1, 1, 2) + steps + shifts
        patches = image_ops.patches(images, corners, self.patch)
        x = patches - patches.mean((3, 4), keepdim=True)
        if self.colour == "drop":
            x = drop(x, random.integers(3, x.shape[1]), random.normal(*x.shape[1:]))
        elif self.colour == "project":
            x = project(x)
        x = x * torch.rsqrt(x.square().mean((2, 3, 4), keepdim=True) + 1e-8)
        return self.mean + self.std * x, directions  # the encoder leaves x of it

    def loss(self, views: tuple[Tensor, Tensor], progress: float) -> Tensor:
        """Cross-entropy of the direction given both patches (section 3), averaged over pairs."""
        patches, directions = views
        h = self.encoder(patches.flatten(0, 1))  # (b · (1 + R), D)
        self.log(embedding=h)
        h = h.view(*patches.shape[:2], -1)
        pairs = torch.cat([h[:, :1].expand_as(h[:, 1:]), h[:, 1:]], dim=2)  # (b, R, 2D)
        return F.cross_entropy(self.head(pairs.flatten(0, 1)), directions.flatten())


def drop(patches: Tensor, kept: Tensor, noise: Tensor) -> Tensor:
    """Leave one channel, and noise of a hundredth of its deviation in the other two.

    Args:
        patches: (B, P, 3, p, p), each channel with mean 0.
        kept: (B, P) int64, which channel.
        noise: standard normal, as large as the patches.
    """
    stays = F.one_hot(kept, 3)[..., None, None].bool()  # (B, P, 3, 1, 1)
    variance = patches.where(stays, 0).square().sum(2, keepdim=True).mean((3, 4), keepdim=True)
    return torch.where(stays, patches, noise * variance.sqrt() / 100)


def project(patches: Tensor) -> Tensor:
    """I − aᵀa / (aaᵀ) of the colours of (…, 3, p, p): none of a is left."""
    a = patches.new_tensor(GREEN_MAGENTA).view(3, 1, 1)
    return patches - a * (a * patches).sum(-3, keepdim=True) / a.square().sum()
