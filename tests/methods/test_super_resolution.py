"""What is left of an image of low resolution, and who learns from which term."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.methods.reconstruction.super_resolution import SRGAN, degrade
from sslbench.random import Random
from tests.conftest import SIZE
from tests.methods.loops import (
    SIDE,
    B,
    D,
    apply,
    check_slope,
    check_value,
    images,
    make,
    matrix,
    rows,
    slopes,
    softplus,
)

PLACES = torch.arange(8)


def draw(method: SRGAN, places=PLACES) -> tuple[Tensor, Tensor]:
    return method.views(method.data[places], Random(0, 0, places, 8))


def terms(method: SRGAN) -> dict[str, Tensor]:
    """The named terms of the loss, with their gradients."""
    found: dict[str, Tensor] = {}
    method.log = lambda **values: found.update(values)
    method.train().loss(draw(method), 0.0)
    return found


# ------------------------------------------------------------------------------- the loss


def restored(lows, encoder, decoder):
    """tanh of a linear map of the low resolution."""
    return [[math.tanh(d) for d in apply(decoder, apply(encoder, low))] for low in lows]


def squared_error(outputs, pictures):
    """Equation 4: mean of (x − x̂)² over all pixels."""
    total = 0.0
    for output, picture in zip(outputs, pictures, strict=True):
        total += sum((2 * x - 1 - y) ** 2 for x, y in zip(picture, output, strict=True))
    return total / (len(outputs) * len(outputs[0]))


def fools(outputs, judge):
    """Equation 6, averaged: −log D(x̂), with D a logistic function of a linear one."""
    return sum(softplus(-apply(judge, x)[0]) for x in outputs) / len(outputs)


def judges(pictures, outputs, judge):
    """Negative of equation 2: mean of −log D(x) − log(1 − D(x̂))."""
    real = sum(softplus(-apply(judge, [2 * v - 1 for v in x])[0]) for x in pictures)
    return (real + sum(softplus(apply(judge, x)[0]) for x in outputs)) / len(outputs)


def linear(adversarial: float) -> SRGAN:
    method = make("super_resolution", factor=2, adversarial=adversarial)
    unflatten = nn.Unflatten(1, (3, SIDE, SIDE))
    method.decoder = nn.Sequential(nn.Flatten(), matrix(3), unflatten, nn.Tanh())
    if method.discriminator is not None:
        method.discriminator.judge = nn.Sequential(nn.Flatten(), matrix(4, rows=1))
    return method


@pytest.mark.parametrize("weight", [1e-3, 0.5])
def test_loss_and_gradients(weight):
    method = linear(weight)
    low, pictures = images(1), images(2)
    loss = method.loss((low, pictures), 0.0)
    loss.backward()
    x, y, eye = rows(low), rows(pictures), rows(torch.eye(D))
    decoder, judge = rows(method.decoder[1].weight), rows(method.discriminator.judge[1].weight)

    def generator(encoder, decoder):  # the discriminator is a constant
        outputs = restored(x, encoder, decoder)
        return squared_error(outputs, y) + weight * fools(outputs, judge)

    outputs = restored(x, eye, decoder)  # a constant for the discriminator
    check_value(loss, generator(eye, decoder) + judges(y, outputs, judge))
    by_encoder = slopes(lambda e: generator(e, decoder), rows(torch.eye(D)))
    check_slope(method.encoder.linear.weight.grad, by_encoder)
    by_decoder = slopes(lambda w: generator(eye, w), rows(method.decoder[1].weight))
    check_slope(method.decoder[1].weight.grad, by_decoder)
    by_judge = slopes(lambda w: judges(y, outputs, w), judge)
    check_slope(method.discriminator.judge[1].weight.grad, by_judge)


def test_without_the_adversarial_branch_only_the_squared_error_is_left():
    method = linear(0.0)
    assert not any("discriminator" in name for name in method.state_dict())
    low, pictures = images(1), images(2)
    loss = method.loss((low, pictures), 0.0)
    loss.backward()
    x, y, eye = rows(low), rows(pictures), rows(torch.eye(D))
    check_value(loss, squared_error(restored(x, eye, rows(method.decoder[1].weight)), y))
    by_decoder = slopes(
        lambda w: squared_error(restored(x, eye, w), y), rows(method.decoder[1].weight)
    )
    check_slope(method.decoder[1].weight.grad, by_decoder)
    assert set(method.logged) == {"embedding", "pixels"}


# ------------------------------------------------------------------- the adversarial branch


def moves(term: Tensor, part: nn.Module) -> bool:
    """Whether the gradient of a term reaches a part at all."""
    grads = torch.autograd.grad(term, list(part.parameters()), retain_graph=True, allow_unused=True)
    assert all(grad is None for grad in grads) or sum(g.abs().sum() for g in grads) > 0
    return grads[0] is not None


def test_each_term_moves_its_own_side_of_the_game_only(resnet, images):
    method = SRGAN(resnet, images)
    found = terms(method)
    sides = {name: getattr(method, name) for name in ("encoder", "decoder", "discriminator")}
    reached = {
        term: [name for name, part in sides.items() if moves(found[term], part)]
        for term in ("pixels", "adversarial", "judge")
    }
    assert reached == {
        "pixels": ["encoder", "decoder"],
        "adversarial": ["encoder", "decoder"],
        "judge": ["discriminator"],
    }


def test_the_discriminator_tracks_each_batch_once():
    """One real and one fake; the generator's pass through it leaves its statistics alone."""
    method = linear(1e-3)
    norm = nn.BatchNorm1d(1).double()
    method.discriminator.judge.append(norm)
    low, pictures = images(1), images(2)
    method.loss((low, pictures), 0.0)
    judge, expected = rows(method.discriminator.judge[1].weight), 0.0
    outputs = restored(rows(low), rows(torch.eye(D)), rows(method.decoder[1].weight))
    for batch in ([[2 * v - 1 for v in x] for x in rows(pictures)], outputs):
        mean = sum(apply(judge, x)[0] for x in batch) / B
        expected = 0.9 * expected + 0.1 * mean
    assert norm.num_batches_tracked.item() == 2
    assert norm.running_mean.item() == pytest.approx(expected, rel=1e-9)


