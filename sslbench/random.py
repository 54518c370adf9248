"""Random numbers that depend on (seed, step, place) and on nothing else.

Every number is a hash of (seed, step, draw, place, element), where `place` is the position of an
example in the global batch. There is no state: a resumed run draws what the uninterrupted one would
have drawn, and any number of processes together draws what one process draws.
"""

import copy
import itertools
import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mix(*words: int) -> int:
    """Hash integers into one of 63 bits (splitmix64); the order of the words matters."""
    state = 0
    for word in words:
        state = (state + word + _GOLDEN) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _scramble(x: Tensor) -> Tensor:
    """Finaliser of splitmix64 on int64 tensors: multiplications wrap, shifts must be logical."""
    x = (x ^ ((x >> 30) & (1 << 34) - 1)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & (1 << 37) - 1)) * _signed(0x94D049BB133111EB)
    return x ^ ((x >> 31) & (1 << 33) - 1)


class Random:
    """Draws for the examples at `places` of the global batch.

    Args:
        seed: the run's seed.
        step: the training step, or any number that tells this batch from others.
        places: (B,) positions in the global batch of the examples at hand.
        total: size of the global batch.
    """

    def __init__(self, seed: int, step: int, places: Tensor, total: int) -> None:
        self.seed, self.step, self.total = seed, step, total
        self.places = places.long()
        self._given = self.places
        self._draws = itertools.count(1)

    def to(self, device: torch.device | str) -> "Random":
        """The same draws on `device`. What either of the two draws, the other will not repeat."""
        moved = copy.copy(self)
        moved.places = self.places.to(device, non_blocking=True)
        return moved

    @property
    def on_cpu(self) -> "Random":
        """The same draws on the CPU, without waiting for the device if they came from there."""
        moved = copy.copy(self)
        moved.places = self._given.cpu()
        return moved

    @property
    def shared(self) -> "Random":
        """One row of numbers that is the same in every process: each draw has shape (1, *shape)."""
        place = torch.zeros(1, dtype=torch.long, device=self.places.device)
        return Random(mix(self.seed, 0x5EED, next(self._draws)), self.step, place, 1)

    def bits(self, *shape: int) -> Tensor:
        """(B, *shape) int64, every bit random."""
        key = _signed(mix(self.seed, self.step, next(self._draws)) << 1)
        row = _scramble((self.places + 1) * _signed(_GOLDEN) + key)  # (B,)
        element = torch.arange(math.prod(shape), device=row.device) * _signed(0xD1342543DE82EF95)
        return _scramble(row[:, None] + element).view(len(row), *shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(B, *shape) float32, uniform in [low, high)."""
        bits = (self.bits(*shape) >> 40) & ((1 << 24) - 1)
        return low + (high - low) * (bits.to(torch.float32) * 2.0**-24)

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32, standard normal (Box–Muller)."""
        radius = torch.sqrt(-2 * torch.log1p(-self.uniform(*shape)))
        return radius * torch.cos(2 * math.pi * self.uniform(*shape))

    def integers(self, high: int, *shape: int) -> Tensor:
        """(B, *shape) int64, uniform in 0 … high − 1 (high < 2³¹)."""
        return (((self.bits(*shape) >> 32) & 0x7FFFFFFF) * high) >> 31

    def permutation(self, n: int) -> Tensor:
        """(B, n) int64: an independent permutation of 0 … n − 1 for each example."""
        return self.bits(n).argsort(dim=1)
