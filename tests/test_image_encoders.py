"""What encoders of images see, and in which sizes; the pieces that methods cut images into."""

import pytest
import torch

from sslbench.data.color_ops import chroma, lab, lightness
from sslbench.data.image_ops import patches
from sslbench.data.split import Batch
from sslbench.decoders import Adversary
from sslbench.encoder import SIGHTS, build
from sslbench.errors import NotApplicable, UserError
from sslbench.grid.cells import Pretraining

COLOURS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "image_size": 16}
RESNET = {"name": "resnet18", "width": 4, **COLOURS}
VIT = {
    "name": "vit_tiny_patch16_224",
    "patch_size": 4,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    **COLOURS,
}


@pytest.mark.parametrize(
    ("rgb", "expected"),  # the published coordinates of the primaries, D65
    [
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.74, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((0.5, 0.25, 0.75), (41.15, 51.41, -56.45)),
        ((0.01, 0.01, 0.01), (0.70, 0, 0)),  # where both curves are straight lines
    ],
)
def test_lab_of_known_colours(rgb, expected):
    image = torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1)
    found = lab(image).flatten()
    torch.testing.assert_close(found, torch.tensor(expected).float(), rtol=0, atol=0.03)


def test_lightness_and_chroma_share_what_lab_says():
    images = torch.rand(2, 3, 4, 4)
    both = lab(images)
    torch.testing.assert_close(lightness(images) * 100, both[:, :1].expand(-1, 3, -1, -1))
    torch.testing.assert_close(chroma(images)[:, :2] * 255 - 127.5, both[:, 1:])
    grey = torch.rand(2, 1, 4, 4).expand(-1, 3, -1, -1)
    torch.testing.assert_close(chroma(grey), torch.full((2, 3, 4, 4), 0.5), rtol=0, atol=1e-4)


def test_what_an_encoder_does_not_see_does_not_move_it():
    images, tinted = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 1, 1) * 0.2
    grey = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    seen = {}
    for sees in SIGHTS:
        torch.manual_seed(0)
        encoder = build({**RESNET, "sees": sees}).eval()
        seen[sees] = [encoder(x) for x in (images, grey, (images + tinted).clamp(0, 1))]
    assert torch.allclose(seen["chroma"][1], seen["chroma"][1][:1], atol=1e-4)  # no colour at all
    for first, second in ((0, 1), (0, 2)):
        assert not torch.allclose(seen["colours"][first], seen["colours"][second], atol=1e-3)
    with pytest.raises(UserError, match=r"sees = 'light'; .*'lightness'"):
        build({**RESNET, "sees": "light"})


@pytest.mark.parametrize(
    ("stem", "size", "sides"),
    [
        ("conv3", 32, [32, 16, 8, 4]),  # with a padding of 2 it would be 34
        ("conv3_stride2", 32, [16, 8, 4, 2]),
        ("conv7", 224, [56, 28, 14, 7]),
        (None, 32, [32, 16, 8, 4]),
        (None, 224, [56, 28, 14, 7]),
    ],
)
def test_the_stem_of_small_images_keeps_their_size(stem, size, sides):
    encoder = build({**RESNET, "stem": stem, "image_size": size})
    assert encoder.shapes() == [(4 * 2**i, side, side) for i, side in enumerate(sides)]


@pytest.mark.parametrize("config", [RESNET, VIT], ids=["resnet", "vit"])
def test_other_sizes_and_shapes(config):
    encoder = build(config).eval()
    shapes = encoder.shapes()
    assert shapes == [tuple(s.shape[1:]) for s in encoder.stages(torch.rand(1, 3, 16, 16))]
    assert encoder(torch.rand(2, 3, 8, 8)).shape == (2, encoder.dim)
    assert encoder.train().shapes() == shapes
    assert encoder.training


def test_a_vision_transformer_of_its_own_size_is_that_of_a_fixed_size():
    import timm

    encoder = build(VIT).eval()
    settings = {k: v for k, v in VIT.items() if k not in (*COLOURS, "name")}
    fixed = timm.create_model(VIT["name"], num_classes=0, img_size=16, **settings).eval()
    fixed.load_state_dict(encoder.model.state_dict())
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(encoder(images), fixed(encoder.normalise(images)))


def test_a_pair_is_both_of_its_encoders():
    first, second = {**RESNET, "sees": "lightness"}, {**RESNET, "width": 8, "sees": "chroma"}
    pair = build({"name": "pair", "first": first, "second": second}).eval()
    images = pair.preprocess(Batch(torch.arange(2), images=torch.rand(2, 3, 20, 20)))
    halves = [pair.first.layers(images), pair.second.layers(images)]
    for name, features in pair.layers(images).items():
        assert torch.equal(features, torch.cat([half[name] for half in halves], dim=1))
    assert torch.equal(pair(images), list(pair.layers(images).values())[-1])
    assert pair.dim == pair(images).shape[1] == 32 + 64
    assert pair.stages(images)[-1].shape[1] == pair.dim
    torch.manual_seed(0)
    again = build(pair.config)  # which holds all that is needed
    again.load_state_dict(pair.state_dict())
    assert torch.equal(again.eval()(images), pair(images))
    assert all(pair.get_submodule(part) is not None for part in pair.parts)
    with pytest.raises(UserError, match=r"first and second expected"):
        build({"name": "pair", "first": first})
    with pytest.raises(UserError, match="one size"):
        build({"name": "pair", "first": first, "second": {**second, "image_size": 8}})


def test_methods_refuse_encoders_of_another_kind():
    small = {"name": "resnet18", "width": 4, "image_size": 16}
    pair = {"name": "pair", "first": small, "second": {**small, "sees": "chroma"}}
    for method in ("inpainting", "simclr", "mae", "cmc"):
        run = Pretraining(method, method, 1, "", {}, {}, pair, "digits", "", epochs=1, seed=0)
        with pytest.raises(NotApplicable, match=f"{method} trains no encoder 'pair'"):
            run.build()


def test_patches_are_slices():
    images, corners = torch.rand(3, 3, 9, 12), torch.randint(0, 5, (3, 4, 2))
    found = patches(images, corners, 5)
    for image, places, cut in zip(images, corners.tolist(), found, strict=True):
        for (top, left), patch in zip(places, cut, strict=True):
            assert torch.equal(patch, image[:, top : top + 5, left : left + 5])
    for wrong in (torch.tensor([[[5, 0]]]), torch.tensor([[[0, -1]]])):
        with pytest.raises(ValueError, match="must lie inside the image"):
            patches(images[:1], wrong, 5)


def test_an_adversary_teaches_each_side_its_own():
    adversary = Adversary(8).double()
    real, fake = torch.rand(2, 4, 3, 8, 8).double().unbind()
    fake.requires_grad_()
    fooled, found = adversary(real, fake)
    (slope,) = torch.autograd.grad(fooled, fake, retain_graph=True)
    assert slope.abs().sum() > 0
    assert torch.autograd.grad(found, fake, retain_graph=True, allow_unused=True) == (None,)
    weights = list(adversary.parameters())
    of_fooled = torch.autograd.grad(fooled, weights, retain_graph=True, allow_unused=True)
    assert of_fooled == (None,) * len(weights)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(found, weights))
    verdict = adversary.judge(fake)
    torch.testing.assert_close(fooled, -torch.log(torch.sigmoid(verdict)).mean())
