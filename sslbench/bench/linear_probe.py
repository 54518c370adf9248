"""The linear probe's sweep of 45 penalties, against scikit-learn's logistic regression.

Both sides standardise the features, choose C on validation and fit again on train and validation.
There are three peers, all with scikit-learn's default solver: a loop over C; the same loop with
each fit starting from the last one (`warm_start`); and a pipeline of StandardScaler and
LogisticRegression in GridSearchCV, on all cores. Their tolerance is a hundredth of the default,
with which they can stop so early that another C is chosen, 38 % above the least objective.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sslbench.bench.timing import Goal, Timing, UnequalError, in_turn, seconds
from sslbench.probe import PENALTIES, Probe, choose, fit_probes

Result = TypeVar("Result")

TRAIN, VALIDATION, TEST, DIM = 8_000, 2_000, 2_000, 384
TOLERANCE = 1e-6  # scikit-learn's

_Fitted = tuple[float, LogisticRegression, StandardScaler]  # and the C that was chosen


class _Data:
    """Overlapping classes, with features of very different scale as networks have them."""

    def __init__(self, classes: int) -> None:
        rng, self.classes = np.random.default_rng(0), classes
        n = TRAIN + VALIDATION + TEST
        self.labels = rng.integers(0, classes, n)
        centres = rng.standard_normal((classes, DIM))
        x = 0.35 * centres[self.labels] + rng.standard_normal((n, DIM))
        mixing = rng.standard_normal((DIM, DIM)) / np.sqrt(DIM)
        self.x = (x @ mixing * np.logspace(-2, 1, DIM)).astype(np.float32)
        self.train = slice(0, TRAIN)
        self.held_out = slice(TRAIN, TRAIN + VALIDATION)
        self.both = slice(0, TRAIN + VALIDATION)
        self.test = slice(TRAIN + VALIDATION, n)


def measure(rounds: int) -> Iterator[Timing]:
    """10 classes; 100 once, because the peers take minutes."""
    for classes in (10, 100):
        data = _Data(classes)
        cold, warm = (_loop(data, start) for start in (False, True))
        in_a_loop = "LogisticRegression in a loop"
        yield _timing(data, "", in_a_loop, cold, rounds, Goal("faster", 15))
        yield _timing(data, "-warm", f"{in_a_loop}, each from the last", warm, rounds)
        if classes == 10:
            yield _timing(data, "-pipeline", "GridSearchCV of a pipeline", _pipeline(data), rounds)


def _timing(
    data: _Data,
    name: str,
    peer: str,
    theirs: Callable[[], _Fitted],
    rounds: int,
    goal: Goal | None = None,
) -> Timing:
    found: list[tuple[float, Probe]] = []
    expected: list[_Fitted] = []
    pair = _kept(_ours(data), found), _kept(theirs, expected)
    if data.classes == 10:
        times = in_turn(*pair, rounds)
    else:
        times = (seconds(pair[0]),), (seconds(pair[1]),)
    return Timing(
        f"linear_probe/{data.classes}{name}",
        f"{len(PENALTIES)} C, chosen on {VALIDATION:,}, refitted: {TRAIN:,} × {DIM}, "
        f"{data.classes} classes",
        f"scikit-learn {sklearn.__version__} {peer}",
        *times,
        goal,
        _same(data, found[0], expected[0]),
    )


def _kept(work: Callable[[], Result], results: list[Result]) -> Callable[[], None]:
    return lambda: results.append(work())


def _ours(data: _Data) -> Callable[[], tuple[float, Probe]]:
    x, y = data.x, data.labels
    held_out = torch.from_numpy(x[data.held_out]).double()

    def score(fit: Probe) -> float:
        return float((fit.predict(held_out) == y[data.held_out]).mean())

    def work() -> tuple[float, Probe]:
        C, _ = choose(x[data.train], y[data.train], score)
        (fit,) = fit_probes(x[data.both], y[data.both], [C])
        return C, fit

    return work


def _loop(data: _Data, warm: bool) -> Callable[[], _Fitted]:
    y = data.labels

    def work() -> _Fitted:
        scaler = StandardScaler().fit(data.x[data.train])
        train, held_out = (scaler.transform(data.x[s]) for s in (data.train, data.held_out))
        model = LogisticRegression(max_iter=1_000, tol=TOLERANCE, warm_start=warm)
        scores = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weak penalties that do not converge
            for C in PENALTIES:
                model.set_params(C=C)
                model.fit(train, y[data.train])
                scores.append(model.score(held_out, y[data.held_out]))
            best = PENALTIES[int(np.argmax(scores))]
            scaler = StandardScaler().fit(data.x[data.both])
            model = LogisticRegression(C=best, max_iter=1_000, tol=TOLERANCE)
            model.fit(scaler.transform(data.x[data.both]), y[data.both])
        return best, model, scaler

    return work


def _pipeline(data: _Data) -> Callable[[], _Fitted]:
    """As the protocol is written with scikit-learn's own parts."""
    fold = np.r_[np.full(TRAIN, -1), np.zeros(VALIDATION)]  # the latter are validation
    model = LogisticRegression(max_iter=1_000, tol=TOLERANCE)
    steps = make_pipeline(StandardScaler(), model)
    grid = {"logisticregression__C": PENALTIES}
    search = GridSearchCV(steps, grid, cv=PredefinedSplit(fold), n_jobs=os.cpu_count())

    def work() -> _Fitted:
        search.fit(data.x[data.both], data.labels[data.both])
        scaler, best = search.best_estimator_
        return search.best_params_["logisticregression__C"], best, scaler

    return work


def _same(
    data: _Data,
    ours: tuple[float, Probe],
    theirs: _Fitted,
) -> str:
    """At scikit-learn's C: the objective of both solutions, and their accuracies."""
    C, model, scaler = theirs
    x, y = data.x[data.both], data.labels[data.both]
    (fit,) = fit_probes(x, y, [C])
    z = scaler.transform(x.astype(np.float64))
    weights = fit.classifier.weight.numpy() * scaler.scale_
    values = [
        _objective(z, y, C, weights, fit.classifier.logits(torch.from_numpy(x)).numpy()),
        _objective(z, y, C, model.coef_, z @ model.coef_.T + model.intercept_),
    ]
    apart = (values[0] - values[1]) / values[1]
    if abs(apart) > 1e-4:
        raise UnequalError(f"objective: ours is at {1 + apart:.6f} times scikit-learn's")
    test = torch.from_numpy(data.x[data.test]).double()
    truth = data.labels[data.test]
    mine = float((ours[1].predict(test) == truth).mean())
    other = float(model.score(scaler.transform(data.x[data.test]), truth))
    return (
        f"objective at C = {C:.2g}: ours {abs(apart):.1e} {'above' if apart > 0 else 'below'}; "
        f"C chosen {ours[0]:.2g} and {C:.2g}, accuracy on test {mine:.4f} and {other:.4f}"
    )


def _objective(
    z: np.ndarray, y: np.ndarray, penalty: float, weights: np.ndarray, logits: np.ndarray
) -> float:
    """½‖W‖² + C Σ log-loss."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]
    return float(0.5 * (weights**2).sum() + penalty * loss.sum())
