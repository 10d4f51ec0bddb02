"""gather_attention in Triton: online softmax in base 2 over gathered keys, then over the tail's centroids.

In few bits, the lists' loop is that of `quantised_keys`, and the tail comes as a launch of its own, in 16 bit.
"""

from __future__ import annotations

import math
from itertools import chain

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..compat import float32_precision
from ..plan import SECOND_ORDER_CAP, Plan
from ..quantise import Quantised
from ..rows import token_rows
from ..tile_configs import SIXTEEN, tile_config
from .quantised_keys import attend_quantised_keys

LOG2_E = math.log2(math.e)
VARYING = [
    "heads", "tiles", "clusters", "qk_scale", "second_order_scale", "second_order_cap",
    "stride_qb", "stride_qh", "stride_qn", "stride_kb", "stride_kh", "stride_kn", "stride_vb", "stride_vh", "stride_vn",
    "stride_ob", "stride_oh", "stride_on", "stride_lb", "stride_lh",
    # These begin where a group of heads does, aligned or not; nothing is read from them 16 bytes at a time.
    "list_of_head_ptr", "key_index_ptr", "key_start_ptr", "key_count_ptr", "log_size_ptr", "cluster_mask_ptr",
]  # fmt: skip


@triton.jit
def _softmax_step(scores, scale, acc, m_i, l_i):
    """One step of the online softmax over logits (base 2) scores * scale; the scale is part of the exponent's FMA."""
    m_new = tl.maximum(m_i, tl.max(scores, 1) * scale)
    p = tl.exp2(scores * scale - m_new[:, None])
    rescale = tl.exp2(m_i - m_new)
    return p, acc * rescale[:, None], m_new, l_i * rescale + tl.sum(p, 1)


@triton.jit
def _attend_keys(
    q, k_ptr, v_ptr, key_index_ptr, count, qk_scale, stride_kn, stride_vn, acc, m_i, l_i,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Goes through the tile's list of `count` keys."""
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, HEAD_DIM)
    whole = count // BLOCK_N * BLOCK_N
    for start in range(0, whole, BLOCK_N):
        keys = tl.load(key_index_ptr + start + offs_n)
        k = tl.load(k_ptr + (keys * stride_kn * HEAD_DIM)[:, None] + offs_d[None, :])
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        p, acc, m_i, l_i = _softmax_step(scores, qk_scale, acc, m_i, l_i)
        v = tl.load(v_ptr + (keys * stride_vn * HEAD_DIM)[:, None] + offs_d[None, :])
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)
    if whole < count:  # columns beyond the end repeat the last key, and weigh nothing
        keys = tl.load(key_index_ptr + tl.minimum(whole + offs_n, count - 1))
        k = tl.load(k_ptr + (keys * stride_kn * HEAD_DIM)[:, None] + offs_d[None, :])
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        scores = tl.where((whole + offs_n < count)[None, :], scores, float("-inf"))
        p, acc, m_i, l_i = _softmax_step(scores, qk_scale, acc, m_i, l_i)
        v = tl.load(v_ptr + (keys * stride_vn * HEAD_DIM)[:, None] + offs_d[None, :])
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)
    return acc, m_i, l_i


