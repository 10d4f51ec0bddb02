"""k-means that goes on from the last call's centroids (SVG2, section 4.3)."""

from __future__ import annotations

from torch import Tensor

from ..kernels.assign import assign
from ..kernels.centroids import centroids
from .sampling import stratified


def initial_centroids(x: Tensor, n_clusters: int) -> Tensor:
    """Tokens strided over the video as first centroids: [B, H, N, D] -> [B, H, n_clusters, D]."""
    return x.index_select(2, stratified(n_clusters, x.shape[2], x.device))


def kmeans(x: Tensor, start: Tensor, iterations: int, backend: str) -> tuple[Tensor, Tensor]:
    """Lloyd's iterations, Euclidean, per batch and head; an emptied cluster keeps its centroid.

    Args:
        x: [B, H, N, D].
        start: [B, H, C, D].
        iterations: at least 1.

    Returns:
        labels [B, H, N] int32 and their means [B, H, C, D] float32.
    """
    mean = start
    for _ in range(iterations):
        labels = assign(x, mean, backend=backend)
        mean = centroids(x, labels, mean.shape[2], previous=mean, backend=backend).mean
    return labels, mean
