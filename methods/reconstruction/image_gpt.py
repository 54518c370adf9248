"""Image GPT: predict each pixel's colour from those above it and to its left.

Chen, Radford, Child, Wu, Jun, Luan, Sutskever. Generative Pretraining From Pixels. ICML 2020
(iGPT). Section 2.1: by the chain rule, the likelihood of an image is the product of the likelihoods
of its pixels in raster order, each given those before it.

Defaults: iGPT-S on ImageNet (sections 3.1 and 3.4: Adam with β₂ = .95, a million steps of 128
images, one epoch of warm-up, cosine, no dropout; of the learning rates that it tries .003; crops of
224 pixels from a shorter side of 256 to 384).

Differs from the paper: 512 colours are found in the data at hand; layer norms subtract the mean,
and they and the linear layers have biases, as GPT-2's, which the released code leaves out; GELU is
exact; images are resized antialiased, after the crop. Of the paper's two objectives this is the
autoregressive one, the other is BERT's.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained-image_gpt` of the same encoder: kNN +.124 [.106, .142] to .337, linear
+.140 [.119, .161] to .390, at the best layer +.105 [.089, .122] to .390; linear, less `pixels`:
+.013 [−.009, .035].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): .320 and .419.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.backbones.image_gpt import ImageGPT
from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.method import Method, Recipe
from sslbench.random import Random

CROP = Augmentation((0.34, 0.77), (1.0, 1.0), 0.0, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)


class IGPT(Method):
    """Autoregression over the colours of a small image.

    Args:
        encoder: an `image_gpt`.
        data: images; labels are not looked at.
        augmentation: distribution of the images.
    """

    paper = "Generative Pretraining From Pixels"
    pseudo_label = "the colour of the next pixel"
    version = 1
    recipe = Recipe("adamw", lr=0.003, batch_size=128, epochs=100, warmup=0.01, betas=(0.9, 0.95))
    encoder: ImageGPT

    def __init__(self, encoder: Encoder, data: Split, *, augmentation: Augmentation = CROP) -> None:
        if not isinstance(encoder, ImageGPT):
            raise NotApplicable(f"image_gpt trains the encoder image_gpt, not {encoder.label}")
        super().__init__(encoder, data)
        self.augmentation = augmentation

    def views(self, batch: Batch, random: Random) -> Tensor:
        """Colours (B, N) of the pixels in raster order, int64."""
        return self.encoder.read(self.augmentation(batch, self.encoder.image_size, random))

    def loss(self, views: Tensor, progress: float) -> Tensor:
        """Section 2.1 per pixel: −(1/BN) Σ log p(pixel i | pixels before i), in nats."""
        states = self.encoder.transformer(views)  # (B, N, D)
        self.log(embedding=states.mean(1))
        logits = self.encoder.head(states)  # (B, N, colours)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # under autocast
        return F.cross_entropy(logits.flatten(0, 1), views.flatten())
