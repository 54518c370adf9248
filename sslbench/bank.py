"""A memory bank: what an encoder last said of each example, to contrast new embeddings with.

Wu, Xiong, Yu, Lin. Unsupervised Feature Learning via Non-Parametric Instance Discrimination. CVPR
2018. arXiv:1805.01978, section 3; its equations are meant below.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.distributed import gather, world
from sslbench.random import Random

DENSE = 32  # up to so many entries for each noise sample it is faster to multiply with all of them


class Bank(nn.Module):
    """One unit vector v_j for each of n examples; random directions until they are first updated.

    Args:
        n: number of examples.
        dim: D.
        negatives: m, noise samples of an embedding; 0 for the exact softmax over all entries.
        temperature: τ.
        momentum: share of the old entry in the new one, in [0, 1).
    """

    entries: Tensor
    log_z: Tensor

    def __init__(
        self, n: int, dim: int, *, negatives: int, temperature: float, momentum: float
    ) -> None:
        super().__init__()
        if negatives < 0:
            raise ValueError(f"negatives: 0 (exact softmax) or more expected, got {negatives}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum of the memory bank: in [0, 1) expected, got {momentum}")
        self.negatives, self.temperature, self.momentum = negatives, temperature, momentum
        self.register_buffer("entries", F.normalize(torch.randn(n, dim), dim=1))
        self.register_buffer("log_z", torch.tensor(torch.inf))  # until it is estimated

    def noise(self, random: Random) -> Tensor:
        """Noise samples (B, m): entries that are drawn uniformly, with replacement."""
        return random.integers(len(self.entries), self.negatives)

    def contrast(self, f: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """How badly each embedding tells its own entry from the others, averaged.

        Of the exact softmax it is equation 3, −log P(i|f), otherwise equation 7. No gradient
        reaches the entries.

        Args:
            f: embeddings (B, D) of unit length.
            index: (B,) int64, the examples that they are of.
            noise: what `noise` drew for them.
        """
        if not self.negatives:
            return F.cross_entropy(f @ self.entries.T / self.temperature, index)
        scores = self._scores(f, torch.cat([index[:, None], noise], dim=1))  # (B, 1 + m)
        if torch.isinf(self.log_z):
            self._estimate(scores[:, 1:].detach())
        return nce(scores - self.log_z, len(self.entries))

    @torch.no_grad()
    def update(self, f: Tensor, index: Tensor) -> None:
        """Move the global batch's entries to its embeddings f (b, D), and back to unit length."""
        f, index = gather(f).to(self.entries.dtype), gather(index)
        moved = self.entries[index].lerp(f, 1 - self.momentum)
        self.entries[index] = F.normalize(moved, dim=1)

    def _scores(self, f: Tensor, index: Tensor) -> Tensor:
        """v_jᵀ f / τ of f (B, D) and the entries at index (B, K): (B, K)."""
        if len(self.entries) <= DENSE * index.shape[1]:
            cosines = (f @ self.entries.T).gather(1, index)
        else:
            cosines = torch.einsum("bd,bkd->bk", f, self.entries[index])
        return cosines.to(self.entries.dtype) / self.temperature

    def _estimate(self, scores: Tensor) -> None:
        """Equation 8, Z ≃ n E exp(v_jᵀ f / τ), over the noise (b, m) of the global batch."""
        summed = gather(scores.flatten().logsumexp(0, keepdim=True)).logsumexp(0)
        self.log_z.copy_(summed + math.log(len(self.entries) / (scores.numel() * world())))


def nce(log_p: Tensor, n: int) -> Tensor:
    """Equation 7: −log h(i, v_i) − Σ_k log(1 − h(j_k, v_k)) over m noise samples j_k, averaged.

    h = P / (P + m / n) of equation 6 is the logistic function of log P − log(m / n). Noise comes
    from all entries, P_n = 1/n, an embedding's own one included. That makes P = 1 the best that
    can be said of the own one: h = 1 / (1 + m / n).

    Args:
        log_p: log P (B, 1 + m); of the own entry first, then of the noise.
        n: number of entries.
    """
    logits = log_p - math.log((log_p.shape[1] - 1) / n)
    return (F.softplus(-logits[:, 0]) + F.softplus(logits[:, 1:]).sum(1)).mean()
