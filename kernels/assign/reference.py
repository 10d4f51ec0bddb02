"""assign in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

# Scores of one chunk of tokens against all centroids: 16 M float32 are 64 MB.
MAX_SCORES = 1 << 24


def assign(x: Tensor, centroids: Tensor, metric: Tensor | None) -> Tensor:
    """See the contract; the distance without the x^T M x that all candidates share, float32, in chunks of tokens."""
    centroids = centroids.float()
    c = centroids if metric is None else centroids @ metric
    half_norm = 0.5 * (centroids * c).sum(-1).unsqueeze(2)
    labels = torch.empty(x.shape[:3], dtype=torch.int32, device=x.device)
    step = max(1, MAX_SCORES // max(1, half_norm.numel()))
    for start in range(0, x.shape[2], step):
        chunk = x[:, :, start : start + step].float()
        labels[:, :, start : start + step] = (half_norm - chunk @ c.transpose(2, 3)).argmin(-1)
    return labels
