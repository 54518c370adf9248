"""What the other methods are compared with."""

import numpy as np
import pytest
import torch

from sslbench.checkpoint import weights_hash
from sslbench.data.split import ImageArray
from sslbench.encoder import build
from sslbench.errors import NotApplicable
from sslbench.methods.baselines.pixels import Pixels
from sslbench.methods.baselines.supervised import Supervised
from sslbench.methods.baselines.untrained import Untrained
from sslbench.random import Random
from tests.conftest import SIZE

PLACES = torch.arange(6)


def test_pixels_are_those_of_the_image_with_the_encoder_s_colours(resnet, images):
    encoder = Pixels(resnet, images).encoder
    batch = images[PLACES]
    layers = encoder.layers(encoder.preprocess(batch))
    expected = (batch.images.numpy() / 255 - 0.5) / 0.25
    np.testing.assert_allclose(layers["pixels"], expected.reshape(6, -1), atol=1e-5)
    cells = expected.reshape(6, 3, 8, 2, 8, 2).mean((3, 5))
    np.testing.assert_allclose(layers["pixels.avg8"], cells.reshape(6, -1), atol=1e-5)
    assert encoder.config == {"name": "pixels", **colours(resnet), "image_size": SIZE}
    assert build(encoder.config).dim == encoder.dim == 3 * SIZE**2


def colours(encoder) -> dict[str, list[float]]:
    return {name: encoder.config[name] for name in ("mean", "std")}


def test_pixels_of_text_do_not_apply(resnet, images):
    resnet.modality = "text"
    with pytest.raises(NotApplicable, match="image encoder"):
        Pixels(resnet, images)


def test_untrained_is_the_encoder_that_was_given(resnet, images):
    before = weights_hash(resnet)
    method = Untrained(resnet, images)
    assert method.encoder is resnet
    assert weights_hash(method.encoder) == before
    assert method.phases == 0


@pytest.mark.parametrize("cls", [Pixels, Untrained])
def test_what_is_not_trained_has_no_loss(resnet, images, cls):
    method = cls(resnet, images)
    views = method.views(images[PLACES], Random(0, 0, PLACES, 6))
    assert views.shape == (6, 3, SIZE, SIZE)
    with pytest.raises(NotApplicable, match="not trained"):
        method.loss(views, 0.0)


def test_supervised_takes_the_labels(resnet, images):
    method = Supervised(resnet, images)
    assert method.classifier.out_features == 4
    _, labels = method.views(images[PLACES], Random(0, 0, PLACES, 6))
    assert labels.tolist() == images.labels[:6].tolist()


@pytest.mark.parametrize("labels", [None, np.zeros((4, 3), bool)])
def test_supervised_does_not_apply_without_one_label_per_image(resnet, labels):
    data = ImageArray(np.zeros((4, 3, SIZE, SIZE), np.uint8), labels)
    with pytest.raises(NotApplicable, match="one label per image"):
        Supervised(resnet, data)
