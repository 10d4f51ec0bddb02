"""What a run needs beyond dense attention: bytes of a call at its peak, and of the state that lives between calls."""

from __future__ import annotations

from torch import Tensor

from ..kernels.gather_attention import tile_rows
from .attention import WORKSPACE_BYTES
from .config import SVG2Config, SVGConfig
from .layout import VideoLayout
from .svg import Band
from .svg2 import list_bytes

# Partial results of the rows that profile a head, by head_dim: so many programs run, whatever the shape.
PROFILE_BYTES = 288 << 10
BLOCK_C = 1024  # the choice's masses are in whole blocks of so many clusters


def call_bytes(
    config: SVGConfig | SVG2Config,
    layout: VideoLayout,
    *,
    batch: int,
    heads: int,
    head_dim: int,
    block_m: int,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> int:
    """Bytes that one call allocates at its peak, its output and the state apart: key lists, labels, centroids.

    For 16-bit q, k, v. Within 10 % of what is counted at the shapes of real models; see tests/benchmarks/test_memory.py.
    """
    tiles = -(-layout.video_tokens // block_m)
    if isinstance(config, SVGConfig):
        bands = (Band(config, layout, block_m, stride) for stride in (1, layout.frames))
        longest = max(band.prefix + max(end - begin for begin, end in zip(*band.tile_ranges(), strict=True)) for band in bands)
        return 8 * tiles * (block_m + longest) + 8 * layout.tokens + head_dim * PROFILE_BYTES
    q_clusters, k_clusters = (min(n, layout.video_tokens) for n in (config.q_clusters, config.k_clusters))
    lists = list_bytes(config, layout, block_m)
    together = min(heads, max(1, workspace_bytes // lists))
    if config.tile_cut == "cluster":
        tiles += q_clusters
    every, moments = batch * heads, 2 if config.tail == "second_order" else 1
    chosen = every * tiles * (k_clusters + 4 * block_m)  # clusters that a tile keeps, and its rows
    labels = 16 * every * layout.video_tokens
    means = 2 * every * head_dim * (q_clusters + k_clusters)  # what the state takes over
    # First the choice, with centroids in float32 and the rows' labels; then the lists, with the tail's terms in 16 bit.
    probs, mass = (4 * every * n for n in (q_clusters * k_clusters, tiles * -(-k_clusters // BLOCK_C) * BLOCK_C))
    centroids = 4 * every * head_dim * (q_clusters + k_clusters * moments)
    choice = max(2 * probs, probs + mass) + 4 * every * tiles * block_m + centroids
    terms = 0 if config.tail == "off" else 2 * every * head_dim * k_clusters * (1 + moments)
    return max(together * lists + terms, choice) + chosen + labels + means


def state_bytes(config: SVGConfig | SVG2Config, layout: VideoLayout, *, batch: int, heads: int, head_dim: int) -> int:
    """Bytes that one layer keeps from call to call for one conditioning, for 16-bit q and k."""
    if isinstance(config, SVGConfig):
        return 0
    clusters = sum(min(n, layout.video_tokens) for n in (config.q_clusters, config.k_clusters))
    labels = 4 * layout.video_tokens if config.recluster_every > 1 else 0
    return batch * heads * (2 * clusters * head_dim + labels)


def can_split(config: SVGConfig | SVG2Config, layout: VideoLayout, q: Tensor, workspace_bytes: int) -> bool:
    """Whether half the workspace holds fewer key lists of q [B, H, N, D], and still those of one head."""
    if isinstance(config, SVGConfig):
        return False
    block_m = tile_rows(q.shape[3], q.device, q.dtype)
    return workspace_bytes >= 2 * list_bytes(config, layout, block_m)
