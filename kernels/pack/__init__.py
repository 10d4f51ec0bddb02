"""pack: token lists by cluster, and the key lists of all tiles, end to end."""

from __future__ import annotations

from typing import NamedTuple

import torch
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
    count: Tensor,
    *,
    segment_mask: Tensor | None = None,
    prefix: int = 0,
    capacity: int | None = None,
    backend: str = "torch",
) -> tuple[Tensor, Tensor]:
    """Joins segments of `p = permutation[l]` into one list a tile: p[:prefix], then p[start[l, t, s] :][: length[l, t, s]].

    The lists stand end to end, in the order of l and t.

    Args:
        permutation: [L, N] int32, a permutation of the tokens per list set l.
        start: [L, T, S] int32 (may be expanded), where segment s begins in `permutation`.
        length: [L, T, S] int32 (may be expanded), 0 for a segment that tile t does not read.
        count: [L, T] int32, the length of each list, prefix included; 0 for a tile that reads nothing, not even the prefix.
        segment_mask: [L, T, S] bool, False for a segment that tile t does not read; None for all.
        prefix: tokens at the front of `permutation` that every list begins with.
        capacity: entries of the result; no more may be needed. Without it the sum of `count` decides, which waits for the
            device. Lists that find no room are undefined, but nothing is written beyond.
        backend: "torch" or "triton".

    Returns:
        key_index [capacity] int32, undefined beyond the last list's end, and key_start [L, T] int64, where each list
        begins in it: the sum of all counts before.

    Raises:
        ValueError: shapes do not fit together.
    """
    if permutation.ndim != 2 or start.shape != length.shape or start.ndim != 3 or start.shape[0] != permutation.shape[0]:
        raise ValueError(
            f"pack_lists: permutation {tuple(permutation.shape)}, start {tuple(start.shape)} and length {tuple(length.shape)} "
            "must be [L, N], [L, T, S] and [L, T, S]"
        )
    if count.shape != start.shape[:2]:
        raise ValueError(f"pack_lists: count {tuple(count.shape)} must be {tuple(start.shape[:2])}")
    if segment_mask is not None and segment_mask.shape != start.shape:
        raise ValueError(f"pack_lists: segment_mask {tuple(segment_mask.shape)} must be {tuple(start.shape)}")
    key_start = count.flatten().cumsum(0, dtype=torch.int64).view(count.shape) - count
    capacity = int(count.sum()) if capacity is None else capacity
    lists = (permutation, start, length, count, key_start, segment_mask, prefix, capacity)
    return run("pack", "pack_lists", backend, *lists), key_start
