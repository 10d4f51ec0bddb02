"""Planners to compare with, for the quality benchmarks only: the best and random 64 x 64 blocks in raster order, and SVG2
with chance in place of its choice.
"""

from __future__ import annotations

import sys
import zlib
from dataclasses import dataclass
from types import SimpleNamespace
from unittest.mock import patch

import torch
from sparse_videogen.kernels.plan import Plan
from sparse_videogen.svg_core import METHODS, SVG2Config, choice, svg2
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

    def at(self, place: float) -> Blocks:
        """The settings at a place in the schedule: the same everywhere."""
        return self


@dataclass(frozen=True)
class RandomClusters(SVG2Config):
    """SVG2's clusters, tiles, budget and tail; which clusters a tile reads is left to chance."""


def plan(q: Tensor, k: Tensor, v: Tensor, call, state, key):
    """One plan for all heads; blocks of BLOCK tokens in a row, every tile its own best key blocks."""
    (b, h, n, _), blocks, config = q.shape, -(-q.shape[2] // BLOCK), call.config
    rows = split_into_tiles(torch.arange(n, dtype=torch.int32, device=q.device), BLOCK)
    if config.random:
        scores = _chance(key, b * h, blocks, blocks).to(q.device)
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


def _chance(key, *shape: int) -> Tensor:
    """Numbers in [0, 1) that are the same for equal keys."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(zlib.crc32(repr(key).encode())))


def _plan_random_clusters(q: Tensor, k: Tensor, v: Tensor, call, state, key):
    def score(q: Tensor, rows: Tensor, k_mean: Tensor, *more, **options) -> Tensor:
        return _chance(key, *rows.shape[:3], k_mean.shape[2]).to(q.device)

    with patch.object(choice, "score", score):  # the choice is made before the plan's parts are asked for
        return svg2.plan(q, k, v, call, state, key)


METHODS[RandomClusters] = SimpleNamespace(plan=_plan_random_clusters, WARMS_UP=svg2.WARMS_UP, warm_up=svg2.warm_up)
METHODS[Blocks] = sys.modules[__name__]
