"""pack in Triton: a program copies the segments of one tile that are not empty, one after the other."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# One warp walks 32 segments: most are empty (a tile reads a quarter of them or less) and the others hold about 75
# tokens, so a block of several segments at a time would mostly wait for its longest.
SEGMENTS = 32
COLUMNS = 128


@triton.jit(
    do_not_specialize=[
        *("n_tiles", "n_segments", "capacity", "stride_ol", "stride_sl", "stride_st", "stride_ss"),
        *("stride_nl", "stride_nt", "stride_ns"),
    ]
)
def _pack_lists_kernel(
    order_ptr,  # [L, N] int32
    start_ptr,  # [L, T, S] int32
    length_ptr,  # [L, T, S] int32
    ends_ptr,  # [L, T, S] int32, where each segment ends in the list
    index_ptr,  # [L, T, capacity] int32
    n_tiles,
    n_segments,
    capacity,
    stride_ol: tl.int64,
    stride_sl: tl.int64,
    stride_st: tl.int64,
    stride_ss: tl.int64,
    stride_nl: tl.int64,
    stride_nt: tl.int64,
    stride_ns: tl.int64,
    SEGMENTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    tile, lists = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    start_ptr += lists * stride_sl + tile * stride_st
    length_ptr += lists * stride_nl + tile * stride_nt
    ends_ptr += (lists * n_tiles + tile) * n_segments
    index_ptr += (lists * n_tiles + tile) * capacity
    first = tl.program_id(1) * SEGMENTS
    for segment in range(first, tl.minimum(first + SEGMENTS, n_segments)):
        length = tl.load(length_ptr + segment * stride_ns)
        if length > 0:
            source = order_ptr + lists * stride_ol + tl.load(start_ptr + segment * stride_ss)
            target = index_ptr + tl.load(ends_ptr + segment) - length
            for column in range(0, length, COLUMNS):
                offs = column + tl.arange(0, COLUMNS)
                tl.store(target + offs, tl.load(source + offs, mask=offs < length), mask=offs < length)


def launch_pack_lists(order: Tensor, start: Tensor, length: Tensor, capacity: int | None) -> tuple[Tensor, Tensor]:
    """See the contract."""
    sets, tiles, segments = length.shape
    count = length.sum(-1, dtype=torch.int32)
    ends = length.cumsum(-1, dtype=torch.int32).contiguous()
    capacity = int(count.max()) if capacity is None else capacity
    index = torch.empty((sets, tiles, capacity), dtype=torch.int32, device=order.device)
    order = order if order.stride(1) == 1 else order.contiguous()
    _pack_lists_kernel[(tiles, triton.cdiv(segments, SEGMENTS), sets)](
        order,
        start,
        length,
        ends,
        index,
        tiles,
        segments,
        capacity,
        order.stride(0),
        *start.stride(),
        *length.stride(),
        SEGMENTS=SEGMENTS,
        COLUMNS=COLUMNS,
        num_warps=1,
    )
    return index, count
