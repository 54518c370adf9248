"""Dropout that is a function of each example's seed, the layer and the element."""

import pytest
import torch
from torch import nn

from sslbench.checkpoint import weights_hash
from sslbench.data.split import Tokens
from sslbench.dropout import drop, dropout, layers
from tests.conftest import tiny_bert, tiny_gpt

SEEDS = torch.arange(12) * 1_000_003


def masks(p: float = 0.1, number: int = 0, seeds: torch.Tensor = SEEDS, shape=(40, 50)):
    """(B, …) bool: what is dropped."""
    return drop(torch.ones(len(seeds), *shape), seeds, number, p) == 0


def text(rows: int = 6, width: int = 20) -> Tokens:
    ids = torch.randint(5, 60, (rows, width), generator=torch.Generator().manual_seed(0))
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids))


@pytest.mark.parametrize("p", [0.0, 0.01, 0.1, 0.5, 0.9])
def test_rate_and_scale(p):
    out = drop(torch.ones(12, 100, 101), SEEDS, 3, p)
    dropped = out == 0
    n = dropped.numel()
    assert abs(dropped.double().mean() - p) < 1e-5 + 4 * (p * (1 - p) / n) ** 0.5
    by_example = dropped.double().mean((1, 2))
    assert (by_example - p).abs().max() < 1e-5 + 5 * (p * (1 - p) / 10_100) ** 0.5
    for lane in range(4):  # of a hash
        rate = dropped.flatten(1)[:, lane::4].double().mean()
        assert abs(rate - p) < 1e-5 + 4 * (p * (1 - p) / (n / 4)) ** 0.5
    torch.testing.assert_close(
        out[~dropped], torch.full_like(out[~dropped], 1 / (1 - p)), rtol=1e-4, atol=0
    )


def test_layers_examples_and_elements_are_independent():
    """Of two masks at rate p, a share p² of the elements is in both."""
    p, n = 0.3, 12 * 40 * 50
    here = masks(p)
    others = {
        "layer": masks(p, number=1),
        "example": here.roll(1, 0),
        "neighbour": here.flatten(1).roll(1, 1).view_as(here),
        "hash": here.flatten(1).roll(4, 1).view_as(here),
        "seed": masks(p, seeds=SEEDS + 1),
        "seed and layer": masks(p, number=1, seeds=SEEDS - 1),
    }
    for name, other in others.items():
        both = (here & other).double().mean()
        assert abs(both - p**2) < 5 * (p**2 * (1 - p**2) / n) ** 0.5, name


def test_a_mask_belongs_to_its_example_wherever_that_stands():
    whole = masks()
    order = torch.tensor([7, 2, 11, 0])
    assert masks(seeds=SEEDS[order]).equal(whole[order])
    assert masks(shape=(33, 50)).equal(whole[:, :33])  # padded less
    assert masks(shape=(41, 50))[:, :40].equal(whole)
    torch.rand(3)
    assert masks().equal(whole)


def test_the_gradient_goes_where_the_values_go():
    x = torch.randn(12, 9, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: drop(x, SEEDS, 1, 0.4), x)


def test_inside_a_module_it_is_each_layer_with_its_number():
    model = nn.Sequential(nn.Dropout(0.7), nn.Linear(5, 8), nn.Dropout(0.0))
    x = torch.randn(12, 5)
    with dropout(model, SEEDS, 0.25):
        found = model(x)
    expected = drop(model[1](drop(x, SEEDS, 0, 0.25)), SEEDS, 1, 0.25)
    assert found.equal(expected)


@pytest.mark.parametrize("make", [tiny_bert, tiny_gpt])
def test_an_encoder_is_what_it_was_before_and_after(make):
    torch.manual_seed(0)
    encoder = make()
    inputs, before = text(), weights_hash(encoder)
    names = [name for name, _ in encoder.named_modules()]
    plain = encoder.train().embed(inputs)
    with dropout(encoder, SEEDS[:6], 0.1):
        once, again = encoder.embed(inputs), encoder.embed(inputs)
        encoder.eval()
        evaluated = encoder.embed(inputs)
    assert once.equal(again)
    assert (once - plain).abs().max() > 0.01
    assert evaluated.equal(plain)
    assert encoder.train().embed(inputs).equal(plain)
    assert not any(layer._forward_hooks for layer in layers(encoder))
    assert weights_hash(encoder) == before
    assert [name for name, _ in encoder.named_modules()] == names


def test_it_ends_with_an_error_too():
    model = nn.Sequential(nn.Dropout(0.0))
    with pytest.raises(ZeroDivisionError), dropout(model, SEEDS, 0.5):
        raise ZeroDivisionError
    assert model(torch.ones(12, 4)).equal(torch.ones(12, 4))


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_a_rate_out_of_range_is_refused(p):
    with (
        pytest.raises(ValueError, match=f"dropout p = {p}: at least 0 and less than 1"),
        dropout(nn.Dropout(), SEEDS, p),
    ):
        pass
