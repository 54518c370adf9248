"""Instance discrimination: every image is a class of its own, and its weights are a memory of it.

Wu, Xiong, Yu, Lin. Unsupervised Feature Learning via Non-Parametric Instance Discrimination. CVPR
2018. arXiv:1805.01978.

Defaults: section 4.2 (ImageNet, 200 epochs); the momentum of the memory bank, the augmentation and
the weight decay are those of the authors' code. For CIFAR-10 section 4.1 takes the exact softmax:
negatives=0.

Differs from the paper: a bank entry moves half of the way to its image's new embedding and no term
of the loss holds the embedding back, as in the authors' code, which they consider equivalent;
equation 10 with entries that are replaced is momentum=0 and proximal=λ, for which the paper names
no single value. Noise is drawn from all entries, as P_n = 1/n says and the authors' code does,
though the text speaks of another image: with probability 1/n a noise sample is the image's own
entry. Z is estimated from the first batch. The learning rate falls along a cosine instead of in
steps; colours are dropped after their jitter instead of before; biases and norms do not decay.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.023 [−.030, .076] to .262, linear +.033
[−.008, .074] to .316, at the best layer +.013 [−.018, .044] to .439; linear, less `pixels`: −.060
[−.099, −.022].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): temperature 0.07 at 0.12 .271 and .325; mean of both .298, at temperature 0.1 .272, and
.279 at rate 0.03.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.bank import Bank
from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.encoder import ImageEncoder
from sslbench.method import Method, Recipe
from sslbench.random import Random

VIEW = Augmentation(
    (0.2, 1.0), jitter_p=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4, blur_p=0.0
)


class InstanceDiscrimination(Method):
    """Each image must be recognised as itself, by what the encoder said of it an epoch ago.

    Args:
        encoder: what is trained.
        data: what to train on; the memory bank has an entry for each image.
        dim: of the space in which images are compared.
        negatives: m, noise samples of each image (NCE); 0 for the exact softmax.
        temperature: τ.
        momentum: share of the old entry in the new one, in [0, 1).
        proximal: λ, weight of the squared distance to the image's own entry.
        augmentation: of the images.
    """

    paper = "arXiv:1805.01978"
    pseudo_label = "the image itself, in a memory of all"
    version = 1
    recipe = Recipe("sgd", lr=0.03, weight_decay=1e-4, batch_size=256, epochs=200)
    encoder: ImageEncoder

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        dim: int = 128,
        negatives: int = 4096,
        temperature: float = 0.07,
        momentum: float = 0.5,
        proximal: float = 0.0,
        augmentation: Augmentation = VIEW,
    ) -> None:
        super().__init__(encoder, data)
        self.proximal, self.augmentation = proximal, augmentation
        self.projector = nn.Linear(encoder.dim, dim)
        self.bank = Bank(
            len(data), dim, negatives=negatives, temperature=temperature, momentum=momentum
        )

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor, Tensor]:
        """Images (b, 3, S, S), which ones they are (b,), and noise samples of each (b, m)."""
        images = self.augmentation(batch, self.encoder.image_size, random)
        return images, batch.index, self.bank.noise(random)

    def loss(self, views: tuple[Tensor, Tensor, Tensor], progress: float) -> Tensor:
        """Equation 10, or with the exact softmax equation 3 and the proximal term of equation 9.

        Logs its two unweighted terms, and the embeddings as `embedding`.
        """
        images, index, noise = views
        f = F.normalize(self.projector(self.encoder(images)), dim=1)  # (b, dim)
        self.new = f.detach(), index
        contrast = self.bank.contrast(f, index, noise)
        proximal = (f - self.bank.entries[index]).square().sum(1).mean()
        self.log(embedding=f, contrast=contrast, proximal=proximal)
        return contrast + self.proximal * proximal

    def after_step(self, progress: float) -> None:
        """The images' entries move to their embeddings."""
        self.bank.update(*self.new)
