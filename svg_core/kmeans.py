"""k-means that goes on from the last call's centroids (SVG2, section 4.3)."""

from __future__ import annotations

from torch import Tensor

from ..kernels.assign import assign
from ..kernels.centroids import Centroids, centroids
from ..kernels.pack import Groups, sort_by_label
from .sampling import stratified


def initial_centroids(x: Tensor, n_clusters: int) -> Tensor:
    """Tokens strided over the video as first centroids: [B, H, N, D] -> [B, H, n_clusters, D]."""
    return x.index_select(2, stratified(n_clusters, x.shape[2], x.device))


def kmeans(x: Tensor, start: Tensor, iterations: int, backend: str, *, variance: bool = False) -> tuple[Groups, Centroids]:
    """Lloyd's iterations, Euclidean, per batch and head; an emptied cluster keeps its centroid.

    Args:
        x: [B, H, N, D].
        start: [B, H, C, D].
        iterations: at least 1.
        variance: of the last iteration's clusters, too.

    Returns:
        The tokens' groups, and their centroids.
    """
    mean = start
    for i in range(iterations):
        groups = sort_by_label(assign(x, mean, backend=backend), mean.shape[2])
        last = variance and i == iterations - 1
        result = centroids(x, groups, previous=mean, variance=last, backend=backend)
        mean = result.mean
    return groups, result
