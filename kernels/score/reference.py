"""score in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..plan import SECOND_ORDER_CAP

# Rows x clusters of one chunk of tiles: four tensors of 8 M float32 are 128 MB.
MAX_LOGITS = 1 << 23


def score(
    q: Tensor,
    rows: Tensor,
    k_mean: Tensor,
    k_variance: Tensor | None,
    log_size: Tensor,
    v_spread: Tensor | None,
    sm_scale: float,
) -> Tensor:
    """See the contract; float32, some tiles of a head at a time."""
    (b, h, tiles, per_tile), clusters = rows.shape, k_mean.shape[2]
    out = torch.empty((b, h, tiles, clusters), dtype=torch.float32, device=q.device)
    step = max(1, MAX_LOGITS // (per_tile * clusters))
    for i in range(b):
        for j in range(h):
            size, mean_t = log_size[i, j].exp(), k_mean[i, j].T
            variance_t = None if k_variance is None else k_variance[i, j].T
            for tile in range(0, tiles, step):
                index = rows[i, j, tile : tile + step]
                scaled = q[i, j].index_select(0, index.clamp(min=0).flatten()).float() * sm_scale
                logits = torch.addmm(log_size[i, j], scaled, mean_t)
                if variance_t is None:
                    cost = logits.softmax(-1).square_()
                else:
                    spread = (scaled.square() @ variance_t).clamp_(max=2 * SECOND_ORDER_CAP)
                    cost = logits.add_(spread, alpha=0.5).softmax(-1).square_().mul_(spread).mul_(v_spread[i, j])
                valid = (index >= 0).unsqueeze(-1)
                cost = torch.where(valid, cost.view(*index.shape, clusters), 0).sum(1)
                out[i, j, tile : tile + step] = cost / (valid.sum(1).clamp(min=1) * size.clamp(min=1))
    return out
