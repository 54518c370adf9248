"""Rotation: tell by how much an image was turned, which takes knowing what is in it.

Gidaris, Singh, Komodakis. Unsupervised Representation Learning by Predicting Image Rotations.
ICLR 2018. arXiv:1803.07728. Defaults are those of its experiments on CIFAR-10 (section 4.1).

Differs from the paper: the learning rate falls along a cosine instead of in three steps; crops of
more than (28/32)² of the area, at any size of image, take the place of crops of an image padded by
4 of 32 pixels; the classifier is linear on the encoder's representation.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 10 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.123 [.074, .172] to .362, linear +.076
[.046, .107] to .359, at the best layer +.029 [.010, .048] to .455; linear, less `pixels`: −.017
[−.045, .011].
"""

import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.data.augment import Augmentation
from sslbench.data.image_ops import rotate90
from sslbench.data.split import Batch, Split
from sslbench.encoder import ImageEncoder
from sslbench.method import Method, Recipe
from sslbench.random import Random

CROP_FLIP = Augmentation(crop_scale=(0.77, 1.0), jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)


class Rotation(Method):
    """Classification of the rotation, by 0°, 90°, 180° or 270°.

    Args:
        encoder: what is trained.
        data: images; labels are not looked at.
        per_image: rotations of each image in a batch, 1 to 4; fewer than all are drawn at random.
        augmentation: distribution of the images that are rotated.
    """

    paper = "arXiv:1803.07728"
    pseudo_label = "which of four rotations"
    recipe = Recipe("sgd", lr=0.1, weight_decay=5e-4, batch_size=128, epochs=100)
    encoder: ImageEncoder

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        per_image: int = 4,
        augmentation: Augmentation = CROP_FLIP,
    ) -> None:
        super().__init__(encoder, data)
        if not 1 <= per_image <= 4:
            raise ValueError(f"per_image: 1 to 4 expected, got {per_image}")
        self.per_image, self.augmentation = per_image, augmentation
        self.classifier = nn.Linear(encoder.dim, 4)

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor]:
        """Rotated images (R·B, 3, S, S), those of one image in a row, and quarter turns (R·B,)."""
        images = self.augmentation(batch, self.encoder.image_size, random)
        turns = random.permutation(4)[:, : self.per_image].flatten()
        return rotate90(images.repeat_interleave(self.per_image, 0), turns), turns

    def loss(self, views: tuple[Tensor, Tensor], progress: float) -> Tensor:
        """Eq. 2 and 3: the mean of −log F^y(g(x | y)) over images and their rotations y."""
        images, turns = views
        h = self.encoder(images)  # (R·B, D)
        self.log(embedding=h)
        return F.cross_entropy(self.classifier(h), turns)
