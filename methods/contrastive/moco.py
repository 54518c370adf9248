"""MoCo: find a view's key, made by a slowly moving encoder, among a queue of earlier keys.

He, Fan, Wu, Xie, Girshick. Momentum Contrast for Unsupervised Visual Representation Learning. CVPR
2020. arXiv:1911.05722 (v1). Chen, Fan, Girshick, He. Improved Baselines with Momentum Contrastive
Learning. 2020. arXiv:2003.04297 (v2).

Defaults: v2 (ResNet-50 on ImageNet, 200 epochs). v1 is hidden=0, temperature=0.07 and its
augmentation: jitter always, of 0.4 in all four, and no blur; its rate falls in two steps.
Differs from the paper: batch norm sees fixed groups of the global batch, of consecutive queries and
of randomly drawn keys, as on `groups` GPUs with shuffled keys (section 3.3); hence any number of
processes that divides `groups` gives the same result. The queue is no longer than
the data. Biases and norms do not decay.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.097 [.047, .146] to .336, linear +.099
[.067, .130] to .382, at the best layer +.047 [.032, .063] to .473; linear, less `pixels`: +.006
[−.024, .035].

Tried on validation (10 epochs, 1 seed; kNN and linear, last layer), at temperature 0.07: batch 128
.322 and .372, 256 .327 and .360 (at half the rate .311 and .354). At temperature 0.2, v2's, the
loss stayed within .08 of log(4097) and kNN at .221 and .265; with a momentum of .9 instead of .99
at .173: the embeddings collapsed, as the monitor said.
"""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.distributed import gather, group_batch_norm, rank, world
from sslbench.encoder import ImageEncoder
from sslbench.heads import mlp
from sslbench.method import Method, Recipe, ema, frozen
from sslbench.random import Random

VIEW = Augmentation(crop_scale=(0.2, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


class MoCo(Method):
    """One view is a query, the other its key; keys of earlier batches are the negatives.

    Args:
        encoder: what is trained; its batch norms are replaced by grouped ones of the same names.
        data: what to train on.
        hidden: width of the projector's hidden layer; 0 for a linear projector (v1).
        dim: of the space in which views are compared.
        queue: number of earlier keys, at most one epoch's. With K of n images it holds an earlier
            key of the query's own image with probability K² / 2n² (17 % at 4,096 of 7,000). It
            starts with random directions.
        momentum: m of the key encoder.
        temperature: τ.
        groups: of batch norm in the global batch, which they must divide.
        augmentation: of both views.
    """

    paper = "arXiv:2003.04297"
    pseudo_label = "the key of the query among a queue of keys"
    version = 1
    recipe = Recipe("sgd", lr=0.03, weight_decay=1e-4, batch_size=256, epochs=200)
    encoder: ImageEncoder
    keys: Tensor
    oldest: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        hidden: int = 2048,
        dim: int = 128,
        queue: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.2,
        groups: int = 8,
        augmentation: Augmentation = VIEW,
    ) -> None:
        super().__init__(encoder, data)
        self.momentum, self.temperature, self.augmentation = momentum, temperature, augmentation
        group_batch_norm(encoder, groups)
        widths = (encoder.dim, hidden, dim) if hidden else (encoder.dim, dim)
        self.projector = mlp(*widths, norm=False)
        self.key_encoder = frozen(deepcopy(encoder))
        self.key_projector = frozen(deepcopy(self.projector))
        start = torch.randn(min(queue, len(data)), dim)
        self.register_buffer("keys", F.normalize(start, dim=1))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.long))

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys (b, 3, S, S), and the order (B,) in which keys meet in batch norm."""
        size = self.encoder.image_size
        query, key = (self.augmentation(batch, size, random) for _ in range(2))
        return query, key, random.shared.permutation(random.total)[0]

    def loss(self, views: tuple[Tensor, Tensor, Tensor], progress: float) -> Tensor:
        """InfoNCE of each query against its key and the queue; logs queries as `embedding`."""
        query, key, order = views
        q = F.normalize(self.projector(self.encoder(query)), dim=1)  # (b, dim)
        self.new_keys = self.embed_keys(key, order)  # (B, dim)
        self.log(embedding=q)
        k = self.new_keys.chunk(world())[rank()]
        return info_nce(q, k, self.keys, self.temperature)

    @torch.no_grad()
    def embed_keys(self, key: Tensor, order: Tensor) -> Tensor:
        """Keys of the global batch (B, dim) by place, of images (b, 3, S, S) that are shuffled."""
        mixed = gather(key)[order].chunk(world())[rank()]
        k = gather(F.normalize(self.key_projector(self.key_encoder(mixed)), dim=1))
        return k[order.argsort()]

    def after_step(self, progress: float) -> None:
        """Equation 2; then the oldest keys make room for the new ones."""
        ema(self.key_encoder, self.encoder, self.momentum)
        ema(self.key_projector, self.projector, self.momentum)
        size = len(self.keys)
        new = self.new_keys[-size:].to(self.keys.dtype)
        self.keys[(self.oldest + torch.arange(len(new), device=new.device)) % size] = new
        self.oldest.add_(len(new)).remainder_(size)


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """−log( exp(q·k / τ) / (exp(q·k / τ) + Σ_i exp(q·queue_i / τ)) ), equation 1, averaged.

    Args:
        q: queries (B, D) of unit length.
        k: their keys (B, D) of unit length.
        queue: other keys (K, D) of unit length.
        temperature: τ.
    """
    positive = (q * k).sum(1, keepdim=True)
    logits = torch.cat([positive, q @ queue.T], dim=1) / temperature  # (B, 1 + K)
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))
