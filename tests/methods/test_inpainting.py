"""What is missing from an image, and who gets to see what."""

from functools import partial
from itertools import pairwise

import pytest
import torch

from sslbench.decoders import Adversary, decoder
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.methods.reconstruction.inpainting import Inpainting
from sslbench.optim import parameter_groups
from sslbench.random import Random
from tests.conftest import SIZE

PLACES = torch.arange(8)


def draw(method: Inpainting, images) -> tuple[torch.Tensor, torch.Tensor]:
    return method.views(images[PLACES], Random(0, 0, PLACES, 8))


def test_the_central_region_is_a_square_of_a_quarter(resnet, images):
    _, mask = draw(Inpainting(resnet, images, region="center"), images)
    expected = torch.zeros(8, 1, SIZE, SIZE)
    expected[:, :, 4:12, 4:12] = 1
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("share", [0.25, 0.1])
def test_random_regions_have_one_area_many_shapes_and_smooth_edges(resnet, images, share):
    _, mask = draw(Inpainting(resnet, images, share=share), images)
    assert (mask.sum((1, 2, 3)) == round(share * SIZE**2)).all()
    assert set(mask.unique().tolist()) == {0, 1}
    assert len(mask.flatten(1).unique(dim=0)) == 8
    edges = (mask.diff(dim=2).abs().sum() + mask.diff(dim=3).abs().sum()) / mask.sum()
    independent_pixels = 4 * (1 - share)  # edges per missing pixel if each were drawn by itself
    assert edges < 0.75 * independent_pixels


@pytest.mark.parametrize("region", ["center", "random"])
def test_the_encoder_does_not_see_what_is_missing(resnet, images, region):
    method = Inpainting(resnet, images, region=region)
    pictures, mask = draw(method, images)
    seen = []
    stages = method.encoder.stages
    method.encoder.stages = lambda x: seen.append(x) or stages(x)
    method.loss((pictures, mask), 0.0)
    method.loss((torch.where(mask == 1, 0.9, pictures), mask), 0.0)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)
    torch.testing.assert_close(seen[0], torch.where(mask == 1, 0.5, pictures))  # the mean colour


def test_at_the_centre_the_discriminator_sees_the_square_only(resnet, images):
    method = Inpainting(resnet, images, region="center")
    pictures, mask = draw(method, images)
    seen = []
    method.discriminator.judge.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method.loss((pictures, mask), 0.0)
    torch.testing.assert_close(seen[1], 2 * pictures[:, :, 4:12, 4:12] - 1)
    assert [x.shape for x in seen] == [(8, 3, 8, 8)] * 3
    assert [x.requires_grad for x in seen] == [True, False, False]  # generator, real, fake


@pytest.mark.parametrize(("side", "size"), [(4, 32), (4, 28), (7, 224), (16, 16)])
def test_decoder_and_discriminator_fit_any_size(side, size):
    image = decoder(8, side, size, connected=True)(torch.randn(2, 8, side, side))
    assert image.shape == (2, 3, size, size)
    assert image.abs().max() <= 1
    assert Adversary(size).judge(image).shape == (2, 1)


def test_no_bias_stands_before_a_batch_norm():
    """Its gradient is zero but for rounding, which AdamW would scale up to whole steps."""
    for network in (decoder(8, 4, 32, connected=True), Adversary(32).judge):
        for layer, following in pairwise(network):
            if isinstance(following, torch.nn.BatchNorm2d):
                assert layer.bias is None


def test_the_discriminator_learns_ten_times_slower(resnet, images):
    method = Inpainting(resnet, images)
    factors = {
        name.partition(".")[0]: group["factor"]
        for group in parameter_groups(method, method.recipe)
        for name in group["names"]
    }
    assert factors == {"encoder": 1.0, "decoder": 1.0, "discriminator": 0.1}


def test_wrong_settings_are_refused(resnet, images):
    with pytest.raises(ValueError, match="region 'left'; allowed: random, center"):
        Inpainting(resnet, images, region="left")
    with pytest.raises(ValueError, match=r"share: .* got 1\.5"):
        Inpainting(resnet, images, share=1.5)


def test_an_encoder_without_feature_maps_does_not_apply(resnet, images, monkeypatch):
    monkeypatch.setattr(resnet, "stages", partial(Encoder.stages, resnet))
    with pytest.raises(NotApplicable, match="no feature maps"):
        Inpainting(resnet, images)
