"""assign in Triton: one matrix product of tokens and centroids whose result never leaves the registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..compat import FUSED
from ..rows import token_rows
from ..tile_configs import tile_config

BLOCK_ROWS = 16  # centroids of a program that rounds them; every block_n is a multiple


@triton.jit(do_not_specialize=["n_clusters"])
def _pad_centroids_kernel(
    centroids_ptr,  # [B * H, C, D]
    metric_ptr,  # [B * H, D, D] float32, read if HAS_METRIC
    padded_ptr,  # [B * H, C in whole blocks, D] of the tokens' dtype, negated
    half_norm_ptr,  # [B * H, C in whole blocks] float32
    n_clusters,
    HAS_METRIC: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    bh = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    offs_d = tl.arange(0, HEAD_DIM)
    rows = bh * n_clusters + tl.minimum(columns, n_clusters - 1)
    centroids_ptr += rows[:, None] * HEAD_DIM
    centroids = tl.load(centroids_ptr + offs_d[None, :])
    transformed = centroids
    if HAS_METRIC:  # exact float32 products, whatever torch is told to do with its own
        transformed = tl.zeros([BLOCK_ROWS, HEAD_DIM], tl.float32)
        metric_ptr += bh * HEAD_DIM * HEAD_DIM
        for start in range(0, HEAD_DIM, BLOCK_ROWS):
            offs = start + tl.arange(0, BLOCK_ROWS)
            part = tl.load(centroids_ptr + offs[None, :]).to(tl.float32)
            metric = tl.load(metric_ptr + offs[:, None] * HEAD_DIM + offs_d[None, :])
            transformed = tl.dot(part, metric, transformed, input_precision="ieee")
    padded = transformed.to(padded_ptr.dtype.element_ty)
    cells = bh * tl.num_programs(0) * BLOCK_ROWS + columns
    tl.store(padded_ptr + cells[:, None] * HEAD_DIM + offs_d[None, :], -padded)
    rounded = padded.to(tl.float32)
    other = centroids.to(tl.float32) if HAS_METRIC else rounded
    tl.store(half_norm_ptr + cells, 0.5 * tl.sum(other * rounded, axis=1))


@triton.jit(do_not_specialize=["n_heads", "n_tokens", "n_blocks", "block_bits", "stride_xb", "stride_xh", "stride_xn"])
def _assign_kernel(
    x_ptr,  # [B, H, N, D], strides in rows of D
    padded_ptr,  # [B * H, n_blocks * BLOCK_N, D] of x's dtype, as _pad_centroids_kernel writes it
    half_norm_ptr,  # [B * H, n_blocks * BLOCK_N] float32
    labels_ptr,  # [B * H, N] int32
    n_heads,
    n_tokens,
    n_blocks,
    block_bits,  # a mask of ones that holds every block's number
    stride_xb: tl.int64,
    stride_xh: tl.int64,
    stride_xn: tl.int64,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    bh = tl.program_id(1).to(tl.int64)
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, HEAD_DIM)
    valid_m = offs_m < n_tokens
    rows = (bh // n_heads) * stride_xb + (bh % n_heads) * stride_xh + offs_m.to(tl.int64) * stride_xn
    x = tl.load(x_ptr + rows[:, None] * HEAD_DIM + offs_d[None, :], mask=valid_m[:, None], other=0.0)
    x_float = x.to(tl.float32)
    half_x = 0.5 * tl.sum(x_float * x_float, axis=1)

    # One running minimum for each column of a block, joined once at the end: a reduction in every step would cost more
    # than the comparison. A distance is not negative (but for rounding near 0, where any order will do), so its bits have
    # its order as an integer; the lowest ones give way to the block's number, so that one comparison carries both, and of
    # equal distances the first block wins.
    padded_ptr += bh * n_blocks * BLOCK_N * HEAD_DIM
    half_norm_ptr += bh * n_blocks * BLOCK_N
    best = tl.full([BLOCK_M, BLOCK_N], 0x7FFFFFFF, tl.int32)
    for block in range(0, n_blocks):
        columns = block * BLOCK_N + offs_n
        c = tl.load(padded_ptr + columns[:, None] * HEAD_DIM + offs_d[None, :])
        half_norm = tl.load(half_norm_ptr + columns)
        half_distance = tl.dot(x, tl.trans(c), half_x[:, None] + half_norm[None, :], input_precision="ieee")
        best = tl.minimum(best, (half_distance.to(tl.int32, bitcast=True) & ~block_bits) | block)

    distance = best & ~block_bits
    nearest = tl.min(distance, axis=1)
    cluster = (best & block_bits) * BLOCK_N + offs_n[None, :]
    label = tl.min(tl.where(distance == nearest[:, None], cluster, n_blocks * BLOCK_N), axis=1)
    tl.store(labels_ptr + bh * n_tokens + offs_m, label, mask=valid_m)


def launch_assign(x: Tensor, centroids: Tensor, metric: Tensor | None) -> Tensor:
    """See the contract; centroids are rounded to x's dtype, and columns beyond the last repeat it, so they never win.

    With a metric M they are those times M, and 0.5 |x|^2 stands for 0.5 x^T M x: as M's eigenvalues are at most 1, what the
    kernel compares is still not negative.
    """
    (b, h, n, d), n_clusters = x.shape, centroids.shape[2]
    config = tile_config("assign", d, x.device, x.dtype)
    n_blocks = triton.cdiv(n_clusters, config.block_n)
    padded = torch.empty((b, h, n_blocks * config.block_n, d), dtype=x.dtype, device=x.device)
    half_norm = torch.empty(padded.shape[:3], dtype=torch.float32, device=x.device)
    labels = torch.empty((b, h, n), dtype=torch.int32, device=x.device)
    x, strides = token_rows(x)
    _pad_centroids_kernel[(padded.shape[2] // BLOCK_ROWS, b * h)](
        centroids.contiguous(), centroids if metric is None else metric.contiguous(), padded, half_norm, n_clusters,
        HAS_METRIC=metric is not None, HEAD_DIM=d, BLOCK_ROWS=BLOCK_ROWS, **FUSED,
    )  # fmt: skip
    _assign_kernel[(triton.cdiv(n, config.block_m), b * h)](
        x, padded, half_norm, labels,
        h, n, n_blocks, triton.next_power_of_2(n_blocks) - 1,
        *strides, HEAD_DIM=d, **config.constexprs, **config.launch,
    )  # fmt: skip
    return labels
