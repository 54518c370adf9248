"""Siamese: pull similar pairs together, push dissimilar ones apart until they are a margin away.

Hadsell, Chopra, LeCun 2006. Dimensionality Reduction by Learning an Invariant Mapping. CVPR. The
distance is the energy of a pair: low where its halves are compatible, high where they are not.

Defaults: the loss is section 2.1's. The paper maps MNIST and NORB to 2 or 3 dimensions and has no
recipe for large images: dimension, margin, optimiser and epochs are ours, the views SimCLR's. The
energy has no bound: higher rates, or no warm-up, end in numbers that are not finite.
Pairs: the two views of an image are similar; the first view of an image and the second view of any
other image in the global batch are dissimilar.
Differs from the paper: its sum over pairs becomes a mean over the similar ones plus a mean over the
dissimilar ones, or the latter, B − 1 times as many, would decide alone; similar are views of an
image instead of neighbours in the data.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.032 [−.017, .082] to .272, linear +.038
[.002, .075] to .322, at the best layer −.020 [−.038, −.002] to .406; linear, less `pixels`: −.055
[−.088, −.022].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): rate 0.03 .281 and .340, 0.01 .250 and .285; 0.05 and 0.1 end in NaN.
"""

import torch
from torch import Tensor

from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.distributed import gather
from sslbench.encoder import ImageEncoder
from sslbench.heads import mlp
from sslbench.method import Method, Recipe
from sslbench.random import Random

VIEW = Augmentation()


class Siamese(Method):
    """Two views through one network; the energy of a pair is the distance of its outputs.

    Args:
        encoder: what is trained.
        data: what to train on.
        hidden: width of the projector's hidden layer; 0 for a linear projector, as in the paper.
        dim: of the space in which distances are taken.
        margin: m, the distance from which on a dissimilar pair is left alone.
        augmentation: of both views.
    """

    paper = "Hadsell, Chopra, LeCun 2006"
    pseudo_label = "whether two views are of one image"
    version = 1
    recipe = Recipe("sgd", lr=0.03, weight_decay=1e-4, batch_size=256, epochs=100, warmup=0.05)
    encoder: ImageEncoder

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        hidden: int = 0,
        dim: int = 128,
        margin: float = 1.0,
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
        """Equation 4 over the pairs of the global batch.

        Logs the terms of similar and of dissimilar pairs, and the first views' projections as
        `embedding`.
        """
        first, second = self.projector(self.encoder(torch.cat(views))).chunk(2)  # (b, dim) each
        distance = torch.cdist(gather(first), gather(second))  # (B, B)
        similar, dissimilar = energies(distance, self.margin)
        self.log(embedding=first, similar=similar, dissimilar=dissimilar)
        return similar + dissimilar


def energies(distance: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """½ D² averaged over similar pairs and ½ max(0, m − D)² over dissimilar ones: equation 4.

    Args:
        distance: D (B, B); similar pairs are on the diagonal.
        margin: m.
    """
    similar = distance.diagonal().square().mean() / 2
    others = ~torch.eye(len(distance), dtype=torch.bool, device=distance.device)
    return similar, (margin - distance[others]).clamp(min=0).square().mean() / 2
