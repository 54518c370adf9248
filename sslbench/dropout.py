"""Dropout that neither the number of processes nor a resume changes: masks are hashes of seeds."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from sslbench.random import Random

_LANES = 4  # of 16 bits in a hash: one for each element


@contextmanager
def dropout(module: nn.Module, seeds: Tensor, p: float) -> Iterator[None]:
    """In place of each `nn.Dropout` inside `module`, zero a share `p` of its input's elements.

    Only what is in training mode does so. Whatever the module's own dropout draws is superseded;
    its weights and its parts stay as they are. What fused attention drops inside of itself is not
    reached.

    Args:
        module: called once or more inside the context, with examples in the order of the seeds.
        seeds: (B,) int64, one for each example; equal seeds give equal masks.
        p: share of the elements, in [0, 1).

    Raises:
        ValueError: p out of range.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout p = {p}: at least 0 and less than 1 expected")

    def hook(number: int, layer: nn.Module, given: tuple[Tensor], _: Tensor) -> Tensor:
        return drop(given[0], seeds, number, p) if layer.training else given[0]

    with ExitStack() as stack:
        for number, layer in enumerate(layers(module)):
            stack.enter_context(layer.register_forward_hook(partial(hook, number)))
        yield


def layers(module: nn.Module) -> list[nn.Dropout]:
    """The dropout layers inside, which are numbered in this order."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Dropout)]


def drop(x: Tensor, seeds: Tensor, number: int, p: float) -> Tensor:
    """Zero each element with probability p, and divide the others by 1 − p.

    The elements of an example are counted from its start, so that padding of (B, N, D) to another N
    changes no mask. The share is p to the nearest 1/65,536.

    Args:
        x: (B, …).
        seeds: (B,) int64.
        number: of the layer.
        p: the share.
    """
    size = x[0].numel()
    bits = Random(0, number, seeds.to(x.device), len(seeds)).bits(-(-size // _LANES))
    limit = min(round(p * 65536), 65535)
    mask = bits.view(torch.int16)[:, :size].view(x.shape) < limit - 32768
    return x.masked_fill(mask, 0) * (65536 / (65536 - limit))
