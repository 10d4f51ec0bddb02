"""pack in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sort_by_label(labels: Tensor, n_clusters: int) -> tuple[Tensor, Tensor]:
    """See the contract."""
    if n_clusters <= torch.iinfo(torch.int16).max:
        labels = labels.short()  # half the passes of a GPU's radix sort
    ranked, permutation = labels.sort(dim=-1, stable=True)
    bounds = torch.arange(n_clusters + 1, device=labels.device, dtype=labels.dtype)
    offsets = torch.searchsorted(ranked, bounds.expand(*labels.shape[:2], -1).contiguous(), out_int32=True)
    return permutation.int(), offsets


def pack_lists(
    permutation: Tensor,
    start: Tensor,
    length: Tensor,
    count: Tensor,
    key_start: Tensor,
    segment_mask: Tensor | None,
    prefix: int,
    capacity: int,
) -> Tensor:
    """See the contract; key_index alone, of lists that begin at `key_start`."""
    if segment_mask is not None:
        length = length * segment_mask
    if prefix:  # a segment before the others
        front = (count > 0).int().unsqueeze(-1)
        start, length = torch.cat([0 * front, start], -1), torch.cat([prefix * front, length], -1)
    per_segment = length.flatten().long()
    segment = torch.repeat_interleave(torch.arange(per_segment.numel(), device=permutation.device), per_segment)
    position = torch.arange(segment.numel(), device=permutation.device)
    inside_segment = position - (per_segment.cumsum(0) - per_segment)[segment]
    row = segment // length[0].numel()
    source = start.reshape(-1)[segment] + inside_segment + row * permutation.shape[1]
    # Segments follow each other as the lists do, without a gap.
    return F.pad(permutation.reshape(-1)[source], (0, capacity - position.numel()))
