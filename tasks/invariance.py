"""Invariance: how far a representation follows a change that leaves the content as it is.

Ericsson, Gouk, Hospedales. Why Do Self-Supervised Models Transfer? On the Impact of Invariance on
Downstream Tasks. BMVC 2022. arXiv:2111.11398 (section 3: cosine similarity between the features of
an image and of the transformed one). The similarity of different images is subtracted, because
features of a cone are all alike:

    invariance = (mean cos(z, z′) − m) / (1 − m),  m = mean cosine of two different images

over images of the test split, z centred by the mean of the train split's features and
L2-normalised: 1 where the change does not show, 0 where the changed image is as far away as another
image. Each factor has three strengths, and each image a sign or direction of its own:

- `location`: moved by 1/16, 1/8, 1/4 of the side, the border mirrored;
- `scale`: enlarged 1.1, 1.5, 2 times around the centre;
- `rotation`: turned by 10°, 30°, 90°, the border mirrored;
- `lighting`: brightness changed by 20, 40, 60 %;
- `colour`: hue turned by 1/20, 1/8, 1/4;
- `texture`: blurred by a Gaussian of 1/64, 1/32, 1/16 of the side.

No direction is better: a representation that is to tell a colour must not be invariant to it. The
intervals take m as given.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.data.color_ops import BRIGHTNESS, adjust_hue, blend
from sslbench.data.image_ops import gaussian_blur
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError
from sslbench.features import features
from sslbench.random import Random
from sslbench.task import Result, Score, Task

BATCH = 128


def _warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Images where `matrix` (B, 2, 3) takes the coordinates, in [−1, 1], that they are read at."""
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _moved(images: Tensor, strength: float, sign: Tensor) -> Tensor:
    shift = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    shift[:, :, 2] = 2 * strength * sign
    return _warp(images, shift)


def _enlarged(images: Tensor, strength: float, sign: Tensor) -> Tensor:
    zoom = torch.eye(2, 3, device=images.device) / strength
    return _warp(images, zoom.repeat(len(images), 1, 1))


def _turned(images: Tensor, strength: float, sign: Tensor) -> Tensor:
    angle = math.radians(strength) * sign[:, 0]
    rows = [angle.cos(), -angle.sin(), angle.sin(), angle.cos()]
    matrix = torch.stack(rows, dim=1).view(-1, 2, 2)
    return _warp(images, F.pad(matrix, (0, 1)))


def _lit(images: Tensor, strength: float, sign: Tensor) -> Tensor:
    kind = torch.full((len(images),), BRIGHTNESS, device=images.device)
    return blend(images, kind, 1 + strength * sign[:, 0])


def _coloured(images: Tensor, strength: float, sign: Tensor) -> Tensor:
    return adjust_hue(images, strength * sign[:, 0])


def _blurred(images: Tensor, strength: float, sign: Tensor) -> Tensor:
    sigma = strength * images.shape[-1]
    kernel = min(2 * math.ceil(3 * sigma) + 1, 2 * images.shape[-1] - 1)  # a mirror's reach
    return gaussian_blur(images, torch.full((len(images),), sigma, device=images.device), kernel)


Change = Callable[[Tensor, float, Tensor], Tensor]  # images, strength, signs (B, 2) of −1 and 1
FACTORS: dict[str, tuple[Change, tuple[float, float, float]]] = {
    "location": (_moved, (1 / 16, 1 / 8, 1 / 4)),
    "scale": (_enlarged, (1.1, 1.5, 2.0)),
    "rotation": (_turned, (10.0, 30.0, 90.0)),
    "lighting": (_lit, (0.2, 0.4, 0.6)),
    "colour": (_coloured, (1 / 20, 1 / 8, 1 / 4)),
    "texture": (_blurred, (1 / 64, 1 / 32, 1 / 16)),
}


class Invariance(Task):
    """Similarity of changed images relative to that of different ones.

    Args:
        images: most images of the test split to look at; a random subset if there are more.
    """

    paper = "arXiv:2111.11398"
    metric = "invariance"
    version = 1
    modality = "image"
    target = None
    higher_is_better = None

    def __init__(self, *, images: int = 2_048) -> None:
        if images < 2:
            raise UserError(f"images ≥ 2 expected, found {images}")
        self.images = images

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Change the images of the test split by each factor at each strength."""
        if encoder.image_size is None:
            raise NotApplicable(f"{encoder.label} takes no images")
        (train,) = features(encoder, data["train"]).values()
        centre = torch.from_numpy(train.mean(axis=0, dtype=np.float64))
        chosen = Random(seed, 0, torch.zeros(1), 1).permutation(len(data["test"]))[0]
        index = chosen[: self.images].sort().values
        parts = []
        with torch.inference_mode():
            for places in torch.arange(len(index)).split(BATCH):
                images = encoder.preprocess(data["test"][index[places]].to(encoder.device))
                random = Random(seed, 1, places, len(index)).to(encoder.device)
                sign = 2.0 * random.integers(2, 2) - 1
                seen = [images]
                for change, strengths in FACTORS.values():
                    seen += [change(images, strength, sign) for strength in strengths]
                z = torch.stack([encoder(view).double().cpu() - centre for view in seen])
                parts.append(F.normalize(z, dim=2))
        scores = _scores(torch.cat(parts, dim=1))
        places = None if len(index) == len(data["test"]) else index.numpy()
        return Result({name: Score.mean(values) for name, values in scores.items()}, places=places)

    def chance(self, data: Dataset) -> None:
        """There is none."""


def _scores(z: Tensor) -> dict[str, np.ndarray]:
    """Scores (n,) by metric, from unit features (1 + 3 · factors, n, D), the unchanged first.

    Raises:
        FloatingPointError: all images have the same features, so that nothing can be compared.
    """
    n = z.shape[1]
    mean = (z[0].sum(0).square().sum() - z[0].square().sum()) / (n * (n - 1))
    if mean > 1 - 1e-9 or not z[0].any():
        raise FloatingPointError("all images have the same features")
    each = ((z[1:] * z[0]).sum(2) - mean) / (1 - mean)  # (3 · factors, n)
    by_factor = dict(zip(FACTORS, each.view(len(FACTORS), -1, n).numpy(), strict=True))
    scores = {"invariance": each.mean(0).numpy()}
    for name, values in by_factor.items():
        scores[name] = values.mean(axis=0)
        scores |= {f"{name}_{i}": strength for i, strength in enumerate(values, 1)}
    return scores
