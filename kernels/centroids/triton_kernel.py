"""centroids in Triton: one program a cluster walks the cluster's tokens, found by a stable sort, in their order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..compat import FUSED
from ..pack import ClusterAssignment
from ..rows import token_rows

# Rows of a step, by head_dim: a cluster holds about 75 tokens (1000 of 75,600), and one of 20,000 is walked as well.
BLOCK_ROWS = {64: 32, 128: 64}


@triton.jit
def _gather(x_ptr, permutation_ptr, start, end, stride_xn, HEAD_DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """The first tokens of order[start : end], float32 [BLOCK_ROWS, D], and which rows exist [BLOCK_ROWS, 1]."""
    offs = start + tl.arange(0, BLOCK_ROWS)
    token = tl.load(permutation_ptr + offs, mask=offs < end, other=0).to(tl.int64)
    rows = x_ptr + (token * stride_xn)[:, None] * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :]
    valid = (offs < end)[:, None]
    return tl.load(rows, mask=valid, other=0.0).to(tl.float32), valid


@triton.jit(do_not_specialize=["n_heads", "n_tokens", "n_clusters", "stride_xb", "stride_xh", "stride_xn"])
def _centroids_kernel(
    x_ptr,  # [B, H, N, D], strides in rows of D
    permutation_ptr,  # [B * H, N] int32, tokens by label
    offsets_ptr,  # [B * H, C + 1] int32, where each label begins in order
    previous_ptr,  # [B * H, C, D], read if HAS_PREVIOUS
    mean_ptr,  # [B * H, C, D] float32
    sizes_ptr,  # [B * H, C] int32
    variance_ptr,  # [B * H, C, D] float32, written if HAS_VARIANCE
    n_heads,
    n_tokens,
    n_clusters,
    stride_xb: tl.int64,
    stride_xh: tl.int64,
    stride_xn: tl.int64,
    HEAD_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    HAS_PREVIOUS: tl.constexpr,
    HAS_VARIANCE: tl.constexpr,
):
    cluster, bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    offs_d = tl.arange(0, HEAD_DIM)
    x_ptr += ((bh // n_heads) * stride_xb + (bh % n_heads) * stride_xh) * HEAD_DIM
    permutation_ptr += bh * n_tokens
    begin = tl.load(offsets_ptr + bh * (n_clusters + 1) + cluster)
    end = tl.load(offsets_ptr + bh * (n_clusters + 1) + cluster + 1)
    count = tl.maximum(end - begin, 1).to(tl.float32)
    cell = bh * n_clusters + cluster

    # One sum a row of the block, joined at the end: a fixed order, and no reduction across warps in the loop.
    sums = tl.zeros([BLOCK_ROWS, HEAD_DIM], tl.float32)
    for start in range(begin, end, BLOCK_ROWS):
        x, _ = _gather(x_ptr, permutation_ptr, start, end, stride_xn, HEAD_DIM, BLOCK_ROWS)
        sums += x
    mean = tl.sum(sums, axis=0) / count
    result = cell * HEAD_DIM + offs_d
    if HAS_PREVIOUS:
        mean = tl.where(end > begin, mean, tl.load(previous_ptr + result).to(tl.float32))
    tl.store(mean_ptr + result, mean)
    tl.store(sizes_ptr + cell, end - begin)

    if HAS_VARIANCE:
        sums = tl.zeros([BLOCK_ROWS, HEAD_DIM], tl.float32)
        for start in range(begin, end, BLOCK_ROWS):
            x, valid = _gather(x_ptr, permutation_ptr, start, end, stride_xn, HEAD_DIM, BLOCK_ROWS)
            spread = x - mean[None, :]
            sums += tl.where(valid, spread * spread, 0.0)
        tl.store(variance_ptr + result, tl.sum(sums, axis=0) / count)


def launch_centroids(
    x: Tensor, assignment: ClusterAssignment, previous: Tensor | None, variance: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See the contract; float32 sums."""
    b, h, n, d = x.shape
    n_clusters = assignment.offsets.shape[2] - 1
    mean = torch.empty((b, h, n_clusters, d), dtype=torch.float32, device=x.device)
    size = torch.empty((b, h, n_clusters), dtype=torch.int32, device=x.device)
    var = torch.empty_like(mean) if variance else None
    x, strides = token_rows(x)
    _centroids_kernel[(n_clusters, b * h)](
        x, assignment.permutation.contiguous(), assignment.offsets.contiguous(),
        mean if previous is None else previous.contiguous(), mean, size, var if variance else mean,
        h, n, n_clusters, *strides,
        HEAD_DIM=d, BLOCK_ROWS=BLOCK_ROWS[d], HAS_PREVIOUS=previous is not None, HAS_VARIANCE=variance, num_warps=4, **FUSED,
    )  # fmt: skip
    return mean, size, var
