"""Torchvision's classifiers: their state dicts load, and what enters the last layer comes out."""

import pytest
import torch
from torch import nn
from torchvision import models

from sslbench.checkpoint import load_encoder
from sslbench.encoder import build
from sslbench.errors import NotApplicable, UserError
from sslbench.external.preprocessing import IMAGENET
from sslbench.external.request import Request

LAST = {
    "mobilenet_v3_small": "classifier.3", "shufflenet_v2_x0_5": "fc", "mnasnet0_5": "classifier.1",
    "densenet121": "classifier", "regnet_y_400mf": "fc", "googlenet": "fc",
    "convnext_tiny": "classifier.2", "resnet18": "fc",
}  # fmt: skip


@pytest.mark.parametrize("name", LAST)
def test_features_are_what_enters_the_last_layer(name, tmp_path):
    more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    torch.manual_seed(0)
    model = models.get_model(name, **more).eval()
    path = tmp_path / "model.pth"
    torch.save({"model": model.state_dict(), "epoch": 3}, path)
    model.set_submodule(LAST[name], nn.Identity())
    request = Request(encoder={"name": f"torchvision/{name}"}, preprocess={"image_size": 64})
    encoder, about = load_encoder(path, request)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(encoder.normalise(images))
        assert torch.equal(encoder(images), expected)
        assert torch.equal(encoder.layers(images)["head"], expected)
    assert encoder.dim == expected.shape[1]
    assert about["external"]["matched"] == about["external"]["wanted"]
    assert about["external"]["unused"] == 2  # weight and bias of the last layer


def test_maps_are_the_last_of_each_resolution():
    encoder = build({"name": "torchvision/mobilenet_v2", "image_size": 64, **IMAGENET}).eval()
    maps = encoder.stages(torch.rand(1, 3, 64, 64))
    assert [tuple(stage.shape[1:]) for stage in maps] == encoder.shapes()
    assert [stage.shape[2] for stage in maps] == [32, 16, 8, 4, 2]
    swin = build({"name": "torchvision/swin_t", "image_size": 64, **IMAGENET}).eval()
    with pytest.raises(NotApplicable, match="no feature maps"):
        swin.stages(torch.rand(1, 3, 64, 64))
    assert swin(torch.rand(1, 3, 64, 64)).shape == (1, 768)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("resnet19", "torchvision has no classifier 'resnet19'; did you mean 'resnet18'"),
        ("squeezenet1_0", "ends in no linear layer"),
    ],
)
def test_what_cannot_be_an_encoder_is_refused(name, what):
    with pytest.raises(UserError, match=what):
        build({"name": f"torchvision/{name}", "image_size": 64, **IMAGENET})
