"""centroids: means, sizes and diagonal variances of labelled tokens."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..backend import run
from ..pack import ClusterAssignment


class Centroids(NamedTuple):
    """What `centroids` returns: mean [B, H, C, D], cluster_sizes [B, H, C], and variance [B, H, C, D] or None."""

    mean: Tensor
    cluster_sizes: Tensor
    variance: Tensor | None


def centroids(
    x: Tensor, assignment: ClusterAssignment, *, previous: Tensor | None = None, variance: bool = False, backend: str = "torch"
) -> Centroids:
    """Means over the tokens of each label; sums are deterministic, so two runs are bit-equal.

    Args:
        x: [B, H, N, D], fp16, bf16 or fp32, any strides.
        assignment: of the N tokens in C clusters.
        previous: [B, H, C, D], the mean that an empty cluster gets; without it, zeros.
        variance: also mean((x - mean)^2) per dimension, zeros for an empty cluster.
        backend: "torch" or "triton".

    Returns:
        Centroids(mean float32, cluster_sizes int32, variance float32 or None).

    Raises:
        ValueError: shapes do not fit together.
    """
    if x.ndim != 4 or assignment.labels.shape != x.shape[:3]:
        shapes = f"x {tuple(x.shape)} and labels {tuple(assignment.labels.shape)}"
        raise ValueError(f"centroids: {shapes} must be [B, H, N, D] and [B, H, N]")
    n_clusters = assignment.offsets.shape[2] - 1
    expected = (*x.shape[:2], n_clusters, x.shape[3])
    if previous is not None and tuple(previous.shape) != expected:
        raise ValueError(f"centroids: previous {tuple(previous.shape)} must be {expected}")
    return Centroids(*run("centroids", "centroids", backend, x, assignment, previous, variance))
