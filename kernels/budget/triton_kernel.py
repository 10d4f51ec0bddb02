"""budget in Triton: a program a head finds its threshold, then a program a tile writes what reaches it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..compat import FUSED
from . import RESOLUTION
from .reference import ABOVE_ALL

BLOCK_C = 1024  # columns at a time: the paper's 1000 clusters are one block
BLOCK_ROWS = 8


@triton.jit
def _bits(score):
    """Floats that are not negative have the order of their bits; what is no number is as 0."""
    return tl.where(score >= 0, score.to(tl.int32, bitcast=True), 0)


@triton.jit
def _rows_and_scores(scores_ptr, rows_ptr, tiles, clusters, first, offs_c, BLOCK_ROWS: tl.constexpr):
    """Of a block of tiles; one beyond the last has no rows."""
    offs_t = first + tl.arange(0, BLOCK_ROWS)
    inside = (offs_t < tiles)[:, None] & (offs_c < clusters)[None, :]
    score = tl.load(scores_ptr + offs_t[:, None] * clusters + offs_c[None, :], mask=inside, other=-1.0)
    return tl.load(rows_ptr + offs_t, mask=offs_t < tiles, other=0), score


@triton.jit
def _spent(
    scores_ptr, rows_ptr, sizes_ptr, tiles, clusters, first, second, third,
    BLOCK_ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """What the cells cost whose bits reach each of three bounds, in one trip over the scores."""
    cost_1 = tl.full((), 0, tl.int64)
    cost_2, cost_3 = cost_1, cost_1
    for start in range(0, clusters, BLOCK_C):
        offs_c = start + tl.arange(0, BLOCK_C)
        # Rows that read a cluster, before they are multiplied with its keys: they fit into 32 bits.
        rows_1 = tl.zeros([BLOCK_C], tl.int32)
        rows_2, rows_3 = rows_1, rows_1
        rows, score = _rows_and_scores(scores_ptr, rows_ptr, tiles, clusters, 0, offs_c, BLOCK_ROWS)
        for tile in range(0, tiles, BLOCK_ROWS):
            # What the next turn compares is on its way while this one compares.
            next_rows, next_score = _rows_and_scores(
                scores_ptr, rows_ptr, tiles, clusters, tile + BLOCK_ROWS, offs_c, BLOCK_ROWS
            )
            bits, row = _bits(score), rows[:, None]
            rows_1 += tl.sum(tl.where(bits >= first, row, 0), axis=0)
            rows_2 += tl.sum(tl.where(bits >= second, row, 0), axis=0)
            rows_3 += tl.sum(tl.where(bits >= third, row, 0), axis=0)
            rows, score = next_rows, next_score
        size = tl.load(sizes_ptr + offs_c, mask=offs_c < clusters, other=0).to(tl.int64)
        cost_1 += tl.sum(rows_1 * size, axis=0)
        cost_2 += tl.sum(rows_2 * size, axis=0)
        cost_3 += tl.sum(rows_3 * size, axis=0)
    return cost_1, cost_2, cost_3


@triton.jit(do_not_specialize=["tiles", "clusters"])
def _threshold_kernel(
    scores_ptr,  # [B * H, T, C] float32
    rows_ptr,  # [B * H, T] int32
    sizes_ptr,  # [B * H, C] int32
    budget_ptr,  # [B * H] int64
    threshold_ptr,  # [B * H] int32, bits of the lowest score to keep
    tiles,
    clusters,
    RESOLUTION: tl.constexpr,
    ABOVE_ALL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    bh = tl.program_id(0).to(tl.int64)
    scores_ptr += bh * tiles * clusters
    rows_ptr += bh * tiles
    sizes_ptr += bh * clusters
    budget = tl.load(budget_ptr + bh)
    rows = tl.full((), 0, tl.int64)
    for start in range(0, tiles, BLOCK_C):
        offs = start + tl.arange(0, BLOCK_C)
        rows += tl.sum(tl.load(rows_ptr + offs, mask=offs < tiles, other=0).to(tl.int64), axis=0)
    keys = tl.full((), 0, tl.int64)
    for start in range(0, clusters, BLOCK_C):
        offs = start + tl.arange(0, BLOCK_C)
        keys += tl.sum(tl.load(sizes_ptr + offs, mask=offs < clusters, other=0).to(tl.int64), axis=0)

    cost_low, cost_high = rows * keys, tl.full((), 0, tl.int64)
    low, high = -1, ABOVE_ALL
    high = tl.where(cost_low <= budget, 0, high)
    while (high - low > 1) & ((cost_low - cost_high) * RESOLUTION > budget):
        # Two halvings a trip: the bound of the first, and those that the second may have.
        middle = low + (high - low) // 2
        below, above = low + (middle - low) // 2, middle + (high - middle) // 2
        cost_below, cost, cost_above = _spent(
            scores_ptr, rows_ptr, sizes_ptr, tiles, clusters, below, middle, above, BLOCK_ROWS, BLOCK_C
        )
        fits = cost <= budget
        low, high = tl.where(fits, low, middle), tl.where(fits, middle, high)
        cost_low, cost_high = tl.where(fits, cost_low, cost), tl.where(fits, cost, cost_high)
        on = (high - low > 1) & ((cost_low - cost_high) * RESOLUTION > budget)
        middle, cost = tl.where(fits, below, above), tl.where(fits, cost_below, cost_above)
        lower, raise_ = on & (cost <= budget), on & (cost > budget)
        low, high = tl.where(raise_, middle, low), tl.where(lower, middle, high)
        cost_low, cost_high = tl.where(raise_, cost, cost_low), tl.where(lower, cost, cost_high)
    tl.store(threshold_ptr + bh, high)


@triton.jit(do_not_specialize=["clusters"])
def _keep_kernel(
    scores_ptr,  # [B * H, T, C] float32
    rows_ptr,  # [B * H, T] int32
    sizes_ptr,  # [B * H, C] int32
    threshold_ptr,  # [B * H] int32
    cluster_mask_ptr,  # [B * H, T, C] uint8
    count_ptr,  # [B * H, T] int32
    clusters,
    AT_LEAST_ONE: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    bh = tl.program_id(1).to(tl.int64)
    tile = bh * tl.num_programs(0) + tl.program_id(0)
    scores_ptr += tile * clusters
    cluster_mask_ptr += tile * clusters
    sizes_ptr += bh * clusters
    threshold = tl.load(threshold_ptr + bh)
    has_rows = tl.load(rows_ptr + tile) > 0

    best, first = -1, -1  # the highest bits, and the first cluster that has them
    if AT_LEAST_ONE:
        for start in range(0, clusters, BLOCK_C):
            offs_c = start + tl.arange(0, BLOCK_C)
            bits, _ = _cells(scores_ptr, sizes_ptr, offs_c, clusters, has_rows)
            highest = tl.max(bits, axis=0)
            number = tl.min(tl.where(bits == highest, offs_c, clusters), axis=0)
            first = tl.where(highest > best, number, first)
            best = tl.maximum(highest, best)
        first = tl.where(best >= threshold, -1, first)  # the tile has it anyhow

    keys = 0
    for start in range(0, clusters, BLOCK_C):
        offs_c = start + tl.arange(0, BLOCK_C)
        bits, size = _cells(scores_ptr, sizes_ptr, offs_c, clusters, has_rows)
        kept = (bits >= threshold) | (offs_c == first)
        tl.store(cluster_mask_ptr + offs_c, kept.to(tl.uint8), mask=offs_c < clusters)
        keys += tl.sum(tl.where(kept, size, 0), axis=0)
    tl.store(count_ptr + tile, keys)


@triton.jit
def _cells(scores_ptr, sizes_ptr, offs_c, clusters, has_rows):
    """Bits of a tile's scores, -1 where there is nothing to keep, and the clusters' keys."""
    inside = offs_c < clusters
    size = tl.load(sizes_ptr + offs_c, mask=inside, other=0)
    score = tl.load(scores_ptr + offs_c, mask=inside, other=-1.0)
    return tl.where((size > 0) & has_rows, _bits(score), -1), size


def launch_spend(
    scores: Tensor, rows: Tensor, cluster_sizes: Tensor, budget: Tensor, at_least_one: bool
) -> tuple[Tensor, Tensor]:
    """See the contract."""
    b, h, tiles, clusters = scores.shape
    scores, rows, cluster_sizes = (x.contiguous() for x in (scores, rows, cluster_sizes))
    threshold = torch.empty((b, h), dtype=torch.int32, device=scores.device)
    cluster_mask = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    count = torch.empty((b, h, tiles), dtype=torch.int32, device=scores.device)
    _threshold_kernel[(b * h,)](
        scores, rows, cluster_sizes, budget.contiguous(), threshold, tiles, clusters,
        RESOLUTION=RESOLUTION, ABOVE_ALL=ABOVE_ALL, BLOCK_ROWS=BLOCK_ROWS, BLOCK_C=BLOCK_C, num_warps=8, **FUSED,
    )  # fmt: skip
    _keep_kernel[(tiles, b * h)](
        scores, rows, cluster_sizes, threshold, cluster_mask.view(torch.uint8), count, clusters,
        AT_LEAST_ONE=at_least_one, BLOCK_C=BLOCK_C, num_warps=4, **FUSED,
    )  # fmt: skip
    return cluster_mask, count
