"""The loop over a tile's list with queries and keys in INT8, values perhaps in FP8, after SageAttention2 (arXiv 2411.10958)."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _attend_tile(
    q, q_scale, k_ptr, k_terms_ptr, v_ptr, keys, inside, stride_vn, acc, m_i, l_i,
    HEAD_DIM: tl.constexpr, MASKED: tl.constexpr, SHIFT: tl.constexpr, SHORT_SUMS: tl.constexpr,
):  # fmt: skip
    """One step of the online softmax; p and its sum are 2^SHIFT times what they are elsewhere."""
    offs_d = tl.arange(0, HEAD_DIM)
    k = tl.load(k_ptr + (keys * HEAD_DIM)[:, None] + offs_d[None, :])
    terms = tl.load(k_terms_ptr + keys)  # two numbers of 4 bytes in one of 8
    k_scale = terms.to(tl.int32).to(tl.float32, bitcast=True)
    k_bias = (terms >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    scores = tl.dot(q, tl.trans(k), out_dtype=tl.int32).to(tl.float32) * k_scale[None, :]
    if MASKED:
        k_bias = tl.where(inside, k_bias, float("-inf"))
    scores = scores * q_scale[:, None] + k_bias[None, :]
    m_new = tl.maximum(m_i, tl.max(scores, 1))
    p = tl.exp2(scores - (m_new - SHIFT)[:, None])
    rescale = tl.exp2(m_i - m_new)
    l_i = l_i * rescale + tl.sum(p, 1)  # of p before it is rounded
    v = tl.load(v_ptr + (keys * stride_vn * HEAD_DIM)[:, None] + offs_d[None, :])
    if not SHORT_SUMS:
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None])
    else:
        # Sums of few bits end with the tile: FP8 products keep 14 bits or so of theirs, and those of float16 are in float16.
        sums: tl.constexpr = tl.float16 if v.dtype == tl.float16 else tl.float32
        tile = tl.dot(p.to(v.dtype), v, out_dtype=sums).to(tl.float32)
        acc = tl.fma(acc, tl.broadcast_to(rescale[:, None], acc.shape), tile)  # as a sum it would go into the product
    return acc, m_new, l_i


@triton.jit
def attend_quantised_keys(
    q, q_terms_ptr, k_ptr, k_terms_ptr, v_ptr, channels_ptr, key_index_ptr, count, stride_vn, acc, m_i, l_i,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, SHORT_SUMS: tl.constexpr,
):  # fmt: skip
    """Goes through the tile's list of `count` keys; acc, m_i and l_i are then those of queries, keys and values themselves.

    SHORT_SUMS: values are scaled, so that a tile's sums may have few bits; else they are in the model's own dtype.
    """
    # e4m3 ends at 448, and what is below 2^-9 is zero: p reaches from one to the other.
    SHIFT: tl.constexpr = 8.807354922057604 if v_ptr.dtype.element_ty == tl.float8e4nv else 0.0
    offs_n = tl.arange(0, BLOCK_N)
    q_scale = tl.load(q_terms_ptr)
    whole = count // BLOCK_N * BLOCK_N
    for start in range(0, whole, BLOCK_N):
        keys = tl.load(key_index_ptr + start + offs_n)
        acc, m_i, l_i = _attend_tile(
            q, q_scale, k_ptr, k_terms_ptr, v_ptr, keys, offs_n >= 0, stride_vn, acc, m_i, l_i,
            HEAD_DIM, False, SHIFT, SHORT_SUMS,
        )  # fmt: skip
    if whole < count:  # columns beyond the end repeat the last key, and weigh nothing
        keys = tl.load(key_index_ptr + tl.minimum(whole + offs_n, count - 1))
        inside = whole + offs_n < count
        acc, m_i, l_i = _attend_tile(
            q, q_scale, k_ptr, k_terms_ptr, v_ptr, keys, inside, stride_vn, acc, m_i, l_i,
            HEAD_DIM, True, SHIFT, SHORT_SUMS,
        )  # fmt: skip
    channels_ptr += tl.arange(0, HEAD_DIM)
    unit = tl.exp2(-SHIFT)
    l_i *= unit
    v_scale, v_mean = tl.load(channels_ptr + 3 * HEAD_DIM) * unit, tl.load(channels_ptr + 4 * HEAD_DIM)
    acc = acc * v_scale[None, :] + v_mean[None, :] * l_i[:, None]
    return acc, m_i + tl.load(q_terms_ptr + 1), l_i
