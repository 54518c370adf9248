"""What passes through an autoencoder's code, and which pixels the noise takes."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.methods.reconstruction.autoencoder import Autoencoder
from sslbench.random import Random
from tests.conftest import SIZE
from tests.methods.loops import (
    D,
    apply,
    check_slope,
    check_value,
    images,
    make,
    matrix,
    rows,
    slopes,
)

PLACES = torch.arange(8)


def draw(method: Autoencoder, places=PLACES) -> tuple[torch.Tensor, torch.Tensor]:
    return method.views(method.data[places], Random(0, 0, places, 8))


def error(seen, pictures, encoder, compress, expand):
    """Mean of (2x − 1 − x̂)², with x̂ the tanh of a rectified map of the code."""
    total = 0.0
    for corrupted, picture in zip(seen, pictures, strict=True):
        hidden = apply(expand, apply(compress, apply(encoder, corrupted)))
        for h, x in zip(hidden, picture, strict=True):
            total += (2 * x - 1 - math.tanh(max(0.0, h))) ** 2
    return total / (len(pictures) * len(pictures[0]))


def test_loss_and_gradients():
    method = make("autoencoder", code=3)
    method.compress, method.expand[0] = matrix(3, rows=3), matrix(4, columns=3)
    method.decoder = nn.Tanh()
    seen, pictures = images(1), images(2)
    loss = method.loss((seen, pictures), 0.0)
    loss.backward()
    x, y, eye = rows(seen), rows(pictures), rows(torch.eye(D))
    down, up = rows(method.compress.weight), rows(method.expand[0].weight)
    check_value(loss, error(x, y, eye, down, up))
    by = slopes(lambda e: error(x, y, e, down, up), rows(torch.eye(D)))
    check_slope(method.encoder.linear.weight.grad, by)
    by = slopes(lambda w: error(x, y, eye, w, up), rows(method.compress.weight))
    check_slope(method.compress.weight.grad, by)
    by = slopes(lambda w: error(x, y, eye, down, w), rows(method.expand[0].weight))
    check_slope(method.expand[0].weight.grad, by)
    assert method.logged["embedding"].shape == (len(x), 3)


@pytest.mark.parametrize("backbone", ["resnet", "vit"])
def test_nothing_goes_past_the_code(backbone, images, request):
    method = Autoencoder(request.getfixturevalue(backbone), images, code=5).eval()
    nn.init.zeros_(method.compress.weight)
    outputs = []
    method.decoder.register_forward_hook(lambda _, __, output: outputs.append(output))
    method.loss(draw(method), 0.0)
    assert outputs[0].shape == (8, 3, SIZE, SIZE)
    torch.testing.assert_close(outputs[0], outputs[0][:1].expand(8, -1, -1, -1))
    assert outputs[0].std((2, 3)).min() > 0  # an image, and yet one of nothing


@pytest.mark.parametrize("noise", [0.1, 0.25])
def test_noise_blackens_a_fixed_number_of_pixels_and_the_target_stays_clean(noise, resnet, images):
    clean = draw(Autoencoder(resnet, images))[1]
    seen, target = draw(Autoencoder(resnet, images, noise=noise))
    assert torch.equal(target, clean)
    masked = (seen == 0).all(1)
    assert (masked.sum((1, 2)) == round(noise * SIZE**2)).all()
    assert len(masked.flatten(1).unique(dim=0)) == 8  # each image has its own
    assert torch.equal(seen, torch.where(masked[:, None], 0, clean))


def test_without_noise_the_encoder_sees_the_target(resnet, images):
    seen, target = draw(Autoencoder(resnet, images))
    assert torch.equal(seen, target)


def test_noise_depends_on_the_place_in_the_batch_only(resnet, images):
    method = Autoencoder(resnet, images, noise=0.25)
    for part, whole in zip(draw(method, PLACES[4:]), draw(method), strict=True):
        assert torch.equal(part, whole[4:])


def test_wrong_settings_are_refused(resnet, images):
    with pytest.raises(ValueError, match="code: at least 1 number expected, got 0"):
        Autoencoder(resnet, images, code=0)
    for noise in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"noise: .* got {noise}"):
            Autoencoder(resnet, images, noise=noise)


def test_an_encoder_without_feature_maps_does_not_apply(resnet, images, monkeypatch):
    monkeypatch.setattr(resnet, "stages", partial(Encoder.stages, resnet))
    with pytest.raises(NotApplicable, match="no feature maps"):
        Autoencoder(resnet, images)
