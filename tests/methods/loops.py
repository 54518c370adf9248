"""Tools of the tests that compare losses with slow loops: a linear encoder, and slopes by hand.

Loops are written from the papers' equations and know nothing of sslbench. Everything is in double
precision.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sslbench import registry
from sslbench.data.split import ImageArray
from sslbench.encoder import ImageEncoder
from sslbench.method import Method

B = 4
SIDE = 2
D = 3 * SIDE**2


class Flat(ImageEncoder):
    """An image as a vector, through a linear map that starts as the identity."""

    def __init__(self, side: int = SIDE, patch: int | None = None) -> None:
        mean, std = [0.25, 0.5, 0.75], [0.5, 0.25, 0.125]  # exact in single precision
        super().__init__({"name": "flat", "image_size": side, "mean": mean, "std": std})
        self.dim, self.patch = 3 * side**2, patch
        self.linear = nn.Linear(self.dim, self.dim, bias=False)
        nn.init.eye_(self.linear.weight)

    def embed(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs.flatten(1))

    def stages(self, images: Tensor) -> list[Tensor]:
        return [self.embed(images).view_as(images)]

    def tokens(self, inputs: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.embed(inputs)[:, None].expand(-1, keep.shape[1], -1)


def make(name: str, encoder: ImageEncoder | None = None, **settings: object) -> Method:
    """A method on a linear encoder, in double precision."""
    torch.manual_seed(0)
    labels = np.arange(2 * B) % 3
    data = ImageArray(np.zeros((2 * B, 3, SIDE, SIDE), np.uint8), labels)
    return registry.method(name)(encoder or Flat(), data, **settings).double().train()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def images(seed: int, requires_grad: bool = True) -> Tensor:
    return draw(B, 3, SIDE, SIDE, seed=seed).requires_grad_(requires_grad)


def matrix(seed: int, rows: int = D, columns: int = D) -> nn.Linear:
    layer = nn.Linear(columns, rows, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(draw(rows, columns, seed=seed) / math.sqrt(columns))
    return layer


# ------------------------------------------------------------------------- the loops' own tools


def rows(x: Tensor) -> list[list[float]]:
    """(B, …) → B lists of numbers."""
    return x.detach().flatten(1).tolist()


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def apply(weight, x):
    """Matrix (a list of its rows) times vector."""
    return [dot(row, x) for row in weight]


def log_softmax(scores, i):
    return scores[i] - math.log(sum(math.exp(s) for s in scores))


def softplus(x):
    return math.log(1 + math.exp(x))


def slopes(function, x: list[list[float]], step: float = 1e-5) -> Tensor:
    """Central differences of function(x) by every number in x."""
    out = [[0.0] * len(row) for row in x]
    for i, row in enumerate(x):
        for j in range(len(row)):
            here = row[j]
            row[j] = here + step
            above = function(x)
            row[j] = here - step
            below = function(x)
            row[j] = here
            out[i][j] = (above - below) / (2 * step)
    return torch.tensor(out, dtype=torch.double)


def check_value(loss: Tensor, expected: float) -> None:
    assert loss.dtype == torch.double
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def check_slope(grad: Tensor | None, expected: Tensor) -> None:
    assert grad is not None
    assert expected.abs().max() > 1e-4  # or there is nothing to see
    torch.testing.assert_close(grad.reshape(expected.shape), expected, rtol=1e-6, atol=1e-8)
