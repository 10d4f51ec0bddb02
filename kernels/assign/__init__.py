"""assign: the nearest centroid of every token."""

from __future__ import annotations

from torch import Tensor

from ..backend import run


def assign(x: Tensor, centroids: Tensor, *, metric: Tensor | None = None, backend: str = "torch") -> Tensor:
    """labels[b, h, n] = argmin_c |x[b, h, n] - centroids[b, h, c]|^2, the lowest c where distances tie.

    With a metric M the distance is (x - c)^T M (x - c). Triton takes distances for equal that differ by less than 2^-18 of
    |x|^2 + |c|^2 (with up to 32 blocks of centroids).

    Args:
        x: [B, H, N, D], fp16, bf16 or fp32, any strides.
        centroids: [B, H, C, D], any float dtype.
        metric: [B, H, D, D] float32, symmetric, eigenvalues in [0, 1]; None is Euclid's.
        backend: "torch" or "triton".

    Returns:
        [B, H, N] int32 labels in [0, C).

    Raises:
        ValueError: shapes or devices do not fit together.
    """
    if x.ndim != 4 or centroids.ndim != 4 or x.shape[:2] != centroids.shape[:2] or x.shape[3] != centroids.shape[3]:
        raise ValueError(
            f"assign: x {tuple(x.shape)} and centroids {tuple(centroids.shape)} must be [B, H, N, D] and [B, H, C, D]"
        )
    if x.device != centroids.device:
        raise ValueError(f"assign: x is on {x.device}, centroids on {centroids.device}; both must be on one device")
    if metric is not None and tuple(metric.shape) != (*x.shape[:2], x.shape[3], x.shape[3]):
        raise ValueError(f"assign: metric {tuple(metric.shape)} must be {(*x.shape[:2], x.shape[3], x.shape[3])}")
    return run("assign", "assign", backend, x, centroids, metric)
