"""Logistic regression for a whole path of penalties.

Minimises scikit-learn's objective, ½‖W‖² + C Σ log-loss with the intercept unpenalised, for each C
in turn from the strongest penalty to the weakest, by L-BFGS (Liu, Nocedal. Mathematical Programming
1989) with six things added:

- Its first guess of the Hessian has two factors: the mean over examples of the loss's curvature in
  the logits, and the products of the features. It is exact at W = 0, and divided by in the
  eigenvectors of both, so that neither features nor classes of very different scale cost steps.
- The next solution is extrapolated from the last two, because the path is smooth in log C.
- What L-BFGS has learned of the loss's curvature is kept from one C to the next.
- Where that has not led to the minimum after as many steps as the whole Hessian takes time, and it
  has room, it is the next guess. The features of a narrow transformer want it.
- Logits move linearly along a search direction, so a longer or shorter step costs no product.
- The two products of a step, of the features with a direction and with the residuals, are of
  float32, which features are too. A direction vanishes with the distance from the minimum, and a
  residual is rounded relative to itself, so that the minimum stays where it is. Weights, logits
  and losses are float64, and each C begins from logits that were computed in it.

A path of 45 takes some 200 steps, no more where classes can almost be separated.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 1e-7
STEPS = 1_000
_MEMORY = 20
_AGAIN = 10  # steps after which the curvature is guessed again
_LEAST = 1e-3  # of the guess's largest, in a class; a softmax has none where all logits are shifted
_EXACT = 4_096  # weights of which the whole Hessian may be kept, in 128 MB
_PART = 1 << 16  # examples that it is summed over at a time

log = logging.getLogger(__name__)

_Pairs = deque[tuple[Tensor, Tensor]]  # steps, and how the loss's gradient changed over them


@dataclass(frozen=True)
class LinearClassifier:
    """A linear map to logits.

    Attributes:
        weight: (K, D) float64.
        bias: (K,) float64.
    """

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """(n, K) float64 of features (n, D)."""
        return features.double() @ self.weight.T + self.bias


def fit_path(
    features: Tensor, targets: Tensor, penalties: Sequence[float], tolerance: float = TOLERANCE
) -> Iterator[LinearClassifier]:
    """One classifier for each C, on features standardised by their own mean and deviation.

    Args:
        features: (n, D), not standardised.
        targets: (n,) int64 in 0 … K − 1 for one class per example: a softmax over K classes, or
            for two the logistic function of one difference, as scikit-learn has it. (n, K) bool
            for several: K independent logistic regressions.
        penalties: values of C, ascending.
        tolerance: a fit stops when the step to the minimum that its estimate of the curvature
            predicts would gain less than this share of the objective, which is then within about
            ten times of it from the minimum, a hundred where features nearly depend on each other.

    Yields:
        In the order of `penalties`; the standardisation is part of the classifier.
    """
    x = features.double()
    mean, scale = x.mean(0), deviation(x)
    x = (x - mean) / scale
    variance, rotation = torch.linalg.eigh(x.T @ x)
    kept = variance > variance[-1:] * len(variance) * torch.finfo(x.dtype).eps
    rotation, variance = rotation[:, kept], variance[kept]
    problem = _Problem(x @ rotation, variance, targets, tolerance)
    for solution in problem.solve(penalties):
        weight = solution[:, :-1] @ rotation.T / scale
        bias = solution[:, -1] - weight @ mean
        if problem.binary:  # two logits that differ by the one that was fitted
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        yield LinearClassifier(weight, bias)


def deviation(x: Tensor) -> Tensor:
    """Standard deviation (D,) of features (n, D) float64; 1 for those constant to rounding."""
    scale = x.std(0, correction=0)
    rounding = len(x) * torch.finfo(x.dtype).eps * x.mean(0).abs()
    return torch.where(scale <= rounding, 1, scale)


class _Point(NamedTuple):
    """Weights (K, D + 1) and the logits (K, n) that they give."""

    weights: Tensor
    logits: Tensor


class _Problem:
    """The loss on fixed data, in rotated coordinates with a last one for the intercept.

    Args:
        x: (n, D) centred, orthogonal columns.
        variance: (D,) squared lengths of the columns.
        targets: as in `fit_path`.
        tolerance: likewise.
    """

    def __init__(self, x: Tensor, variance: Tensor, targets: Tensor, tolerance: float) -> None:
        n, self.tolerance = len(x), tolerance
        self.x = torch.cat([x.T, x.new_ones(1, n)])  # (D + 1, n)
        self.single = self.x.float()
        self.lengths = torch.cat([variance, variance.new_tensor([n])])  # squared, as `variance`
        hot = F.one_hot(targets) if targets.ndim == 1 else targets
        self.binary = targets.ndim == 1 and hot.shape[1] == 2
        self.softmax = targets.ndim == 1 and not self.binary
        self.own = targets[None]  # (1, n), of a softmax
        self.targets = hot[:, 1:] if self.binary else hot
        self.targets = self.targets.T.double().contiguous()  # (K, n)

    def objective(self, point: _Point, decay: Tensor) -> float:
        """The sum of the loss over examples and half of `decay` (D + 1,) times squared weights."""
        weights, logits = point
        if self.softmax:
            loss = logits.logsumexp(0) - logits.gather(0, self.own)
        else:
            loss = F.softplus(logits) - logits * self.targets
        return float(loss.sum() + (decay * weights * weights).sum() / 2)

    def gradient(self, point: _Point) -> Tensor:
        """Of the loss in the weights, (K, D + 1)."""
        residual = self._probability(point) - self.targets
        return (residual.to(self.single) @ self.single.T).double()

    def curvature(self, point: _Point, decay: Tensor) -> "_Curvature":
        """Of the objective, if the loss's curvature in the logits had nothing to do with x."""
        p = self._probability(point).to(self.single)
        if self.softmax:
            mean = (p.sum(1).diag() - p @ p.T) / p.shape[1]
        else:
            mean = (p * (1 - p)).mean(1).diag()
        values, vectors = torch.linalg.eigh(mean.double())
        tiny = torch.finfo(values.dtype).tiny  # of one class, where there is nothing to learn
        values = values.clamp(min=max(_LEAST * float(values[-1]), tiny))
        return _Curvature(vectors, values[:, None] * self.lengths + decay)

    def hessian(self, point: _Point, decay: Tensor) -> "_Hessian | None":
        """Of the objective; None if it is singular, as where all probabilities are 0 or 1."""
        p = self._probability(point)
        K, D = point.weights.shape
        whole = p.new_zeros(K, D, K, D)
        for x, q in zip(self.x.split(_PART, dim=1), p.split(_PART, dim=1), strict=True):
            for a in range(K):
                for b in range(a if self.softmax else 0):  # Cholesky's takes the lower half
                    whole[a, :, b] -= (x * (q[a] * q[b])) @ x.T
                whole[a, :, a] += (x * (q[a] * (1 - q[a]))) @ x.T
        for a in range(K):
            whole[a, :, a].diagonal().add_(decay)
        lower = whole.view(K * D, K * D)
        lower.diagonal().mul_(1 + 1e-9)  # a softmax's is 0 where all logits are shifted
        factor, failed = torch.linalg.cholesky_ex(lower)
        return None if failed else _Hessian(factor)

    def _probability(self, point: _Point) -> Tensor:
        return point.logits.softmax(0) if self.softmax else point.logits.sigmoid()

    def solve(self, penalties: Sequence[float]) -> Iterator[Tensor]:
        """Weights (K, D + 1) for each C."""
        weights = self.x.new_zeros(len(self.targets), len(self.x))
        point = previous = _Point(weights, torch.zeros_like(self.targets))
        pairs: _Pairs = deque(maxlen=_MEMORY)
        for C in penalties:
            decay = torch.full_like(self.lengths, 1 / C)
            decay[-1] = 0
            starts = [point, _Point(*(2 * p - q for p, q in zip(point, previous, strict=True)))]
            best = min(starts, key=lambda start: self.objective(start, decay))
            found = self._descend(best, decay, pairs).weights
            point, previous = _Point(found, found @ self.x), point
            yield found

    def _descend(self, point: _Point, decay: Tensor, pairs: _Pairs) -> _Point:
        """Minimise from `point`; what is learned of the curvature is added to `pairs`."""
        value, gradient = self.objective(point, decay), self.gradient(point)
        known = deque((_pair(s, y + decay * s) for s, y in pairs), _MEMORY)
        curvature: _Curvature | _Hessian
        for number in range(STEPS):
            if number % _AGAIN == 0:
                curvature = self.curvature(point, decay)
                size = point.weights.numel()
                if size <= _EXACT and number > size // 16:  # they took as long as the Hessian does
                    curvature = self.hessian(point, decay) or curvature
            slope = gradient + decay * point.weights
            direction = -_newton_step(slope, curvature, known)
            if self.softmax:
                direction -= direction.mean(0)  # 0 but for rounding
            gain = -float((slope * direction).sum())
            if gain <= self.tolerance * value:
                return point
            change = (direction.to(self.single) @ self.single).double()
            step = 1.0
            while True:
                moved = _Point(point.weights + step * direction, point.logits + step * change)
                moved_value = self.objective(moved, decay)
                if moved_value <= value - 1e-4 * step * gain:
                    break
                step /= 2
                if step < 1e-9:  # nothing left but rounding
                    return point
            moved_gradient = self.gradient(moved)
            s, y = moved.weights - point.weights, moved_gradient - gradient
            pairs.append((s, y))
            known.append(_pair(s, y + decay * s))
            point, value, gradient = moved, moved_value, moved_gradient
        log.warning("logistic regression: no convergence in %d steps, C = %g", STEPS, 1 / decay[0])
        return point


