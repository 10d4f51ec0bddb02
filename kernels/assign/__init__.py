"""assign: the nearest centroid of every token."""

from __future__ import annotations

from torch import Tensor

from ..backend import run


def assign(x: Tensor, centroids: Tensor, *, backend: str = "torch") -> Tensor:
    """labels[b, h, n] = argmin_c |x[b, h, n] - centroids[b, h, c]|^2, the lowest c where distances tie.

    Triton takes distances for equal that differ by less than 2^-18 of |x|^2 + |c|^2 (with up to 32 blocks of centroids).

    Args:
        x: [B, H, N, D], fp16, bf16 or fp32, any strides.
        centroids: [B, H, C, D], any float dtype.
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
    return run("assign", "assign", backend, x, centroids)
