"""IJEPA: from one part of an image, predict the representations of other parts, not their pixels.

Assran, Duval, Misra, Bojanowski, Vincent, Rabbat, LeCun, Ballas. Self-Supervised Learning from
Images with a Joint-Embedding Predictive Architecture. CVPR 2023. arXiv:2301.08243.

Defaults: section 3, table 1 and appendix A.1 (ViT-B/16 on ImageNet, 600 epochs; ViT-L and ViT-H
have 12 blocks in the predictor); the crop's scale and the layer norm of the targets are the
authors' released ones.
Differs from the paper: every context is cut at random to the same share of the patches, so that
neither the number of processes nor the batch has a say, and masks that leave less are drawn again;
the paper makes those of a GPU equal (the authors' code cuts them in raster order to the smallest of
128: about a quarter of the patches). The L2 distance is averaged over patches and features instead
of summed (the authors' code has a smooth L1). The encoder keeps its own initialisation, its learned
position embedding and, where it has one, its class token, which no target is made of; one that
pools by average has a norm of tokens, the paper's, only with `fc_norm = false`. The predictor is
initialised as in `mae`: the paper's deviation of 0.02 is made for its widths. The weight decay
stays at 0.04, the paper's rises to 0.4; the learning rate starts from 0 instead of 1e-4 and falls
to 0 instead of 1e-6. As in the paper, the target encoder is what is kept.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 10 epochs, 3 seeds, test n =
2,000), gain over `untrained-vit` of the same encoder: kNN +.023 [−.003, .049] to .302, linear +.016
[−.004, .037] to .396, at the best layer +.011 [−.013, .035] to .395; linear, less `pixels`: +.019
[−.006, .044].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): momentum 0.97 .307 and .415 (the student instead of the target encoder .323 and .445),
0.99 .296 and .409.
"""

import math
from copy import deepcopy

import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.encoder import ImageEncoder
from sslbench.errors import NotApplicable
from sslbench.method import Method, Recipe, ema, frozen
from sslbench.random import Random

