"""Ridge regression on few labels against scikit-learn and brute force."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeCV

from sslbench.errors import NotApplicable, UserError
from sslbench.features import features
from sslbench.random import Random
from sslbench.ridge import ridge
from sslbench.tasks.k_shot_linear import KShotLinear, nested
from tests.tasks.conftest import balanced, dataset

ALPHAS = np.logspace(-4, 2, 13)


@pytest.mark.parametrize(("n", "D"), [(12, 30), (60, 7), (5, 5)])
def test_ridge_is_that_of_scikit_learn_with_leave_one_out(n, D):
    random = np.random.default_rng(n)
    y = np.arange(n) % 5
    x = random.normal(size=(5, D))[y] + 2 * random.normal(size=(n, D)) + 1
    weight, bias, penalty = ridge(torch.tensor(x), torch.tensor(y))
    model = RidgeCV(alphas=D * ALPHAS, alpha_per_target=False).fit(x, np.eye(5)[y])
    assert D * penalty == pytest.approx(model.alpha_)
    np.testing.assert_allclose(weight.T, model.coef_, atol=1e-9)
    np.testing.assert_allclose(bias, model.intercept_, atol=1e-9)


def test_the_penalty_has_the_least_error_on_each_example_left_out():
    random = np.random.default_rng(0)
    y = np.arange(16) % 4
    x = random.normal(size=(4, 6))[y] + random.normal(size=(16, 6))
    errors = []
    for alpha in ALPHAS:
        error = 0.0
        for i in range(16):
            rest = np.delete(np.arange(16), i)
            model = Ridge(alpha=6 * alpha).fit(x[rest], np.eye(4)[y[rest]])
            error += np.square(model.predict(x[[i]]) - np.eye(4)[y[i]]).sum()
        errors.append(error)
    assert 0 < int(np.argmin(errors)) < 12
    _, _, penalty = ridge(torch.tensor(x), torch.tensor(y))
    assert penalty == pytest.approx(ALPHAS[int(np.argmin(errors))])


def test_fewer_shots_are_among_more():
    labels = np.random.default_rng(0).integers(4, size=100)
    draw = [
        nested(torch.tensor(labels), 16, Random(0, step, torch.arange(100), 100))
        for step in range(2)
    ]
    for positions in draw:
        assert positions.shape == (4, 16)
        assert (labels[positions] == np.arange(4)[:, None]).all()
        assert len(positions.unique()) == 64
    assert not draw[0].equal(draw[1])


def test_the_protocol(encoder, tmp_path):
    data = dataset(balanced(classes=3, train=20), noise=150)
    result = KShotLinear(shots=(2, 8), seeds=4).run(encoder, data, seed=5, folder=tmp_path)
    x = {
        name: features(encoder, split)["pixels"].astype(float)
        for name, split in data.splits.items()
    }
    mean, std = x["train"].mean(axis=0), x["train"].std(axis=0)
    known, unseen = ((x[name] - mean) / std for name in ("train", "test"))
    y = data["train"].labels
    for k in (2, 8):
        correct, penalties = [], []
        for step in range(4):
            rows = nested(torch.tensor(y), 8, Random(5, step, torch.arange(60), 60))
            rows = rows[:, :k].flatten().numpy()
            model = RidgeCV(48 * ALPHAS, alpha_per_target=False).fit(
                known[rows], np.eye(3)[y[rows]]
            )
            correct.append(model.predict(unseen).argmax(axis=1) == data["test"].labels)
            penalties.append(model.alpha_ / 48)
        score, over_seeds = result.scores[f"top1_{k}"], result.scores[f"top1_{k}_over_seeds"]
        np.testing.assert_allclose(score.examples, np.mean(correct, axis=0))
        assert score.value == over_seeds.value == pytest.approx(np.mean(correct))
        assert over_seeds.n == 4
        assert over_seeds.stderr == pytest.approx(np.mean(correct, axis=1).std(ddof=1) / 2)
        assert result.selected["penalty"][str(k)] == pytest.approx(penalties)
    assert result.scores["top1"] is result.scores["top1_8"]
    assert result.scores["top1_2"].value < result.scores["top1_8"].value < 0.99


def test_a_class_with_too_few_labels_is_not_applicable(encoder, tmp_path):
    labels = balanced()
    labels["train"] = np.concatenate([labels["train"], [9] * 15])
    with pytest.raises(NotApplicable, match="class 9 of patterns has 15 labels; 16 needed"):
        KShotLinear().run(encoder, dataset(labels), seed=0, folder=tmp_path)


@pytest.mark.parametrize("shots", [(), (0, 1), (2, 2), (4, 1)])
def test_shots_must_ascend(shots):
    with pytest.raises(UserError, match="shots must be positive and ascending"):
        KShotLinear(shots=shots)


def test_two_subsets_are_too_few():
    with pytest.raises(UserError, match="seeds ≥ 3"):
        KShotLinear(seeds=2)
