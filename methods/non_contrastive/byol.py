"""BYOL: predict what a slowly moving copy of oneself says of another view; no negatives.

Grill, Strub, Altché, Tallec, Richemond et al. Bootstrap Your Own Latent. NeurIPS 2020.
arXiv:2006.07733.

Defaults: section 3.3, and appendix B for the two distributions of views (ResNet-50 on ImageNet,
1000 epochs).
Differs from the paper: brightness is multiplied and contrast is around the mean of all channels, as
in torchvision; crops are resized bilinearly.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.071 [.023, .120] to .311, linear +.085
[.054, .116] to .369, at the best layer +.060 [.011, .109] to .486; linear, less `pixels`: −.008
[−.036, .020].

Tried on validation (10 epochs, mean of 2 seeds; kNN and linear, last layer): LARS at 2.0 and batch
128 .307 and .365 (at 4.0 .294 and .320; batch 256 at 4.0 .270 and .317; momentum .996 .288 and
.363), SGD with batch 256 .308 and .332, 128 .303 and .326, 64 .305 and .351, AdamW .291 and .335.
"""

import math
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.encoder import ImageEncoder
from sslbench.heads import mlp
from sslbench.method import Method, Recipe, ema, frozen
from sslbench.random import Random

FIRST = Augmentation(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur_p=1.0)
SECOND = Augmentation(
    brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur_p=0.1, solarize_p=0.2
)


class BYOL(Method):
    """A student predicts the teacher's projection of the other view; the teacher follows it.

    Args:
        encoder: what is trained: the student.
        data: what to train on.
        hidden: width of the hidden layers of projector and predictor.
        dim: of the projections.
        momentum: τ of the teacher at the start, which rises to 1 as a cosine.
        first: augmentation of the first view.
        second: augmentation of the second view.
    """

    paper = "arXiv:2006.07733"
    pseudo_label = "the teacher's projection of the other view"
    version = 1
    recipe = Recipe(
        "lars", lr=3.2, weight_decay=1.5e-6, batch_size=4096, epochs=1000, warmup=0.01
    )  # lr 0.2 · B/256
    encoder: ImageEncoder

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        hidden: int = 4096,
        dim: int = 256,
        momentum: float = 0.996,
        first: Augmentation = FIRST,
        second: Augmentation = SECOND,
    ) -> None:
        super().__init__(encoder, data)
        self.momentum, self.first, self.second = momentum, first, second
        self.projector = mlp(encoder.dim, hidden, dim)
        self.predictor = mlp(dim, hidden, dim)
        self.teacher_encoder = frozen(deepcopy(encoder))
        self.teacher_projector = frozen(deepcopy(self.projector))

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor]:
        """One draw of each augmentation, each (b, 3, S, S)."""
        size = self.encoder.image_size
        return self.first(batch, size, random), self.second(batch, size, random)

    def loss(self, views: tuple[Tensor, Tensor], progress: float) -> Tensor:
        """Equation 2, symmetrised; logs the student's projections as `embedding`."""
        first, second = (self.projector(self.encoder(view)) for view in views)  # (b, dim)
        with torch.no_grad():
            targets = [self.teacher_projector(self.teacher_encoder(view)) for view in views]
        self.log(embedding=first)
        return regression(self.predictor(first), targets[1]) + regression(
            self.predictor(second), targets[0]
        )

    def after_step(self, progress: float) -> None:
        """Equation 1: the teacher follows, ever more slowly (section 3.3)."""
        momentum = 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2
        ema(self.teacher_encoder, self.encoder, momentum)
        ema(self.teacher_projector, self.projector, momentum)


def regression(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the normalised vectors, 2 − 2 cos, averaged: equation 2, in [0, 4].

    Args:
        prediction: (B, D).
        target: (B, D), constant.
    """
    return 2 - 2 * F.cosine_similarity(prediction, target.detach(), dim=1).mean()
