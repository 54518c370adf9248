"""CMC against loops, and what each of its two encoders can see."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.backbones.pair import Pair
from sslbench.data.color_ops import lab
from sslbench.encoder import build
from sslbench.method import Method
from sslbench.methods.contrastive.cmc import CMC
from sslbench.random import Random
from tests.conftest import tiny_images, tiny_resnet
from tests.methods import loops
from tests.methods.collapse import collapses
from tests.methods.loops import (
    Flat,
    apply,
    check_slope,
    check_value,
    dot,
    images,
    matrix,
    rows,
    slopes,
)

INDEX = [3, 0, 6, 5]  # of 8 images
NOISE = [[1, 3, 7], [0, 4, 2], [5, 5, 1], [2, 7, 6]]


def linear(**settings: object) -> Method:
    """With linear encoders, that see everything."""
    method = loops.make("cmc", tiny_resnet(), dim=5, **settings)
    method.encoder = Pair(Flat(), Flat()).double()
    method.first_projector, method.second_projector = matrix(3, rows=5), matrix(4, rows=5)
    return method


def views(pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return pictures, torch.tensor(INDEX), torch.tensor(NOISE)


def unit(x):
    length = math.sqrt(dot(x, x))
    return [value / length for value in x]


def direction(anchors, bank, z, temperature):
    """L of one view as the anchor: NCE among what is remembered of the other view."""
    total = 0.0
    for f, i, noise in zip(anchors, INDEX, NOISE, strict=True):
        values = [math.exp(dot(v, unit(f)) / temperature) for v in bank]
        if z is None:
            total -= math.log(values[i] / sum(values))
        else:
            h = [v / z / (v / z + len(noise) / len(bank)) for v in values]
            total -= math.log(h[i]) + sum(math.log(1 - h[j]) for j in noise)
    return total / len(anchors)


@pytest.mark.parametrize("negatives", [3, 0])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_loss(negatives, temperature):
    method = linear(negatives=negatives, temperature=temperature)
    pictures = images(1)
    loss = method.loss(views(pictures), 0.0)
    loss.backward()
    banks = [rows(bank.entries) for bank in (method.first_bank, method.second_bank)]
    zs = [
        math.exp(bank.log_z) if negatives else None
        for bank in (method.first_bank, method.second_bank)
    ]
    first, second = (rows(p.weight) for p in (method.first_projector, method.second_projector))

    def objective(x, first, second):
        of_l, of_ab = ([apply(w, picture) for picture in x] for w in (first, second))
        from_l = direction(of_l, banks[1], zs[1], temperature)
        return from_l + direction(of_ab, banks[0], zs[0], temperature)

    x = rows(pictures)
    check_value(loss, objective(x, first, second))
    check_slope(pictures.grad, slopes(lambda x: objective(x, first, second), x))
    by_first = slopes(lambda w: objective(x, w, second), first)
    by_second = slopes(lambda w: objective(x, first, w), second)
    check_slope(method.first_projector.weight.grad, by_first)
    check_slope(method.second_projector.weight.grad, by_second)


def test_each_direction_trains_its_own_branch_and_both_are_trained():
    """The other view is a memory: no gradient reaches the branch that made it."""
    method, terms = linear(negatives=3), {}
    method.log = lambda **values: terms.update(values)
    loss = method.loss(views(images(1)), 0.0)
    first, second = (e.linear.weight for e in (method.encoder.first, method.encoder.second))
    for term, own, other in (("from_l", first, second), ("from_ab", second, first)):
        there, none = torch.autograd.grad(
            terms[term], [own, other], retain_graph=True, allow_unused=True
        )
        assert there.abs().sum() > 0
        assert none is None
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss, [first, second]))


def test_each_bank_remembers_its_own_view_and_is_updated_after_the_logits():
    method = linear(negatives=3)
    banks = method.first_bank, method.second_bank
    before = [bank.entries.clone() for bank in banks]
    assert not torch.equal(*before)
    method.loss(views(images(1)), 0.0)
    assert all(torch.equal(b.entries, old) for b, old in zip(banks, before, strict=True))
    method.after_step(0.1)
    projectors = method.first_projector, method.second_projector
    for bank, old, projector in zip(banks, before, projectors, strict=True):
        f = F.normalize(projector(images(1).flatten(1)), dim=1).detach()
        old[INDEX] = F.normalize(0.5 * old[INDEX] + 0.5 * f, dim=1)
        torch.testing.assert_close(bank.entries, old)


def test_banks_and_constants_are_in_the_state():
    method, other = linear(negatives=3), linear(negatives=3)
    method.loss(views(images(1)), 0.0)
    method.after_step(0.1)
    state = method.state_dict()
    for name, bank in (("first_bank", method.first_bank), ("second_bank", method.second_bank)):
        assert torch.equal(state[f"{name}.entries"], bank.entries)
        assert torch.equal(state[f"{name}.log_z"], bank.log_z)
    assert method.first_bank.log_z != method.second_bank.log_z
    other.load_state_dict(state)
    later = views(images(2))
    assert torch.equal(other.loss(later, 0.5), method.loss(later, 0.5))


# --------------------------------------------------------------------------- what is seen


def make(**settings: object) -> CMC:
    torch.manual_seed(0)
    return CMC(tiny_resnet(), tiny_images(24), dim=4, negatives=6, **settings).eval()


def encode(method: CMC, pictures: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return method.encoder.first(pictures), method.encoder.second(pictures)


def uniform(low: float, high: float) -> Tensor:
    """Grey images."""
    grey = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return (low + (high - low) * grey).expand(-1, 3, -1, -1)


def test_the_branch_of_l_cannot_see_colour():
    """Linear light moves at the same luminance: from grey to anything else of its lightness."""
    grey = uniform(0.4, 0.6)  # linear
    luminance = torch.tensor([0.2126, 0.7152, 0.0722])
    amount = 0.5 * uniform(0.0, 1.0)
    away = torch.tensor([luminance[1], -luminance[0], 0.0]).view(1, 3, 1, 1)
    plain, coloured = (
        1.055 * linear.pow(1 / 2.4) - 0.055 for linear in (grey, grey + amount * away)
    )
    torch.testing.assert_close(lab(plain)[:, 0], lab(coloured)[:, 0], rtol=0, atol=1e-3)
    assert (lab(plain)[:, 1:] - lab(coloured)[:, 1:]).abs().mean() > 5
    method = make()
    (first, second), (same, other) = encode(method, plain), encode(method, coloured)
    torch.testing.assert_close(same, first, rtol=1e-4, atol=1e-4)
    assert (other - second).abs().max() > 0.01


def test_the_branch_of_ab_cannot_see_lightness():
    """All greys have a = b = 0."""
    method = make()
    dark, light = uniform(0.1, 0.5), uniform(0.5, 0.9)
    (first, second), (other, same) = encode(method, dark), encode(method, light)
    torch.testing.assert_close(same, second, rtol=1e-4, atol=1e-4)
    assert (other - first).abs().max() > 0.01


def test_features_of_both_are_kept_side_by_side():
    method, pictures = make(), torch.rand(3, 3, 16, 16)
    assert method.encoder.dim == 2 * tiny_resnet().dim
    both = torch.cat(encode(method, pictures), dim=1)
    again = build(method.encoder.config).eval()
    again.load_state_dict(method.encoder.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(method.encoder(pictures), both, rtol=0, atol=0)
        torch.testing.assert_close(again(pictures), both, rtol=0, atol=0)


def test_both_branches_are_like_the_given_encoder_and_start_differently():
    method, given = make(), tiny_resnet().config
    configs = [method.encoder.config[view] for view in ("first", "second")]
    assert configs == [{**given, "sees": "lightness"}, {**given, "sees": "chroma"}]
    weights = [next(e.parameters()) for e in (method.encoder.first, method.encoder.second)]
    assert not torch.equal(*weights)


def test_one_crop_is_what_both_branches_see_and_noise_depends_on_the_place():
    method, index = make(), torch.tensor([9, 2, 20])
    pictures, which, noise = method.views(method.data[index], Random(0, 0, torch.arange(3), 3))
    assert (pictures.shape, noise.shape) == ((3, 3, 16, 16), (3, 6))
    assert torch.equal(which, index)
    alone, _, own = method.views(method.data[index[1:2]], Random(0, 0, torch.tensor([1]), 3))
    torch.testing.assert_close(alone, pictures[1:2], rtol=0, atol=0)
    assert torch.equal(own, noise[1:2])


@pytest.mark.parametrize("settings", [{"negatives": -1}, {"momentum": 1.0}])
def test_wrong_settings_are_refused(settings, resnet):
    with pytest.raises(ValueError, match="expected, got"):
        CMC(resnet, tiny_images(24), **settings)


def without_negatives(method: Method) -> None:
    """Each view is drawn to the memory of the other, and nothing is pushed away."""
    for bank in (method.first_bank, method.second_bank):
        bank.contrast = lambda f, index, noise, bank=bank: -(f * bank.entries[index]).sum(1).mean()


def test_without_negatives_it_collapses(tmp_path):
    collapses("cmc", without_negatives, 0.02, tmp_path, negatives=0, temperature=0.5)
