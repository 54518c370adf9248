"""Logistic regression for a whole path of penalties.

Minimises scikit-learn's objective, ½‖W‖² + C Σ log-loss with the intercept unpenalised, in
float64, for each C in turn from the strongest penalty to the weakest, by L-BFGS (Liu, Nocedal.
Mathematical Programming 1989) with four things added:

- Features are rotated to the eigenvectors of their covariance, where the Hessian at W = 0 is
  diagonal up to a term that gradients do not see (Böhning 1992). It is the first guess of the
  Hessian, so that features of very different scale cost no steps.
- The next solution is extrapolated from the last two, because the path is smooth in log C.
- What L-BFGS has learned of the loss's curvature is kept from one C to the next.
- Logits move linearly along a search direction, so a longer or shorter step costs no product.

A path of 45 takes about 75 steps where classes overlap, and some thousands where they can almost be
separated, most of them at weak penalties.
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
            ten times of it from the minimum.

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
        hot = F.one_hot(targets) if targets.ndim == 1 else targets
        self.binary = targets.ndim == 1 and hot.shape[1] == 2
        self.softmax = targets.ndim == 1 and not self.binary
        self.targets = hot[:, 1:] if self.binary else hot
        self.targets = self.targets.T.double().contiguous()  # (K, n)
        self.pull = self.targets @ self.x.T  # (K, D + 1)
        K = len(self.targets)
        at_zero = 1 / K if self.softmax else 1 / 4  # curvature of the loss in a logit
        self.curvature = torch.cat([variance, variance.new_tensor([n])]) * at_zero

    def objective(self, point: _Point, decay: Tensor) -> float:
        """The sum of the loss over examples and half of `decay` (D + 1,) times squared weights."""
        weights, logits = point
        norm = logits.logsumexp(0) if self.softmax else F.softplus(logits)
        loss = norm.sum() - (logits * self.targets).sum()
        return float(loss + (decay * weights * weights).sum() / 2)

    def gradient(self, point: _Point) -> Tensor:
        """Of the loss in the weights, (K, D + 1)."""
        logits = point.logits
        probability = logits.softmax(0) if self.softmax else logits.sigmoid()
        return probability @ self.x.T - self.pull

    def solve(self, penalties: Sequence[float]) -> Iterator[Tensor]:
        """Weights (K, D + 1) for each C."""
        weights = self.x.new_zeros(len(self.targets), len(self.x))
        point = previous = _Point(weights, torch.zeros_like(self.targets))
        pairs: _Pairs = deque(maxlen=_MEMORY)
        for C in penalties:
            decay = torch.full_like(self.curvature, 1 / C)
            decay[-1] = 0
            starts = [point, _Point(*(2 * p - q for p, q in zip(point, previous, strict=True)))]
            best = min(starts, key=lambda start: self.objective(start, decay))
            point, previous = self._descend(best, decay, pairs), point
            yield point.weights

    def _descend(self, point: _Point, decay: Tensor, pairs: _Pairs) -> _Point:
        """Minimise from `point`; what is learned of the curvature is added to `pairs`."""
        value, gradient = self.objective(point, decay), self.gradient(point)
        for _ in range(STEPS):
            slope = gradient + decay * point.weights
            direction = -_newton_step(slope, 1 / (self.curvature + decay), decay, pairs)
            gain = -float((slope * direction).sum())
            if gain <= self.tolerance * value:
                return point
            change = direction @ self.x
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
            pairs.append((moved.weights - point.weights, moved_gradient - gradient))
            point, value, gradient = moved, moved_value, moved_gradient
        log.warning("logistic regression: no convergence in %d steps, C = %g", STEPS, 1 / decay[0])
        return point


def _newton_step(slope: Tensor, inverse: Tensor, decay: Tensor, pairs: _Pairs) -> Tensor:
    """The inverse Hessian times `slope` by the two loops of L-BFGS.

    Args:
        slope: (K, D + 1) gradient of the objective.
        inverse: (D + 1,) diagonal of the first guess.
        decay: (D + 1,) the penalty's Hessian, to be added to the loss's.
        pairs: oldest first.
    """
    q = slope
    known = [(s, y + decay * s) for s, y in pairs]
    lengths = [float((s * y).sum()) for s, y in known]
    shares = []
    for (s, y), length in zip(reversed(known), reversed(lengths), strict=True):
        shares.append(float((s * q).sum()) / length)
        q = q - shares[-1] * y
    q = inverse * q
    if known:
        y = known[-1][1]
        q = q * (lengths[-1] / float((y * inverse * y).sum()))
    for (s, y), length, share in zip(known, lengths, reversed(shares), strict=True):
        q = q + (share - float((y * q).sum()) / length) * s
    return q