# --------------------------------------------------------------------------------- the views


def test_what_is_finer_than_the_low_resolution_is_gone():
    """Antialiased: lines of one pixel in four become an even grey, wherever they are."""
    stripes = torch.zeros(4, 3, 32, 32)
    for shift in range(4):
        stripes[shift, :, :, shift::4] = 1
    inside = degrade(stripes, 4)[..., 8:-8]
    torch.testing.assert_close(inside, torch.full_like(inside, 0.25), rtol=0, atol=0.01)


def test_what_is_coarser_than_the_low_resolution_stays():
    ramp = torch.linspace(0, 1, 32).expand(2, 3, 32, 32)
    torch.testing.assert_close(degrade(ramp, 2)[..., 4:-4], ramp[..., 4:-4], rtol=0, atol=0.01)


@pytest.mark.parametrize("backbone", ["resnet", "vit"])
def test_the_encoder_sees_the_low_resolution_only(backbone, images, request):
    method = SRGAN(request.getfixturevalue(backbone), images)
    low, pictures = draw(method)
    assert low.shape == pictures.shape == (8, 3, SIZE, SIZE)
    torch.testing.assert_close(low, degrade(pictures, 4))
    seen = []
    stages = method.encoder.stages
    method.encoder.stages = lambda x: seen.append(x) or stages(x)
    method.loss((low, pictures), 0.0)
    assert [x is low for x in seen] == [True]


def test_views_depend_on_the_place_in_the_batch_only(resnet, images):
    method = SRGAN(resnet, images)
    for part, whole in zip(draw(method, PLACES[4:]), draw(method), strict=True):
        assert torch.equal(part, whole[4:])


def test_wrong_settings_are_refused(resnet, images):
    for factor in (1, 3, 32):
        with pytest.raises(ValueError, match=f"factor: .* divides 16 expected, got {factor}"):
            SRGAN(resnet, images, factor=factor)
    with pytest.raises(ValueError, match="adversarial: at least 0 expected, got -1"):
        SRGAN(resnet, images, adversarial=-1.0)


def test_an_encoder_without_feature_maps_does_not_apply(resnet, images, monkeypatch):
    monkeypatch.setattr(resnet, "stages", partial(Encoder.stages, resnet))
    with pytest.raises(NotApplicable, match="no feature maps"):
        SRGAN(resnet, images)