@triton.jit
def _attend_tail(
    q, q_ptr, k_mean_ptr, k_variance_ptr, v_mean_ptr, log_size_ptr, cluster_mask_ptr, clusters,
    qk_scale, second_order_scale, second_order_cap, acc, m_i, l_i,
    SECOND_ORDER: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPREAD_D: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Goes through all clusters, one term each; those that the tile reads and empty ones weigh nothing."""
    offs_d = tl.arange(0, HEAD_DIM)
    columns = tl.arange(0, BLOCK_N)
    q_float = q.to(tl.float32)
    q_square = (q_float * q_float).to(q.dtype)
    cluster_mask = tl.load(cluster_mask_ptr + tl.minimum(columns, clusters - 1))
    for start in tl.range(0, clusters, BLOCK_N, num_stages=STAGES):
        # Triton prefetches what is 4 bytes or more; these are one, so they are read a turn ahead by hand.
        mask_next = tl.load(cluster_mask_ptr + tl.minimum(start + BLOCK_N + columns, clusters - 1))
        cells = tl.minimum(start + columns, clusters - 1)
        rows = (cells * HEAD_DIM)[:, None]
        skipped = (cluster_mask == 0) & (start + columns < clusters)
        log2_size = tl.load(log_size_ptr + cells) * 1.4426950408889634
        bias = tl.where(skipped, log2_size, float("-inf"))[None, :]
        if SECOND_ORDER:
            spread = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            if SPREAD_D >= HEAD_DIM:
                variance = tl.load(k_variance_ptr + rows + offs_d[None, :])
                spread = tl.dot(q_square, tl.trans(variance), input_precision=PRECISION)
            else:
                for d in range(0, HEAD_DIM, SPREAD_D):
                    offs_s = d + tl.arange(0, SPREAD_D)
                    q_part = tl.load(q_ptr + offs_s[None, :]).to(tl.float32)
                    variance = tl.load(k_variance_ptr + rows + offs_s[None, :])
                    spread = tl.dot((q_part * q_part).to(q.dtype), tl.trans(variance), spread, input_precision=PRECISION)
            bias += tl.minimum(spread * second_order_scale, second_order_cap)
        k = tl.load(k_mean_ptr + rows + offs_d[None, :])
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        p, acc, m_i, l_i = _softmax_step(scores * qk_scale + bias, 1.0, acc, m_i, l_i)
        v = tl.load(v_mean_ptr + rows + offs_d[None, :])
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)
        cluster_mask = mask_next
    return acc, m_i, l_i


@triton.jit(do_not_specialize=VARYING)
def _gather_attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr,  # [B, H, N, D], strides in rows of D
    lse_ptr,  # [B, H, N] float32
    list_of_head_ptr,  # [B, H] int32
    query_index_ptr,  # [L, T, BLOCK_M] int32
    key_index_ptr,  # [n] int32
    key_start_ptr,  # [L, T] int64
    key_count_ptr,  # [L, T] int32
    k_mean_ptr, k_variance_ptr, v_mean_ptr,  # [B, H, C, D] of q's dtype
    log_size_ptr,  # [B, H, C] float32
    cluster_mask_ptr,  # [L, T, C] uint8
    q_terms_ptr,  # [B, H, N, 2] float32, where q and k are int8
    k_terms_ptr,  # [B, H, N] int64, each two float32
    channels_ptr,  # [B, H, 5, D] float32, as `quantise.Channels` has them
    heads, tiles, clusters, qk_scale, second_order_scale, second_order_cap,
    stride_qb: tl.int64, stride_qh: tl.int64, stride_qn: tl.int64,
    stride_kb: tl.int64, stride_kh: tl.int64, stride_kn: tl.int64,
    stride_vb: tl.int64, stride_vh: tl.int64, stride_vn: tl.int64,
    stride_ob: tl.int64, stride_oh: tl.int64, stride_on: tl.int64,
    stride_lb: tl.int64, stride_lh: tl.int64,
    TAIL: tl.constexpr,  # 0 none, 1 zero order, 2 second order
    KEYS: tl.constexpr,  # whether this pass goes through the lists
    RESUME: tl.constexpr,  # whether an earlier pass left its result in out and lse
    WITH_LSE: tl.constexpr,
    QUANTISED: tl.constexpr,  # whether the lists' queries and keys are
    SHORT_SUMS: tl.constexpr,  # whether then the values are too
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TAIL_BLOCK_N: tl.constexpr, SPREAD_D: tl.constexpr,
    TAIL_STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # Tiles of one head are neighbours in launch order, so that its keys and values stay in the L2 cache.
    t, h, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    head = (b * heads + h).to(tl.int64)
    tile = tl.load(list_of_head_ptr + head).to(tl.int64) * tiles + t
    offs_d = tl.arange(0, HEAD_DIM)
    rows = tl.load(query_index_ptr + tile * BLOCK_M + tl.arange(0, BLOCK_M))
    valid_m = rows >= 0
    q_ptr += (b * stride_qb + h * stride_qh) * HEAD_DIM
    q_ptr += (tl.maximum(rows, 0) * stride_qn * HEAD_DIM)[:, None]  # a missing row computes row 0 and is not stored
    out_ptr += (b * stride_ob + h * stride_oh) * HEAD_DIM
    lse_ptr += b * stride_lb + h * stride_lh
    q = tl.load(q_ptr + offs_d[None, :])

    # A finite start: -inf - -inf would be NaN where the first block of logits is masked as a whole.
    m_i = tl.full([BLOCK_M], -1.0e30, tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    if RESUME:
        lse = tl.load(lse_ptr + rows, mask=valid_m, other=0.0) * 1.4426950408889634  # to base 2
        m_i = tl.maximum(lse, m_i)
        l_i = tl.where(lse < -1.0e30, 0.0, 1.0)  # only -inf is a row that read no key; NaN goes on as NaN
        offsets = (rows * stride_on * HEAD_DIM)[:, None] + offs_d[None, :]
        before = tl.load(out_ptr + offsets, mask=valid_m[:, None], other=0.0).to(tl.float32)
        acc = tl.where(l_i[:, None] > 0.0, before, 0.0)  # a row that read no key has none
    if KEYS:
        k_ptr += (b * stride_kb + h * stride_kh) * HEAD_DIM
        v_ptr += (b * stride_vb + h * stride_vh) * HEAD_DIM
        key_index_ptr += tl.load(key_start_ptr + tile)
        count = tl.load(key_count_ptr + tile)
        if QUANTISED:
            acc, m_i, l_i = attend_quantised_keys(
                q, q_terms_ptr + (b * stride_qb + h * stride_qh + tl.maximum(rows, 0)) * 2, k_ptr,
                k_terms_ptr + b * stride_kb + h * stride_kh, v_ptr, channels_ptr + head * 5 * HEAD_DIM,
                key_index_ptr, count, stride_vn, acc, m_i, l_i, HEAD_DIM, BLOCK_N, SHORT_SUMS,
            )  # fmt: skip
        else:
            acc, m_i, l_i = _attend_keys(
                q, k_ptr, v_ptr, key_index_ptr, count, qk_scale, stride_kn, stride_vn, acc, m_i, l_i,
                HEAD_DIM, BLOCK_N, PRECISION,
            )  # fmt: skip
    if TAIL > 0:
        cells = head * clusters
        acc, m_i, l_i = _attend_tail(
            q, q_ptr, k_mean_ptr + cells * HEAD_DIM, k_variance_ptr + cells * HEAD_DIM, v_mean_ptr + cells * HEAD_DIM,
            log_size_ptr + cells, cluster_mask_ptr + tile * clusters, clusters,
            qk_scale, second_order_scale, second_order_cap, acc, m_i, l_i,
            TAIL == 2, HEAD_DIM, BLOCK_M, TAIL_BLOCK_N, SPREAD_D, TAIL_STAGES, PRECISION,
        )  # fmt: skip

    offsets = (rows * stride_on * HEAD_DIM)[:, None] + offs_d[None, :]
    tl.store(out_ptr + offsets, (acc / l_i[:, None]).to(out_ptr.dtype.element_ty), mask=valid_m[:, None])
    if WITH_LSE:
        tl.store(lse_ptr + rows, (m_i + tl.log2(l_i)) * 0.6931471805599453, mask=valid_m)  # ln 2: base e for the caller


def passes(tail_order: int, apart: bool, with_lse: bool, quantised: bool = False) -> list[dict]:
    """The constexprs of each launch: one for all, or one for the lists and one for the tail, which goes on from there."""
    lists = {"TAIL": 0, "KEYS": True, "RESUME": False, "QUANTISED": quantised}
    if not tail_order:
        return [lists | {"WITH_LSE": with_lse}]
    if not (apart or quantised):
        return [lists | {"TAIL": tail_order, "WITH_LSE": with_lse}]
    tail = {"TAIL": tail_order, "KEYS": False, "RESUME": True, "QUANTISED": False, "WITH_LSE": with_lse}
    return [lists | {"WITH_LSE": True}, tail]


def launch_gather_attention(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, sm_scale: float, out: Tensor, lse: Tensor | None,
    quantised: Quantised | None = None, precision: str = SIXTEEN,
) -> None:  # fmt: skip
    """See the contract; the plan's M must be the config's block_m, as `tile_rows` gives it."""
    b, h, n, d = q.shape
    own = tile_config("gather_attention", d, q.device, q.dtype)
    few = own if quantised is None else tile_config("gather_attention", d, q.device, precision=precision)
    target, out_strides = token_rows(out)
    tiles, block_m = plan.query_index.shape[1:]
    tail = plan.tail
    order = 0 if tail is None else 1 if tail.k_variance is None else 2
    # Where nothing reads them they are q: aligned as it is, so that no kernel is compiled once more for another dummy.
    mean = variance = value = log_size = cluster_mask = q
    if tail is not None:
        mean, value = tail.k_mean.to(q.dtype).contiguous(), tail.v_mean.to(q.dtype).contiguous()
        variance = mean if order == 1 else tail.k_variance.to(q.dtype).contiguous()
        log_size, cluster_mask = tail.log_size.contiguous(), tail.cluster_mask.contiguous().view(torch.uint8)
    launches = passes(order, own.tail_apart, lse is not None, quantised is not None)
    if len(launches) > 1 and lse is None:
        lse = torch.empty((b, h, n), dtype=torch.float32, device=q.device)
    for constexprs in launches:
        config = few if constexprs["KEYS"] else own
        given, terms = (q, k, v), (q, q, q)
        if constexprs["QUANTISED"]:
            given = quantised.q8, quantised.k8, quantised.v8
            terms = quantised.q_terms, quantised.k_terms.view(torch.int64), quantised.channels.rows
        tensors, strides = zip(*map(token_rows, given), strict=True)
        _gather_attention_kernel[(tiles, h, b)](
            *tensors, target, q if lse is None else lse,
            *(x.contiguous() for x in (plan.list_of_head, plan.query_index, plan.key_index, plan.key_start, plan.key_count)),
            mean, variance, value, log_size, cluster_mask, *terms,
            h, tiles, 0 if tail is None else tail.k_mean.shape[2],
            sm_scale * LOG2_E, 0.5 * sm_scale**2 * LOG2_E, SECOND_ORDER_CAP * LOG2_E,
            *chain(*strides), *out_strides,
            0 if lse is None else lse.stride(0), 0 if lse is None else lse.stride(1),
            **constexprs, SHORT_SUMS=config.values is not None, HEAD_DIM=d,
            PRECISION=float32_precision() if q.dtype == torch.float32 else "ieee",
            **own.constexprs | config.constexprs | {"BLOCK_M": block_m}, **config.launch,
        )  # fmt: skip
    if target is not out:
        out.copy_(target)
