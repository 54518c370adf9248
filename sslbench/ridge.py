"""Ridge regression with a closed form, down to the choice of its penalty."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PENALTIES = torch.logspace(-4, 2, 13, dtype=torch.float64)  # relative to the number of features


def ridge(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, float]:
    """Ridge regression, with the penalty of least squared leave-one-out error.

    With U S Vᵀ the decomposition of the centred features, leaving example i out divides its
    residual by 1 − hᵢᵢ, the diagonal of the hat matrix (Allen. Technometrics 1974).

    Args:
        features: (n, D) float64.
        targets: (n,) int64 in 0 … K − 1, regressed on as one-hot rows, or (n, K) float.

    Returns:
        Weights (D, K), intercepts (K,) and the chosen one of `PENALTIES`.
    """
    n, D = features.shape
    y = F.one_hot(targets).double() if targets.ndim == 1 else targets.double()
    mean = features.mean(0)
    u, s, vh = torch.linalg.svd(features - mean, full_matrices=False)
    projected = u.T @ y  # (r, K); u is orthogonal to the mean of the targets
    errors = []
    for penalty in PENALTIES:
        kept = s.square() / (s.square() + D * penalty)  # share of each direction that survives
        fitted = y.mean(0) + (u * kept) @ projected
        leverage = 1 / n + u.square() @ kept
        # one example alone has all of it: there is nothing to predict it from
        error = (y - fitted) / (1 - leverage).clamp_min(1e-9)[:, None]
        errors.append(float(error.square().sum()))
    best = float(PENALTIES[int(np.argmin(errors))])
    weight = vh.T @ ((s / (s.square() + D * best))[:, None] * projected)
    return weight, y.mean(0) - mean @ weight, best
