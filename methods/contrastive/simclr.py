"""SimCLR: pull two views of an image together and push the views of all other images away.

Chen, Kornblith, Norouzi, Hinton. A Simple Framework for Contrastive Learning of Visual
Representations. ICML 2020. arXiv:2002.05709.

Defaults: section 2.3 (ResNet-50 on ImageNet, 100 epochs), appendix A for the views. For CIFAR-10
appendix B.9 takes temperature 0.5, half the jitter and no blur. The projector is the formula of
section 2.1; the authors' code adds batch norm to it (`norm`). Crops are resized bilinearly.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.177 [.130, .224] to .417, linear +.163
[.137, .190] to .447, at the best layer +.065 [.050, .081] to .491; linear, less `pixels`: +.070
[.046, .094].

Tried on validation (10 epochs, mean of 2 seeds; kNN and linear, last layer): temperature 0.2 .397
and .448, 0.5 .349 and .400.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.blockwise import blockwise
from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.distributed import gather
from sslbench.encoder import ImageEncoder
from sslbench.heads import mlp
from sslbench.method import Method, Recipe
from sslbench.random import Random

VIEW = Augmentation()  # whose defaults are appendix A


class SimCLR(Method):
    """Two views through encoder and projector; each must find its partner among all others.

    Args:
        encoder: what is trained.
        data: what to train on.
        hidden: width of the projector's hidden layer; None for the encoder's.
        dim: of the space in which views are compared.
        norm: batch norm after the projector's hidden layer.
        temperature: τ.
        augmentation: of both views.
    """

    paper = "arXiv:2002.05709"
    pseudo_label = "the other view among 2B − 1"
    version = 1
    recipe = Recipe(
        "lars", lr=4.8, weight_decay=1e-6, batch_size=4096, epochs=100, warmup=0.1
    )  # lr 0.3 · B/256
    encoder: ImageEncoder

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        hidden: int | None = None,
        dim: int = 128,
        norm: bool = False,
        temperature: float = 0.1,
        augmentation: Augmentation = VIEW,
    ) -> None:
        super().__init__(encoder, data)
        self.temperature, self.augmentation = temperature, augmentation
        self.projector = mlp(encoder.dim, hidden or encoder.dim, dim, norm=norm)

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor]:
        """Two draws of the augmentation, each (b, 3, S, S)."""
        size = self.encoder.image_size
        return self.augmentation(batch, size, random), self.augmentation(batch, size, random)

    def loss(self, views: tuple[Tensor, Tensor], progress: float) -> Tensor:
        """Algorithm 1 over the views of the global batch.

        Logs the first views' projections as `embedding`.
        """
        first, second = self.projector(self.encoder(torch.cat(views))).chunk(2)  # (b, dim) each
        self.log(embedding=first)
        return nt_xent(torch.cat([gather(first), gather(second)]), self.temperature)


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy: equation 1 averaged over all 2B views.

    ℓ(i, j) = −log( exp(s_ij / τ) / Σ_{k ≠ i} exp(s_ik / τ) ), s the cosine similarity.

    Args:
        z: (2B, D), of any length; rows i and i + B are the two views of an image.
        temperature: τ.
    """
    z = F.normalize(z, dim=1)
    place = torch.arange(len(z), device=z.device)

    def rows(z_i: Tensor, itself: Tensor, partner: Tensor) -> Tensor:
        similarity = z_i @ z.T / temperature  # (rows, 2B)
        return F.cross_entropy(similarity.scatter(1, itself[:, None], -torch.inf), partner)

    return blockwise(rows, len(z), z, place, place.roll(len(z) // 2))
