"""bins: where in its cluster a token stands along an axis, by a few whole numbers to sort by."""

from __future__ import annotations

from torch import Tensor

from ..backend import run


def bins(x: Tensor, labels: Tensor, axis: Tensor, offset: Tensor, n_bins: int, *, backend: str = "torch") -> Tensor:
    """labels * n_bins + floor(x . axis[label] + offset[label]), the latter kept in [0, n_bins).

    Sorted by it, tokens stand by cluster, and inside a cluster along its axis to the width of a bin.

    Args:
        x: [B, H, N, D], fp16, bf16 or fp32, any strides.
        labels: [B, H, N] int32 in [0, C).
        axis: [B, H, C, D] float32, of a length that one bin is 1.
        offset: [B, H, C] float32.
        n_bins: of each cluster, >= 1.
        backend: "torch" or "triton".

    Returns:
        [B, H, N] int32 in [0, C * n_bins). A product that is no number falls into one of the cluster's bins.

    Raises:
        ValueError: shapes do not fit together.
    """
    if x.ndim != 4 or labels.shape != x.shape[:3] or axis.ndim != 4 or axis.shape[3] != x.shape[3]:
        shapes = f"x {tuple(x.shape)}, labels {tuple(labels.shape)} and axis {tuple(axis.shape)}"
        raise ValueError(f"bins: {shapes} must be [B, H, N, D], [B, H, N] and [B, H, C, D]")
    if axis.shape[:2] != x.shape[:2] or offset.shape != axis.shape[:3]:
        raise ValueError(
            f"bins: offset {tuple(offset.shape)} must be {tuple(axis.shape[:3])}, and of {tuple(x.shape[:2])} heads"
        )
    return run("bins", "bins", backend, x, labels, axis, offset, n_bins)
