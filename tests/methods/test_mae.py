"""What MAE shows and hides; its loss is tested with the others."""

import pytest
import torch

from sslbench.errors import NotApplicable
from sslbench.methods.reconstruction.mae import MAE, patches, sine_cosine
from sslbench.random import Random
from tests.conftest import tiny_images

SMALL = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


def test_an_encoder_without_patches_is_refused(resnet):
    with pytest.raises(NotApplicable, match=r"MAE masks patches; resnet18\(.*no vision transform"):
        MAE(resnet, tiny_images())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_ratio": 0.99}, "mask_ratio 0.99 leaves 0 of 16 patches"),
        ({"mask_ratio": 0.0}, "mask_ratio 0.0 leaves 16 of 16 patches"),
        ({"decoder_dim": 18}, "decoder_dim 18: no multiple of 4 and 2"),
        ({"decoder_heads": 3}, "decoder_dim 16: no multiple of 4 and 3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message, vit):
    with pytest.raises(ValueError, match=message):
        MAE(vit, tiny_images(), **{**SMALL, **settings})


def test_masked_patches_do_not_reach_the_encoder(vit):
    """Neither its tokens nor the predictions change with what is masked."""
    method = MAE(vit, tiny_images(), **SMALL).eval()
    places = torch.arange(8)
    images, order = method.views(method.data[places], Random(0, 0, places, 8))
    assert method.visible == 4
    assert not order[0].equal(order[1])
    covered = images.clone()
    for image, masked in zip(covered, order[:, 4:], strict=True):
        for patch in masked.tolist():
            top, left = 4 * (patch // 4), 4 * (patch % 4)
            image[:, top : top + 4, left : left + 4] = 0.5
    assert not covered.equal(images)
    a, b = (method.encoder.tokens(x, keep=order[:, :4]) for x in (images, covered))
    assert a.shape == (8, 4, 32)
    torch.testing.assert_close(a, b)


def test_patches_are_in_raster_order():
    images = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6).float()
    found = patches(images, 2)
    assert found.shape == (2, 6, 12)
    for number in range(6):
        top, left = 2 * (number // 3), 2 * (number % 3)
        block = images[:, :, top : top + 2, left : left + 2].flatten(1)
        assert found[:, number].equal(block)


def test_positions_are_distinct_and_depend_on_row_and_column():
    found = sine_cosine(4, 16).view(4, 4, 16)
    assert torch.cdist(found.view(16, 16), found.view(16, 16)).fill_diagonal_(1).min() > 0.1
    for i in range(4):
        assert found[i, :, :8].equal(found[i, :1, :8].expand(4, 8))
        assert found[:, i, 8:].equal(found[:1, i, 8:].expand(4, 8))
    torch.testing.assert_close(found[3, 0, 0], torch.tensor(3.0).sin())
    torch.testing.assert_close(found[3, 0, 4], torch.tensor(3.0).cos())
    torch.testing.assert_close(found[0, 2, 9], torch.tensor(2 / 10000**0.25).sin())
