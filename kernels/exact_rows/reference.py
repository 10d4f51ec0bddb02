"""exact_rows in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Windows

# Scores of one group of heads: 32 M float32 are 128 MB.
MAX_SCORES = 1 << 25


def exact_rows(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, sm_scale: float, windows: Windows | None) -> Tensor:
    """See the contract; float32, a few heads at a time."""
    b, h, _, d = q.shape
    sampled = q.index_select(2, rows)
    masks = () if windows is None else windows.masks()
    out = torch.empty(b, h, 1 + len(masks), rows.shape[0], d, dtype=torch.float32, device=q.device)
    step = max(1, MAX_SCORES // (b * rows.shape[0] * k.shape[2]))
    for head in range(0, h, step):
        heads = slice(head, head + step)
        scores = (sampled[:, heads].float() @ k[:, heads].float().transpose(2, 3)) * sm_scale
        values = v[:, heads].float()
        out[:, heads, 0] = scores.softmax(-1) @ values
        for p, mask in enumerate(masks):
            out[:, heads, 1 + p] = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ values
    return out
