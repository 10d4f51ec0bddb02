"""select in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Tiles x clusters of one group of heads: each takes about 28 bytes while it is sorted, so 4 M are 120 MB.
MAX_MASSES = 1 << 22


def select(probs: Tensor, row_labels: Tensor, cluster_sizes: Tensor, top_p: float, min_keep: float) -> tuple[Tensor, Tensor]:
    """See the contract; by a full stable sort, some heads at a time."""
    (b, h), cells = probs.shape[:2], row_labels.shape[2] * probs.shape[3]
    step = max(1, MAX_MASSES // (b * cells))
    groups = (slice(head, head + step) for head in range(0, h, step))
    made = [_select(probs[:, heads], row_labels[:, heads], cluster_sizes[:, heads], top_p, min_keep) for heads in groups]
    cluster_mask, count = zip(*made, strict=True)
    return torch.cat(cluster_mask, 1), torch.cat(count, 1)


def _select(probs: Tensor, row_labels: Tensor, cluster_sizes: Tensor, top_p: float, min_keep: float) -> tuple[Tensor, Tensor]:
    mass, rows = tile_mass(probs, row_labels)
    if top_p >= 1:
        return keep_all(rows, cluster_sizes)
    ranked, order = mass.sort(dim=-1, descending=True, stable=True)
    before = ranked.cumsum(-1) - ranked
    rank = torch.arange(mass.shape[-1], device=mass.device)
    # Masses that are no numbers keep everything, so that the result shows them.
    keep = ~(before >= top_p) | (rank < math.ceil(min_keep * mass.shape[-1]))
    keep &= (rows > 0).unsqueeze(-1)
    cluster_mask = torch.zeros_like(keep).scatter_(-1, order, keep)
    return cluster_mask, (cluster_mask * cluster_sizes.unsqueeze(2)).sum(-1, dtype=torch.int32)


def keep_all(rows: Tensor, cluster_sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Every cluster for each tile with `rows` [B, H, T], and their keys."""
    some, keys = (rows > 0).unsqueeze(-1), cluster_sizes.sum(-1, keepdim=True, dtype=torch.int32)
    return some.expand(*rows.shape, cluster_sizes.shape[2]).clone(), some[..., 0] * keys


def tile_mass(probs: Tensor, row_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Row-weighted mean distribution of each tile [B, H, T, Ck] and its number of rows [B, H, T]."""
    valid = row_labels >= 0
    counts = probs.new_zeros(*row_labels.shape[:3], probs.shape[2])
    counts.scatter_add_(-1, row_labels.clamp(min=0).long(), valid.to(probs.dtype))
    rows = valid.sum(-1)
    return (counts @ probs) / rows.clamp(min=1).unsqueeze(-1), rows
