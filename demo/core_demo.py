"""The method alone, without a host: dense, SVG and SVG2 on a synthetic scene."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from scene import video_qkv
from sparse_videogen.svg_core import SVG2Config, SVGConfig, VideoLayout, sparse_attention
from torch import Tensor

GRID = (8, 32, 32)
HEADS, HEAD_DIM = 4, 128
CLUSTERS = {"q_clusters": 64, "k_clusters": 128, "kmeans_init_iters": 8}
METHODS = {
    "SVG": SVGConfig(sparsity=0.75),
    "SVG2, as published": SVG2Config(top_p=0.9, tail="off", tile_cut="cluster", **CLUSTERS),
    "SVG2": SVG2Config(top_p=0.9, **CLUSTERS),
    "SVG2, turbo": SVG2Config(top_p=0.7, min_keep=0.03, **CLUSTERS),
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        density, computed: means over heads or calls, in [0, 1].
        error: relative L2 error against dense.
        seconds: wall time, planning included.
    """

    method: str
    density: float
    computed: float
    error: float
    seconds: float


def run(progress: Callable[[str, int, int], None]) -> Iterator[Row]:
    """Yields a row a method, dense first; one layer's attention each."""
    layout = VideoLayout(*GRID)
    q, k, v = video_qkv(*GRID, heads=HEADS, head_dim=HEAD_DIM)
    total = 1 + len(METHODS)
    progress("dense", 0, total)
    seconds, dense = _timed(lambda: F.scaled_dot_product_attention(q, k, v))
    yield Row("dense", 1.0, 1.0, 0.0, seconds)
    for done, (name, config) in enumerate(METHODS.items(), start=1):
        progress(name, done, total)
        seconds, (out, stats) = _timed(lambda config=config: sparse_attention(q, k, v, config=config, layout=layout))
        error = ((out - dense).norm() / dense.norm()).item()
        yield Row(name, stats.density.mean().item(), stats.computed.mean().item(), error, seconds)
    progress("done", total, total)


def _timed(function: Callable) -> tuple[float, Tensor]:
    """The second of two runs: the first pays for what is set up once."""
    function()
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result
