"""K-means by faiss, on all points."""

import faiss
import numpy as np
import torch
from torch import Tensor

MASK = 0x7FFFFFFF  # faiss takes seeds of 31 bits


def kmeans(
    points: Tensor, clusters: int, *, seed: int, iterations: int = 20, restarts: int = 1
) -> tuple[Tensor, Tensor]:
    """Centroids and the nearest of them for each point.

    Args:
        points: (n, D) float32 on the CPU, n ≥ clusters.
        clusters: how many.
        seed: of the first centroids, which are points.
        iterations: of each restart.
        restarts: of which the one with the smallest sum of squared distances is kept.

    Returns:
        (clusters, D) float32 and (n,) int64.
    """
    found = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=iterations,
        nredo=restarts,
        seed=seed & MASK,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    found.train(points.numpy())
    centroids = torch.from_numpy(np.asarray(found.centroids))
    return centroids, torch.from_numpy(found.assign(points.numpy())[1])
