"""SimSiam: predict one view's projection from the other's; stopping a gradient avoids collapse.

Chen, He. Exploring Simple Siamese Representation Learning. CVPR 2021. arXiv:2011.10566.

Defaults: section 3 and appendix A (ResNet-50 on ImageNet, 100 epochs), with the predictor's
constant learning rate of section 4.2 (table 1c). For CIFAR-10 appendix D takes a projector of two
layers, base learning rate 0.03, weight decay 5e-4 and no blur.
Differs from the paper: biases and norms do not decay; the last norm of a residual block keeps its
initial scale of 1 instead of 0. The last norm of the projector has no affine parameters, as in the
authors' code.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.073 [.021, .126] to .313, linear +.075
[.047, .104] to .359, at the best layer +.054 [.033, .075] to .480; linear, less `pixels`: −.018
[−.044, .008].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): LARS .323 and .368; mean of both .346, of LARS at saturation 0.4 .301, AdamW .292, SGD
at three rates .20 to .23.
"""

import torch.nn.functional as F
from torch import Tensor

from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.encoder import ImageEncoder
from sslbench.heads import mlp
from sslbench.method import Method, Recipe
from sslbench.random import Random

VIEW = Augmentation(crop_scale=(0.2, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


class SimSiam(Method):
    """Each view's prediction is compared with the other view's projection, taken as a constant.

    Args:
        encoder: what is trained.
        data: what to train on.
        layers: of the projector.
        hidden: width of the projector's hidden layers.
        dim: of the projections.
        bottleneck: width of the predictor's hidden layer.
        augmentation: of both views.
    """

    paper = "arXiv:2011.10566"
    pseudo_label = "the projection of the other view"
    version = 1
    recipe = Recipe(
        "sgd",
        lr=0.1,  # 0.05 · B/256
        weight_decay=1e-4,
        batch_size=512,
        epochs=100,
        groups={"predictor": {"schedule": "constant"}},
    )
    encoder: ImageEncoder

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        layers: int = 3,
        hidden: int = 2048,
        dim: int = 2048,
        bottleneck: int = 512,
        augmentation: Augmentation = VIEW,
    ) -> None:
        super().__init__(encoder, data)
        if layers < 1:
            raise ValueError(f"layers: at least 1 expected, got {layers}")
        self.augmentation = augmentation
        self.projector = mlp(encoder.dim, *[hidden] * (layers - 1), dim, last_norm=True)
        self.predictor = mlp(dim, bottleneck, dim)

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor]:
        """Two draws of the augmentation, each (b, 3, S, S)."""
        size = self.encoder.image_size
        return self.augmentation(batch, size, random), self.augmentation(batch, size, random)

    def loss(self, views: tuple[Tensor, Tensor], progress: float) -> Tensor:
        """Equation 4: D(p₁, z₂) / 2 + D(p₂, z₁) / 2; logs the first views' z as `embedding`."""
        first, second = (self.projector(self.encoder(view)) for view in views)  # (b, dim)
        self.log(embedding=first)
        forward = negative_cosine(self.predictor(first), second)
        return (forward + negative_cosine(self.predictor(second), first)) / 2


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """D(p, stopgrad(z)) = −cos(p, z), averaged: equations 1 and 3, in [−1, 1].

    Args:
        prediction: (B, D).
        target: (B, D), taken as a constant.
    """
    return -F.cosine_similarity(prediction, target.detach(), dim=1).mean()
