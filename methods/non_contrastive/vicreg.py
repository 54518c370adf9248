"""VICReg: bring two views together while every dimension keeps its spread and tells its own story.

Bardes, Ponce, LeCun. VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
Learning. ICLR 2022. arXiv:2105.04906.

Defaults: section 4.2 and appendix C (ResNet-50 on ImageNet, 1000 epochs).
Scaling: that of the paper's algorithm 1, to which the weights 25, 25, 1 belong. There the
invariance is a mean over dimensions, whereas equation 5 sums over them. The authors' code also
halves the variance term: variance=12.5 gives theirs.
Differs from the paper: the learning rate falls to 0 instead of 0.002.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.132 [.083, .181] to .371, linear +.106
[.081, .131] to .389, at the best layer +.024 [.003, .045] to .450; linear, less `pixels`: +.013
[−.006, .031].
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

VIEW = Augmentation(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, solarize_p=0.1)


class VICReg(Method):
    """Two views through encoder and expander; the statistics are those of the global batch.

    Args:
        encoder: what is trained.
        data: what to train on.
        hidden: width of the expander's two hidden layers.
        dim: of its output.
        invariance: λ.
        variance: μ.
        covariance: ν.
        augmentation: of both views.
    """

    paper = "arXiv:2105.04906"
    pseudo_label = "the other view, with spread and decorrelated coordinates"
    version = 1
    recipe = Recipe(
        "lars", lr=1.6, weight_decay=1e-6, batch_size=2048, epochs=1000, warmup=0.01
    )  # lr 0.2 · B/256
    encoder: ImageEncoder

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        hidden: int = 8192,
        dim: int = 8192,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        augmentation: Augmentation = VIEW,
    ) -> None:
        super().__init__(encoder, data)
        self.weights = (invariance, variance, covariance)
        self.augmentation = augmentation
        self.expander = mlp(encoder.dim, hidden, hidden, dim)

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor]:
        """Two draws of the augmentation, each (b, 3, S, S)."""
        size = self.encoder.image_size
        return self.augmentation(batch, size, random), self.augmentation(batch, size, random)

    def loss(self, views: tuple[Tensor, Tensor], progress: float) -> Tensor:
        """Equation 6: λ s + μ (v + v′) + ν (c + c′).

        Logs its three unweighted terms, and the first views' expansions as `embedding`.
        """
        first, second = (self.expander(self.encoder(view)) for view in views)  # (b, dim)
        a, b = gather(first), gather(second)  # (B, dim)
        s, v, c = invariance(a, b), variance(a) + variance(b), covariance(a) + covariance(b)
        self.log(embedding=first, invariance=s, variance=v, covariance=c)
        return self.weights[0] * s + self.weights[1] * v + self.weights[2] * c


def invariance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of two views (B, D), over B and D; equation 5 divided by D."""
    return F.mse_loss(a, b)


def variance(z: Tensor, target: float = 1.0, epsilon: float = 1e-4) -> Tensor:
    """How far the standard deviations of z (B, D) fall short of `target`; equations 1 and 2.

    Σ_j max(0, γ − √(Var(z_j) + ε)) / D, with the unbiased variance.
    """
    return F.relu(target - (z.var(dim=0) + epsilon).sqrt()).mean()


def covariance(z: Tensor) -> Tensor:
    """Σ_{i≠j} C_ij² / D of the covariance C of z (B, D); equations 3 and 4."""
    z = z - z.mean(dim=0)
    squares = (z.T @ z / (len(z) - 1)).square()  # (D, D)
    return (squares.sum() - squares.diagonal().sum()) / z.shape[1]
