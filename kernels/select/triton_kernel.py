"""select in Triton: mixes a tile's distributions, then finds the lowest mass to keep by bisection, without a sort."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..compat import FUSED
from .reference import keep_all

BLOCK_C = 1024  # columns at a time: the paper's 1000 clusters are one block


@triton.jit(do_not_specialize=["n_rows", "n_query_clusters", "n_clusters"])
def _tile_mass_kernel(
    probs_ptr,  # [B * H, Cq, Ck] float32
    row_labels_ptr,  # [B * H, T, M] int32
    mass_ptr,  # [B * H, T, Ck in whole blocks] float32; -1 beyond Ck and for a tile without rows
    n_rows,
    n_query_clusters,
    n_clusters,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    bh = tl.program_id(1).to(tl.int64)
    tile = bh * tl.num_programs(0) + tl.program_id(0)
    probs_ptr += bh * n_query_clusters * n_clusters
    offs_r = tl.arange(0, ROWS)
    labels = tl.load(row_labels_ptr + tile * n_rows + offs_r, mask=offs_r < n_rows, other=-1)
    rows = tl.sum((labels >= 0).to(tl.int32), axis=0)
    first = tl.min(tl.where(labels >= 0, labels, n_query_clusters), axis=0)
    last = tl.max(labels, axis=0)
    for start in range(0, n_clusters, BLOCK_C):
        offs_c = start + tl.arange(0, BLOCK_C)
        mass = tl.zeros([BLOCK_C], tl.float32)
        # Rows come sorted by cluster: there are a few labels from the first to the last.
        for label in range(first, last + 1):
            weight = tl.sum((labels == label).to(tl.int32), axis=0)
            if weight > 0:
                probs = tl.load(probs_ptr + label * n_clusters + offs_c, mask=offs_c < n_clusters, other=0.0)
                mass += weight.to(tl.float32) * probs
        mass = tl.where((offs_c < n_clusters) & (rows > 0), mass / tl.maximum(rows, 1), -1.0)
        tl.store(mass_ptr + tile * tl.cdiv(n_clusters, BLOCK_C) * BLOCK_C + offs_c, mass)


@triton.jit
def _at_least(mass_ptr, bound, n_clusters, BLOCK_C: tl.constexpr):
    """Sum and number of the masses whose bits are `bound` or more, and the lowest bits among them."""
    total, count, lowest = 0.0, 0, 0x7F800000
    for start in range(0, n_clusters, BLOCK_C):
        mass = tl.load(mass_ptr + start + tl.arange(0, BLOCK_C))
        bits = mass.to(tl.int32, bitcast=True)
        total += tl.sum(tl.where(bits >= bound, mass, 0.0), axis=0)
        count += tl.sum((bits >= bound).to(tl.int32), axis=0)
        lowest = tl.minimum(lowest, tl.min(tl.where(bits >= bound, bits, 0x7F800000), axis=0))
    return total, count, lowest


@triton.jit(do_not_specialize=["n_clusters", "min_count"])
def _select_kernel(
    mass_ptr,  # [B * H, T, Ck in whole blocks] float32, as _tile_mass_kernel writes it
    sizes_ptr,  # [B * H, Ck] int32
    cluster_mask_ptr,  # [B * H, T, Ck] uint8
    count_ptr,  # [B * H, T] int32
    n_clusters,
    min_count,
    top_p,
    BLOCK_C: tl.constexpr,
):
    tile = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    mass_ptr += tile * tl.cdiv(n_clusters, BLOCK_C) * BLOCK_C
    cluster_mask_ptr += tile * n_clusters
    sizes_ptr += tl.program_id(1).to(tl.int64) * n_clusters

    # Floats that are not negative have the order of their bits. Clusters from `low` up are enough and those from
    # `high` up are not; about 15 halvings leave one cluster between, the last that is taken.
    low, high = 0, 0x7F800000
    _, count_low, last = _at_least(mass_ptr, low, n_clusters, BLOCK_C)
    count_high = 0
    while (high - low > 1) & (count_low - count_high > 1):
        middle = low + (high - low) // 2
        total, count, lowest = _at_least(mass_ptr, middle, n_clusters, BLOCK_C)
        enough = (total >= top_p) & (count >= min_count)
        low, high = tl.where(enough, middle, low), tl.where(enough, high, middle)
        count_low, count_high = tl.where(enough, count, count_low), tl.where(enough, count_high, count)
        last = tl.where(enough, lowest, last)

    total, count, _ = _at_least(mass_ptr, last + 1, n_clusters, BLOCK_C)
    ties, keys = 0, 0
    for start in range(0, n_clusters, BLOCK_C):
        offs_c = start + tl.arange(0, BLOCK_C)
        mass = tl.load(mass_ptr + offs_c)
        bits = mass.to(tl.int32, bitcast=True)
        tie = (bits == last).to(tl.int32)
        rank = ties + tl.cumsum(tie, axis=0) - tie
        needed = (total + rank.to(tl.float32) * mass < top_p) | (count + rank < min_count)
        cluster_mask = (bits > last) | ((bits == last) & needed)
        tl.store(cluster_mask_ptr + offs_c, cluster_mask.to(tl.uint8), mask=offs_c < n_clusters)
        keys += tl.sum(tl.where(cluster_mask, tl.load(sizes_ptr + offs_c, mask=offs_c < n_clusters, other=0), 0), axis=0)
        ties += tl.sum(tie, axis=0)
    tl.store(count_ptr + tile, keys)


def launch_select(
    probs: Tensor, row_labels: Tensor, cluster_sizes: Tensor, top_p: float, min_keep: float
) -> tuple[Tensor, Tensor]:
    """See the contract."""
    b, h, n_query_clusters, n_clusters = probs.shape
    tiles, n_rows = row_labels.shape[2:]
    if top_p >= 1:
        return keep_all((row_labels >= 0).sum(-1), cluster_sizes)
    columns = triton.cdiv(n_clusters, BLOCK_C) * BLOCK_C
    mass = torch.empty((b, h, tiles, columns), dtype=torch.float32, device=probs.device)
    cluster_mask = torch.empty((b, h, tiles, n_clusters), dtype=torch.bool, device=probs.device)
    count = torch.empty((b, h, tiles), dtype=torch.int32, device=probs.device)
    grid = (tiles, b * h)
    _tile_mass_kernel[grid](
        probs.contiguous(), row_labels.contiguous(), mass, n_rows, n_query_clusters, n_clusters,
        ROWS=triton.next_power_of_2(n_rows), BLOCK_C=BLOCK_C, num_warps=4, **FUSED,
    )  # fmt: skip
    _select_kernel[grid](
        mass, cluster_sizes.contiguous(), cluster_mask.view(torch.uint8), count,
        n_clusters, math.ceil(min_keep * n_clusters), top_p, BLOCK_C=BLOCK_C, num_warps=4, **FUSED,
    )  # fmt: skip
    return cluster_mask, count
