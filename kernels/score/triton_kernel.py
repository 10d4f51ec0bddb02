"""score in Triton: a pass over the clusters for each row's log-sum-exp, and a second one that adds up columns."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..compat import FUSED, float32_precision
from ..plan import SECOND_ORDER_CAP
from ..rows import token_rows
from ..tile_configs import NoTileConfig, architecture, tile_config

LOG2_E = math.log2(math.e)
BLOCK_ROWS = 16  # clusters of a program that rounds them; every block_n is a multiple
VARYING = [
    "tiles", "n_rows", "clusters", "n_blocks", "qk_scale", "second_order_scale", "most_spread",
    "stride_qb", "stride_qh", "stride_qn",
]  # fmt: skip


@triton.jit(do_not_specialize=["clusters", "square_scale"])
def _pad_clusters_kernel(
    k_mean_ptr, k_variance_ptr,  # [B * H, C, D] float32
    log_size_ptr, v_spread_ptr,  # [B * H, C] float32
    mean_ptr, variance_ptr,  # [B * H, C in whole blocks, D] of the queries' dtype
    log2_size_ptr,  # [B * H, C in whole blocks] float32, -inf beyond C
    worth_ptr,  # likewise: what p^2 q^2 . k_variance is multiplied by
    clusters,
    square_scale,  # sm_scale^2
    HAS_VARIANCE: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    bh = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    offs_d = tl.arange(0, HEAD_DIM)[None, :]
    source = bh * clusters + tl.minimum(columns, clusters - 1)
    target = bh * tl.num_programs(0) * BLOCK_ROWS + columns
    rows, padded = source[:, None] * HEAD_DIM + offs_d, target[:, None] * HEAD_DIM + offs_d
    tl.store(mean_ptr + padded, tl.load(k_mean_ptr + rows).to(mean_ptr.dtype.element_ty))
    log2_size = tl.load(log_size_ptr + source) * 1.4426950408889634
    worth = 1.0 / tl.maximum(tl.exp2(log2_size), 1.0)
    if HAS_VARIANCE:
        tl.store(variance_ptr + padded, tl.load(k_variance_ptr + rows).to(variance_ptr.dtype.element_ty))
        worth *= tl.load(v_spread_ptr + source) * square_scale
    tl.store(log2_size_ptr + target, tl.where(columns < clusters, log2_size, float("-inf")))
    tl.store(worth_ptr + target, worth)


@triton.jit
def _logits(
    q, q_square, mean_ptr, variance_ptr, log2_size_ptr, columns, qk_scale, second_order_scale, most_spread,
    TIMES: tl.constexpr, HAS_VARIANCE: tl.constexpr, HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Logits (base 2) of the rows and a block of clusters, TIMES over, and the spread q^2 . k_variance in them."""
    cells = columns[:, None] * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :]
    bias = (tl.load(log2_size_ptr + columns) * TIMES)[None, :]
    spread = 1.0
    if HAS_VARIANCE:
        variance = tl.load(variance_ptr + cells)
        spread = tl.minimum(tl.dot(q_square, tl.trans(variance), input_precision=PRECISION), most_spread)
        bias += spread * (second_order_scale * TIMES)
    dot = tl.dot(q, tl.trans(tl.load(mean_ptr + cells)), input_precision=PRECISION)
    return dot * (qk_scale * TIMES) + bias, spread


