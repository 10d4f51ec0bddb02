"""SVG2's planner (arXiv 2505.18875, section 4): tokens are grouped by k-means, a tile reads the clusters that matter.

Beside the paper's own mode (tile_cut="cluster", tail="off") stand two changes. Tiles are cut from the sorted
queries at full height even across a cluster's border, each choosing by the mean distribution of its rows: at
128 rows a tile, cutting at the borders computes 25-45 % more for the same keys. And the keys of clusters that
are not chosen still count, through a tail of one term a cluster.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.centroids import Centroids, centroids
from ..kernels.gather_attention import Plan, Tail
from ..kernels.pack import Groups, pack_lists, sort_by_label
from ..kernels.select import select
from .config import SVG2Config
from .kmeans import initial_centroids, kmeans
from .layout import VideoLayout
from .state import SparseState
from .tiles import cut, text_keys


@dataclass(frozen=True)
class Clusters:
    """Groups and centroids of the video's queries and keys, [B, H, ...]; variances of the keys if the tail wants them."""

    queries: Groups
    keys: Groups
    query_centroids: Centroids
    key_centroids: Centroids

    def of(self, heads: slice) -> Clusters:
        """The same for a group of heads."""
        parts = (self.queries, self.keys, self.query_centroids, self.key_centroids)
        return Clusters(*(type(part)(*(None if x is None else x[:, heads] for x in part)) for part in parts))


@dataclass(frozen=True)
class Memory:
    """What the state keeps of a call for the next: means in the model's dtype, labels only if the next call keeps them.

    All in float32 and int32 would be 4 GB for Wan 14B at 720p with cond and uncond; so it is 1.

    Attributes:
        q_mean, k_mean: [B, H, C, D].
        q_labels, k_labels: [B, H, Nv] int16, or None.
        tokens: Nv.
        iterations, calls: made so far.
    """

    q_mean: Tensor
    k_mean: Tensor
    q_labels: Tensor | None
    k_labels: Tensor | None
    tokens: int
    iterations: int
    calls: int


