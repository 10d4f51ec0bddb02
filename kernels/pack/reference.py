"""pack in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def sort_by_label(labels: Tensor, n_clusters: int) -> tuple[Tensor, Tensor]:
    """See the contract."""
    if n_clusters <= torch.iinfo(torch.int16).max:
        labels = labels.short()  # half the passes of a GPU's radix sort
    ranked, order = labels.sort(dim=-1, stable=True)
    bounds = torch.arange(n_clusters + 1, device=labels.device, dtype=labels.dtype)
    offsets = torch.searchsorted(ranked, bounds.expand(*labels.shape[:2], -1).contiguous(), out_int32=True)
    return order.int(), offsets


def lengths(length: Tensor, kept: Tensor | None, prefix: int) -> Tensor:
    """Length of each list, [L, T] int32."""
    total = (length if kept is None else length * kept).sum(-1, dtype=torch.int32)
    return torch.where(total > 0, total + prefix, 0)


def pack_lists(
    order: Tensor, start: Tensor, length: Tensor, kept: Tensor | None, prefix: int, capacity: int | None, count: Tensor
) -> Tensor:
    """See the contract; writes count, returns index."""
    count.copy_(lengths(length, kept, prefix))
    if kept is not None:
        length = length * kept
    if prefix:  # a segment before the others
        front = (count > 0).int().unsqueeze(-1)
        start, length = torch.cat([0 * front, start], -1), torch.cat([prefix * front, length], -1)
    sets, tiles, segments = length.shape
    capacity = int(count.max()) if capacity is None else capacity
    per_segment = length.flatten().long()
    segment = torch.repeat_interleave(torch.arange(per_segment.numel(), device=order.device), per_segment)
    position = torch.arange(segment.numel(), device=order.device)
    inside_segment = position - (per_segment.cumsum(0) - per_segment)[segment]
    per_tile = count.flatten().long()
    tile = segment // segments
    column = position - (per_tile.cumsum(0) - per_tile)[tile]
    source = start.reshape(-1)[segment] + inside_segment + (tile // tiles) * order.shape[1]
    index = torch.zeros(sets * tiles, capacity, dtype=torch.int32, device=order.device)
    index[tile, column] = order.reshape(-1)[source]
    return index.view(sets, tiles, capacity)
