"""The rotations that are shown, and what they are called."""

import numpy as np
import pytest
import torch

from sslbench.methods.pretext.rotation import Rotation
from sslbench.random import Random


def views(method: Rotation, images, count: int = 16) -> tuple[np.ndarray, np.ndarray]:
    places = torch.arange(count)
    shown, turns = method.views(images[places], Random(0, 0, places, count))
    each = method.per_image
    return shown.view(count, each, *shown.shape[1:]).numpy(), turns.view(count, each).numpy()


def test_all_four_rotations_of_each_image_are_in_the_batch(resnet, images):
    shown, turns = views(Rotation(resnet, images), images)
    assert (np.sort(turns, axis=1) == [0, 1, 2, 3]).all()
    for rotations, labels in zip(shown, turns, strict=True):
        upright = rotations[labels.tolist().index(0)]
        for image, turn in zip(rotations, labels, strict=True):
            np.testing.assert_array_equal(image, np.rot90(upright, turn, axes=(1, 2)))


def test_fewer_rotations_are_distinct_and_drawn_at_random(resnet, images):
    _, two = views(Rotation(resnet, images, per_image=2), images, 64)
    assert (two[:, 0] != two[:, 1]).all()
    _, one = views(Rotation(resnet, images, per_image=1), images, 64)
    assert np.bincount(one.flatten(), minlength=4).min() > 5


@pytest.mark.parametrize("per_image", [0, 5])
def test_a_quarter_turn_has_four_multiples(resnet, images, per_image):
    with pytest.raises(ValueError, match=f"1 to 4 expected, got {per_image}"):
        Rotation(resnet, images, per_image=per_image)
