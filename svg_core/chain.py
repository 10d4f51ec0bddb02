"""Tiles of rows that read alike: clusters of queries in the order of a chain, and rows along it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.bins import bins
from ..kernels.pack import ClusterAssignment, sort_by_label

BINS = 8  # of a cluster's rows along the chain: a small whole number sorts faster than an exact place


def chain(mean: Tensor, metric: Tensor) -> Tensor:
    """A greedy chain through the clusters, from each to the nearest that is left: cluster of each place, [B, H, C] int64.

    Once a run: some launches a cluster, and no wait for the device.

    Args:
        mean: [B, H, C, D] float32.
        metric: [B, H, D, D], as in `assign`.
    """
    transformed = mean @ metric
    norm = (mean * transformed).sum(-1)
    distance = norm.unsqueeze(-1) + norm.unsqueeze(-2) - 2 * transformed @ mean.transpose(2, 3)
    clusters = mean.shape[2]
    place = torch.zeros(mean.shape[:3], dtype=torch.int64, device=mean.device)
    taken = torch.zeros_like(place, dtype=torch.bool)
    here = place[..., :1]
    for i in range(clusters):
        place[..., i : i + 1] = here
        taken.scatter_(2, here, True)
        row = distance.gather(2, here.unsqueeze(-1).expand(-1, -1, -1, clusters)).squeeze(2)
        here = row.masked_fill_(taken, torch.inf).argmin(-1, keepdim=True)
    return place


def put_in_order(assignment: ClusterAssignment, mean: Tensor, order: Tensor) -> tuple[ClusterAssignment, Tensor]:
    """Clusters numbered anew: the one at order[..., i] becomes i."""
    number = order.argsort(-1).int()
    labels = number.gather(2, assignment.labels.long())
    return sort_by_label(labels, mean.shape[2]), mean.gather(2, order.unsqueeze(-1).expand_as(mean))


def along(x: Tensor, assignment: ClusterAssignment, mean: Tensor, metric: Tensor, backend: str) -> Tensor:
    """The rows of each cluster in the order of the chain, from the side of the cluster before to that of the cluster after.

    The line from the cluster before to the one after, by the metric, is cut into BINS bins.

    Args:
        x: [B, H, N, D].
        assignment: of the rows, clusters numbered along the chain.
        mean: [B, H, C, D] float32.
        metric: [B, H, D, D].
        backend: "torch" or "triton".

    Returns:
        [B, H, N] int32, the assignment's permutation with each cluster's rows in this order.
    """
    clusters = mean.shape[2]
    places = torch.arange(clusters, device=x.device)
    line = mean[:, :, (places + 1).clamp(max=clusters - 1)] - mean[:, :, (places - 1).clamp(min=0)]
    axis = line @ metric
    axis = axis * (BINS / (line * axis).sum(-1, keepdim=True).clamp(min=1e-30))
    offset = BINS / 2 - (mean * axis).sum(-1)
    return sort_by_label(bins(x, assignment.labels, axis, offset, BINS, backend=backend), clusters * BINS).permutation
