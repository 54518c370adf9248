"""Jigsaw: given nine shuffled tiles of an image, tell how they were shuffled.

Noroozi, Favaro. Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles. ECCV
2016. arXiv:1603.09246.

Defaults: sections 3 and 4 (1,000 permutations, tiles of 64 pixels, 30 % of the images in grey,
channels shifted by up to 2 pixels); cells of 85 pixels and the optimisation as in the authors'
code, whose 350,000 batches are 70 epochs of ImageNet.
Differs from the paper: each permutation is as far as possible from the nearest of those chosen
before it, and only then from all of them: algorithm 1, which knows the sum only, leaves pairs that
differ in two tiles. The first is the identity instead of a random one, so that the set is always
the same. The encoder's features are concatenated without a layer of 1,024 for each tile; batch norm
instead of dropout in the head; crops of varying size; the learning rate falls along a cosine
instead of in steps; biases and norms do not decay.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained` of the same encoder: kNN −.020 [−.069, .029] to .219, linear −.010
[−.036, .015] to .273, at the best layer +.034 [.006, .061] to .460; linear, less `pixels`: −.103
[−.125, −.082].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): AdamW .260 and .309, SGD .257 and .309.
"""

import itertools
import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.data import image_ops
from sslbench.data.augment import Augmentation
from sslbench.data.color_ops import grayscale
from sslbench.data.split import Batch, Split
from sslbench.encoder import ImageEncoder
from sslbench.heads import mlp
from sslbench.method import Method, Recipe
from sslbench.random import Random

CROP = Augmentation((0.5, 1.0), (1.0, 1.0), flip_p=0.0, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
CELLS = torch.cartesian_prod(torch.arange(3), torch.arange(3))  # (9, 2) row and column


class Jigsaw(Method):
    """Classification of the permutation from the features of all tiles.

    Args:
        encoder: what is trained.
        data: images; labels are not looked at.
        permutations: N, how many there are to choose from.
        size: side of the images that are cut into cells; None for the encoder's. Where the last
            stage sees a single pixel of a tile, most of its kernels are not trained: a ResNet of
            stride 16 needs tiles of 17.
        tile: side of a tile as a share of its cell, within which it lies at random so that edges do
            not continue; for a ViT, rounded down to whole tokens.
        grey: share of the images without colours.
        shift: largest shift of each colour channel of a tile, as a share of the tile; on small
            images, where there is no chromatic aberration to hide, it rounds to nothing.
        hidden: width of the head's hidden layer.
        augmentation: distribution of the images.
    """

    paper = "arXiv:1603.09246"
    pseudo_label = "which of N permutations"
    version = 1
    recipe = Recipe("sgd", lr=0.01, weight_decay=5e-4, batch_size=256, epochs=70)
    encoder: ImageEncoder
    orders: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        data: Split,
        *,
        permutations: int = 1000,
        size: int | None = None,
        tile: float = 64 / 85,
        grey: float = 0.3,
        shift: float = 2 / 64,
        hidden: int = 4096,
        augmentation: Augmentation = CROP,
    ) -> None:
        super().__init__(encoder, data)
        if not 2 <= permutations <= math.factorial(9):
            raise ValueError(f"permutations: 2 to {math.factorial(9)} expected, got {permutations}")
        self.size, unit = encoder.image_size if size is None else size, encoder.patch or 1
        self.cell = self.size // 3
        self.tile = int(tile * self.cell) // unit * unit
        if not 0 < self.tile < self.cell:
            raise ValueError(
                f"tiles of {self.tile} pixels in cells of {self.cell} (image {self.size}, tokens of"
                f" {unit}): at least one token and room to move expected"
            )
        self.grey, self.shift, self.augmentation = grey, round(shift * self.tile), augmentation
        orders = torch.from_numpy(distant_permutations(permutations))
        self.register_buffer("orders", orders, persistent=False)
        for name in ("mean", "std"):
            values = torch.tensor(encoder.config[name]).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)
        self.head = mlp(9 * encoder.dim, hidden, permutations)

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Tensor]:
        """Tiles (b, 9, 3, t, t) in the order of the permutation, and its number (b,)."""
        images = self.augmentation(batch, self.size, random)
        grey = random.uniform() < self.grey
        images = image_ops.on(images, grey, grayscale)
        cells = self.cell * CELLS.to(images.device)
        cells = cells + random.integers(self.size - 3 * self.cell + 1, 1, 2)  # (b, 9, 2)
        room = self.cell - self.tile
        offsets = random.integers(room + 1, 1, 9, 2)  # within the cell, of all channels
        shifts = random.integers(2 * self.shift + 1, 3, 9, 2) - self.shift
        offsets = (offsets + shifts * ~grey[:, None, None, None]).clamp(0, room)
        corners = (cells[:, None] + offsets).flatten(0, 1)  # (3b, 9, 2)
        tiles = image_ops.patches(images.flatten(0, 1)[:, None], corners, self.tile)
        tiles = tiles.view(len(images), 3, 9, self.tile, self.tile).transpose(1, 2)
        numbers = random.integers(len(self.orders))
        order = self.orders[numbers][..., None, None, None].expand_as(tiles)
        x = standardised(tiles.gather(1, order))
        return self.mean + self.std * x, numbers  # the encoder leaves x of it

    def loss(self, views: tuple[Tensor, Tensor], progress: float) -> Tensor:
        """Cross-entropy of the permutation given all tiles (section 3.3)."""
        tiles, numbers = views
        h = self.encoder(tiles.flatten(0, 1))  # (9b, D)
        self.log(embedding=h)
        return F.cross_entropy(self.head(h.reshape(len(tiles), -1)), numbers)


def standardised(tiles: Tensor) -> Tensor:
    """Each channel of each tile (…, t, t) with mean 0 and variance 1: neighbours share theirs."""
    centred = tiles - tiles.mean((-2, -1), keepdim=True)
    return centred * torch.rsqrt(centred.square().mean((-2, -1), keepdim=True) + 1e-6)


@cache
def distant_permutations(count: int, tiles: int = 9) -> np.ndarray:
    """(count, tiles) int64: permutations that differ in many places, beginning with the identity.

    Greedy: the next one has the largest Hamming distance from the nearest of those before it, among
    equals the largest sum of distances, among equals it is the first in lexicographic order.
    """
    numbers = itertools.chain.from_iterable(itertools.permutations(range(tiles)))
    places = np.fromiter(numbers, np.int8).reshape(-1, tiles).T.copy()  # (tiles, tiles!)
    nearest = np.full(places.shape[1], tiles, np.int8)
    total = np.zeros(places.shape[1], np.int32)
    chosen = [0]
    while len(chosen) < count:
        distance = np.zeros_like(nearest)
        for row in places:
            distance += row != row[chosen[-1]]
        np.minimum(nearest, distance, out=nearest)
        total += distance
        farthest = (nearest == nearest.max()).nonzero()[0]
        chosen.append(int(farthest[total[farthest].argmax()]))
    return places[:, chosen].T.astype(np.int64)
