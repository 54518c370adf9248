"""CMC: what the lightness of an image says must tell its colours from those of other images.

Tian, Krishnan, Isola. Contrastive Multiview Coding. ECCV 2020. arXiv:1906.05849.

Defaults: section 4.1 (L and ab of ImageNet) in the settings of the authors' code for ResNets.

Differs from the paper: each view has an encoder of three channels (L in all of them; a, b and a
constant), of the size of the given one: what is kept has twice its parameters and features; give
half the width to compare at equal size. L and ab are standardised by constants of their own. Noise
is drawn from all entries of a bank, as in the authors' code: with probability 1/n a noise sample is
the image's own entry. The learning rate falls along a cosine instead of in steps; biases and norms
do not decay.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained-pair` of the same encoder: kNN +.095 [.034, .156] to .349, linear +.059
[.006, .112] to .375, at the best layer −.008 [−.036, .021] to .457; linear, less `pixels`: −.002
[−.021, .017].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): bank momentum 0.95, temperature 0.1, rate 0.1 .305 and .369, at temperature 0.2 .306
and .337; momentum 0.5 and temperature 0.07 at 0.03 .290 and .336 (.281 and .351 on another machine;
0 .297 and .360, 0.9 .292 and .341; batches of 32 .297 and .356), mean of both at 0.06 .261, at 0.12
.294, at 0.003 .296.
With few steps in an epoch the age of entries is what is learned first: an image's own is always one
epoch old, the last to be visited. At momentum 0.5 the loss then falls to 7.4 at the end of the
first epoch, from 8.85 = log 7,000, while against entries made anew it stays at 8.8 for eight
epochs; over 20 epochs and 3 seeds nothing was gained over the untrained pair. Entries that move
slowly do not show their age.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.backbones.pair import Pair
from sslbench.bank import Bank
from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.encoder import ImageEncoder, build
from sslbench.method import Method, Recipe
from sslbench.random import Random

CROP_FLIP = Augmentation(jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)


class CMC(Method):
    """One encoder sees L, another one ab; each must find its image in the memory of the other.

    Args:
        encoder: what the encoder of each view is like; their pair is trained.
        data: what to train on; each memory bank has an entry for each image.
        dim: of the space in which views are compared.
        negatives: m, noise samples of each image (NCE); 0 for the exact softmax.
        temperature: τ.
        momentum: share of the old entry in the new one, in [0, 1).
        augmentation: of the images, before they are split into L and ab.
    """

    paper = "arXiv:1906.05849"
    pseudo_label = "the same image in the memory of the other view's"
    version = 1
    recipe = Recipe("sgd", lr=0.03, weight_decay=1e-4, batch_size=128, epochs=240)
    encoder: Pair

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        augmentation: Augmentation = CROP_FLIP,
    ) -> None:
        first, second = ({**encoder.config, "sees": sees} for sees in ("lightness", "chroma"))
        super().__init__(build({"name": "pair", "first": first, "second": second}), data)
        self.augmentation = augmentation
        bank = partial(Bank, negatives=negatives, temperature=temperature, momentum=momentum)
        self.first_projector, self.second_projector = (
            nn.Linear(encoder.dim, dim) for _ in range(2)
        )
        self.first_bank, self.second_bank = (bank(len(data), dim) for _ in range(2))

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor, Tensor]:
        """Images (b, 3, S, S), which ones they are (b,), and noise samples of each (b, m).

        The noise is that of both directions.
        """
        images = self.augmentation(batch, self.encoder.image_size, random)
        return images, batch.index, self.first_bank.noise(random)

    def loss(self, views: tuple[Tensor, Tensor, Tensor], progress: float) -> Tensor:
        """The loss of section 3.2: lightness among the memories of colours, plus the reverse.

        Logs both, and both embeddings side by side as `embedding`.
        """
        images, index, noise = views
        first = F.normalize(self.first_projector(self.encoder.first(images)), dim=1)  # (b, dim)
        second = F.normalize(self.second_projector(self.encoder.second(images)), dim=1)
        self.new = first.detach(), second.detach(), index
        from_l = self.second_bank.contrast(first, index, noise)
        from_ab = self.first_bank.contrast(second, index, noise)
        self.log(embedding=torch.cat([first, second], dim=1), from_l=from_l, from_ab=from_ab)
        return from_l + from_ab

    def after_step(self, progress: float) -> None:
        """The images' entries in both banks move to their embeddings."""
        first, second, index = self.new
        self.first_bank.update(first, index)
        self.second_bank.update(second, index)
