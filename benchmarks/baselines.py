"""Two planners to compare with, for the quality benchmarks only: the best and random 64 x 64 blocks in raster order."""

from __future__ import annotations

import sys
import zlib
from dataclasses import dataclass

import torch
from sparse_videogen.kernels.plan import Plan
from sparse_videogen.svg_core import METHODS
from sparse_videogen.svg_core.planned import rows_of_tiles, whole
from sparse_videogen.svg_core.tiles import split_into_tiles
from torch import Tensor

WARMS_UP = False
BLOCK = 64  # rows and keys: a kernel for these plans has tiles of that size, and pads none


@dataclass(frozen=True)
class Blocks:
    """`density` of the key blocks for each query block: those of the highest mean score, or any."""

    density: float
    random: bool = False


def plan(q: Tensor, k: Tensor, v: Tensor, call, state, key):
    """One plan for all heads; blocks of BLOCK tokens in a row, every tile its own best key blocks."""
    (b, h, n, _), blocks, config = q.shape, -(-q.shape[2] // BLOCK), call.config
    rows = split_into_tiles(torch.arange(n, dtype=torch.int32, device=q.device), BLOCK)
    if config.random:
        rng = torch.Generator().manual_seed(zlib.crc32(repr(key).encode()))
        scores = torch.rand(b * h, blocks, blocks, generator=rng).to(q.device)
    else:
        q_mean, k_mean = (_means(x, rows).flatten(0, 1) for x in (q, k))
        scores = q_mean @ k_mean.transpose(1, 2)
    kept = max(1, round(config.density * blocks))
    chosen = scores.topk(kept, dim=-1).indices.sort(-1).values
    index = rows[chosen].flatten(2)
    # The last block may not be full: its gaps go to the end of the list.
    index = torch.where(index < 0, n, index).sort(-1).values.int()
    count = (index < n).sum(-1).int()
    start = torch.arange(count.numel(), device=q.device).view_as(count) * index.shape[2]
    sets = torch.arange(b * h, dtype=torch.int32, device=q.device).view(b, h)
    tiles = rows.expand(b * h, -1, -1)
    return whole(Plan(sets, tiles, index.flatten(), start, count), rows_of_tiles(tiles))


def _means(x: Tensor, rows: Tensor) -> Tensor:
    """Means of x [B, H, N, D] over the blocks, [B, H, blocks, D] float32."""
    taken = x.float()[:, :, rows.clamp(min=0).long()] * (rows >= 0).unsqueeze(-1)
    return taken.sum(-2) / (rows >= 0).sum(-1, keepdim=True)


METHODS[Blocks] = sys.modules[__name__]