def plan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    config: SVG2Config,
    layout: VideoLayout,
    state: SparseState,
    key: Hashable,
    *,
    sm_scale: float,
    block_m: int,
    backend: str,
    workspace_bytes: int,
) -> Iterator[tuple[slice, Plan]]:
    """Yields (heads, plan) of the video's queries, as many heads at a time as `workspace_bytes` of key lists allow."""
    clusters, memory = update_clusters(q, k, config, layout, state.get(key), final=True, backend=backend)
    text = text_keys(layout, q.device, state)
    step = max(1, workspace_bytes // list_bytes(config, layout, q.shape[0], block_m))
    for head in range(0, q.shape[1], step):
        heads = slice(head, head + step)
        yield heads, plan_heads(v[:, heads], clusters.of(heads), text, config, layout, sm_scale, block_m, backend)
    state.put(key, memory)  # last: a call that runs out of memory on the way can be made again


def list_bytes(config: SVG2Config, layout: VideoLayout, batch: int, block_m: int) -> int:
    """Bytes of one head's key lists: at full length, since on a GPU the real one is not known without waiting."""
    tiles = -(-layout.video_tokens // block_m)
    if config.tile_cut == "cluster":
        tiles += min(config.q_clusters, layout.video_tokens)
    return 4 * batch * tiles * (layout.video_tokens + layout.text_keys)


def update_clusters(
    q: Tensor,
    k: Tensor,
    config: SVG2Config,
    layout: VideoLayout,
    last: Memory | None,
    *,
    final: bool,
    backend: str,
) -> tuple[Clusters, Memory]:
    """Clusters for this call, from the last ones where there are any, and what to remember of them.

    Args:
        q, k: [B, H, N, D].
        last: what the last call remembered; of no use for another length or device.
        final: the call that follows needs them: catch up on what is missing of `kmeans_init_iters`.
    """
    q, k = q[:, :, layout.video], k[:, :, layout.video]
    if last is not None and (last.tokens != q.shape[2] or last.q_mean.device != q.device):
        last = None
    done, calls = (last.iterations, last.calls) if last is not None else (0, 0)
    missing = config.kmeans_init_iters - done if final else 0
    iterations = max(missing, config.kmeans_step_iters)
    variance = config.tail == "second_order"
    if last is not None and last.q_labels is not None and missing <= 0:
        iterations, clusters = 0, _refreshed(q, k, last, variance, backend)
    else:
        q_start = last.q_mean if last is not None else initial_centroids(q, min(config.q_clusters, q.shape[2]))
        k_start = last.k_mean if last is not None else initial_centroids(k, min(config.k_clusters, k.shape[2]))
        queries, query_centroids = kmeans(q, q_start, iterations, backend)
        keys, key_centroids = kmeans(k, k_start, iterations, backend, variance=variance and final)
        clusters = Clusters(queries, keys, query_centroids, key_centroids)
    keep = (calls + 1) % config.recluster_every != 0
    labels = (x.labels.short() if keep else None for x in (clusters.queries, clusters.keys))
    means = (x.mean.to(q.dtype) for x in (clusters.query_centroids, clusters.key_centroids))
    return clusters, Memory(*means, *labels, q.shape[2], done + iterations, calls + 1)


def _refreshed(q: Tensor, k: Tensor, last: Memory, variance: bool, backend: str) -> Clusters:
    """The last call's labels, with the centroids of this call's tokens."""
    queries = sort_by_label(last.q_labels.int(), last.q_mean.shape[2])
    keys = sort_by_label(last.k_labels.int(), last.k_mean.shape[2])
    query_centroids = centroids(q, queries, previous=last.q_mean, backend=backend)
    key_centroids = centroids(k, keys, previous=last.k_mean, variance=variance, backend=backend)
    return Clusters(queries, keys, query_centroids, key_centroids)


def plan_heads(
    v: Tensor,
    clusters: Clusters,
    text: Tensor,
    config: SVG2Config,
    layout: VideoLayout,
    sm_scale: float,
    block_m: int,
    backend: str,
) -> Plan:
    """The plan of a group of heads, from their clusters and the `text_keys`."""
    b, h = v.shape[:2]
    mean, size, variance = clusters.key_centroids
    query_index, row_labels = query_tiles(clusters.queries, config, layout, block_m)
    scores = (clusters.query_centroids.mean @ mean.transpose(2, 3)) * sm_scale + size.float().log().unsqueeze(2)
    kept = select(scores.softmax(-1), row_labels, config.top_p, config.min_keep, backend=backend)
    has_rows = (query_index >= 0).any(-1)
    key_index, key_count = key_lists(clusters.keys, text, kept, has_rows, layout, backend)
    share = kept.float().mean(-1).sum(-1) / has_rows.sum(-1)

    tail = None
    if config.tail != "off":
        v_mean = centroids(v[:, :, layout.video], clusters.keys, backend=backend).mean
        mean, variance, v_mean = (None if x is None else x.to(v.dtype) for x in (mean, variance, v_mean))
        tail = Tail(mean, variance, v_mean, size, kept.flatten(0, 1))
    sets = torch.arange(b * h, dtype=torch.int32, device=v.device).view(b, h)
    return Plan(sets, query_index.flatten(0, 1), key_index, key_count, tail, share)


def key_lists(
    keys: Groups, text: Tensor, kept: Tensor, has_rows: Tensor, layout: VideoLayout, backend: str
) -> tuple[Tensor, Tensor]:
    """Each tile's keys: the text, then the clusters that it keeps; key_index and key_count of the plan.

    Args:
        keys: groups of the video's keys.
        text: [text_keys] int32.
        kept: [B, H, T, C] bool.
        has_rows: [B, H, T] bool; a tile without rows reads nothing.
    """
    order = torch.cat([text.expand(*kept.shape[:2], -1), keys.order + layout.text_before], -1)
    # One segment of text, then one a cluster.
    start = F.pad(keys.offsets[..., :-1] + layout.text_keys, (1, 0), value=0)
    length = F.pad(kept * keys.size.unsqueeze(2), (1, 0), value=layout.text_keys) * has_rows.unsqueeze(-1)
    return pack_lists(
        order.flatten(0, 1),
        start.flatten(0, 1).unsqueeze(1).expand(-1, kept.shape[2], -1),
        length.flatten(0, 1),
        capacity=None if kept.device.type == "cpu" else order.shape[2],
        backend=backend,
    )


def query_tiles(queries: Groups, config: SVG2Config, layout: VideoLayout, block_m: int) -> tuple[Tensor, Tensor]:
    """Tiles of the video's query rows, sorted by cluster: token numbers and clusters, [B, H, T, M], -1 beyond."""
    labels, order, _ = queries
    if config.tile_cut == "cluster":
        order = _align_to_clusters(queries, block_m)
    rows = cut(order, block_m)
    row_labels = labels.gather(2, order.clamp(min=0).long())
    row_labels = cut(torch.where(order < 0, -1, row_labels), block_m)
    return torch.where(rows < 0, -1, rows + layout.text_before), row_labels


def _align_to_clusters(queries: Groups, block_m: int) -> Tensor:
    """Spreads sorted rows so that each cluster begins on a tile's first row, -1 between."""
    labels, order, offsets = queries
    size = queries.size
    padded = (size + block_m - 1) // block_m * block_m
    shift = padded.cumsum(-1) - padded - offsets[..., :-1]
    sorted_labels = labels.gather(2, order.long()).long()
    position = torch.arange(order.shape[2], device=order.device) + shift.gather(2, sorted_labels)
    tiles = order.shape[2] // block_m + size.shape[2]
    aligned = order.new_full((*order.shape[:2], tiles * block_m), -1)
    return aligned.scatter_(2, position, order)
