"""Instance discrimination against loops, and what its memory bank goes through in training."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.method import Method
from sslbench.methods.contrastive.instance_discrimination import InstanceDiscrimination
from sslbench.random import Random
from tests.conftest import tiny_images
from tests.methods import loops
from tests.methods.collapse import collapses
from tests.methods.loops import apply, check_slope, check_value, dot, images, matrix, rows, slopes

INDEX = [3, 0, 6, 5]  # of 8 images
NOISE = [[1, 3, 7], [0, 4, 2], [5, 5, 1], [2, 7, 6]]


def make(**settings: object) -> Method:
    method = loops.make("instance_discrimination", dim=5, **settings)
    method.projector = matrix(3, rows=5)
    return method


def views(pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return pictures, torch.tensor(INDEX), torch.tensor(NOISE)


def unit(x):
    length = math.sqrt(dot(x, x))
    return [value / length for value in x]


def objective(x, weight, entries, z, temperature, proximal):
    """Equation 10, or with the exact softmax (z = None) equations 2, 3 and 9's second term."""
    total = 0.0
    for picture, i, noise in zip(x, INDEX, NOISE, strict=True):
        f = unit(apply(weight, picture))
        values = [math.exp(dot(v, f) / temperature) for v in entries]
        if z is None:
            total -= math.log(values[i] / sum(values))
        else:
            h = [v / z / (v / z + len(noise) / len(entries)) for v in values]
            total -= math.log(h[i]) + sum(math.log(1 - h[j]) for j in noise)
        total += proximal * sum((a - b) ** 2 for a, b in zip(f, entries[i], strict=True))
    return total / len(x)


@pytest.mark.parametrize("negatives", [3, 0])
@pytest.mark.parametrize(("temperature", "proximal"), [(0.07, 0.0), (0.5, 0.0), (0.5, 10.0)])
def test_loss(negatives, temperature, proximal):
    method = make(negatives=negatives, temperature=temperature, proximal=proximal)
    pictures = images(1)
    loss = method.loss(views(pictures), 0.0)
    loss.backward()
    z = math.exp(method.bank.log_z) if negatives else None  # tests/test_bank.py
    given = rows(method.bank.entries), z, temperature, proximal
    x, weight = rows(pictures), rows(method.projector.weight)
    check_value(loss, objective(x, weight, *given))
    check_slope(pictures.grad, slopes(lambda x: objective(x, weight, *given), x))
    check_slope(method.projector.weight.grad, slopes(lambda w: objective(x, w, *given), weight))
    assert not method.bank.entries.requires_grad


def test_the_bank_is_updated_after_the_logits_with_the_features_of_the_iteration():
    """As its own negative, or already moved, the entry would not be that of an epoch ago."""
    method = make()
    before = method.bank.entries.clone()
    method.loss(views(images(1)), 0.0)
    assert torch.equal(method.bank.entries, before)
    with torch.no_grad():
        f = F.normalize(method.projector(images(1).flatten(1)), dim=1)
        method.projector.weight.zero_()  # the optimiser's step
    method.after_step(0.1)
    expected = before.clone()
    expected[INDEX] = F.normalize(0.5 * before[INDEX] + 0.5 * f, dim=1)
    torch.testing.assert_close(method.bank.entries, expected)


def test_bank_and_constant_are_in_the_state():
    method = make()
    method.loss(views(images(1)), 0.0)
    method.after_step(0.1)
    other = make()
    other.load_state_dict(method.state_dict())
    later = views(images(2))
    assert torch.equal(other.loss(later, 0.5), method.loss(later, 0.5))
    assert {"bank.entries", "bank.log_z"} <= method.state_dict().keys()


def test_an_image_meets_its_own_entry_wherever_it_is_in_the_batch(resnet):
    data = tiny_images(24)
    method = InstanceDiscrimination(resnet, data, dim=4, negatives=6)
    assert method.bank.entries.shape == (24, 4)
    index = torch.tensor([9, 2, 20])
    found, which, noise = method.views(data[index], Random(0, 0, torch.arange(3), 3))
    assert found.shape == (3, 3, 16, 16)
    assert torch.equal(which, index)
    assert noise.shape == (3, 6)
    assert noise.min() >= 0
    assert noise.max() < 24
    alone, which, own = method.views(data[index[2:]], Random(0, 0, torch.tensor([2]), 3))
    torch.testing.assert_close(alone, found[2:], rtol=0, atol=0)
    assert torch.equal(which, index[2:])
    assert torch.equal(own, noise[2:])


def test_the_exact_softmax_needs_no_noise(resnet):
    method = InstanceDiscrimination(resnet, tiny_images(24), dim=4, negatives=0)
    batch = method.data[torch.arange(5)]
    given = method.views(batch, Random(0, 0, torch.arange(5), 5))
    assert given[2].shape == (5, 0)
    assert torch.isfinite(method.loss(given, 0.0))


@pytest.mark.parametrize("settings", [{"negatives": -1}, {"momentum": 1.0}])
def test_wrong_settings_are_refused(settings, resnet):
    with pytest.raises(ValueError, match="expected, got"):
        InstanceDiscrimination(resnet, tiny_images(24), **settings)


def without_negatives(method: Method) -> None:
    """Each image is drawn to its entry, and the entry to it."""

    def attract(f: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        return -(f * method.bank.entries[index]).sum(1).mean()

    method.bank.contrast = attract


def test_without_negatives_it_collapses(tmp_path):
    collapses("instance_discrimination", without_negatives, 0.01, tmp_path, negatives=0)
