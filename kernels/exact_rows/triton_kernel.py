"""exact_rows in Triton: few rows and many keys, so the keys are split among programs and the parts are merged."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..rows import token_rows
from ..tile_configs import tile_config
from . import Windows

# Keys are split until there are so many programs (an H100 runs 264 or more at a time), or so few keys a program.
PROGRAMS = 1024
MIN_KEYS = 1024


VARYING = [
    "n_heads", "n_rows", "n_keys", "keys_per_split", "n_patterns",
    "stride_qb", "stride_qh", "stride_qn", "stride_kb", "stride_kh", "stride_kn", "stride_vb", "stride_vh", "stride_vn",
]  # fmt: skip


@triton.jit(do_not_specialize=VARYING)
def _exact_rows_kernel(
    q_ptr, k_ptr, v_ptr,  # [B, H, N, D], strides in rows of D
    rows_ptr,  # [S] int32 or int64
    rank_ptr,  # [P, N] int32
    prefix_ptr,  # [P] int32
    begin_ptr, end_ptr,  # [P, S] int32; all of `Windows`, read if HAS_WINDOWS
    acc_ptr,  # [B * H, 1 + P, splits, S, D] float32, sums of values, weights relative to the maximum
    max_ptr,  # [B * H, 1 + P, splits, S] float32, maximum logit to base 2, -inf where no key is allowed
    sum_ptr,  # [B * H, 1 + P, splits, S] float32, sums of the weights
    qk_scale,  # sm_scale * log2(e)
    n_heads, n_rows, n_keys, keys_per_split,
    n_patterns,  # 1 + P
    stride_qb: tl.int64, stride_qh: tl.int64, stride_qn: tl.int64,
    stride_kb: tl.int64, stride_kh: tl.int64, stride_kn: tl.int64,
    stride_vb: tl.int64, stride_vh: tl.int64, stride_vn: tl.int64,
    HAS_WINDOWS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    # Patterns and row blocks of one split run side by side and share its keys in L2.
    pattern = tl.program_id(0) % n_patterns
    split = tl.program_id(1)
    bh = tl.program_id(2).to(tl.int64)
    batch, head = bh // n_heads, bh % n_heads
    offs_m = (tl.program_id(0) // n_patterns) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, HEAD_DIM)
    valid_m = offs_m < n_rows
    rows = tl.load(rows_ptr + offs_m, mask=valid_m, other=0).to(tl.int64)
    q_rows = batch * stride_qb + head * stride_qh + rows * stride_qn
    q = tl.load(q_ptr + q_rows[:, None] * HEAD_DIM + offs_d[None, :], mask=valid_m[:, None], other=0.0)
    k_ptr += (batch * stride_kb + head * stride_kh) * HEAD_DIM
    v_ptr += (batch * stride_vb + head * stride_vh) * HEAD_DIM
    if HAS_WINDOWS:
        window = tl.maximum(pattern - 1, 0)
        rank_ptr += window * n_keys
        prefix = tl.where(pattern > 0, tl.load(prefix_ptr + window), 0x7FFFFFFF)  # pattern 0 reads all keys
        first = tl.load(begin_ptr + window * n_rows + offs_m, mask=valid_m, other=0)[:, None]
        last = tl.load(end_ptr + window * n_rows + offs_m, mask=valid_m, other=0)[:, None]

    m_i = tl.full([BLOCK_M], float("-inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    end = tl.minimum((split + 1) * keys_per_split, n_keys)
    for start in range(split * keys_per_split, end, BLOCK_N):
        offs_n = start + tl.arange(0, BLOCK_N)
        valid_n = offs_n < end
        k_rows = offs_n.to(tl.int64) * stride_kn
        k = tl.load(k_ptr + k_rows[:, None] * HEAD_DIM + offs_d[None, :], mask=valid_n[:, None], other=0.0)
        allowed = valid_m[:, None] & valid_n[None, :]
        if HAS_WINDOWS:
            rank = tl.load(rank_ptr + offs_n, mask=valid_n, other=0)[None, :]
            allowed &= (rank < prefix) | ((rank >= first) & (rank < last))
        qk = tl.where(allowed, tl.dot(q, tl.trans(k), input_precision="ieee") * qk_scale, float("-inf"))
        m_new = tl.maximum(m_i, tl.max(qk, axis=1))
        shift = tl.where(m_new == float("-inf"), 0.0, m_new)  # no key allowed yet: weights of 0, not NaN
        p = tl.exp2(qk - shift[:, None])
        alpha = tl.exp2(m_i - shift)
        v_rows = offs_n.to(tl.int64) * stride_vn
        v = tl.load(v_ptr + v_rows[:, None] * HEAD_DIM + offs_d[None, :], mask=valid_n[:, None], other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision="ieee")
        l_i = l_i * alpha + tl.sum(p, axis=1)
        m_i = m_new

    part = ((bh * n_patterns + pattern) * tl.num_programs(1) + split) * n_rows + offs_m
    tl.store(acc_ptr + part[:, None] * HEAD_DIM + offs_d[None, :], acc, mask=valid_m[:, None])
    tl.store(max_ptr + part, m_i, mask=valid_m)
    tl.store(sum_ptr + part, l_i, mask=valid_m)


def launch_exact_rows(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, sm_scale: float, windows: Windows | None) -> Tensor:
    """See the contract."""
    (b, h, _, d), n_keys, n_rows = q.shape, k.shape[2], rows.shape[0]
    config = tile_config("exact_rows", d, q.device, q.dtype)
    n_patterns = 1 if windows is None else 1 + windows.rank.shape[0]
    blocks = triton.cdiv(n_rows, config.block_m) * n_patterns
    splits = max(1, min(triton.cdiv(PROGRAMS, blocks * b * h), n_keys // MIN_KEYS))
    keys_per_split = triton.cdiv(triton.cdiv(n_keys, splits), config.block_n) * config.block_n
    splits = triton.cdiv(n_keys, keys_per_split)
    acc = torch.empty((b, h, n_patterns, splits, n_rows, d), dtype=torch.float32, device=q.device)
    maximum = torch.empty(acc.shape[:-1], dtype=torch.float32, device=q.device)
    total = torch.empty_like(maximum)
    (q, q_strides), (k, k_strides), (v, v_strides) = token_rows(q), token_rows(k), token_rows(v)
    _exact_rows_kernel[(blocks, splits, b * h)](
        q, k, v, rows.contiguous(), *((rows,) * 4 if windows is None else (x.contiguous() for x in windows)),
        acc, maximum, total,
        sm_scale * math.log2(math.e), h, n_rows, n_keys, keys_per_split, n_patterns,
        *q_strides, *k_strides, *v_strides,
        HAS_WINDOWS=windows is not None, HEAD_DIM=d, **config.constexprs, **config.launch,
    )  # fmt: skip
    weight = torch.exp2(maximum - maximum.amax(3, keepdim=True))
    return acc.mul_(weight.unsqueeze(-1)).sum(3) / (total * weight).sum(3).unsqueeze(-1)
