"""Losses over all pairs of a batch, in memory that does not grow with its square."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PAIRS = 1 << 26  # values of a pair held at a time, 256 MB in float32


def blockwise(
    loss: Callable[..., Tensor], keys: int, *rows: Tensor, most: int | None = None
) -> Tensor:
    """A mean over rows, each of which is compared with all keys.

    Where that is more than `most` pairs, the loss is computed for some rows at a time, and again
    for the gradient (gradient checkpointing, arXiv:1604.06174), which is the same up to the order
    of summation.

    Args:
        loss: scalar, the mean over the rows that it is given.
        keys: number of keys, which `loss` knows.
        rows: what `loss` takes, each of length n.
        most: pairs at a time; None for PAIRS.
    """
    n, size = len(rows[0]), max(1, (PAIRS if most is None else most) // keys)
    if n <= size:
        return loss(*rows)
    parts = zip(*(value.split(size) for value in rows), strict=True)
    means = [checkpoint(loss, *part, use_reentrant=False) * (len(part[0]) / n) for part in parts]
    return torch.stack(means).sum()