class _Curvature(NamedTuple):
    """A Hessian that is diagonal in the classes' `vectors` (K, K), with `values` (K, D + 1)."""

    vectors: Tensor
    values: Tensor

    def divide(self, slope: Tensor) -> Tensor:
        """Its inverse times `slope` (K, D + 1)."""
        return self.vectors @ (self.vectors.T @ slope / self.values)


class _Hessian(NamedTuple):
    """By its Cholesky factor (K (D + 1), K (D + 1))."""

    factor: Tensor

    def divide(self, slope: Tensor) -> Tensor:
        """Its inverse times `slope` (K, D + 1)."""
        return torch.cholesky_solve(slope.reshape(-1, 1), self.factor).view_as(slope)


class _Pair(NamedTuple):
    """A step, how the objective's gradient changed over it, and the product of both."""

    s: Tensor
    y: Tensor
    length: float


def _pair(s: Tensor, y: Tensor) -> _Pair:
    return _Pair(s, y, _dot(s, y))


def _newton_step(slope: Tensor, curvature: _Curvature | _Hessian, known: Sequence[_Pair]) -> Tensor:
    """The inverse Hessian times `slope` by the two loops of L-BFGS.

    Args:
        slope: (K, D + 1) gradient of the objective.
        curvature: the first guess of the Hessian.
        known: oldest first.
    """
    q = slope.clone()
    shares = []
    for s, y, length in reversed(known):
        shares.append(_dot(s, q) / length)
        q.sub_(y, alpha=shares[-1])
    q = curvature.divide(q)
    if known:
        _, y, length = known[-1]
        q *= length / _dot(y, curvature.divide(y))
    for (s, y, length), share in zip(known, reversed(shares), strict=True):
        q.add_(s, alpha=share - _dot(y, q) / length)
    return q


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.flatten(), b.flatten()))
