"""pack in Triton: a program copies the segments of one tile that it reads, one after the other."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..compat import FUSED

# One warp walks 32 segments: most are empty (a tile reads a quarter of them or less) and the others hold about 75
# tokens, so a block of several segments at a time would mostly wait for its longest.
SEGMENTS = 32
COLUMNS = 128
BLOCK_S = 1024  # segments at a time, where their lengths are only summed up


@triton.jit
def _sum_lengths(length_ptr, segment_mask_ptr, stride_ns, end, HAS_MASK: tl.constexpr, BLOCK_S: tl.constexpr):
    """Tokens of the segments before `end` that the tile reads."""
    total = 0
    for start in range(0, end, BLOCK_S):
        offs_s = start + tl.arange(0, BLOCK_S)
        length = tl.load(length_ptr + offs_s * stride_ns, mask=offs_s < end, other=0)
        if HAS_MASK:
            length *= (tl.load(segment_mask_ptr + offs_s, mask=offs_s < end, other=0) != 0).to(tl.int32)
        total += tl.sum(length, axis=0)
    return total


@triton.jit
def _copy(source, target, length, COLUMNS: tl.constexpr):
    for column in range(0, length, COLUMNS):
        offs = column + tl.arange(0, COLUMNS)
        tl.store(target + offs, tl.load(source + offs, mask=offs < length), mask=offs < length)


@triton.jit(
    do_not_specialize=[
        *("n_tiles", "n_segments", "capacity", "prefix", "stride_ol", "stride_sl", "stride_st", "stride_ss"),
        *("stride_nl", "stride_nt", "stride_ns"),
        # These begin where a group of heads does, aligned or not.
        *("permutation_ptr", "start_ptr", "length_ptr", "count_ptr", "segment_mask_ptr"),
    ]
)
def _pack_lists_kernel(
    permutation_ptr,  # [L, N] int32
    start_ptr,  # [L, T, S] int32
    length_ptr,  # [L, T, S] int32
    count_ptr,  # [L, T] int32
    segment_mask_ptr,  # [L, T, S] uint8, read if HAS_MASK
    key_start_ptr,  # [L, T] int64
    key_index_ptr,  # [capacity] int32
    n_tiles,
    n_segments,
    prefix,
    capacity: tl.int64,
    stride_ol: tl.int64,
    stride_sl: tl.int64,
    stride_st: tl.int64,
    stride_ss: tl.int64,
    stride_nl: tl.int64,
    stride_nt: tl.int64,
    stride_ns: tl.int64,
    HAS_MASK: tl.constexpr,
    SEGMENTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    tile, lists = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    permutation_ptr += lists * stride_ol
    start_ptr += lists * stride_sl + tile * stride_st
    length_ptr += lists * stride_nl + tile * stride_nt
    cell = lists * n_tiles + tile
    segment_mask_ptr += cell * n_segments
    key_start = tl.load(key_start_ptr + cell)
    key_index_ptr += key_start
    # Entries that may be written: the tile's own, and none beyond the end.
    room = tl.maximum(tl.minimum(capacity - key_start, tl.load(count_ptr + cell)), 0).to(tl.int32)
    prefix = tl.minimum(prefix, room)
    first = tl.program_id(1) * SEGMENTS
    if first == 0:
        _copy(permutation_ptr, key_index_ptr, prefix, COLUMNS)
    position = prefix + _sum_lengths(length_ptr, segment_mask_ptr, stride_ns, first, HAS_MASK, BLOCK_S)
    for segment in range(first, tl.minimum(first + SEGMENTS, n_segments)):
        length = tl.load(length_ptr + segment * stride_ns)
        if HAS_MASK:
            length *= (tl.load(segment_mask_ptr + segment) != 0).to(tl.int32)
        if length > 0:
            source = permutation_ptr + tl.load(start_ptr + segment * stride_ss)
            _copy(source, key_index_ptr + position, tl.minimum(length, room - position), COLUMNS)
            position += length


def launch_pack_lists(
    permutation: Tensor,
    start: Tensor,
    length: Tensor,
    count: Tensor,
    key_start: Tensor,
    segment_mask: Tensor | None,
    prefix: int,
    capacity: int,
) -> Tensor:
    """See the contract; key_index alone, of lists that begin at `key_start`."""
    sets, tiles, segments = length.shape
    key_index = torch.empty(capacity, dtype=torch.int32, device=permutation.device)
    permutation = permutation if permutation.stride(1) == 1 else permutation.contiguous()
    _pack_lists_kernel[(tiles, triton.cdiv(segments, SEGMENTS), sets)](
        permutation, start, length, count.contiguous(),
        count if segment_mask is None else segment_mask.contiguous().view(torch.uint8),
        key_start, key_index,
        tiles, segments, prefix, capacity,
        permutation.stride(0), *start.stride(), *length.stride(),
        HAS_MASK=segment_mask is not None, SEGMENTS=SEGMENTS, COLUMNS=COLUMNS, BLOCK_S=BLOCK_S, num_warps=1, **FUSED,
    )  # fmt: skip
    return key_index
