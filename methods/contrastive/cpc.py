"""CPC: from the upper rows of an image's patches, pick out the patches that lie further down.

Van den Oord, Li, Vinyals. Representation Learning with Contrastive Predictive Coding. 2018.
arXiv:1807.03748.

Defaults: section 3.2 (patches of 64 pixels in a 7 × 7 grid, each overlapping the next by half, in
grey; sub-crops of 60; Adam at 2e-4 on 32 GPUs with 16 images each). It predicts up to five rows
ahead; figure 4 leaves out the next row, whose patches overlap the last ones seen. The context
network is a stack of residual blocks, like the one in the appendix of its successor (Hénaff et al.,
arXiv:1905.09272). The paper gives no number of epochs.
Differs from the paper: the encoder pools to one vector by its own means and keeps its norms (there
is none in the paper's, and the successor warns of batch norm, whose statistics link the patches);
all patches of the global batch are candidates; crops of varying size.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 10 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN +.009 [−.040, .058] to .249, linear +.014
[−.043, .071] to .297, at the best layer +.041 [.022, .061] to .467; linear, less `pixels`: −.079
[−.132, −.026].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): rate 3e-3 .274 and .350, 1e-3 .272 and .292.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.data import image_ops
from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.distributed import gather, rank
from sslbench.encoder import ImageEncoder
from sslbench.method import Method, Recipe
from sslbench.random import Random

GREY = Augmentation((0.5, 1.0), (1.0, 1.0), jitter_p=0.0, grayscale_p=1.0, blur_p=0.0)


class CPC(Method):
    """Contexts of rows predict the encodings of later rows among those of all other patches.

    Args:
        encoder: what is trained.
        data: what to train on.
        grid: patches along each side of the image.
        steps: how many rows ahead the last prediction is.
        skip: how many rows after the context's are not predicted.
        size: side of the images; None for the encoder's. A patch is 2 / (grid + 1) of it, for a ViT
            rounded down to whole tokens. Where the last stage sees a single pixel of it, most of
            its kernels are not trained: a ResNet of stride 16 needs patches of 17.
        subcrop: side of the part of each patch that is shown, at random; its border is blank.
        hidden: width of the context network's blocks.
        depth: their number; each sees one more row above.
        augmentation: of the images.
    """

    paper = "arXiv:1807.03748"
    pseudo_label = "which patch of all images lies k rows below"
    version = 1
    recipe = Recipe("adamw", lr=2e-4, batch_size=512, schedule="constant")
    encoder: ImageEncoder
    blank: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        grid: int = 7,
        steps: int = 5,
        skip: int = 1,
        size: int | None = None,
        subcrop: float = 60 / 64,
        hidden: int = 256,
        depth: int = 5,
        augmentation: Augmentation = GREY,
    ) -> None:
        super().__init__(encoder, data)
        if not 0 <= skip < steps < grid:
            found = f"{skip}, {steps} and {grid}"
            raise ValueError(f"0 ≤ skip < steps < grid (rows) expected, found {found}")
        if not 0 < subcrop <= 1:
            raise ValueError(f"subcrop: a share in (0, 1] expected, got {subcrop}")
        self.size = encoder.image_size if size is None else size
        unit = math.lcm(2, encoder.patch or 1)
        self.patch = 2 * self.size // (grid + 1) // unit * unit
        if self.patch == 0:
            raise ValueError(
                f"grid {grid}: its patches in images of {self.size} are smaller than {unit} pixels"
            )
        self.grid, self.part = grid, max(1, int(subcrop * self.patch))
        self.augmentation = augmentation
        blank = torch.tensor(encoder.config["mean"]).view(3, 1, 1)
        self.register_buffer("blank", blank, persistent=False)
        self.context = nn.Sequential(*(Block(encoder.dim, hidden) for _ in range(depth)))
        self.ahead = range(skip + 1, steps + 1)
        self.predictors = nn.ModuleList(
            nn.Linear(encoder.dim, encoder.dim, bias=False) for _ in self.ahead
        )

    def views(self, batch: Batch, random: Random) -> Tensor:
        """Patches (b, N, 3, p, p) of the grid, N = grid², in raster order."""
        images = self.augmentation(batch, self.size, random)
        stride, room = self.patch // 2, self.patch - self.part
        starts = stride * torch.arange(self.grid, device=images.device)
        spare = self.size - stride * (self.grid + 1)
        corners = torch.cartesian_prod(starts, starts) + random.integers(spare + 1, 1, 2)
        corners = corners + random.integers(room + 1, self.grid**2, 2)
        parts = image_ops.patches(images, corners, self.part)
        patches = self.blank.to(parts).expand(*parts.shape[:2], 3, self.patch, self.patch).clone()
        inside = slice(room // 2, room // 2 + self.part)
        patches[..., inside, inside] = parts
        return patches

    def loss(self, views: Tensor, progress: float) -> Tensor:
        """Equation 4, averaged over k; logs the loss of each k, and encodings as `embedding`.

        The logarithm of f_k = exp(z_{t+k}ᵀ W_k c_t) (equation 3) is taken for all patches z.
        """
        z = self.encoder(views.flatten(0, 1))  # (b · N, D)
        self.log(embedding=z)
        candidates = gather(z)  # (B · N, D)
        grid = (len(views), self.grid, self.grid)
        c = causal(self.context, z.view(*grid, -1))
        numbers = torch.arange(len(z), device=z.device).view(grid) + rank() * len(z)
        terms = {}
        for k, predict in zip(self.ahead, self.predictors, strict=True):
            predicted = predict(c[:, :-k]).flatten(0, 2)
            terms[f"ahead{k}"] = F.cross_entropy(predicted @ candidates.T, numbers[:, k:].flatten())
        self.log(**terms)
        return torch.stack(list(terms.values())).mean()


class Block(nn.Module):
    """A residual step that sees a patch's own row and the one above, and nothing below.

    Args:
        dim: D, channels in and out.
        hidden: channels between.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(dim, hidden, 1)
        self.look = nn.Conv2d(hidden, hidden, (2, 3))
        self.widen = nn.Conv2d(hidden, dim, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, H, W) → the same shape."""
        above = F.pad(F.relu(self.narrow(maps)), (1, 1, 1, 0))  # left, right, top, not bottom
        return maps + self.widen(F.relu(self.look(above)))  # type: ignore[no-any-return]


def causal(context: nn.Module, z: Tensor) -> Tensor:
    """Contexts (B, H, W, D) of encodings (B, H, W, D): each row's say nothing of rows below."""
    return context(z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]
