"""What MoCo's queue does at the edges; its loss is tested with the others."""

import pytest
import torch
import torch.nn.functional as F

from sslbench.methods.contrastive.moco import MoCo
from sslbench.random import Random
from tests.conftest import tiny_images

SMALL = {"hidden": 8, "dim": 4}


def step(method: MoCo, places: torch.Tensor) -> None:
    with torch.no_grad():
        views = method.views(method.data[places], Random(0, 0, places, len(places)))
    method.loss(views, 0.0)
    method.after_step(0.1)


def test_the_queue_is_at_most_one_epoch_long(resnet):
    assert MoCo(resnet, tiny_images(24), **SMALL).keys.shape == (24, 4)
    assert MoCo(resnet, tiny_images(24), queue=16, **SMALL).keys.shape == (16, 4)


def test_the_queue_starts_with_directions_of_unit_length(resnet):
    keys = MoCo(resnet, tiny_images(24), **SMALL).keys
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(24))


def test_a_queue_shorter_than_a_batch_keeps_the_last_keys(resnet):
    method = MoCo(resnet, tiny_images(), queue=6, groups=2, **SMALL)
    for _ in range(2):
        step(method, torch.arange(16))
        kept = method.keys @ method.new_keys[-6:].T
        assert (kept > 1 - 1e-6).sum(0).ge(1).all()


def test_groups_must_divide_the_batch(resnet):
    with pytest.raises(ValueError, match="8 groups of batch norm"):
        step(MoCo(resnet, tiny_images(), **SMALL), torch.arange(12))


def test_version_one_has_a_linear_projector(resnet):
    method = MoCo(resnet, tiny_images(), hidden=0, dim=4)
    assert [p.shape for p in method.projector.parameters()] == [(4, 32), (4,)]


def test_the_encoder_keeps_its_names_and_works_alone(resnet):
    before = resnet.state_dict().keys()
    method = MoCo(resnet, tiny_images(), **SMALL)
    assert method.encoder.state_dict().keys() == before
    plain = resnet.variant().eval()
    plain.load_state_dict(method.encoder.state_dict())
    images = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(plain(images), method.encoder.eval()(images))
    assert F.cosine_similarity(plain(images), method.key_encoder.eval()(images)).min() > 0.9999
