"""Super-resolution (SRGAN): restore the details of an image that was made small.

Ledig et al. Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network.
CVPR 2017. arXiv:1609.04802.

Defaults: sections 2.1, 2.2 and 3.2; 9 epochs are its 2·10⁵ updates on 350,000 images.
Differs from the paper: the content loss is the squared error of pixels (its variant SRGAN-MSE), as
that of VGG features needs weights trained with labels; the generator is the encoder, which sees the
small image enlarged again to the size it has in evaluation, but never a sharp one, and a decoder of
its deepest map; it is not trained with the squared error alone beforehand; the discriminator is
inpainting's, smaller than the paper's, and takes its step at the same time as the generator; the
learning rate falls along a cosine instead of once to a tenth; flips, and crops that are resized
instead of cut out at full resolution.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 10 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.109 [.059, .158] to .348, linear +.087
[.063, .112] to .371, at the best layer +.017 [.000, .034] to .443; linear, less `pixels`: −.006
[−.025, .013].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): .372 and .359. A decoder whose output is added to the enlarged image, which leaves the
encoder nothing to say, .237 and .267 (factor 2 .225 and .257, without adversary .223 and .243),
below the untrained encoder's .235 and .289.
"""

import torch.nn.functional as F
from torch import Tensor

from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.decoders import Adversary, decoder
from sslbench.encoder import ImageEncoder
from sslbench.method import Method, Recipe
from sslbench.random import Random

# Smaller crops of a small image, enlarged, would have no details to restore.
CROP_FLIP = Augmentation((0.5, 1.0), jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)


class SRGAN(Method):
    """Reconstruction from a low resolution plus an adversarial branch.

    Args:
        encoder: what is trained; needs feature maps.
        data: images; labels are not looked at.
        factor: r, by which the sides shrink; a divisor of the image's side.
        adversarial: weight of the adversarial loss; 0 for none, without a discriminator.
        augmentation: distribution of the images.
    """

    paper = "arXiv:1609.04802"
    pseudo_label = "the image in full resolution, and a discriminator's opinion"
    recipe = Recipe("adamw", lr=1e-4, batch_size=16, epochs=9)
    encoder: ImageEncoder

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        factor: int = 4,
        adversarial: float = 1e-3,
        augmentation: Augmentation = CROP_FLIP,
    ) -> None:
        super().__init__(encoder, data)
        size = encoder.image_size
        if factor < 2 or size % factor:
            raise ValueError(f"factor: 2 or more that divides {size} expected, got {factor}")
        if adversarial < 0:
            raise ValueError(f"adversarial: at least 0 expected, got {adversarial}")
        self.factor, self.adversarial, self.augmentation = factor, adversarial, augmentation
        channels, side, _ = encoder.shapes()[-1]
        self.decoder = decoder(channels, side, size)
        self.discriminator = Adversary(size) if adversarial else None

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor]:
        """Images of low resolution, enlarged again, and of full one, each (B, 3, S, S)."""
        images = self.augmentation(batch, self.encoder.image_size, random)
        return degrade(images, self.factor), images

    def loss(self, views: tuple[Tensor, Tensor], progress: float) -> Tensor:
        """Eq. 3 with eq. 4 for l_X and eq. 6 for l_Gen, plus the negative of eq. 2 for D."""
        low, images = views
        deepest = self.encoder.stages(low)[-1]
        output = self.decoder(deepest)  # (B, 3, S, S) in [−1, 1]
        target = 2 * images - 1
        pixels = F.mse_loss(output, target)
        self.log(embedding=deepest.mean((2, 3)), pixels=pixels)
        if self.discriminator is None:
            return pixels
        adv, dis = self.discriminator(target, output)
        self.log(adversarial=adv, judge=dis)
        return pixels + self.adversarial * adv + dis  # type: ignore[no-any-return]


def degrade(images: Tensor, factor: int) -> Tensor:
    """(B, 3, S, S) shrunk by `factor`, bicubic and antialiased, and enlarged to S again."""
    size = images.shape[2]
    low = F.interpolate(images, size // factor, mode="bicubic", antialias=True).clamp(0, 1)
    return F.interpolate(low, size, mode="bicubic").clamp(0, 1)
