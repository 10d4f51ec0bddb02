"""pack in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def sort_by_label(labels: Tensor, n_clusters: int) -> tuple[Tensor, Tensor]:
    """See the contract."""
    if n_clusters <= torch.iinfo(torch.int16).max:
        labels = labels.short()  # half the passes of a GPU's radix sort
    ranked, permutation = labels.sort(dim=-1, stable=True)
    bounds = torch.arange(n_clusters + 1, device=labels.device, dtype=labels.dtype)
    offsets = torch.searchsorted(ranked, bounds.expand(*labels.shape[:2], -1).contiguous(), out_int32=True)
    return permutation.int(), offsets


def lengths(length: Tensor, segment_mask: Tensor | None, prefix: int) -> Tensor:
    """Length of each list, [L, T] int32."""
    total = (length if segment_mask is None else length * segment_mask).sum(-1, dtype=torch.int32)
    return torch.where(total > 0, total + prefix, 0)


def pack_lists(
    permutation: Tensor, start: Tensor, length: Tensor, segment_mask: Tensor | None, prefix: int, capacity: int | None
) -> tuple[Tensor, Tensor]:
    """See the contract."""
    count = lengths(length, segment_mask, prefix)
    if segment_mask is not None:
        length = length * segment_mask
    if prefix:  # a segment before the others
        front = (count > 0).int().unsqueeze(-1)
        start, length = torch.cat([0 * front, start], -1), torch.cat([prefix * front, length], -1)
    sets, tiles, segments = length.shape
    capacity = int(count.max()) if capacity is None else capacity
    per_segment = length.flatten().long()
    segment = torch.repeat_interleave(torch.arange(per_segment.numel(), device=permutation.device), per_segment)
    position = torch.arange(segment.numel(), device=permutation.device)
    inside_segment = position - (per_segment.cumsum(0) - per_segment)[segment]
    per_tile = count.flatten().long()
    tile = segment // segments
    column = position - (per_tile.cumsum(0) - per_tile)[tile]
    source = start.reshape(-1)[segment] + inside_segment + (tile // tiles) * permutation.shape[1]
    index = torch.zeros(sets * tiles, capacity, dtype=torch.int32, device=permutation.device)
    index[tile, column] = permutation.reshape(-1)[source]
    return index.view(sets, tiles, capacity), count
