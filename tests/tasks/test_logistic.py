"""The path of logistic regressions against scikit-learn's, one by one."""

import logging

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from sslbench import logistic
from sslbench.logistic import TOLERANCE, deviation, fit_path
from sslbench.probe import CHOICE

PENALTIES = np.logspace(-6, 5, 45)


def overlapping(classes, n=300, D=12, seed=0):
    """Classes that overlap, features of very different scale and correlated."""
    random = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), random.integers(classes, size=n - classes)])
    x = random.normal(size=(classes, D))[y] * 0.5 + random.normal(size=(n, D))
    return x @ random.normal(size=(D, D)) * np.logspace(-2, 2, D) + 3, y


def digits(n=150):
    """More features than classes need: separable; some are constant."""
    x, y = load_digits(return_X_y=True)
    return x[:n], y[:n]


def standardised(x):
    scale = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(scale == 0, 1, scale)


def objective(weights, logits, y, C):
    """Scikit-learn's: half the squared norm, plus C times the log-loss."""
    if logits.ndim == 1:  # two classes
        loss = -np.log(expit(np.where(y == 1, logits, -logits))).sum()
    else:
        loss = -log_softmax(logits, axis=1)[np.arange(len(y)), y].sum()
    return 0.5 * np.square(weights).sum() + C * loss


@pytest.mark.parametrize(("tolerance", "above"), [(TOLERANCE, 3e-6), (CHOICE, 1e-4)])
@pytest.mark.parametrize(
    "problem", [overlapping(4), overlapping(2), digits()], ids=["overlapping", "two", "separable"]
)
def test_the_objective_is_as_low_as_that_of_scikit_learn(problem, tolerance, above):
    x, y = problem
    z, two = standardised(x), y.max() == 1
    fits = list(fit_path(torch.tensor(x), torch.tensor(y), PENALTIES.tolist(), tolerance))
    assert len(fits) == 45
    for C, fit in list(zip(PENALTIES, fits, strict=True))[::4]:
        model = LogisticRegression(C=C, tol=1e-9, max_iter=20_000).fit(z, y)
        scale = np.where(x.std(axis=0) == 0, 1, x.std(axis=0))
        logits, weights = fit.logits(torch.tensor(x)).numpy(), fit.weight.numpy() * scale
        np.testing.assert_allclose(weights.sum(axis=0), 0, atol=1e-6 * np.abs(weights).max())
        if two:  # one weight vector, the difference of the two
            logits, weights = logits[:, 1] - logits[:, 0], weights[1] - weights[0]
        ours = objective(weights, logits, y, C)
        theirs = objective(model.coef_, model.decision_function(z), y, C)
        assert ours <= theirs * (1 + above)
        assert ours >= theirs * (1 - 1e-3)  # a minimum: theirs is not far above it
        right = (fit.logits(torch.tensor(x)).argmax(1).numpy() == y).mean()
        assert right == pytest.approx(model.score(z, y), abs=1.1 / len(y))  # one example


def of_few_factors(n=1_500, D=64, classes=5, factors=3):
    """Features that are nearly the same, functions of three numbers, as of a narrow network."""
    random = np.random.default_rng(0)
    y = random.integers(classes, size=n)
    z = random.normal(size=(n, factors)) + 2 * random.normal(size=(classes, factors))[y]
    hidden = z @ random.normal(size=(factors, 4 * D)) / np.sqrt(factors)
    return np.tanh(hidden + random.normal(size=4 * D)) @ random.normal(size=(4 * D, D)), y


def test_features_of_few_factors_are_fitted_as_well_at_weak_penalties(caplog):
    x, y = of_few_factors()
    z, penalties = standardised(x), [1e-2, 1.0, 1e2, 1e5]
    fits = fit_path(torch.tensor(x), torch.tensor(y), penalties)
    for C, fit in zip(penalties, fits, strict=True):
        model = LogisticRegression(C=C, tol=1e-8, solver="newton-cholesky").fit(z, y)
        ours, theirs = (
            objective(weights, logits, y, C)
            for weights, logits in (
                (fit.weight.numpy() * x.std(axis=0), fit.logits(torch.tensor(x)).numpy()),
                (model.coef_, model.decision_function(z)),
            )
        )
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert not caplog.records  # "no convergence"


