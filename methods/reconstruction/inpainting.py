"""Inpainting (context encoder): fill in a missing region from what surrounds it.

Pathak, Krähenbühl, Donahue, Darrell, Efros. Context Encoders: Feature Learning by Inpainting.
CVPR 2016. arXiv:1604.07379. Defaults are those of its sections 3, 4 and 5.1 (inpainting itself; for
features section 5.2 trains without the adversary, `adversarial = 0`, at 1e-4 for random regions),
where it is silent the authors' released ones (batch size, epochs, 8 × 8 random values under a
random region).

Differs from the paper: the discriminator takes its step at the same time as the encoder and decoder
instead of before them, with a learning rate ten times smaller as there; encoder and decoder
maximise log D(x̂) instead of minimising log(1 − D(x̂)), as the authors' code does; a random region
is smooth noise under a threshold, of the same area in every image, instead of a deformed PASCAL
segment; in the centre the prediction does not overlap the context, and random regions
are restored alone, as equation 1 has it, where the authors' code restores the whole image; crops of
varying size and flips.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 10 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.124 [.074, .173] to .363, linear +.098
[.071, .124] to .381, at the best layer +.025 [.006, .043] to .451; linear, less `pixels`: +.005
[−.018, .028].

Tried on validation (10 epochs, 1 seed; kNN and linear, last layer): random regions at rate 5e-4
.397 and .403, at the paper's 2e-3 .351 and .414; the centre at 2e-3 .286 and .332.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.decoders import Adversary, decoder
from sslbench.encoder import ImageEncoder
from sslbench.method import Method, Recipe
from sslbench.random import Random

CROP_FLIP = Augmentation((0.2, 1.0), jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
GRID = 8  # random values along each side of the image, from which a random region is made


class Inpainting(Method):
    """Masked reconstruction plus an adversarial branch.

    Args:
        encoder: what is trained; needs feature maps.
        data: images; labels are not looked at.
        region: what is missing, "random" (of any shape) or "center" (a square).
        share: of the image's area that is missing.
        reconstruction: λ_rec.
        adversarial: λ_adv; 0 for none, without a discriminator.
        augmentation: distribution of the images.
    """

    paper = "arXiv:1604.07379"
    pseudo_label = "the pixels of a hidden region, and a discriminator's opinion"
    recipe = Recipe(
        "adamw",
        lr=2e-3,
        batch_size=64,
        epochs=500,
        schedule="constant",
        betas=(0.5, 0.999),
        groups={"discriminator": {"lr": 0.1}},
    )

    encoder: ImageEncoder
    fill: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        region: str = "random",
        share: float = 0.25,
        reconstruction: float = 0.999,
        adversarial: float = 0.001,
        augmentation: Augmentation = CROP_FLIP,
    ) -> None:
        super().__init__(encoder, data)
        if region not in ("random", "center"):
            raise ValueError(f"region {region!r}; allowed: random, center")
        if not 0 < share < 1:
            raise ValueError(f"share: between 0 and 1 expected, got {share}")
        self.region, self.share, self.augmentation = region, share, augmentation
        self.reconstruction, self.adversarial = reconstruction, adversarial
        size = encoder.image_size
        self.hole = max(1, round(size * math.sqrt(share)))  # side of the centre square
        mean = torch.tensor(encoder.config["mean"]).view(1, 3, 1, 1)
        self.register_buffer("fill", mean, persistent=False)
        channels, side, _ = encoder.shapes()[-1]
        self.decoder = decoder(channels, side, size, connected=True)
        judged = self.hole if region == "center" else size
        self.discriminator = Adversary(judged) if adversarial else None
        if not adversarial:
            self.recipe = self.recipe.override(groups={})

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) in [0, 1] and where they are missing, (B, 1, S, S) of 0 and 1."""
        size = self.encoder.image_size
        images = self.augmentation(batch, size, random)
        mask = torch.zeros(len(images), 1, size, size, device=images.device)
        if self.region == "center":
            self._judged(mask).fill_(1)
            return images, mask
        coarse = random.uniform(1, GRID, GRID)
        smooth = F.interpolate(coarse, (size, size), mode="bicubic").flatten(1)
        lowest = smooth.topk(round(self.share * size**2), largest=False).indices
        mask.flatten(1).scatter_(1, lowest, 1)
        return images, mask

    def loss(self, views: tuple[Tensor, Tensor], progress: float) -> Tensor:
        """Eq. 3, λ_rec L_rec + λ_adv L_adv, plus the negative of eq. 2 for the discriminator."""
        images, mask = views
        deepest = self.encoder.stages(torch.lerp(images, self.fill, mask))[-1]
        output = self.decoder(deepest)  # (B, 3, S, S) in [−1, 1]
        target = 2 * images - 1
        rec = masked_l2(output, target, mask)
        self.log(embedding=deepest.mean((2, 3)), reconstruction=rec)
        if self.discriminator is None:
            return self.reconstruction * rec
        adv, dis = self.discriminator(self._judged(target), self._judged(output))
        self.log(adversarial=adv, judge=dis)
        return self.reconstruction * rec + self.adversarial * adv + dis  # type: ignore[no-any-return]

    def _judged(self, images: Tensor) -> Tensor:
        """What the discriminator sees: the centre square, or all (no edge of a mask tells)."""
        if self.region == "random":
            return images
        corner = (images.shape[2] - self.hole) // 2
        inside = slice(corner, corner + self.hole)
        return images[:, :, inside, inside]


def masked_l2(output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Eq. 1, per missing value: mean of ‖M ⊙ (x − x̂)‖² / (3 Σ M); images (B, 3, S, S)."""
    error = (mask * (target - output).square()).flatten(1).sum(1)
    return (error / (output.shape[1] * mask.flatten(1).sum(1))).mean()
