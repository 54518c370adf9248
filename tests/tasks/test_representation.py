"""Measures of geometry against closed forms, numpy and scipy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import entropy

from sslbench.checkpoint import save_encoder, weights_hash
from sslbench.data.augment import Augmentation
from sslbench.encoder import build
from sslbench.errors import UserError
from sslbench.features import features
from sslbench.geometry import alignment, cka, effective_rank, power_law, uniformity
from sslbench.random import Random
from sslbench.registry import settings
from sslbench.tasks.representation import Representation
from tests.tasks.conftest import SIZE, balanced, dataset

STILL = Augmentation(
    crop_scale=(1.0, 1.0), flip_p=0.0, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0
)  # every view is the image


@pytest.mark.parametrize(
    ("spectrum", "rank"),
    [([2.0, 2.0, 2.0, 0.0], 3), ([5.0, 0.0], 1), ([3.0, 1.0], 4 / 3**0.75), ([0.0, 0.0], 1)],
)
def test_effective_rank_is_the_exponential_of_the_entropy(spectrum, rank):
    assert effective_rank(torch.tensor(spectrum).double()) == pytest.approx(rank)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_an_exact_power_law_is_recovered(alpha):
    spectrum = 7 * torch.arange(1, 301).double() ** -alpha
    spectrum[:3] = 1000  # outside the range of the fit
    spectrum[100:] *= 0.01
    assert power_law(spectrum) == pytest.approx((alpha, 1))


def test_the_fit_is_least_squares_with_weights_of_one_over_the_rank():
    spectrum = np.sort(np.random.default_rng(0).exponential(size=60))[::-1].copy()
    j = np.arange(4, 61)
    x, y, weight = np.log(j), np.log(spectrum[3:]), 1 / j
    slope, intercept = np.polyfit(x, y, 1, w=np.sqrt(weight))
    rest = (weight * (y - slope * x - intercept) ** 2).sum()
    total = (weight * (y - np.average(y, weights=weight)) ** 2).sum()
    assert power_law(torch.tensor(spectrum)) == pytest.approx((-slope, 1 - rest / total))


def test_a_spectrum_too_short_has_no_power_law():
    assert power_law(torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5]).double()) is None
    assert power_law(torch.tensor([4.0, 3, 2, 1, 0.5, 1e-20, 0]).double()) is None


def test_uniformity_of_the_corners_of_a_simplex_and_of_a_point():
    assert uniformity(3 * torch.eye(6).double()) == pytest.approx(-4)  # all at distance √2
    assert uniformity(torch.ones(5, 3).double()) == pytest.approx(0)
    opposite = torch.tensor([[2.0, 0.0], [-1.0, 0.0]]).double()
    assert uniformity(opposite) == pytest.approx(-8)


def test_uniformity_and_alignment_are_means_over_pairs():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 30, 5))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y)]
    found = uniformity(torch.tensor(x))
    assert found == pytest.approx(np.log(np.exp(-2 * pdist(unit[0], "sqeuclidean")).mean()))
    expected = np.square(unit[0] - unit[1]).sum(axis=1).mean()
    assert alignment(torch.tensor(x), torch.tensor(y)) == pytest.approx(expected)
    assert alignment(torch.tensor(x), -torch.tensor(x)) == pytest.approx(4)


def test_the_protocol(encoder, tmp_path):
    data = dataset(balanced(train=30), noise=60)
    made = Representation(rows=90)
    result = made.run(encoder, data, seed=1, folder=tmp_path)
    scores = {name: score.value for name, score in result.scores.items()}
    subset = Random(1, 0, torch.zeros(1), 1).permutation(150)[0, :90]
    x = features(encoder, data["train"])["pixels"][subset.numpy()].astype(float)
    singular = np.linalg.svd(x, compute_uv=False)
    p = singular / singular.sum() + 1e-7
    spectrum = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert scores["rankme"] == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert scores["effective_rank"] == pytest.approx(np.exp(entropy(spectrum)))
    uniform = np.log(np.exp(-2 * pdist(unit, "sqeuclidean")).mean())
    assert scores["uniformity"] == pytest.approx(uniform)
    fit = power_law(torch.tensor(spectrum.copy()))
    assert (scores["alpha"], scores["alpha_r2"]) == pytest.approx(fit)
    assert all(score.n == 90 and score.stderr is None for score in result.scores.values())
    assert made.chance(data) is None

    views = [made.augmentation(data["train"][subset], SIZE, random) for random in draws(90)]
    with torch.inference_mode():
        expected = alignment(*(encoder(view).double() for view in views))
    assert scores["alignment"] == pytest.approx(expected)
    assert 0 < scores["alignment"] < 4


def draws(n):
    """The same draws as the task's: two views from one stream of the second step."""
    random = Random(1, 1, torch.arange(n), n)
    return [random, random]


def test_views_that_do_not_change_the_image_are_aligned(encoder, tmp_path):
    data = dataset(balanced(train=4))
    result = Representation(augmentation=STILL).run(encoder, data, seed=0, folder=tmp_path)
    assert result.scores["alignment"].value == pytest.approx(0, abs=1e-9)
    assert result.scores["rankme"].n == 20


def test_cka_is_the_normalised_hsic_of_linear_kernels():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 6)), random.normal(size=(40, 9)) + 5
    y[:, :3] += x[:, :3]
    center = np.eye(40) - 1 / 40
    k, m = center @ x @ x.T @ center, center @ y @ y.T @ center
    hsic = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert cka(torch.tensor(x), torch.tensor(y)) == pytest.approx(hsic)
    turn, _ = np.linalg.qr(random.normal(size=(6, 6)))
    assert cka(torch.tensor(x), torch.tensor(3 * x @ turn + 7)) == pytest.approx(1)
    assert cka(torch.tensor(x), torch.ones(40, 2)) == 0


def test_another_checkpoint_is_compared_with(encoder, tmp_path):
    data = dataset(balanced(train=30))
    torch.manual_seed(1)
    other = build({"name": "resnet18", "width": 4, "image_size": SIZE}, data["train"]).eval()
    save_encoder(other, tmp_path / "other", {})
    made = Representation(rows=90, reference=str(tmp_path / "other"))
    result = made.run(encoder, data, seed=1, folder=tmp_path)
    subset = Random(1, 0, torch.zeros(1), 1).permutation(150)[0, :90].numpy()
    (ours,), (theirs,) = (features(e, data["train"]).values() for e in (encoder, other))
    expected = cka(torch.tensor(ours[subset]), torch.tensor(theirs[subset]))
    assert result.scores["cka"].value == pytest.approx(expected)
    assert 0 < expected < 1
    assert result.selected == {"reference": weights_hash(other)}
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        Representation(reference="nowhere").run(encoder, data, seed=1, folder=tmp_path)


def test_collapsed_features_have_rank_one_and_no_power_law(encoder, tmp_path):
    torch.nn.init.zeros_(encoder.norm.weight)
    torch.nn.init.ones_(encoder.norm.bias)
    result = Representation().run(encoder, dataset(balanced()), seed=0, folder=tmp_path)
    scores = {name: score.value for name, score in result.scores.items()}
    assert scores["rankme"] == pytest.approx(1, abs=1e-3)
    assert scores["effective_rank"] == scores["uniformity"] + 1 == 1
    assert "alpha" not in scores


def test_the_augmentation_is_a_table_of_settings():
    found = settings(Representation, {"augmentation": {"flip_p": 0.25}})
    assert found["augmentation"] == Augmentation(flip_p=0.25)


def test_one_row_has_no_geometry():
    with pytest.raises(UserError, match="rows ≥ 2"):
        Representation(rows=1)