CROP = Augmentation(crop_scale=(0.3, 1.0), flip_p=0.0, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
RATIO = (0.75, 1.5)  # range of a target block's height / width
TRIES = 10  # masks drawn until the context is large enough


class IJEPA(Method):
    """A narrow transformer predicts the target encoder's patches from the context encoder's.

    Args:
        encoder: what the context and the target encoder start from; a vision transformer.
        data: what to train on.
        targets: M, blocks that are predicted in each image; they may overlap.
        target_scale: range of a target block's share of the image.
        context_scale: range of the context block's share of the image; the block is square.
        context: share of all patches that the encoder sees: those of the context block and of no
            target, cut to this number.
        decoder_dim: width of the predictor, a multiple of 4.
        decoder_depth: its transformer blocks.
        decoder_heads: attention heads in each; the encoder's in the paper.
        momentum: of the target encoder at the start, which rises linearly to 1.
        augmentation: of the image.
    """

    paper = "arXiv:2301.08243"
    pseudo_label = "the target encoder's patches elsewhere in the image"
    version = 1
    recipe = Recipe(
        "adamw", lr=1e-3, weight_decay=0.04, batch_size=2048, epochs=600, warmup=15 / 600
    )
    encoder: ImageEncoder  # of the targets
    positions: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        targets: int = 4,
        target_scale: tuple[float, float] = (0.15, 0.2),
        context_scale: tuple[float, float] = (0.85, 1.0),
        context: float = 0.3,
        decoder_dim: int = 384,
        decoder_depth: int = 6,
        decoder_heads: int = 12,
        momentum: float = 0.996,
        augmentation: Augmentation = CROP,
    ) -> None:
        super().__init__(encoder, data)
        if encoder.patch is None:
            raise NotApplicable(f"IJEPA masks patches; {encoder.label} is no vision transformer")
        if decoder_dim % 4 or decoder_dim % decoder_heads:
            raise ValueError(f"decoder_dim {decoder_dim}: no multiple of 4 and {decoder_heads}")
        self.targets, self.momentum, self.augmentation = targets, momentum, augmentation
        self.target_scale, self.context_scale = target_scale, context_scale
        self.side = encoder.image_size // encoder.patch
        self.visible = round(context * self.side**2)
        height, width = (
            self._block(target_scale[1], RATIO[1])[0],
            self._block(target_scale[1], RATIO[0])[1],
        )
        left = self._block(context_scale[0], 1.0)[0] ** 2 - height * width
        if not 0 < self.visible <= left:
            raise ValueError(
                f"context {context} is {self.visible} of {self.side**2} patches; 1 to {left} "
                "expected: what any target block is sure to leave of any context block"
            )
        self.embed = nn.Linear(encoder.dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.randn(1, 1, decoder_dim) * 0.02)
        positions = build_sincos2d_pos_embed([self.side, self.side], decoder_dim)
        self.register_buffer("positions", positions, persistent=False)
        self.predictor = nn.Sequential(
            *(Block(decoder_dim, decoder_heads, qkv_bias=True) for _ in range(decoder_depth)),
            nn.LayerNorm(decoder_dim),
        )
        self.head = nn.Linear(decoder_dim, encoder.dim)
        for module in (self.embed, *self.predictor.modules(), self.head):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        self.student, self.encoder = encoder, deepcopy(encoder)
        frozen(self.encoder)

    def _block(self, scale: float, ratio: float) -> tuple[int, int]:
        """Height and width in patches of a block of this share of the image, height / width."""
        area = scale * self.side**2
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        return min(max(height, 1), self.side), min(max(width, 1), self.side)

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor, Tensor]:
        """Images (b, 3, S, S), the context's patches (b, K) and those of the targets (b, M, P)."""
        images = self.augmentation(batch, self.encoder.image_size, random)
        return images, *self.masks(random)

    def masks(self, random: Random) -> tuple[Tensor, Tensor]:
        """Indices of the patches of contexts (b, K) and of target blocks (b, M, P)."""
        side, patches = self.side, self.side**2
        draws = random.on_cpu.shared.uniform(3)[0].tolist()  # sizes of blocks, the same for all
        scale, ratio, whole = (
            low + (high - low) * u
            for u, (low, high) in zip(
                draws, (self.target_scale, RATIO, self.context_scale), strict=True
            )
        )
        (height, width), (edge, _) = self._block(scale, ratio), self._block(whole, 1.0)
        top = random.integers(side - height + 1, TRIES + 1, self.targets)
        left = random.integers(side - width + 1, TRIES + 1, self.targets)
        for corner in (top, left):  # one try more, with all targets in one place: it always fits
            corner[:, -1] = corner[:, -1, :1]
        targets = rectangles(top, left, height, width, side)  # (b, tries, M, P)
        top, left = random.integers(side - edge + 1, TRIES + 1, 2).unbind(2)
        free = torch.zeros(len(top), TRIES + 1, patches, dtype=torch.bool, device=top.device)
        free.scatter_(2, rectangles(top, left, edge, edge, side), True)
        free.scatter_(2, targets.flatten(2), False)
        first = (free.sum(2) >= self.visible).int().argmax(1)
        image = torch.arange(len(first), device=first.device)
        order = random.permutation(patches).masked_fill(~free[image, first], patches).argsort(1)
        return order[:, : self.visible], targets[image, first]

    def loss(self, views: tuple[Tensor, Tensor, Tensor], progress: float) -> Tensor:
        """Mean squared error of the targets' patches; logs the mean context as `embedding`."""
        images, context, targets = views
        seen = self.student.tokens(images, keep=context)  # (b, K, D)
        self.log(embedding=seen.mean(1))
        with torch.no_grad():
            whole = self.encoder.tokens(images)  # (b, N, D)
            whole = F.layer_norm(whole, whole.shape[2:])
            image = torch.arange(len(whole), device=whole.device)
            truth = whole[image[:, None, None], targets]  # (b, M, P, D)
        return F.mse_loss(self.predict(seen, context, targets), truth)

    def predict(self, seen: Tensor, context: Tensor, targets: Tensor) -> Tensor:
        """Representations (b, M, P, D) of target patches, block by block, from (b, K, D)."""
        known = self.embed(seen) + self.positions[context]  # (b, K, decoder_dim)
        asked = self.mask_token + self.positions[targets]  # (b, M, P, decoder_dim)
        x = torch.cat([known.repeat_interleave(self.targets, 0), asked.flatten(0, 1)], dim=1)
        predicted = self.head(self.predictor(x)[:, seen.shape[1] :])  # (b · M, P, D)
        return predicted.unflatten(0, (len(seen), -1))  # type: ignore[no-any-return]

    def after_step(self, progress: float) -> None:
        """The target encoder follows the context encoder, ever more slowly."""
        ema(self.encoder, self.student, self.momentum + (1 - self.momentum) * progress)


def rectangles(top: Tensor, left: Tensor, height: int, width: int, side: int) -> Tensor:
    """Indices (…, height · width) of the patches of rectangles in a grid of side × side."""
    rows = top[..., None, None] + torch.arange(height, device=top.device)[:, None]
    columns = left[..., None, None] + torch.arange(width, device=left.device)
    return (rows * side + columns).flatten(-2)