@triton.jit(do_not_specialize=VARYING)
def _score_kernel(
    q_ptr,  # [B, H, N, D], strides in rows of D
    rows_ptr,  # [B, H, T, n_rows] int32
    mean_ptr, variance_ptr, log2_size_ptr, worth_ptr,  # as _pad_clusters_kernel writes them
    score_ptr,  # [B, H, T, C] float32
    tiles, n_rows, clusters, n_blocks, qk_scale, second_order_scale,
    most_spread,  # where the second-order term reaches its cap
    stride_qb: tl.int64, stride_qh: tl.int64, stride_qn: tl.int64,
    HAS_VARIANCE: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    ROWS: tl.constexpr,  # of a tile, padded; a program takes BLOCK_M / ROWS tiles, so that L2 is read less often
    PRECISION: tl.constexpr,
):  # fmt: skip
    TILES: tl.constexpr = BLOCK_M // ROWS
    h, b = tl.program_id(1), tl.program_id(2)
    head = (b * tl.num_programs(1) + h).to(tl.int64)
    first_tile = tl.program_id(0) * TILES
    offs_m = tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    tile, row = first_tile + offs_m // ROWS, offs_m % ROWS
    given = (tile < tiles) & (row < n_rows)
    tokens = tl.load(rows_ptr + (head * tiles + tile) * n_rows + row, mask=given, other=-1)
    valid = tokens >= 0
    q_ptr += (b * stride_qb + h * stride_qh) * HEAD_DIM
    q_rows = (tl.maximum(tokens, 0) * stride_qn * HEAD_DIM)[:, None]
    q = tl.load(q_ptr + q_rows + tl.arange(0, HEAD_DIM)[None, :], mask=valid[:, None], other=0.0)
    q_float = q.to(tl.float32)
    q_square = (q_float * q_float).to(q.dtype)
    cells = head * n_blocks * BLOCK_N
    mean_ptr += cells * HEAD_DIM
    variance_ptr += cells * HEAD_DIM
    log2_size_ptr += cells
    worth_ptr += cells
    score_ptr += head * tiles * clusters

    # A finite start: -inf - -inf would be NaN where the first block holds empty clusters alone.
    m_i = tl.full([BLOCK_M], -1.0e30, tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    for block in range(0, n_blocks):
        logits, _ = _logits(
            q, q_square, mean_ptr, variance_ptr, log2_size_ptr, block * BLOCK_N + offs_n,
            qk_scale, second_order_scale, most_spread, 1, HAS_VARIANCE, HEAD_DIM, PRECISION,
        )  # fmt: skip
        m_new = tl.maximum(m_i, tl.max(logits, 1))
        l_i = l_i * tl.exp2(m_i - m_new) + tl.sum(tl.exp2(logits - m_new[:, None]), 1)
        m_i = m_new

    lse = tl.where(valid, m_i + tl.log2(l_i), float("inf"))  # so that a missing row weighs nothing
    valid_rows = tl.sum(tl.reshape(valid.to(tl.int32), (TILES, ROWS)), 1)
    share = 1.0 / tl.maximum(valid_rows, 1).to(tl.float32)
    offs_t = first_tile + tl.arange(0, TILES)
    for block in range(0, n_blocks):
        columns = block * BLOCK_N + offs_n
        logits, spread = _logits(
            q, q_square, mean_ptr, variance_ptr, log2_size_ptr, columns,
            qk_scale, second_order_scale, most_spread, 2, HAS_VARIANCE, HEAD_DIM, PRECISION,
        )  # fmt: skip
        cost = tl.exp2(logits - 2 * lse[:, None]) * spread  # p^2 by one exponential
        cost = tl.sum(tl.reshape(cost, (TILES, ROWS, BLOCK_N)), 1)
        score = cost * share[:, None] * tl.load(worth_ptr + columns)[None, :]
        inside = (offs_t < tiles)[:, None] & (columns < clusters)[None, :]
        tl.store(score_ptr + offs_t[:, None] * clusters + columns[None, :], score, mask=inside)


def launch_score(
    q: Tensor,
    rows: Tensor,
    k_mean: Tensor,
    k_variance: Tensor | None,
    log_size: Tensor,
    v_spread: Tensor | None,
    sm_scale: float,
) -> Tensor:
    """See the contract; means and variances are rounded to q's dtype, and clusters beyond the last weigh nothing.

    Raises:
        NoTileConfig: a tile has more rows than the table's config takes.
    """
    (b, h, tiles, n_rows), (clusters, d) = rows.shape, k_mean.shape[2:]
    config = tile_config("score", d, q.device, q.dtype)
    padded_rows = max(16, triton.next_power_of_2(n_rows))
    if padded_rows > config.block_m:
        case = f"{str(q.dtype).removeprefix('torch.')}, head_dim {d} and tiles of {n_rows} rows"
        raise NoTileConfig(f"score has no Triton kernel for {case} on {architecture(q.device)}")
    n_blocks = triton.cdiv(clusters, config.block_n)
    mean = torch.empty((b, h, n_blocks * config.block_n, d), dtype=q.dtype, device=q.device)
    variance = mean if k_variance is None else torch.empty_like(mean)
    log2_size = torch.empty(mean.shape[:3], dtype=torch.float32, device=q.device)
    worth = torch.empty_like(log2_size)
    out = torch.empty((b, h, tiles, clusters), dtype=torch.float32, device=q.device)
    second_order = k_variance is not None
    _pad_clusters_kernel[(mean.shape[2] // BLOCK_ROWS, b * h)](
        *(x.contiguous() for x in (k_mean, k_variance if second_order else k_mean)),
        *(x.contiguous() for x in (log_size, v_spread if second_order else log_size)),
        mean, variance, log2_size, worth, clusters, sm_scale**2,
        HAS_VARIANCE=second_order, HEAD_DIM=d, BLOCK_ROWS=BLOCK_ROWS, **FUSED,
    )  # fmt: skip
    q, strides = token_rows(q)
    _score_kernel[(triton.cdiv(tiles, config.block_m // padded_rows), h, b)](
        q, rows.contiguous(), mean, variance, log2_size, worth, out,
        tiles, n_rows, clusters, n_blocks,
        sm_scale * LOG2_E, 0.5 * sm_scale**2 * LOG2_E, 2 * SECOND_ORDER_CAP / sm_scale**2, *strides,
        HAS_VARIANCE=second_order, HEAD_DIM=d, ROWS=padded_rows,
        PRECISION=float32_precision() if q.dtype == torch.float32 else "ieee",
        **config.constexprs, **config.launch,
    )  # fmt: skip
    return out
