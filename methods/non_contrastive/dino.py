"""DINO: a student of small crops learns what its own average says of large ones.

Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin. Emerging Properties in Self-Supervised
Vision Transformers. ICCV 2021. arXiv:2104.14294.

Defaults: section 3.2 (ViT-S/16 on ImageNet, 800 epochs); the scales of the crops are those of that
run, the clipping and the frozen epoch the defaults of the authors' code. As in the paper, the
teacher is what is kept.
Differs from the paper: the weight decay stays at 0.04, where the paper's rises to 0.4; the whole
gradient's norm is clipped, where the authors clip each parameter's; the learning rate falls to 0
instead of 1e-6; the scale of the weight-normalised layer is fixed at 1 and it has no bias (the
authors also learn that scale for ViT-S); no stochastic depth but the encoder's own; crops are
resized bilinearly; small ones are 96/224 of the image's side at any size of image, rounded to whole
patches; heads of encoders that are no vision transformer have batch norm, and a head sits on what
the encoder pools, which in the paper is the class token.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.091 [.043, .139] to .331, linear +.080
[.046, .115] to .364, at the best layer +.028 [.012, .045] to .454; linear, less `pixels`: −.013
[−.045, .019].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): a ResNet .295 and .314; the ViT of ijepa at momentum 0.99 .308 and .417.
"""

import math
from copy import deepcopy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.data.augment import Augmentation, multi_crop
from sslbench.data.split import Batch, Split
from sslbench.distributed import total, world
from sslbench.encoder import ImageEncoder
from sslbench.method import Method, Recipe, ema, frozen
from sslbench.random import Random

FIRST = Augmentation(
    crop_scale=(0.25, 1.0), brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur_p=1.0
)  # colours as in BYOL
SECOND = replace(FIRST, blur_p=0.1, solarize_p=0.2)
SMALL = replace(FIRST, crop_scale=(0.05, 0.25), blur_p=0.5)


class Head(nn.Module):
    """Three layers, a unit vector, and its cosines with the prototypes (weights of length 1).

    Args:
        width: of what comes in.
        hidden: of the two hidden layers.
        dim: of the unit vector.
        prototypes: K.
        norm: batch norm after the hidden layers.
    """

    def __init__(self, width: int, hidden: int, dim: int, prototypes: int, norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for into in (width, hidden):
            layers += [nn.Linear(into, hidden), *[nn.BatchNorm1d(hidden)] * norm, nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, dim))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, dim), dim=1))

    def forward(self, h: Tensor) -> Tensor:
        """(B, width) → logits (B, K)."""
        z = F.normalize(self.mlp(h), dim=1)
        return z @ F.normalize(self.prototypes, dim=1).T


class DINO(Method):
    """Cross-entropy of the student's distributions over prototypes with the teacher's.

    Args:
        encoder: what the student and the teacher start from.
        data: what to train on.
        hidden: width of the head's hidden layers.
        dim: of its bottleneck.
        prototypes: K.
        norm: batch norm in the head; None: unless the encoder is a vision transformer.
        momentum: of the teacher at the start, which rises to 1 as a cosine.
        centre_momentum: of the centre that is taken off the teacher's logits.
        temperature: of the student.
        teacher_temperature: after its warm-up.
        teacher_temperature_start: at the start, from where it rises linearly.
        teacher_warmup: share of training in which it rises.
        crops: small views of each image.
        crop_size: their side as a share of the image's.
        first: augmentation of the first large view.
        second: augmentation of the second large view.
        small: augmentation of the small views.
    """

    paper = "arXiv:2104.14294"
    pseudo_label = "the teacher's distribution over prototypes for another view"
    version = 1
    recipe = Recipe(
        "adamw",
        lr=2e-3,  # 5e-4 · B/256
        weight_decay=0.04,
        batch_size=1024,
        epochs=800,
        warmup=10 / 800,
        clip=3.0,
        groups={"head.prototypes": {"start": 1 / 800}},  # frozen in the first epoch
    )
    encoder: ImageEncoder  # the teacher's
    centre: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        hidden: int = 2048,
        dim: int = 256,
        prototypes: int = 65536,
        norm: bool | None = None,
        momentum: float = 0.996,
        centre_momentum: float = 0.9,
        temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        teacher_temperature_start: float = 0.04,
        teacher_warmup: float = 30 / 800,
        crops: int = 10,
        crop_size: float = 96 / 224,
        first: Augmentation = FIRST,
        second: Augmentation = SECOND,
        small: Augmentation = SMALL,
    ) -> None:
        super().__init__(encoder, data)
        if crops < 0 or not 0 < crop_size <= 1:
            raise ValueError(f"crops ≥ 0 of a size in (0, 1] expected, got {crops} of {crop_size}")
        self.momentum, self.centre_momentum = momentum, centre_momentum
        self.temperature = temperature
        self.teacher_temperatures = (teacher_temperature_start, teacher_temperature)
        self.teacher_warmup = teacher_warmup
        size, unit = encoder.image_size, encoder.patch or 1
        side = unit * max(1, round(crop_size * size / unit))
        self.specs = [(first, size, 1), (second, size, 1), (small, side, crops)]
        norm = encoder.patch is None if norm is None else norm
        self.head = Head(encoder.dim, hidden, dim, prototypes, norm)
        self.student, self.encoder = encoder, deepcopy(encoder)
        frozen(self.encoder)
        self.teacher_head = frozen(deepcopy(self.head))
        self.register_buffer("centre", torch.zeros(prototypes))

    def views(self, batch: Batch, random: Random) -> list[Tensor]:
        """Two large views (b, 3, S, S), then the small ones (b, 3, s, s)."""
        return multi_crop(batch, self.specs, random)

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        """Equation 3, averaged over its pairs.

        Logs the mean of the prototypes that each first view predicts as `embedding`.
        """
        sizes = [torch.cat(same) for same in (views[:2], views[2:]) if same]
        h = torch.cat([self.student(images) for images in sizes])  # (V · b, D)
        logits = self.head(h).unflatten(0, (len(views), -1))  # (V, b, K)
        predicted = F.log_softmax(logits / self.temperature, dim=2)
        self.log(embedding=predicted[0].exp() @ self.head.prototypes)
        with torch.no_grad():
            taught = self.teacher_head(self.encoder(sizes[0]))  # (2 · b, K)
            self.batch_centre = total(taught.to(self.centre.dtype).mean(0)) / world()
            sharp = (taught - self.centre) / self.teacher_temperature(progress)
            target = sharp.softmax(1).unflatten(0, (2, -1))  # (2, b, K)
        return cross_entropy(predicted, target)

    def teacher_temperature(self, progress: float) -> float:
        """Rises linearly in the warm-up."""
        start, end = self.teacher_temperatures
        done = min(1.0, progress / self.teacher_warmup) if self.teacher_warmup else 1.0
        return start + (end - start) * done

    def after_step(self, progress: float) -> None:
        """The teacher follows, ever more slowly (section 3.1), and so does the centre (eq. 4)."""
        momentum = 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2
        ema(self.encoder, self.student, momentum)
        ema(self.teacher_head, self.head, momentum)
        self.centre.lerp_(self.batch_centre, 1 - self.centre_momentum)


def cross_entropy(predicted: Tensor, target: Tensor) -> Tensor:
    """−Σ_k p_k log s_k of each view of the teacher and each other one of the student, averaged.

    Args:
        predicted: log s (V, B, K) of all views, the teacher's first.
        target: p (T, B, K), constant.
    """
    others = predicted.sum(0) - predicted[: len(target)]
    return -(target * others).sum(2).mean() / (len(predicted) - 1)
