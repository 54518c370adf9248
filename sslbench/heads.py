"""Small networks on top of an encoder that several methods share."""

from itertools import pairwise

from torch import nn


def mlp(*dims: int, norm: bool = True, last_norm: bool = False, bias: bool = True) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between them.

    Args:
        dims: input, hidden and output widths.
        norm: batch norm after each hidden layer.
        last_norm: batch norm without affine parameters after the last layer.
        bias: bias in the last layer; before a batch norm there is none.
    """
    layers: list[nn.Module] = []
    for number, (width, out) in enumerate(pairwise(dims), 2):
        last = number == len(dims)
        layers.append(nn.Linear(width, out, bias=bias and not last_norm if last else not norm))
        if not last:
            layers += [nn.BatchNorm1d(out), nn.ReLU()] if norm else [nn.ReLU()]
        elif last_norm:
            layers.append(nn.BatchNorm1d(out, affine=False))
    return nn.Sequential(*layers)
