"""pack: token lists by cluster, and the packed key list of each tile."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..backend import run
from . import reference


class ClusterAssignment(NamedTuple):
    """Tokens and their labels, both ways.

    Attributes:
        labels: [B, H, N] int32 in [0, C).
        permutation: [B, H, N] int32, token numbers by label; tokens of one label keep their order.
        offsets: [B, H, C + 1] int32: label c has permutation[offsets[c] : offsets[c + 1]].
    """

    labels: Tensor
    permutation: Tensor
    offsets: Tensor

    @property
    def cluster_sizes(self) -> Tensor:
        """[B, H, C] int32, tokens of each label."""
        return self.offsets.diff(dim=-1)


def sort_by_label(labels: Tensor, n_clusters: int) -> ClusterAssignment:
    """Token numbers ordered by their label, and where each label begins; by torch's own sort on every backend.

    Args:
        labels: [B, H, N] int32 in [0, n_clusters).
        n_clusters: C >= 1.

    Raises:
        ValueError: n_clusters < 1.
    """
    if n_clusters < 1:
        raise ValueError(f"sort_by_label: n_clusters={n_clusters} must be at least 1")
    return ClusterAssignment(labels, *reference.sort_by_label(labels, n_clusters))


def pack_lists(
    permutation: Tensor,
    start: Tensor,
    length: Tensor,
    *,
    segment_mask: Tensor | None = None,
    prefix: int = 0,
    capacity: int | None = None,
    backend: str = "torch",
) -> tuple[Tensor, Tensor]:
    """Joins segments of `p = permutation[l]` into one list a tile: p[:prefix], then p[start[l, t, s] :][: length[l, t, s]].

    A tile that reads no segment reads no prefix either: its list is empty.

    Args:
        permutation: [L, N] int32, a permutation of the tokens per list set l.
        start: [L, T, S] int32 (may be expanded), where segment s begins in `permutation`.
        length: [L, T, S] int32 (may be expanded), 0 for a segment that tile t does not read.
        segment_mask: [L, T, S] bool, False for a segment that tile t does not read; None for all.
        prefix: tokens at the front of `permutation` that every list begins with.
        capacity: columns of the result; no list may be longer. Without it the longest list decides, which
            waits for the device.
        backend: "torch" or "triton".

    Returns:
        index [L, T, capacity] int32, undefined beyond each list's end, and count [L, T] int32.

    Raises:
        ValueError: shapes do not fit together.
    """
    if permutation.ndim != 2 or start.shape != length.shape or start.ndim != 3 or start.shape[0] != permutation.shape[0]:
        raise ValueError(
            f"pack_lists: permutation {tuple(permutation.shape)}, start {tuple(start.shape)} and length {tuple(length.shape)} "
            "must be [L, N], [L, T, S] and [L, T, S]"
        )
    if segment_mask is not None and segment_mask.shape != start.shape:
        raise ValueError(f"pack_lists: segment_mask {tuple(segment_mask.shape)} must be {tuple(start.shape)}")
    return run("pack", "pack_lists", backend, permutation, start, length, segment_mask, prefix, capacity)
