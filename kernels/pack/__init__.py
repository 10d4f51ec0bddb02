"""pack: token lists by cluster, and the packed key list of each tile."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..backend import run
from . import reference


class Groups(NamedTuple):
    """Tokens and their labels, both ways.

    Attributes:
        labels: [B, H, N] int32 in [0, C).
        order: [B, H, N] int32, token numbers by label; tokens of one label keep their order.
        offsets: [B, H, C + 1] int32: label c has order[offsets[c] : offsets[c + 1]].
    """

    labels: Tensor
    order: Tensor
    offsets: Tensor

    @property
    def size(self) -> Tensor:
        """[B, H, C] int32, tokens of each label."""
        return self.offsets.diff(dim=-1)


def sort_by_label(labels: Tensor, n_clusters: int) -> Groups:
    """Token numbers in order of their label, and where each label begins; by torch's own sort on every backend.

    Args:
        labels: [B, H, N] int32 in [0, n_clusters).
        n_clusters: C >= 1.

    Raises:
        ValueError: n_clusters < 1.
    """
    if n_clusters < 1:
        raise ValueError(f"sort_by_label: n_clusters={n_clusters} must be at least 1")
    return Groups(labels, *reference.sort_by_label(labels, n_clusters))


def pack_lists(
    order: Tensor,
    start: Tensor,
    length: Tensor,
    *,
    kept: Tensor | None = None,
    prefix: int = 0,
    capacity: int | None = None,
    count: Tensor | None = None,
    backend: str = "torch",
) -> tuple[Tensor, Tensor]:
    """Joins segments of `order` into one list a tile: order[l, :prefix], then order[l, start[l, t, s] :][: length[l, t, s]].

    A tile that reads no segment reads no prefix either: its list is empty.

    Args:
        order: [L, N] int32, a permutation of the tokens per list set l.
        start: [L, T, S] int32 (may be expanded), where segment s begins in `order`.
        length: [L, T, S] int32 (may be expanded), 0 for a segment that tile t does not read.
        kept: [L, T, S] bool, False for a segment that tile t does not read; None for all.
        prefix: tokens at the front of `order` that every list begins with.
        capacity: columns of the result; no list may be longer. Without it the longest list decides, which
            waits for the device.
        count: [L, T] int32, contiguous, to write the lists' lengths to; made if None.
        backend: "torch" or "triton".

    Returns:
        index [L, T, capacity] int32, undefined beyond each list's end, and count.

    Raises:
        ValueError: shapes do not fit together.
    """
    if order.ndim != 2 or start.shape != length.shape or start.ndim != 3 or start.shape[0] != order.shape[0]:
        raise ValueError(
            f"pack_lists: order {tuple(order.shape)}, start {tuple(start.shape)} and length {tuple(length.shape)} "
            "must be [L, N], [L, T, S] and [L, T, S]"
        )
    if kept is not None and kept.shape != start.shape:
        raise ValueError(f"pack_lists: kept {tuple(kept.shape)} must be {tuple(start.shape)}")
    if count is None:
        count = torch.empty(start.shape[:2], dtype=torch.int32, device=order.device)
    return run("pack", "pack_lists", backend, order, start, length, kept, prefix, capacity, count), count
