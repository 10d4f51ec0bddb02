"""quantise in Triton: a program a block of one head's tokens."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..compat import FUSED
from ..rows import token_rows
from . import LARGEST, LEAST, LEVELS, Channels

BLOCK_N = 32
VARYING = ["qk_scale", "tokens", "heads", "stride_b", "stride_h", "stride_n"]


@triton.jit
def rounded_rows(x, LEVELS: tl.constexpr, LEAST: tl.constexpr):
    """Rows x [M, D] float32 in steps of their own: int8, and the steps [M]."""
    scale = tl.maximum(tl.max(tl.abs(x), 1), LEAST) / LEVELS
    scale += 0.0 * tl.sum(x, 1)  # what is no finite number stays none
    steps = tl.floor(x / scale[:, None] + 0.5)
    steps = tl.minimum(tl.maximum(steps, -LEVELS), LEVELS)  # of two numbers the one that is a number
    return steps.to(tl.int8), scale


@triton.jit(do_not_specialize=VARYING)
def _quantise_kernel(
    x_ptr,  # [B, H, N, D], strides in rows of D
    channels_ptr,  # [B, H, 5, D] float32, as `Channels` has them
    x8_ptr,  # [B, H, N, D] int8
    terms_ptr,  # [B, H, N, 2] float32
    qk_scale, tokens, heads, stride_b: tl.int64, stride_h: tl.int64, stride_n: tl.int64,
    IS_Q: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, LEVELS: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    offs_d = tl.arange(0, HEAD_DIM)
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = rows < tokens
    x_ptr += (head // heads * stride_b + head % heads * stride_h) * HEAD_DIM
    x = tl.load(x_ptr + (rows * stride_n * HEAD_DIM)[:, None] + offs_d[None, :], mask=inside[:, None], other=0.0)
    x = x.to(tl.float32)
    channels_ptr += head * 5 * HEAD_DIM + offs_d
    balance = tl.load(channels_ptr)[None, :]
    q_mean, k_mean = tl.load(channels_ptr + HEAD_DIM)[None, :], tl.load(channels_ptr + 2 * HEAD_DIM)[None, :]
    if IS_Q:
        bias = tl.sum(x * k_mean, 1)
        steps, scale = rounded_rows((x - q_mean) * balance, LEVELS, LEAST)
        scale *= qk_scale
    else:
        x -= k_mean
        bias = tl.sum(x * q_mean, 1)
        steps, scale = rounded_rows(x / balance, LEVELS, LEAST)
    tl.store(x8_ptr + ((head * tokens + rows) * HEAD_DIM)[:, None] + offs_d[None, :], steps, mask=inside[:, None])
    terms_ptr += (head * tokens + rows) * 2
    tl.store(terms_ptr, scale, mask=inside)
    tl.store(terms_ptr + 1, bias * qk_scale, mask=inside)


@triton.jit(do_not_specialize=VARYING)
def _quantise_values_kernel(
    v_ptr,  # [B, H, N, D], strides in rows of D
    channels_ptr,  # [B, H, 5, D] float32
    v8_ptr,  # [B, H, N, D]
    largest, tokens, heads, stride_b: tl.int64, stride_h: tl.int64, stride_n: tl.int64,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    offs_d = tl.arange(0, HEAD_DIM)
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (rows < tokens)[:, None]
    v_ptr += (head // heads * stride_b + head % heads * stride_h) * HEAD_DIM
    v = tl.load(v_ptr + (rows * stride_n * HEAD_DIM)[:, None] + offs_d[None, :], mask=inside, other=0.0).to(tl.float32)
    channels_ptr += head * 5 * HEAD_DIM + offs_d
    scale, mean = tl.load(channels_ptr + 3 * HEAD_DIM), tl.load(channels_ptr + 4 * HEAD_DIM)
    v = tl.clamp((v - mean[None, :]) / scale[None, :], -largest, largest, propagate_nan=tl.PropagateNan.ALL)
    v8_ptr += ((head * tokens + rows) * HEAD_DIM)[:, None] + offs_d[None, :]
    tl.store(v8_ptr, v.to(v8_ptr.dtype.element_ty), mask=inside)


def launch_quantise(x: Tensor, channels: Channels, qk_scale: float, is_q: bool, x8: Tensor, terms: Tensor) -> None:
    """See the reference."""
    (b, h, n, d), (x, strides) = x.shape, token_rows(x)
    constexprs = {"IS_Q": is_q, "HEAD_DIM": d, "BLOCK_N": BLOCK_N, "LEVELS": LEVELS, "LEAST": LEAST}
    grid = (-(-n // BLOCK_N), b * h)
    _quantise_kernel[grid](x, channels.rows, x8, terms, qk_scale, n, h, *strides, **constexprs, num_warps=4, **FUSED)


def launch_quantise_values(v: Tensor, channels: Channels, v8: Tensor) -> None:
    """See the reference."""
    (b, h, n, d), (v, strides) = v.shape, token_rows(v)
    inputs = v, channels.rows, v8, LARGEST[v8.dtype]
    constexprs = {"HEAD_DIM": d, "BLOCK_N": BLOCK_N}
    _quantise_values_kernel[(-(-n // BLOCK_N), b * h)](*inputs, n, h, *strides, **constexprs, num_warps=4, **FUSED)
