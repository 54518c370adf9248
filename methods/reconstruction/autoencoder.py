"""Autoencoder: squeeze an image through a few numbers and restore it from them.

Hinton & Salakhutdinov 2006: Reducing the Dimensionality of Data with Neural Networks. Science 313.
With noise, a denoising autoencoder. Vincent, Larochelle, Bengio, Manzagol 2008: Extracting and
Composing Robust Features with Denoising Autoencoders. ICML.

Defaults: 30 numbers, batches of 1000 and 200 epochs are those of 2006 for digits (supporting
material); AdamW and its learning rate take the place of conjugate gradients. The noise of 2008
is one of 0, .1, .25 and .4.
Differs from the papers: the encoder is any with feature maps, the decoder is convolutional, and
nothing is trained layer by layer beforehand, neither by Boltzmann machines (`rbm` is a method of
its own) nor by autoencoders; weights are not tied as in 2008; the error is the squared one, also
where the papers take pixels for probabilities and their cross-entropy; a masked pixel loses all its
channels, which would betray each other; crops of varying size and flips.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.090 [.041, .139] to .329, linear +.076
[.045, .107] to .359, at the best layer −.000 [−.016, .016] to .426; linear, less `pixels`: −.017
[−.047, .012].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): noise 0.25 .317 and .343, none .310 and .338.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.decoders import decoder
from sslbench.encoder import ImageEncoder
from sslbench.method import Method, Recipe
from sslbench.random import Random

CROP_FLIP = Augmentation((0.2, 1.0), jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)


class Autoencoder(Method):
    """Encoder, code, decoder, and the squared error of the pixels.

    Args:
        encoder: what is trained; needs feature maps.
        data: images; labels are not looked at.
        code: numbers in the bottleneck, a linear map of the whole deepest feature map.
        noise: share of the pixels that the encoder sees black; the target is the clean image.
        augmentation: distribution of the images.
    """

    paper = "Hinton & Salakhutdinov 2006"
    pseudo_label = "the image itself, without the noise"
    recipe = Recipe("adamw", lr=1e-3, batch_size=1000, epochs=200)
    encoder: ImageEncoder

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        code: int = 30,
        noise: float = 0.0,
        augmentation: Augmentation = CROP_FLIP,
    ) -> None:
        super().__init__(encoder, data)
        if code < 1:
            raise ValueError(f"code: at least 1 number expected, got {code}")
        if not 0 <= noise < 1:
            raise ValueError(f"noise: a share of the pixels in [0, 1) expected, got {noise}")
        self.noise, self.augmentation = noise, augmentation
        channels, side, _ = encoder.shapes()[-1]
        cells = channels * side**2
        self.compress = nn.Linear(cells, code)
        self.expand = nn.Sequential(nn.Linear(code, cells), nn.ReLU())
        self.decoder = decoder(channels, side, encoder.image_size)

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor]:
        """Images with and without noise, each (B, 3, S, S) in [0, 1]."""
        size = self.encoder.image_size
        images = self.augmentation(batch, size, random)
        masked = random.uniform(size**2).topk(round(self.noise * size**2)).indices
        kept = torch.ones(len(images), size**2, device=images.device).scatter_(1, masked, 0)
        return images * kept.view(-1, 1, size, size), images

    def loss(self, views: tuple[Tensor, Tensor], progress: float) -> Tensor:
        """Mean of (x − x̂)² over pixels in [−1, 1]; logs the codes as `embedding`."""
        seen, images = views
        deepest = self.encoder.stages(seen)[-1]
        code = self.compress(deepest.flatten(1))  # (B, code)
        self.log(embedding=code)
        output = self.decoder(self.expand(code).view_as(deepest))  # (B, 3, S, S) in [−1, 1]
        return F.mse_loss(output, 2 * images - 1)
