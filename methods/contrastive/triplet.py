"""Triplet: an image's other view must be nearer to it than another image, by a margin.

Schroff, Kalenichenko, Philbin. FaceNet: A Unified Embedding for Face Recognition and Clustering.
CVPR 2015. arXiv:1503.03832.

Defaults: sections 3.2, 3.3 and 5.4 (128 dimensions, margin 0.2, learning rate 0.05, 1,800 exemplars
in a batch, here two of each of 900 images). The rate is AdaGrad's: give one along with another
batch size. Views and epochs are ours: the paper's positives are other pictures of a person.
Triplets: each view of the global batch is an anchor and the other view of its image the positive.
The negative is the nearest view of another image that is farther away than the positive (equation
4), semi-hard where it lies inside the margin. Where no view is farther away, the farthest of all is
taken: the least hard one.
Differs from the paper: momentum and a cosine schedule instead of AdaGrad; the mean over triplets
instead of their sum.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.172 [.124, .220] to .411, linear +.143
[.119, .168] to .427, at the best layer +.060 [.043, .077] to .486; linear, less `pixels`: +.050
[.029, .071].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): margin 0.5 .388 and .434, 0.2 .383 and .422.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.distributed import gather
from sslbench.encoder import ImageEncoder
from sslbench.heads import mlp
from sslbench.method import Method, Recipe
from sslbench.random import Random

VIEW = Augmentation()


class Triplet(Method):
    """Anchors, their other views and semi-hard negatives, as points of the unit sphere.

    Args:
        encoder: what is trained.
        data: what to train on.
        hidden: width of the projector's hidden layer; 0 for a linear projector, as in the paper.
        dim: of the space in which distances are taken.
        margin: α, between squared distances.
        augmentation: of both views.
    """

    paper = "arXiv:1503.03832"
    pseudo_label = "which of two views is of the same image"
    version = 1
    recipe = Recipe("sgd", lr=0.05, batch_size=900, epochs=100)
    encoder: ImageEncoder

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        hidden: int = 0,
        dim: int = 128,
        margin: float = 0.2,
        augmentation: Augmentation = VIEW,
    ) -> None:
        super().__init__(encoder, data)
        if margin <= 0:
            raise ValueError(f"margin: more than 0 expected, got {margin}")
        self.margin, self.augmentation = margin, augmentation
        widths = (encoder.dim, hidden, dim) if hidden else (encoder.dim, dim)
        self.projector = mlp(*widths)

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor]:
        """Two draws of the augmentation, each (b, 3, S, S)."""
        size = self.encoder.image_size
        return self.augmentation(batch, size, random), self.augmentation(batch, size, random)

    def loss(self, views: tuple[Tensor, Tensor], progress: float) -> Tensor:
        """Equation 3 over the views of the global batch; logs the first ones as `embedding`.

        Also logs the share of anchors whose negative is semi-hard.
        """
        first, second = self.projector(self.encoder(torch.cat(views))).chunk(2)  # (b, dim) each
        z = F.normalize(torch.cat([gather(first), gather(second)]), dim=1)  # (2B, dim)
        distance = torch.cdist(z, z).square()
        anchor = torch.arange(len(z), device=z.device)
        positive = distance[anchor, anchor.roll(len(z) // 2)]
        negative = distance[anchor, semi_hard(distance.detach())]
        gap = negative - positive
        inside = (gap > 0) & (gap < self.margin)
        self.log(embedding=first, semi_hard=inside.float().mean())
        return (self.margin - gap).clamp(min=0).mean()


def semi_hard(distance: Tensor) -> Tensor:
    """Index (2B,) of each anchor's negative: the nearest one that is farther than the positive.

    The farthest one where none is.

    Args:
        distance: (2B, 2B); rows i and i + B are the two views of an image.
    """
    image = torch.arange(len(distance), device=distance.device) % (len(distance) // 2)
    other = image[:, None] != image
    positive = distance.diagonal(len(distance) // 2).repeat(2)[:, None]
    farther = other & (distance > positive)
    nearest = distance.masked_fill(~farther, torch.inf).argmin(1)
    farthest = distance.masked_fill(~other, -torch.inf).argmax(1)
    return torch.where(farther.any(1), nearest, farthest)
