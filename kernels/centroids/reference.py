"""centroids in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..pack import ClusterAssignment

# One-hot rows of one chunk: 16 M float32 are 64 MB.
MAX_ONE_HOT = 1 << 24


def centroids(
    x: Tensor, assignment: ClusterAssignment, previous: Tensor | None, variance: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See the contract; float32 sums."""
    labels, size = assignment.labels, assignment.cluster_sizes
    n_clusters = size.shape[2]
    count = size.clamp(min=1).unsqueeze(-1)
    mean = _sums(x.float(), labels, n_clusters) / count
    if previous is not None:
        mean = torch.where(size.unsqueeze(-1) > 0, mean, previous.float())
    if not variance:
        return mean, size, None
    # Around the mean, not E[x^2] - E[x]^2: the difference of two large sums loses the small variances.
    spread = x.float() - mean.gather(2, labels.long().unsqueeze(-1).expand(x.shape))
    return mean, size, _sums(spread.square(), labels, n_clusters) / count


def _sums(x: Tensor, labels: Tensor, n_clusters: int) -> Tensor:
    """Sum of x [B, H, N, D] by label -> [B, H, C, D]."""
    b, h, n, d = x.shape
    if x.device.type == "cpu":
        sums = x.new_zeros(b * h, n_clusters, d)
        for row, tokens, index in zip(sums, x.flatten(0, 1), labels.flatten(0, 1), strict=True):
            row.index_add_(0, index, tokens)
        return sums.view(b, h, n_clusters, d)
    # index_add_ sums in no fixed order on a GPU; a product with the one-hot matrix does.
    sums = x.new_zeros(b, h, n_clusters, d)
    step = max(1, MAX_ONE_HOT // (b * h * n_clusters))
    clusters = torch.arange(n_clusters, device=x.device, dtype=labels.dtype)
    for start in range(0, n, step):
        one_hot = (labels[:, :, None, start : start + step] == clusters.view(1, 1, -1, 1)).to(x.dtype)
        sums += one_hot @ x[:, :, start : start + step]
    return sums
