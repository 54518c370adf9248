"""Numbers about embeddings that the training monitor and several tasks share."""

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
