"""W-MSE: bring the views of an image together after whitening, which scatters the batch.

Ermolov, Siarohin, Sangineto, Sebe. Whitening for Self-Supervised Representation Learning. ICML
2021. arXiv:2007.06346.

Defaults: W-MSE 2 on CIFAR-10 (ResNet-18, 1000 epochs), with two positives of each of 512 images in
a batch; W-MSE 4 has four of 256. For larger images the authors take dim=128, sub_batch=256 and the
learning rate 2e-3, for W-MSE 2 on STL-10 and Tiny ImageNet also iterations=4.
Differs from the paper: AdamW instead of Adam with L2 decay; the learning rate falls along a cosine
instead of in two steps at the end; the warmup of 500 steps is a share of them; a batch smaller than
a sub-batch is whitened as a whole; crops come before the change of colours, bilinearly. Covariances
are factorised in double precision, whatever the precision of the embeddings.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.116 [.051, .182] to .356, linear +.097
[−.038, .232] to .380, at the best layer +.014 [−.003, .030] to .440; linear, less `pixels`: +.004
[−.131, .139].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): dim 64 .383 and .435, 32 .379 and .417.
"""

from itertools import combinations

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

VIEW = Augmentation(
    crop_scale=(0.2, 1.0),
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grayscale_p=0.1,
    blur_p=0.0,
)


class WMSE(Method):
    """Views of an image are compared after each view of random sub-batches was whitened.

    Args:
        encoder: what is trained.
        data: what to train on.
        positives: d, views of each image; all pairs of them are compared.
        hidden: width of the projector's hidden layer.
        dim: of the embeddings that are whitened.
        sub_batch: images that are whitened together; more than `dim` and a divisor of the batch.
            None: 2 · dim.
        iterations: random permutations of the batch into sub-batches, over which is averaged.
        shrinkage: ε in (1 − ε) Σ + ε I, which is whitened instead of the covariance Σ.
        normalised: compare whitened embeddings divided by their lengths; else as they are.
        augmentation: of all views.
    """

    paper = "arXiv:2007.06346"
    pseudo_label = "the other views, among whitened coordinates"
    version = 1
    recipe = Recipe("adamw", lr=3e-3, weight_decay=1e-6, batch_size=512, epochs=1000, warmup=0.005)
    encoder: ImageEncoder

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        positives: int = 2,
        hidden: int = 1024,
        dim: int = 64,
        sub_batch: int | None = None,
        iterations: int = 1,
        shrinkage: float = 0.0,
        normalised: bool = True,
        augmentation: Augmentation = VIEW,
    ) -> None:
        super().__init__(encoder, data)
        for name, value, least in (("positives", positives, 2), ("iterations", iterations, 1)):
            if value < least:
                raise ValueError(f"{name}: at least {least} expected, got {value}")
        if not 0 <= shrinkage < 1:
            raise ValueError(f"shrinkage: in [0, 1) expected, got {shrinkage}")
        self.positives, self.iterations = positives, iterations
        self.dim, self.sub_batch = dim, 2 * dim if sub_batch is None else sub_batch
        self.shrinkage, self.normalised = shrinkage, normalised
        self.augmentation = augmentation
        self.projector = mlp(encoder.dim, hidden, dim, bias=False)  # it would cancel out

    def views(self, batch: Batch, random: Random) -> tuple[tuple[Tensor, ...], Tensor]:
        """`positives` draws, each (b, 3, S, S), and orders (iterations, B) of the global batch."""
        size = self.encoder.image_size
        views = tuple(self.augmentation(batch, size, random) for _ in range(self.positives))
        orders = [random.shared.permutation(random.total) for _ in range(self.iterations)]
        return views, torch.cat(orders)

    def loss(self, views: tuple[tuple[Tensor, ...], Tensor], progress: float) -> Tensor:
        """Section 3: mean distance of all pairs of whitened views.

        Logs the first views' projections, as they are before, as `embedding`.

        Raises:
            ValueError: the batch does not divide into sub-batches that span the embedding space.
            FloatingPointError: a covariance is singular all the same.
        """
        images, orders = views
        local = [self.projector(self.encoder(view)) for view in images]  # d of (b, dim)
        self.log(embedding=local[0])
        v = torch.stack([gather(view) for view in local])  # (d, B, dim)
        size = min(self.sub_batch, v.shape[1])
        if v.shape[1] % size or (size <= self.dim and not self.shrinkage):
            raise ValueError(
                f"sub_batch: more than {self.dim} (dim, where there is no shrinkage) and a divisor "
                f"of the batch of {v.shape[1]} expected, got {size}"
            )
        parts = v[:, orders].view(len(v), -1, size, self.dim)  # the same images in every view
        z = whiten(parts, self.shrinkage)
        if self.normalised:
            z = F.normalize(z, dim=-1)
        pairs = [(a - b).square().sum(-1).mean() for a, b in combinations(z, 2)]
        return torch.stack(pairs).mean()


def whiten(v: Tensor, shrinkage: float = 0.0) -> Tensor:
    """Embeddings (…, n, D) → centred ones whose covariance over n is the identity.

    z = W (v − μ) with WᵀW = Σ⁻¹: W is the inverse of the Cholesky factor of Σ. The gradient goes
    through μ and W too.

    Raises:
        FloatingPointError: Σ is singular or not finite.
    """
    n, dim = v.shape[-2:]
    centred = v.double() - v.double().mean(-2, keepdim=True)  # which autocast leaves alone
    covariance = centred.mT @ centred / (n - 1)
    identity = torch.eye(dim, dtype=torch.double, device=v.device)
    factor, failed = torch.linalg.cholesky_ex(covariance.lerp(identity, shrinkage))
    if failed.any():
        raise FloatingPointError(
            f"whitening: the covariance of {n} embeddings of {dim} dimensions is not positive "
            "definite; shrinkage makes it so if the embeddings are finite"
        )
    z: Tensor = torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT
    return z.to(torch.promote_types(v.dtype, torch.float32))
