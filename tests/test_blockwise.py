"""Losses over all pairs, some rows at a time."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from sslbench import blockwise
from sslbench.methods.contrastive.simclr import nt_xent
from sslbench.methods.image_text.clip import info_nce
from sslbench.methods.image_text.siglip import pairwise_sigmoid
from sslbench.methods.language import simcse

B, D = 24, 5


def clip(a, b, scale, bias):
    return info_nce(F.normalize(a, dim=1), F.normalize(b, dim=1), scale)


def siglip(a, b, scale, bias):
    return pairwise_sigmoid(F.normalize(a, dim=1), F.normalize(b, dim=1), scale, bias)


LOSSES = {
    "simclr": lambda a, b, scale, bias: nt_xent(torch.cat([a, b]), 0.2),
    "clip": clip,
    "siglip": siglip,
    "simcse": lambda a, b, scale, bias: simcse.info_nce(a, b, 0.05),
}


def computed(loss):
    """The loss, its gradients, and the most values that autograd kept of one tensor."""
    torch.manual_seed(0)
    a, b = (torch.randn(B, D, dtype=torch.float64, requires_grad=True) for _ in range(2))
    scale, bias = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (7.0, -2.0))
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss(a, b, scale, bias)
    grads = torch.autograd.grad(value, (a, b, scale, bias), allow_unused=True)
    return value, [grad for grad in grads if grad is not None], max(kept)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("rows", [1, 5, 8])
def test_blocks_have_the_loss_and_the_gradients_of_the_whole(name, rows, monkeypatch):
    whole, grads, kept = computed(LOSSES[name])
    assert kept >= B * B
    width = 2 * B if name == "simclr" else B
    monkeypatch.setattr(blockwise, "PAIRS", rows * width)
    value, others, most = computed(LOSSES[name])
    assert most < B * B
    torch.testing.assert_close(value, whole, rtol=1e-12, atol=0)
    assert len(grads) == len(others) >= 2 - (name == "simclr")
    for grad, other in zip(grads, others, strict=True):
        torch.testing.assert_close(other, grad, rtol=1e-10, atol=1e-14)


def test_a_last_block_that_is_smaller_counts_by_its_rows():
    x = torch.arange(7.0)
    mean = partial(torch.mean)
    assert blockwise.blockwise(mean, 10, x, most=30) == x.mean()
