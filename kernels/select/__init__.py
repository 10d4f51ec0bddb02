"""select: which key clusters each query tile reads."""

from __future__ import annotations

from torch import Tensor

from ..backend import run


def select(
    probs: Tensor, row_labels: Tensor, cluster_sizes: Tensor, top_p: float, min_keep: float, *, backend: str = "torch"
) -> tuple[Tensor, Tensor]:
    """The smallest set of key clusters that holds `top_p` of a tile's estimated attention mass.

    A tile's distribution is the mean of its rows' query-cluster distributions. Clusters are taken in
    order of falling mass until their sum reaches `top_p` and their number ceil(min_keep * Ck); where
    masses tie, the lower cluster first. `top_p` 1 takes all. (SVG2, arXiv 2505.18875, section 4.2, with
    a tile that may span several query clusters.)

    Args:
        probs: [B, H, Cq, Ck] float32; each row sums to 1.
        row_labels: [B, H, T, M] int32, the query cluster of each row of each tile; -1 where there is no row.
        cluster_sizes: [B, H, Ck] int32, keys of each cluster.
        top_p: in (0, 1].
        min_keep: least share of the clusters to keep, in [0, 1].
        backend: "torch" or "triton".

    Returns:
        cluster_mask [B, H, T, Ck] bool, all False for a tile without rows, and the keys in them, [B, H, T] int32.

    Raises:
        ValueError: shapes do not fit together, or top_p or min_keep is out of range.
    """
    if probs.ndim != 4 or row_labels.ndim != 4 or probs.shape[:2] != row_labels.shape[:2]:
        raise ValueError(
            f"select: probs {tuple(probs.shape)} and row_labels {tuple(row_labels.shape)} must be "
            "[B, H, Cq, Ck] and [B, H, T, M]"
        )
    if tuple(cluster_sizes.shape) != (*probs.shape[:2], probs.shape[3]):
        raise ValueError(f"select: cluster_sizes {tuple(cluster_sizes.shape)} must be {(*probs.shape[:2], probs.shape[3])}")
    if not 0 < top_p <= 1 or not 0 <= min_keep <= 1:
        raise ValueError(f"select: top_p={top_p} must be in (0, 1] and min_keep={min_keep} in [0, 1]")
    return run("select", "select", backend, probs, row_labels, cluster_sizes, top_p, min_keep)