def test_products_in_float32_lead_as_far_as_in_float64(monkeypatch):
    x, y = overlapping(10, n=600)
    single = logistic._Problem.__init__

    def double(self, *given):
        single(self, *given)
        self.single = self.x

    def path():
        return list(fit_path(torch.tensor(x), torch.tensor(y), PENALTIES.tolist()))

    ours = path()
    monkeypatch.setattr(logistic._Problem, "__init__", double)
    for C, *fits in zip(PENALTIES, ours, path(), strict=True):
        first, second = (
            objective(fit.weight.numpy() * x.std(axis=0), fit.logits(torch.tensor(x)).numpy(), y, C)
            for fit in fits
        )
        assert first == pytest.approx(second, rel=2e-6)


def test_weights_are_those_of_scikit_learn_on_raw_features():
    x, y = overlapping(3)
    (fit,) = fit_path(torch.tensor(x), torch.tensor(y), [0.05])
    model = LogisticRegression(C=0.05, tol=1e-10, max_iter=10_000).fit(standardised(x), y)
    np.testing.assert_allclose(fit.weight.numpy() * x.std(axis=0), model.coef_, atol=3e-4)
    shift = fit.bias.numpy() + fit.weight.numpy() @ x.mean(axis=0) - model.intercept_
    np.testing.assert_allclose(shift - shift.mean(), 0, atol=3e-4)


def test_several_labels_are_as_many_logistic_regressions():
    x, y = overlapping(3)
    targets = np.stack([y == 0, y > 0, np.arange(len(y)) % 7 == 0], axis=1)
    fits = fit_path(torch.tensor(x), torch.tensor(targets), [0.01, 1.0])
    for C, fit in zip([0.01, 1.0], fits, strict=True):
        for column in range(3):
            model = LogisticRegression(C=C, tol=1e-10, max_iter=10_000)
            model.fit(standardised(x), targets[:, column])
            np.testing.assert_allclose(
                fit.logits(torch.tensor(x))[:, column],
                model.decision_function(standardised(x)),
                atol=5e-3,
            )


def test_a_fit_does_not_depend_on_those_before_it():
    x, y = overlapping(4)
    *_, on_the_path = fit_path(torch.tensor(x), torch.tensor(y), PENALTIES[:25].tolist())
    (alone,) = fit_path(torch.tensor(x), torch.tensor(y), [PENALTIES[24]])
    probabilities = [fit.logits(torch.tensor(x)).softmax(1) for fit in (alone, on_the_path)]
    torch.testing.assert_close(*probabilities, rtol=0, atol=1e-3)


@pytest.mark.parametrize("copies", [1, 3])
def test_features_that_repeat_or_outnumber_examples_do_no_harm(copies):
    x, y = digits(40)
    repeated = np.concatenate([x] * copies, axis=1)
    (fit,) = fit_path(torch.tensor(repeated), torch.tensor(y), [1.0])
    model = LogisticRegression(C=1, tol=1e-9, max_iter=10_000).fit(standardised(repeated), y)
    logits = fit.logits(torch.tensor(repeated)).numpy()
    expected = model.decision_function(standardised(repeated))
    np.testing.assert_allclose(logits, expected, atol=5e-3)


def test_a_feature_that_is_constant_to_rounding_is_not_blown_up():
    x = torch.full((300, 1), 0.1, dtype=torch.float64)
    assert 0 < x.std(0, correction=0) < 1e-16
    assert deviation(x) == 1
    close = torch.tensor([[1e6], [1e6 + 1e-6]], dtype=torch.float64)
    assert float(deviation(close)) == pytest.approx(5e-7, rel=1e-3)


def test_one_class_is_predicted_always():
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    (fit,) = fit_path(x, torch.zeros(10, dtype=torch.long), [1.0])
    assert fit.logits(x).shape == (10, 1)
    assert fit.logits(x).isfinite().all()


def test_a_fit_that_does_not_converge_says_so(monkeypatch, caplog):
    monkeypatch.setattr(logistic, "STEPS", 2)
    x, y = digits()
    with caplog.at_level(logging.WARNING):
        list(fit_path(torch.tensor(x), torch.tensor(y), [100.0]))
    assert "no convergence in 2 steps, C = 100" in caplog.text
