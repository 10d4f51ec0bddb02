"""budget in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from . import RESOLUTION

ABOVE_ALL = 0x7F800001  # the bits after infinity's: no score reaches them
HALVINGS = 31  # from all bits to one


def spend(scores: Tensor, rows: Tensor, cluster_sizes: Tensor, budget: Tensor, at_least_one: bool) -> tuple[Tensor, Tensor]:
    """See the contract; head by head, all of them halving the same number of times."""
    b, h = scores.shape[:2]
    cluster_mask = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    for i in range(b):
        for j in range(h):
            # Floats that are not negative have the order of their bits; an empty cell costs nothing and is left out.
            cost = rows[i, j].long().unsqueeze(-1) * cluster_sizes[i, j].long()
            bits = torch.where(cost > 0, torch.where(scores[i, j] >= 0, scores[i, j].view(torch.int32), 0), -1)
            cluster_mask[i, j] = bits >= _threshold(bits, cost, budget[i, j])
            if at_least_one:
                best = bits.argmax(-1, keepdim=True)  # the first of equals
                alone = ~cluster_mask[i, j].any(-1, keepdim=True) & (bits.gather(-1, best) >= 0)
                cluster_mask[i, j].scatter_(-1, best, cluster_mask[i, j].gather(-1, best) | alone)
    return cluster_mask, (cluster_mask * cluster_sizes.unsqueeze(2)).sum(-1, dtype=torch.int32)


def _threshold(bits: Tensor, cost: Tensor, budget: Tensor) -> Tensor:
    """The lowest bits, to the contract's resolution, whose cells and all above cost no more than the budget."""
    low, high = torch.full_like(budget, -1), torch.full_like(budget, ABOVE_ALL)
    cost_low, cost_high = cost.sum(), torch.zeros_like(budget)
    high = torch.where(cost_low <= budget, low + 1, high)
    for _ in range(HALVINGS):
        on = (high - low > 1) & ((cost_low - cost_high) * RESOLUTION > budget)
        middle = low + (high - low) // 2
        spent = torch.where(bits >= middle, cost, 0).sum()
        fits = spent <= budget
        high, low = torch.where(on & fits, middle, high), torch.where(on & ~fits, middle, low)
        cost_high, cost_low = torch.where(on & fits, spent, cost_high), torch.where(on & ~fits, spent, cost_low)
    return high
