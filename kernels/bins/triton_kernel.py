"""bins in Triton: a product of each token with the axis of its cluster."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..compat import FUSED
from ..rows import token_rows

BLOCK_M = 16  # tokens of a program: they and their axes are 32 registers a thread at head_dim 128


@triton.jit(do_not_specialize=["n_heads", "n_tokens", "n_clusters", "n_bins", "stride_xb", "stride_xh", "stride_xn"])
def _bins_kernel(
    x_ptr,  # [B, H, N, D], strides in rows of D
    labels_ptr,  # [B * H, N] int32
    axis_ptr,  # [B * H, C, D] float32
    offset_ptr,  # [B * H, C] float32
    bins_ptr,  # [B * H, N] int32
    n_heads,
    n_tokens,
    n_clusters,
    n_bins,
    stride_xb: tl.int64,
    stride_xh: tl.int64,
    stride_xn: tl.int64,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    bh = tl.program_id(1).to(tl.int64)
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, HEAD_DIM)
    valid_m = offs_m < n_tokens
    label = tl.load(labels_ptr + bh * n_tokens + offs_m, mask=valid_m, other=0)
    cell = bh * n_clusters + label
    rows = (bh // n_heads) * stride_xb + (bh % n_heads) * stride_xh + offs_m.to(tl.int64) * stride_xn
    x = tl.load(x_ptr + rows[:, None] * HEAD_DIM + offs_d[None, :], mask=valid_m[:, None], other=0.0).to(tl.float32)
    axis = tl.load(axis_ptr + cell[:, None] * HEAD_DIM + offs_d[None, :])
    place = tl.sum(x * axis, axis=1) + tl.load(offset_ptr + cell)
    place = tl.where(place == place, place, 0.0)
    place = tl.minimum(tl.minimum(tl.maximum(place, 0.0), 1.0e6).to(tl.int32), n_bins - 1)
    tl.store(bins_ptr + bh * n_tokens + offs_m, label * n_bins + place, mask=valid_m)


def launch_bins(x: Tensor, labels: Tensor, axis: Tensor, offset: Tensor, n_bins: int) -> Tensor:
    """See the contract."""
    (b, h, n, d), n_clusters = x.shape, axis.shape[2]
    out = torch.empty((b, h, n), dtype=torch.int32, device=x.device)
    x, strides = token_rows(x)
    _bins_kernel[(triton.cdiv(n, BLOCK_M), b * h)](
        x, labels.contiguous(), axis.contiguous(), offset.contiguous(), out,
        h, n, n_clusters, n_bins, *strides, HEAD_DIM=d, BLOCK_M=BLOCK_M, num_warps=4, **FUSED,
    )  # fmt: skip
    return out
