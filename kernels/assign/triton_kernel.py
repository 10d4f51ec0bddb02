"""assign in Triton: one matrix product of tokens and centroids whose result never leaves the registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..rows import token_rows
from ..tile_configs import tile_config


@triton.jit(do_not_specialize=["n_heads", "n_tokens", "n_clusters", "stride_xb", "stride_xh", "stride_xn"])
def _assign_kernel(
    x_ptr,  # [B, H, N, D], strides in rows of D
    centroids_ptr,  # [B * H, C, D] of x's dtype
    half_norm_ptr,  # [B * H, C] float32
    labels_ptr,  # [B * H, N] int32
    n_heads,
    n_tokens,
    n_clusters,
    stride_xb: tl.int64,
    stride_xh: tl.int64,
    stride_xn: tl.int64,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    bh = tl.program_id(1).to(tl.int64)
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, HEAD_DIM)
    valid_m = offs_m < n_tokens
    rows = (bh // n_heads) * stride_xb + (bh % n_heads) * stride_xh + offs_m.to(tl.int64) * stride_xn
    x = tl.load(x_ptr + rows[:, None] * HEAD_DIM + offs_d[None, :], mask=valid_m[:, None], other=0.0)

    # One running minimum for each column of the block, joined once at the end: a reduction in every step would cost
    # more than the comparison.
    centroids_ptr += bh * n_clusters * HEAD_DIM
    half_norm_ptr += bh * n_clusters
    best = tl.full([BLOCK_M, BLOCK_N], float("inf"), tl.float32)
    best_start = tl.zeros([BLOCK_M, BLOCK_N], tl.int32)
    for start in range(0, n_clusters, BLOCK_N):
        offs_n = start + tl.arange(0, BLOCK_N)
        valid_n = offs_n < n_clusters
        c = tl.load(centroids_ptr + offs_n[:, None] * HEAD_DIM + offs_d[None, :], mask=valid_n[:, None], other=0.0)
        half_norm = tl.load(half_norm_ptr + offs_n, mask=valid_n, other=float("inf"))
        score = half_norm[None, :] - tl.dot(x, tl.trans(c), input_precision="ieee")
        closer = score < best
        best = tl.where(closer, score, best)
        best_start = tl.where(closer, start, best_start)

    nearest = tl.min(best, axis=1)
    cluster = best_start + tl.arange(0, BLOCK_N)[None, :]
    label = tl.min(tl.where(best == nearest[:, None], cluster, n_clusters), axis=1)
    tl.store(labels_ptr + bh * n_tokens + offs_m, label, mask=valid_m)


def launch_assign(x: Tensor, centroids: Tensor) -> Tensor:
    """See the contract; centroids are rounded to x's dtype for the product, and their norms are of the rounded ones."""
    b, h, n, d = x.shape
    config = tile_config("assign", d, x.device, x.dtype)
    centroids = centroids.to(x.dtype).contiguous()
    half_norm = 0.5 * centroids.float().square().sum(-1)
    labels = torch.empty((b, h, n), dtype=torch.int32, device=x.device)
    x, strides = token_rows(x)
    _assign_kernel[(triton.cdiv(n, config.block_m), b * h)](
        x,
        centroids,
        half_norm,
        labels,
        h,
        n,
        centroids.shape[2],
        *strides,
        HEAD_DIM=d,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return labels
