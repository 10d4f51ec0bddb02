"""SVG2's planner (arXiv 2505.18875, section 4): tokens are grouped by k-means, a tile reads the clusters that matter.

Beside the paper's own mode (tile_cut="cluster", tail="off") stand two changes. Tiles are cut from the sorted
queries at full height even across a cluster's border, each choosing by the mean distribution of its rows: at
128 rows a tile, cutting at the borders computes 25-45 % more for the same keys. And the keys of clusters that
are not chosen still count, through a tail of one term a cluster.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ..kernels.centroids import Centroids, centroids
from ..kernels.gather_attention import Plan, Tail
from ..kernels.pack import Groups, pack_lists, sort_by_label
from ..kernels.select import select
from .config import SVG2Config
from .kmeans import initial_centroids, kmeans
from .layout import VideoLayout
from .planned import Planned, rows_of_tiles
from .state import SparseState
from .tiles import cut, text_keys


@dataclass(frozen=True)
class Clusters:
    """Groups and centroids of the video's queries and keys, [B, H, ...]; variances of the keys if the tail wants them."""

    queries: Groups
    keys: Groups
    query_centroids: Centroids
    key_centroids: Centroids


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
) -> Planned:
    """Plans the video's queries: all heads at once, but key lists of as many at a time as `workspace_bytes` allow."""
    clusters, memory = update_clusters(q, k, config, layout, state.get(key), final=True, backend=backend)
    query_index, row_labels = query_tiles(clusters.queries, config, layout, block_m)
    kept, count = choose(clusters, row_labels, config, sm_scale, backend)
    # Longest lists first: what is left at a launch's end are short ones, and no multiprocessor waits long for another.
    count, longest = count.sort(dim=-1, descending=True, stable=True)
    kept, query_index = (x.gather(2, longest.unsqueeze(-1).expand_as(x)) for x in (kept, query_index))
    key_count = torch.where(count > 0, count + layout.text_keys, 0)
    rows = rows_of_tiles(query_index)
    tail = None if config.tail == "off" else tail_terms(v[:, :, layout.video], clusters, backend)
    share = kept.sum((-2, -1)) / ((rows > 0).sum(-1) * kept.shape[-1])
    sets = torch.arange(rows[..., 0].numel(), dtype=torch.int32, device=q.device).view(rows.shape[:2])

    order = torch.cat([text_keys(layout, q.device, state).expand(*kept.shape[:2], -1), clusters.keys.order], -1)
    order[..., layout.text_keys :] += layout.text_before
    start, size = clusters.keys.offsets[..., :-1] + layout.text_keys, clusters.keys.size

    def part(b: int, heads: slice) -> Plan:
        reads = kept[b, heads]
        key_index, _ = pack_lists(
            order[b, heads],
            *(x[b, heads].unsqueeze(1).expand_as(reads) for x in (start, size)),
            kept=reads,
            prefix=layout.text_keys,
            capacity=None if q.device.type == "cpu" else order.shape[2],
            backend=backend,
        )
        skipped = None if tail is None else Tail(*(None if x is None else x[b : b + 1, heads] for x in tail), reads)
        return Plan(sets[:1, : len(key_index)], query_index[b, heads], key_index, key_count[b, heads], skipped)

    def parts() -> Iterator[tuple[tuple[slice, slice], Plan]]:
        step = max(1, workspace_bytes // list_bytes(config, layout, block_m))
        for b, head in product(range(q.shape[0]), range(0, q.shape[1], step)):
            heads = slice(head, head + step)
            yield (slice(b, b + 1), heads), part(b, heads)
        state.put(key, memory)  # last: a call that runs out of memory on the way can be made again

    return Planned(sets, rows.flatten(0, 1), key_count.flatten(0, 1), parts(), share)


def list_bytes(config: SVG2Config, layout: VideoLayout, block_m: int) -> int:
    """Bytes of one head's key lists: at full length, since on a GPU the real one is not known without waiting."""
    tiles = -(-layout.video_tokens // block_m)
    if config.tile_cut == "cluster":
        tiles += min(config.q_clusters, layout.video_tokens)
    return 4 * tiles * (layout.video_tokens + layout.text_keys)


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


def choose(clusters: Clusters, row_labels: Tensor, config: SVG2Config, sm_scale: float, backend: str) -> tuple[Tensor, Tensor]:
    """Which key clusters each tile reads, by the mass that their centroids promise, and their keys; as `select`."""
    mean, size = clusters.key_centroids.mean, clusters.key_centroids.size
    log_size = size.float().log().flatten(0, 1).unsqueeze(1)
    queries, keys = clusters.query_centroids.mean.flatten(0, 1), mean.flatten(0, 1).transpose(1, 2)
    probs = torch.baddbmm(log_size, queries, keys, alpha=sm_scale).softmax(-1)
    probs = probs.unflatten(0, mean.shape[:2])
    return select(probs, row_labels, size, config.top_p, config.min_keep, backend=backend)


def tail_terms(v: Tensor, clusters: Clusters, backend: str) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """k_mean, k_variance, v_mean and log_size of `Tail`, in the dtype of v [B, H, Nv, D]."""
    mean, size, variance = clusters.key_centroids
    v_mean = centroids(v, clusters.keys, backend=backend).mean
    return mean.to(v.dtype), None if variance is None else variance.to(v.dtype), v_mean.to(v.dtype), size.float().log()


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
