"""VQ-VAE: describe an image by a map of discrete codes, then predict code after code.

Van den Oord, Vinyals, Kavukcuoglu. Neural Discrete Representation Learning. NeurIPS 2017.
arXiv:1711.00937.

Defaults: those of its images (section 3.2: β of .25; section 4.1: Adam with learning rate 2e-4,
250,000 steps of 128 images, 25 epochs of ImageNet, 256 hidden units in the decoder; section 4.2:
512 codes, a map of a quarter of the image's side). The 64 dimensions of a code and how the codebook
is initialised are the authors' released ones.

Differs from the paper: the encoder is the one given, up to a stage whose map is projected to codes;
what lies beyond that stage stays as it was initialised, but for running statistics. The prior is a
small causal transformer instead of a PixelCNN, and is trained as long as the codes. The terms of
equation 3 are means over values as in the released code, the colours standardised. Images are
cropped and flipped. Codes that are never chosen are not revived, as in the paper: watch the log's
`perplexity`.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 10 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.028 [−.025, .081] to .267, linear +.003
[−.024, .030] to .286, at the best layer +.017 [−.002, .036] to .443; linear, less `pixels`: −.091
[−.113, −.068].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): stage 2 .331 and .334, mean .333; stage 3 .327, stage 4 .304 (5 epochs of each phase).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.backbones.image_gpt import CausalTransformer
from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.distributed import total
from sslbench.encoder import ImageEncoder
from sslbench.method import Method, Recipe
from sslbench.random import Random

CROP_FLIP = Augmentation((0.2, 1.0), jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)


class VQVAE(Method):
    """Discrete codes in the first half of training, an autoregressive prior over them after it.

    What is kept is the encoder of the first half, which the second leaves as it is.

    Args:
        encoder: what is trained; needs feature maps.
        data: images; labels are not looked at.
        stage: whose feature map is coded, from 1; None for the deepest one with at least a quarter
            of the image's side, or with the largest there is.
        codes: K, entries of the codebook.
        dim: D, dimensions of a code.
        commitment: β.
        hidden: width of the decoder and of the prior.
        depth: blocks of the prior.
        heads: of the prior's attention.
        augmentation: distribution of the images.
    """

    paper = "arXiv:1711.00937"
    pseudo_label = "the image from its map of codes, then the next code of the map"
    version = 1
    recipe = Recipe("adamw", lr=2e-4, batch_size=128, epochs=25, schedule="constant")
    phases = 2
    encoder: ImageEncoder

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        stage: int | None = None,
        codes: int = 512,
        dim: int = 64,
        commitment: float = 0.25,
        hidden: int = 256,
        depth: int = 4,
        heads: int = 4,
        augmentation: Augmentation = CROP_FLIP,
    ) -> None:
        super().__init__(encoder, data)
        shapes = encoder.shapes()
        if stage is None:
            fine = min(encoder.image_size / 4, max(side for _, side, _ in shapes))
            stage = max(i for i, (_, side, _) in enumerate(shapes, 1) if side >= fine)
        if not 1 <= stage <= len(shapes):
            raise ValueError(f"stage: 1 to {len(shapes)} expected, got {stage}")
        if codes < 2:
            raise ValueError(f"codes: at least 2 expected, got {codes}")
        channels, side, _ = shapes[stage - 1]
        self.stage, self.commitment, self.augmentation = stage, commitment, augmentation
        self.projector = nn.Conv2d(channels, dim, 1)
        self.codebook = nn.Embedding(codes, dim)
        nn.init.uniform_(self.codebook.weight, -math.sqrt(3 / dim), math.sqrt(3 / dim))
        self.decoder = decoder(dim, hidden, side, encoder.image_size)
        self.prior = CausalTransformer(codes, side**2, hidden, depth, heads)

    def views(self, batch: Batch, random: Random) -> Tensor:
        """Images (B, 3, S, S)."""
        return self.augmentation(batch, self.encoder.image_size, random)

    def loss(self, views: Tensor, progress: float) -> Tensor:
        """Equation 3 in the first half, −(1/BN) Σ log p(code i | codes before i) in the second."""
        if int(progress * self.phases) == 0:
            return self.reconstruct(views)
        self.encoder.eval()  # its running statistics stay
        with torch.no_grad():
            ids = nearest(self.encode(views), self.codebook.weight).flatten(1)  # (B, N)
        logits = self.prior.head(self.prior(ids))  # (B, N, K)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # under autocast
        return F.cross_entropy(logits.flatten(0, 1), ids.flatten())

    def reconstruct(self, images: Tensor) -> Tensor:
        """Equation 3: log p(x | z_q) of a Gaussian, ‖sg z_e − e‖² and β ‖z_e − sg e‖²."""
        z = self.encode(images)  # (B, D, H, W)
        ids = nearest(z, self.codebook.weight)
        e = self.codebook(ids).movedim(3, 1).to(z.dtype)
        output = self.decoder(straight_through(z, e))
        reconstruction = F.mse_loss(output, self.encoder.normalise(images))
        codebook, commitment = F.mse_loss(e, z.detach()), F.mse_loss(z, e.detach())
        used = total(ids.flatten().bincount(minlength=len(self.codebook.weight)).to(z.dtype))
        self.log(
            reconstruction=reconstruction,
            codebook=codebook,
            commitment=commitment,
            perplexity=torch.special.entr(used / used.sum()).sum().exp(),  # of all codes alike: K
        )
        return reconstruction + codebook + self.commitment * commitment

    def encode(self, images: Tensor) -> Tensor:
        """z_e (B, D, H, W); logs the averaged feature map as `embedding`."""
        features = self.encoder.stages(images)[self.stage - 1]
        self.log(embedding=features.mean((2, 3)))
        return self.projector(features)  # type: ignore[no-any-return]


@torch.no_grad()
def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """Eq. 1: index (B, H, W) of the entry of the codebook (K, D) closest to z (B, D, H, W)."""
    rows = z.movedim(1, 3).to(codebook.dtype)
    return torch.cdist(rows.flatten(0, 2), codebook).argmin(1).view(rows.shape[:3])


def straight_through(z: Tensor, e: Tensor) -> Tensor:
    """The value of e, whose gradient goes to z as it is and not to e (eq. 2)."""
    return z + (e - z).detach()


class Residual(nn.Module):
    """ReLU, 3×3, ReLU, 1×1 convolutions, added to their input (section 4.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide, narrow = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)
        self.layers = nn.Sequential(nn.ReLU(), wide, nn.ReLU(), narrow)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        return maps + self.layers(maps)  # type: ignore[no-any-return]


def decoder(dim: int, hidden: int, side: int, size: int) -> nn.Sequential:
    """(B, D, side, side) → (B, 3, size, size): two residual blocks, then each layer doubles."""
    doublings = math.ceil(math.log2(size / side))
    layers = [nn.Conv2d(dim, hidden, 3, padding=1), Residual(hidden), Residual(hidden), nn.ReLU()]
    for _ in range(doublings - 1):
        layers += [nn.ConvTranspose2d(hidden, hidden, 4, 2, 1), nn.ReLU()]
    last = nn.ConvTranspose2d(hidden, 3, 4, 2, 1) if doublings else nn.Conv2d(hidden, 3, 1)
    return nn.Sequential(*layers, last, nn.Upsample((size, size), mode="bilinear"))
