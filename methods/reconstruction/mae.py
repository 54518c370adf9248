"""MAE: from a quarter of an image's patches, paint the other three quarters.

He, Chen, Xie, Li, Dollár, Girshick. Masked Autoencoders Are Scalable Vision Learners. CVPR 2022.
arXiv:2111.06377.

Defaults: section 4 and table 8 (ViT-L on ImageNet, 800 epochs), with the normalised targets of
table 1d and of its results.
Differs from the paper: the encoder keeps its own initialisation and its learned position
embedding (the decoder's is fixed, sine and cosine); the class token, where the encoder has one,
takes part in the encoder only, so that averaged patches are the representation to evaluate
(`global_pool = "avg"` of timm's models); crops are resized bilinearly.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained-vit` of the same encoder: kNN +.022 [.002, .041] to .301, linear +.082
[.068, .097] to .462, at the best layer +.085 [.057, .113] to .470; linear, less `pixels`: +.085
[.064, .107].
"""

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.encoder import ImageEncoder
from sslbench.errors import NotApplicable
from sslbench.method import Method, Recipe
from sslbench.random import Random

VIEW = Augmentation(crop_scale=(0.2, 1.0), jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)


class MAE(Method):
    """The encoder sees the visible patches only; a light decoder predicts the masked ones.

    Args:
        encoder: what is trained; a vision transformer.
        data: what to train on.
        mask_ratio: share of the patches that is masked.
        decoder_dim: width of the decoder, a multiple of 4.
        decoder_depth: its transformer blocks.
        decoder_heads: attention heads in each.
        normalised: predict each patch with its own mean and standard deviation taken out.
        augmentation: of the image.
    """

    paper = "arXiv:2111.06377"
    pseudo_label = "the pixels of masked patches"
    version = 1
    recipe = Recipe(
        "adamw",
        lr=2.4e-3,  # 1.5e-4 · B/256
        weight_decay=0.05,
        batch_size=4096,
        epochs=800,
        warmup=0.05,
        betas=(0.9, 0.95),
    )
    encoder: ImageEncoder
    positions: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        mask_ratio: float = 0.75,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        normalised: bool = True,
        augmentation: Augmentation = VIEW,
    ) -> None:
        super().__init__(encoder, data)
        if encoder.patch is None:
            raise NotApplicable(f"MAE masks patches; {encoder.label} is no vision transformer")
        self.patch, self.normalised, self.augmentation = encoder.patch, normalised, augmentation
        side = encoder.image_size // self.patch
        self.visible = int(side**2 * (1 - mask_ratio))
        if not 0 < self.visible < side**2:
            raise ValueError(f"mask_ratio {mask_ratio} leaves {self.visible} of {side**2} patches")
        if decoder_dim % 4 or decoder_dim % decoder_heads:
            raise ValueError(f"decoder_dim {decoder_dim}: no multiple of 4 and {decoder_heads}")
        self.embed = nn.Linear(encoder.dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.randn(1, 1, decoder_dim) * 0.02)
        self.register_buffer("positions", sine_cosine(side, decoder_dim), persistent=False)
        self.decoder = nn.Sequential(
            *(Block(decoder_dim, decoder_heads, qkv_bias=True) for _ in range(decoder_depth)),
            nn.LayerNorm(decoder_dim),
        )
        self.head = nn.Linear(decoder_dim, 3 * self.patch**2)
        for module in (self.embed, *self.decoder.modules(), self.head):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor]:
        """Images (b, 3, S, S), and an order of patches (b, N): visible ones first, then masked."""
        images = self.augmentation(batch, self.encoder.image_size, random)
        return images, random.permutation(len(self.positions))

    def loss(self, views: tuple[Tensor, Tensor], progress: float) -> Tensor:
        """Mean squared error of the masked patches; logs the mean visible token as `embedding`."""
        images, order = views
        seen = self.encoder.tokens(images, keep=order[:, : self.visible])  # (b, K, D)
        self.log(embedding=seen.mean(1))
        masked = order[:, self.visible :]  # (b, M)
        target = patches(self.encoder.normalise(images), self.patch)
        target = target.gather(1, masked[..., None].expand(-1, -1, target.shape[2]))
        return masked_error(self.decode(seen, order), target, normalised=self.normalised)

    def decode(self, seen: Tensor, order: Tensor) -> Tensor:
        """Predictions (b, M, 3p²) of the masked patches from the visible tokens (b, K, D).

        Attention does not care for order: tokens stay shuffled, each with its own position.
        """
        hidden = self.mask_token.expand(len(seen), order.shape[1] - seen.shape[1], -1)
        x = torch.cat([self.embed(seen), hidden], dim=1) + self.positions[order]
        return self.head(self.decoder(x)[:, seen.shape[1] :])  # type: ignore[no-any-return]


def masked_error(predicted: Tensor, target: Tensor, *, normalised: bool) -> Tensor:
    """Mean squared error of predicted (B, M, P) and true pixels (B, M, P) of masked patches.

    `normalised` takes each true patch's mean and standard deviation (unbiased) out of it.
    """
    if normalised:
        centred = target - target.mean(2, keepdim=True)
        target = centred * torch.rsqrt(target.var(2, keepdim=True) + 1e-6)
    return (predicted - target).square().mean()


def patches(images: Tensor, size: int) -> Tensor:
    """(B, 3, H, W) → (B, N, 3 · size²): patches in raster order, each channel by channel."""
    return nn.functional.unfold(images, size, stride=size).mT


def sine_cosine(side: int, width: int) -> Tensor:
    """Fixed positions (side², width) of a square grid: half of them tell the row, half the column.

    Vaswani et al. Attention Is All You Need. 2017. arXiv:1706.03762, section 3.5.
    """
    rates = 10000 ** (-torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * rates  # (side, width / 4)
    wave = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    row, column = wave.repeat_interleave(side, dim=0), wave.repeat(side, 1)
    return torch.cat([row, column], dim=1)
