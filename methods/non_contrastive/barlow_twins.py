"""Barlow Twins: make the coordinates of two views agree, each with its twin and with no other.

Zbontar, Jing, Misra, LeCun, Deny. Barlow Twins: Self-Supervised Learning via Redundancy Reduction.
ICML 2021. arXiv:2103.03230.

Defaults: section 2.2 (ResNet-50 on ImageNet, 1000 epochs); the two distributions of views are
BYOL's, as there.
Scaling: the paper gives biases and norms a learning rate of 0.0048 · B/256, weights 0.2 · B/256.
Here the loss is multiplied by `scale` = 0.0048 / 0.2 instead, which is the same: LARS, which adapts
weights only, does not see the scale of their gradient if the weight decay is scaled too.
Differs from the paper: the learning rate falls to 0 instead of a thousandth; crops are resized
bilinearly.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.105 [.056, .153] to .344, linear +.100
[.062, .139] to .384, at the best layer +.018 [−.008, .044] to .444; linear, less `pixels`: +.007
[−.029, .043].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): LARS at the paper's scale .363 and .410, SGD at scale 1 .239 and .302.
"""

import torch.nn.functional as F
from torch import Tensor

from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.distributed import gather
from sslbench.encoder import ImageEncoder
from sslbench.heads import mlp
from sslbench.method import Method, Recipe
from sslbench.random import Random

SCALE = 0.024
FIRST = Augmentation(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur_p=1.0)
SECOND = Augmentation(
    brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur_p=0.1, solarize_p=0.2
)


class BarlowTwins(Method):
    """The cross-correlation of two views over the global batch is pulled towards the identity.

    Args:
        encoder: what is trained.
        data: what to train on.
        hidden: width of the projector's two hidden layers.
        dim: of its output.
        redundancy: λ, weight of the D (D − 1) terms of redundancy against the D of invariance.
        scale: of the whole loss; matters for biases and norms, and for all under plain SGD, which
            wants scale=1 and a weight decay of its own.
        first: augmentation of the first view.
        second: augmentation of the second view.
    """

    paper = "arXiv:2103.03230"
    pseudo_label = "the same coordinate of the other view, and of no other coordinate"
    version = 1
    recipe = Recipe(
        "lars",
        lr=1.6,  # 0.2 · B/256
        weight_decay=1.5e-6 * SCALE,
        batch_size=2048,
        epochs=1000,
        warmup=0.01,
    )
    encoder: ImageEncoder

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        hidden: int = 8192,
        dim: int = 8192,
        redundancy: float = 5e-3,
        scale: float = SCALE,
        first: Augmentation = FIRST,
        second: Augmentation = SECOND,
    ) -> None:
        super().__init__(encoder, data)
        self.redundancy, self.scale, self.first, self.second = redundancy, scale, first, second
        self.projector = mlp(encoder.dim, hidden, hidden, dim, bias=False)  # it would cancel out

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor]:
        """One draw of each augmentation, each (b, 3, S, S)."""
        size = self.encoder.image_size
        return self.first(batch, size, random), self.second(batch, size, random)

    def loss(self, views: tuple[Tensor, Tensor], progress: float) -> Tensor:
        """Equation 1, Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij², times `scale`.

        Logs its two unweighted terms, and the first views' projections as `embedding`.
        """
        first, second = (self.projector(self.encoder(view)) for view in views)  # (b, dim)
        c = correlation(gather(first), gather(second))
        invariance = (1 - c.diagonal()).square().sum()
        redundancy = c.square().sum() - c.diagonal().square().sum()
        self.log(embedding=first, invariance=invariance, redundancy=redundancy)
        return self.scale * (invariance + self.redundancy * redundancy)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Cross-correlation (D, D) of two views (B, D), each coordinate centred: equation 2.

    C_ij = Σ_b a_bi b_bj / (√Σ_b a_bi² · √Σ_b b_bj²).
    """
    a, b = (F.normalize(z - z.mean(dim=0), dim=0) for z in (a, b))
    return a.T @ b
