"""Measures of how features lie in space: for the training monitor and tasks/representation.py."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rankme(embeddings: Tensor) -> float:
    """Exp of the entropy of the singular values, in [1, min(n, D)] up to rounding.

    p_k = σ_k / Σσ + 1e-7; RankMe = exp(−Σ p_k log p_k), on uncentred embeddings (n, D).
    Garrido et al. RankMe. ICML 2023. arXiv:2210.02885, eq. 1.
    """
    z = embeddings.double()
    gram = z.T @ z if len(z) > z.shape[1] else z @ z.T  # the smaller one has all of the spectrum
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    p = values / values.sum().clamp_min(1e-300) + 1e-7
    return float(torch.exp(-(p * p.log()).sum()))


def embedding_std(embeddings: Tensor) -> float:
    """Mean over dimensions of the standard deviation of L2-normalised embeddings (n, D), times √D.

    1 where they spread evenly over the sphere, 0 where they collapsed to a point.
    Chen, He. SimSiam. CVPR 2021. arXiv:2011.10566, section 4.1.
    """
    z = F.normalize(embeddings.double(), dim=1)
    return float(z.std(dim=0, correction=0).mean() * z.shape[1] ** 0.5)


def effective_rank(spectrum: Tensor) -> float:
    """Exp of the entropy of eigenvalues (D,), as shares of their sum; 1 if all are zero."""
    share = spectrum.clamp_min(0)
    share = share / share.sum().clamp_min(1e-300)
    return float(torch.special.entr(share).sum().exp())


def power_law(spectrum: Tensor, first: int = 4, last: int = 100) -> tuple[float, float] | None:
    """Exponent alpha of λ_j ∝ j^−alpha, and how well it fits (R², at most 1).

    Least squares of log λ_j on log j with weights 1 / j, which count each octave of j alike.

    Args:
        spectrum: λ (D,), descending; those that are zero to rounding are left out.
        first: lowest rank j of the fit, from 1.
        last: highest rank of the fit; D if there are fewer.

    Returns:
        None where fewer than 3 eigenvalues are left.
    """
    y = spectrum[first - 1 : last]
    y = y[y > spectrum[0] * len(spectrum) * torch.finfo(spectrum.dtype).eps].log()
    if len(y) < 3:
        return None
    j = torch.arange(first, first + len(y), dtype=spectrum.dtype)
    weight = (1 / j) / (1 / j).sum()
    x = j.log()
    dx, dy = x - (weight * x).sum(), y - (weight * y).sum()
    slope = (weight * dx * dy).sum() / (weight * dx * dx).sum()
    total = (weight * dy * dy).sum()
    rest = (weight * (dy - slope * dx) ** 2).sum()
    return -float(slope), float(1 - rest / total) if total > 0 else 1.0


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean of ‖x − y‖² over pairs of L2-normalised rows (n, D)."""
    return float((F.normalize(first, dim=1) - F.normalize(second, dim=1)).square().sum(1).mean())


def uniformity(features: Tensor) -> float:
    """Log mean of exp(−2 ‖x − y‖²) over pairs of different L2-normalised rows (n, D)."""
    z = F.normalize(features, dim=1)
    product = z @ z.T
    length = product.diagonal()
    kernel = (-2 * (length[:, None] + length - 2 * product)).exp().fill_diagonal_(0)
    return float((kernel.sum() / (len(z) * (len(z) - 1))).log())


def cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of features (n, D) and (n, D'), in [0, 1]; 0 for a constant.

    ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), Frobenius norms, of centred columns. Kornblith et al. Similarity of
    Neural Network Representations Revisited. ICML 2019. arXiv:1905.00414, section 3.
    """
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    scale = (x.T @ x).norm() * (y.T @ y).norm()
    return float((y.T @ x).square().sum() / scale) if scale > 0 else 0.0
