"""SwAV: cluster a batch online, and predict a view's cluster from the other views of the image.

Caron, Misra, Mairal, Goyal, Bojanowski, Joulin. Unsupervised Learning of Visual Features by
Contrasting Cluster Assignments. NeurIPS 2020. arXiv:2006.09882.

Defaults: section 4 and appendix A (ResNet-50 on ImageNet, batches of 4096, 800 epochs), which need
no queue. For batches of 256 the authors take queue=3840 and queue_start=15 / epochs, the learning
rate 0.6 and no warm-up. Shares of the training that belong to 800 epochs, for others: warmup =
10 / epochs, groups = {"prototypes": {"start": 1 / epochs}}.
Differs from the paper: the learning rate falls to 0 instead of 0.0048; biases and norms are
neither adapted by LARS nor decayed; small views are 96/224 of the image's side at any size of
image, rounded to whole patches of a vision transformer.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.098 [.050, .145] to .337, linear +.107
[.080, .135] to .391, at the best layer +.055 [.036, .074] to .480; linear, less `pixels`: +.014
[−.011, .039].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): rate 0.1 .331 and .393; mean of both .362, at 0.06 .342.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.data.augment import Augmentation, multi_crop
from sslbench.data.split import Batch, Split
from sslbench.distributed import gather, rank, world
from sslbench.encoder import ImageEncoder
from sslbench.heads import mlp
from sslbench.method import Method, Recipe
from sslbench.random import Random

LARGE = Augmentation(crop_scale=(0.14, 1.0))  # colours are changed as in SimCLR
SMALL = Augmentation(crop_scale=(0.05, 0.14))


class SwAV(Method):
    """Codes of the two large views, spread evenly over prototypes, are predicted from all others.

    Args:
        encoder: what is trained.
        data: what to train on.
        hidden: width of the projector's hidden layer.
        dim: of the space in which features meet prototypes.
        prototypes: K.
        temperature: τ of the predictions.
        epsilon: ε; codes of a smaller one are closer to one prototype each.
        iterations: of Sinkhorn-Knopp.
        queue: earlier features of each large view, over which codes are spread together with the
            batch's once it is full; 0 for none. For batches small compared with K.
        queue_start: share of training before which nothing enters the queue.
        crops: small views of each image.
        crop_size: their side as a share of the image's.
        large: augmentation of the two large views.
        small: augmentation of the small views.
    """

    paper = "arXiv:2006.09882"
    pseudo_label = "the prototypes that other views are assigned to"
    version = 1
    recipe = Recipe(
        "lars",
        lr=4.8,
        weight_decay=1e-6,
        batch_size=4096,
        epochs=800,
        warmup=10 / 800,
        groups={"prototypes": {"start": 1 / 800}},  # frozen in the first epoch
    )
    encoder: ImageEncoder
    queue: Tensor
    pushed: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        hidden: int = 2048,
        dim: int = 128,
        prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        queue: int = 0,
        queue_start: float = 15 / 800,
        crops: int = 6,
        crop_size: float = 96 / 224,
        large: Augmentation = LARGE,
        small: Augmentation = SMALL,
    ) -> None:
        super().__init__(encoder, data)
        if crops < 0 or not 0 < crop_size <= 1:
            raise ValueError(f"crops ≥ 0 of a size in (0, 1] expected, got {crops} of {crop_size}")
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.queue_start = queue_start
        unit = encoder.patch or 1
        side = unit * max(1, round(crop_size * encoder.image_size / unit))
        self.specs = [(large, encoder.image_size, 2), (small, side, crops)]
        self.projector = mlp(encoder.dim, hidden, dim)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, dim), dim=1))
        self.register_buffer("queue", torch.zeros(queue, 2, dim))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))

    def views(self, batch: Batch, random: Random) -> list[Tensor]:
        """Two large views (b, 3, S, S), then the small ones (b, 3, s, s)."""
        return multi_crop(batch, self.specs, random)

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        """Equation 6, averaged over its pairs.

        Logs the mean of the prototypes that each first view predicts as `embedding`.
        """
        sizes = [torch.cat(same) for same in (views[:2], views[2:]) if same]
        h = torch.cat([self.encoder(images) for images in sizes])  # (V · b, D)
        z = F.normalize(self.projector(h), dim=1).unflatten(0, (len(views), -1)).transpose(0, 1)
        self.new = gather(z[:, :2].detach())  # (B, 2, dim)
        predicted = F.log_softmax(z @ self.prototypes.T / self.temperature, dim=2)  # (b, V, K)
        self.log(embedding=predicted[:, 0].exp() @ self.prototypes)
        return swapped(predicted, self.codes(self.new).chunk(world())[rank()])

    @torch.no_grad()
    def codes(self, features: Tensor) -> Tensor:
        """(B, 2, K) of the large views (B, 2, dim) of the global batch."""
        known = [features]
        if self.pushed >= len(self.queue):
            known.append(self.queue.to(features.dtype))
        scores = torch.cat(known) @ self.prototypes.T
        return sinkhorn(scores, self.epsilon, self.iterations)[: len(features)]

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Prototypes return to the sphere; the oldest features make room for the new ones."""
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
        if len(self.queue) and progress > self.queue_start:
            new = self.new[-len(self.queue) :].to(self.queue.dtype)
            place = self.pushed + torch.arange(len(new), device=new.device)
            self.queue[place % len(self.queue)] = new
            self.pushed.add_(len(new))


def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes of B features that all prototypes share about equally: section 3.1, equations 3 to 5.

    Q maximises Tr(Qᵀ Cᵀ Z) + ε H(Q) where each feature has as much of it as any other, and each
    prototype as any other. In logarithms, so that no ε is too small.

    Args:
        scores: cosines (B, …, K) of features and prototypes; what lies between is apart.
        epsilon: ε.
        iterations: of normalising the prototypes' shares, then the features'.

    Returns:
        Of the shape of the scores; the last dimension sums to 1.
    """
    q = scores.to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
    for _ in range(iterations):
        q = q - q.logsumexp(0, keepdim=True)
        q = q - q.logsumexp(-1, keepdim=True)
    return q.exp()


def swapped(predicted: Tensor, codes: Tensor) -> Tensor:
    """−Σ_k q_k log p_k (equation 2) of each code and each other view, averaged.

    Args:
        predicted: log p (B, V, K) of all views, the coded ones first.
        codes: q (B, C, K), constant.
    """
    others = predicted.sum(1, keepdim=True) - predicted[:, : codes.shape[1]]
    return -(codes * others).sum(2).mean() / (predicted.shape[1] - 1)
