"""gather_attention in Triton: online softmax in base 2 over gathered keys, then over the tail's centroids."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..compat import float32_precision
from ..rows import token_rows
from ..tile_configs import tile_config

if TYPE_CHECKING:
    from . import Plan

LOG2_E = math.log2(math.e)
VARYING = [
    "heads", "tiles", "clusters", "qk_scale", "second_order_scale", "second_order_cap",
    "stride_qb", "stride_qh", "stride_qn", "stride_kb", "stride_kh", "stride_kn", "stride_vb", "stride_vh", "stride_vn",
    "stride_ob", "stride_oh", "stride_on", "stride_lb", "stride_lh", "stride_list",
]  # fmt: skip


@triton.jit
def _softmax_step(q, k, bias, acc, m_i, l_i, qk_scale, PRECISION: tl.constexpr):
    """One step of the online softmax over logits (base 2) q k^T * qk_scale + bias; acc is rescaled for it."""
    logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * qk_scale + bias
    m_new = tl.maximum(m_i, tl.max(logits, 1))
    p = tl.exp2(logits - m_new[:, None])
    rescale = tl.exp2(m_i - m_new)
    return p, acc * rescale[:, None], m_new, l_i * rescale + tl.sum(p, 1)


@triton.jit(do_not_specialize=VARYING)
def _gather_attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr,  # [B, H, N, D], strides in rows of D
    lse_ptr,  # [B, H, N] float32
    set_of_head_ptr,  # [B, H] int32
    query_index_ptr,  # [L, T, BLOCK_M] int32
    key_index_ptr,  # [L, T, K] int32, rows of stride_list
    key_count_ptr,  # [L, T] int32
    k_mean_ptr, k_variance_ptr, v_mean_ptr,  # [B, H, C, D] of q's dtype
    log2_size_ptr,  # [B, H, C] float32
    kept_ptr,  # [L, T, C] uint8
    heads, tiles, clusters, qk_scale, second_order_scale, second_order_cap,
    stride_qb: tl.int64, stride_qh: tl.int64, stride_qn: tl.int64,
    stride_kb: tl.int64, stride_kh: tl.int64, stride_kn: tl.int64,
    stride_vb: tl.int64, stride_vh: tl.int64, stride_vn: tl.int64,
    stride_ob: tl.int64, stride_oh: tl.int64, stride_on: tl.int64,
    stride_lb: tl.int64, stride_lh: tl.int64, stride_list: tl.int64,
    TAIL: tl.constexpr,  # 0 none, 1 zero order, 2 second order
    WITH_LSE: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TAIL_BLOCK_N: tl.constexpr, SPREAD_D: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # Tiles of one head are neighbours in launch order, so that its keys and values stay in the L2 cache.
    t, h, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    head = b * heads + h
    tile = tl.load(set_of_head_ptr + head).to(tl.int64) * tiles + t
    offs_m = tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, HEAD_DIM)
    q_ptr += (b * stride_qb + h * stride_qh) * HEAD_DIM
    k_ptr += (b * stride_kb + h * stride_kh) * HEAD_DIM
    v_ptr += (b * stride_vb + h * stride_vh) * HEAD_DIM
    key_index_ptr += tile * stride_list

    rows = tl.load(query_index_ptr + tile * BLOCK_M + offs_m)
    q_ptr += (tl.maximum(rows, 0) * stride_qn * HEAD_DIM)[:, None]  # a missing row computes row 0 and is not stored
    q = tl.load(q_ptr + offs_d[None, :])
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    # A finite start: -inf - -inf would be NaN where the first block of logits is masked as a whole.
    m_i = tl.full([BLOCK_M], -1.0e30, tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)

    count = tl.load(key_count_ptr + tile)
    whole = count // BLOCK_N * BLOCK_N
    for start in range(0, whole, BLOCK_N):
        keys = tl.load(key_index_ptr + start + offs_n)
        k = tl.load(k_ptr + (keys * stride_kn * HEAD_DIM)[:, None] + offs_d[None, :])
        p, acc, m_i, l_i = _softmax_step(q, k, 0.0, acc, m_i, l_i, qk_scale, PRECISION)
        v = tl.load(v_ptr + (keys * stride_vn * HEAD_DIM)[:, None] + offs_d[None, :])
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)
    if whole < count:
        valid_n = whole + offs_n < count
        keys = tl.load(key_index_ptr + whole + offs_n, mask=valid_n, other=0)
        k = tl.load(k_ptr + (keys * stride_kn * HEAD_DIM)[:, None] + offs_d[None, :], mask=valid_n[:, None], other=0.0)
        bias = tl.where(valid_n, 0.0, float("-inf"))[None, :]
        p, acc, m_i, l_i = _softmax_step(q, k, bias, acc, m_i, l_i, qk_scale, PRECISION)
        v = tl.load(v_ptr + (keys * stride_vn * HEAD_DIM)[:, None] + offs_d[None, :], mask=valid_n[:, None], other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)

    if TAIL > 0:
        kept_ptr += tile * clusters
        head_clusters = head.to(tl.int64) * clusters
        offs_c = tl.arange(0, TAIL_BLOCK_N)
        for start in range(0, clusters, TAIL_BLOCK_N):
            valid_c = start + offs_c < clusters
            cells = (head_clusters + start + offs_c).to(tl.int64)
            offsets = (cells * HEAD_DIM)[:, None] + offs_d[None, :]
            kept = tl.load(kept_ptr + start + offs_c, mask=valid_c, other=1)
            log2_size = tl.load(log2_size_ptr + cells, mask=valid_c, other=float("-inf"))
            bias = tl.where(kept != 0, float("-inf"), log2_size)[None, :]
            if TAIL == 2:
                spread = tl.zeros([BLOCK_M, TAIL_BLOCK_N], tl.float32)
                for d in range(0, HEAD_DIM, SPREAD_D):
                    offs_s = d + tl.arange(0, SPREAD_D)
                    q_part = tl.load(q_ptr + offs_s[None, :]).to(tl.float32)
                    variance = tl.load(
                        k_variance_ptr + (cells * HEAD_DIM)[:, None] + offs_s[None, :], mask=valid_c[:, None], other=0.0
                    )
                    spread = tl.dot((q_part * q_part).to(q.dtype), tl.trans(variance), spread, input_precision=PRECISION)
                bias += tl.minimum(spread * second_order_scale, second_order_cap)
            k = tl.load(k_mean_ptr + offsets, mask=valid_c[:, None], other=0.0)
            p, acc, m_i, l_i = _softmax_step(q, k, bias, acc, m_i, l_i, qk_scale, PRECISION)
            v = tl.load(v_mean_ptr + offsets, mask=valid_c[:, None], other=0.0)
            acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)

    valid_m = rows >= 0
    if WITH_LSE:
        lse_ptr += b * stride_lb + h * stride_lh
        lse = (m_i + tl.log2(l_i)) * 0.6931471805599453  # ln 2: base e for the caller
        tl.store(lse_ptr + rows, lse, mask=valid_m)
    out_ptr += (b * stride_ob + h * stride_oh) * HEAD_DIM
    offsets = (rows * stride_on * HEAD_DIM)[:, None] + offs_d[None, :]
    tl.store(out_ptr + offsets, (acc / l_i[:, None]).to(out_ptr.dtype.element_ty), mask=valid_m[:, None])


def launch_gather_attention(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, sm_scale: float, out: Tensor, lse: Tensor | None
) -> None:
    """See the contract; the plan's M must be the config's block_m, as `tile_rows` gives it."""
    from . import SECOND_ORDER_CAP

    b, h, _, d = q.shape
    config = tile_config("gather_attention", d, q.device, q.dtype)
    (q, q_strides), (k, k_strides), (v, v_strides) = (token_rows(x) for x in (q, k, v))
    target, out_strides = token_rows(out)
    sets, tiles, block_m = plan.query_index.shape
    tail = plan.tail
    order = 0 if tail is None else 1 if tail.k_variance is None else 2
    unused = plan.key_count
    mean, variance, value, log2_size, kept = (unused,) * 5
    if tail is not None:
        mean, value = tail.k_mean.to(q.dtype).contiguous(), tail.v_mean.to(q.dtype).contiguous()
        variance = unused if order == 1 else tail.k_variance.to(q.dtype).contiguous()
        log2_size, kept = tail.size.float().log2(), tail.kept.contiguous().view(torch.uint8)
    _gather_attention_kernel[(tiles, h, b)](
        q, k, v, target, unused if lse is None else lse,
        plan.set_of_head.contiguous(), plan.query_index.contiguous(), plan.key_index.contiguous(), plan.key_count.contiguous(),
        mean, variance, value, log2_size, kept,
        h, tiles, 0 if tail is None else tail.k_mean.shape[2],
        sm_scale * LOG2_E, 0.5 * sm_scale**2 * LOG2_E, SECOND_ORDER_CAP * LOG2_E,
        *q_strides, *k_strides, *v_strides, *out_strides,
        0 if lse is None else lse.stride(0), 0 if lse is None else lse.stride(1), plan.key_index.shape[2],
        TAIL=order, WITH_LSE=lse is not None, HEAD_DIM=d, BLOCK_M=block_m, BLOCK_N=config.block_n,
        TAIL_BLOCK_N=config.tail_block_n, SPREAD_D=config.spread_d,
        PRECISION=float32_precision() if q.dtype == torch.float32 else "ieee",
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    if target is not out:
        out.copy_(target)
