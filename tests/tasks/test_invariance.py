"""Invariance against its formula in a loop, and what must be invariant by construction."""

from itertools import count

import numpy as np
import pytest
import torch
from torch import Tensor

from sslbench.data.split import Batch, ImageArray
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError
from sslbench.tasks import invariance
from sslbench.tasks.invariance import FACTORS, Invariance, _scores
from tests.conftest import tiny_bert
from tests.tasks.conftest import balanced, dataset

SIDE = 16
COUNT = count()


class Seen(Encoder):
    """Features (B, D) by a function of the images."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.image_size = function, SIDE
        self.config = {"name": f"seen {next(COUNT)}"}  # features are cached by it

    def preprocess(self, batch: Batch) -> Tensor:
        return batch.images.float() / 255

    def layers(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"seen": self.function(inputs)}


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    made = dataset(balanced(classes=2, test=20))
    coarse = random.integers(40, 216, (40, 3, 4, 4), dtype=np.uint8)
    images = coarse.repeat(4, axis=2).repeat(4, axis=3)
    splits = {name: ImageArray(images[: len(s)], s.labels) for name, s in made.splits.items()}
    return type(made)(**{**made.__dict__, "splits": splits})


def values(function, data, tmp_path, **settings):
    cls = Invariance(**settings)
    result = cls.run(Seen(function).eval(), data, seed=0, folder=tmp_path)
    return {name: score.value for name, score in result.scores.items()}


def test_the_formula_in_a_loop():
    z = torch.nn.functional.normalize(torch.randn(19, 6, 5).double(), dim=2)
    x = z.numpy()
    different = np.mean([x[0, i] @ x[0, j] for i in range(6) for j in range(6) if i != j])
    found = _scores(z)
    for f, name in enumerate(FACTORS):
        for s in range(3):
            same = [x[1 + 3 * f + s, i] @ x[0, i] for i in range(6)]
            expected = (np.mean(same) - different) / (1 - different)
            assert found[f"{name}_{s + 1}"].mean() == pytest.approx(expected)
        parts = [found[f"{name}_{s}"].mean() for s in (1, 2, 3)]
        assert found[name].mean() == pytest.approx(np.mean(parts))
    assert found["invariance"].mean() == pytest.approx(np.mean([found[n].mean() for n in FACTORS]))


def test_pixels_follow_every_change_the_more_the_stronger(data, tmp_path):
    found = values(lambda x: x.flatten(1), data, tmp_path)
    for name in FACTORS:
        weak, medium, strong = (found[f"{name}_{i}"] for i in (1, 2, 3))
        assert 1 > weak > medium > strong


def test_what_a_representation_cannot_see_does_not_change_it(data, tmp_path):
    mean = values(lambda x: x.mean((2, 3)), data, tmp_path)
    assert mean["rotation_3"] == pytest.approx(1, abs=1e-4)
    assert mean["texture"] > 0.99
    assert mean["lighting"] < 0.95
    # Hue turned at the same value and saturation keeps the largest and the smallest channel.
    value = values(lambda x: x.amax(1).flatten(1), data, tmp_path)
    assert value["colour"] == pytest.approx(1, abs=1e-4)
    assert value["rotation"] < 0.8


def test_noise_is_as_far_away_as_another_image(data, tmp_path):
    torch.manual_seed(0)
    found = values(lambda x: torch.randn(len(x), 64), data, tmp_path)
    assert found["invariance"] == pytest.approx(0, abs=0.02)


def test_features_of_a_cone_are_not_invariant_for_that(data, tmp_path):
    """Shifting all features far away changes nothing: they are centred."""
    near = values(lambda x: x.flatten(1), data, tmp_path)
    far = values(lambda x: x.flatten(1).double() + 100, data, tmp_path)
    assert far == pytest.approx(near, abs=1e-3)


def test_geometry_moves_where_it_says():
    images = torch.zeros(1, 3, SIDE, SIDE)
    images[:, :, 4, 8] = 1
    right_and_down = invariance._moved(images, 1 / 8, -torch.ones(1, 2))
    assert right_and_down[0, 0].argmax().item() == 6 * SIDE + 10
    turned = invariance._turned(images, 90.0, torch.ones(1, 2))
    assert turned[0, 0].argmax().item() == 7 * SIDE + 4  # a quarter turn, counterclockwise
    ramp = torch.linspace(0, 1, SIDE).expand(1, 3, SIDE, SIDE)
    half = invariance._enlarged(ramp, 2.0, torch.ones(1, 2))[0, 0, 0]
    assert (half[9] - half[8]).item() == pytest.approx(1 / (SIDE - 1) / 2, rel=1e-5)


def test_a_subset_says_which_images(data, tmp_path):
    result = Invariance(images=10).run(
        Seen(lambda x: x.flatten(1)).eval(), data, seed=0, folder=tmp_path
    )
    assert len(result.places) == result.scores["invariance"].n == 10
    assert sorted(set(result.places.tolist())) == result.places.tolist()


def test_constant_features_are_an_error(data, tmp_path):
    with pytest.raises(FloatingPointError, match="same features"):
        values(lambda x: torch.ones(len(x), 3) + 0 * x.mean((1, 2, 3))[:, None], data, tmp_path)


def test_texts_are_not_applicable(data, tmp_path):
    with pytest.raises(NotApplicable):
        Invariance().run(tiny_bert().eval(), data, seed=0, folder=tmp_path)


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="images ≥ 2 expected, found 1"):
        Invariance(images=1)
