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

from ..kernels.centroids import centroids
from ..kernels.gather_attention import Plan, Tail
from ..kernels.pack import pack_lists, sort_by_label
from ..kernels.select import select
from .config import SVG2Config
from .kmeans import initial_centroids, kmeans
from .layout import VideoLayout
from .state import SparseState
from .tiles import cut, text_index

# Key lists that exist at a time, at full length on a GPU, where their real length is not known without waiting.
LIST_BYTES = 512 << 20


@dataclass(frozen=True)
class Clusters:
    """Labels [B, H, Nv] int32 of the video's queries and keys, and their means [B, H, C, D] float32."""

    q_labels: Tensor
    k_labels: Tensor
    q_mean: Tensor
    k_mean: Tensor

    def of(self, heads: slice) -> Clusters:
        """The same for a group of heads."""
        return Clusters(*(x[:, heads] for x in (self.q_labels, self.k_labels, self.q_mean, self.k_mean)))


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
) -> Iterator[tuple[slice, Plan]]:
    """Yields (heads, plan), as many heads at a time as `LIST_BYTES` of key lists allow."""
    clusters = update_clusters(q, k, config, layout, state, key, final=True, backend=backend)
    tiles = layout.tokens // block_m + (clusters.q_mean.shape[2] if config.tile_cut == "cluster" else 2)
    step = max(1, LIST_BYTES // (4 * q.shape[0] * tiles * layout.tokens))
    for head in range(0, q.shape[1], step):
        heads = slice(head, head + step)
        yield heads, plan_heads(k[:, heads], v[:, heads], clusters.of(heads), config, layout, sm_scale, block_m, backend)


def update_clusters(
    q: Tensor,
    k: Tensor,
    config: SVG2Config,
    layout: VideoLayout,
    state: SparseState,
    key: Hashable,
    *,
    final: bool,
    backend: str,
) -> Clusters:
    """Clusters for this call, from the last ones where there are any, and back into the state.

    Args:
        q, k: [B, H, N, D].
        final: the call that follows needs them: catch up on what is missing of `kmeans_init_iters`.
    """
    q, k = q[:, :, layout.video], k[:, :, layout.video]
    last = state.get(key)
    if last is not None and (last.tokens != q.shape[2] or last.q_mean.device != q.device):
        last = None
    done, calls = (last.iterations, last.calls) if last is not None else (0, 0)
    missing = config.kmeans_init_iters - done if final else 0
    iterations = max(missing, config.kmeans_step_iters)
    if last is not None and last.q_labels is not None and missing <= 0:
        iterations, clusters = 0, _refreshed(q, k, last, backend)
    else:
        q_start = last.q_mean if last is not None else initial_centroids(q, min(config.q_clusters, q.shape[2]))
        k_start = last.k_mean if last is not None else initial_centroids(k, min(config.k_clusters, k.shape[2]))
        (q_labels, q_mean), (k_labels, k_mean) = (kmeans(x, c, iterations, backend) for x, c in ((q, q_start), (k, k_start)))
        clusters = Clusters(q_labels, k_labels, q_mean, k_mean)
    keep = (calls + 1) % config.recluster_every != 0
    labels = (x.short() if keep else None for x in (clusters.q_labels, clusters.k_labels))
    means = (x.to(q.dtype) for x in (clusters.q_mean, clusters.k_mean))
    state.put(key, Memory(*means, *labels, q.shape[2], done + iterations, calls + 1))
    return clusters


def _refreshed(q: Tensor, k: Tensor, last: Memory, backend: str) -> Clusters:
    """The last call's labels, with the means of this call's tokens."""
    q_labels, k_labels = last.q_labels.int(), last.k_labels.int()
    q_mean = centroids(q, q_labels, last.q_mean.shape[2], previous=last.q_mean, backend=backend).mean
    k_mean = centroids(k, k_labels, last.k_mean.shape[2], previous=last.k_mean, backend=backend).mean
    return Clusters(q_labels, k_labels, q_mean, k_mean)


def plan_heads(
    k: Tensor,
    v: Tensor,
    clusters: Clusters,
    config: SVG2Config,
    layout: VideoLayout,
    sm_scale: float,
    block_m: int,
    backend: str,
) -> Plan:
    """The plan of a group of heads, from their clusters."""
    b, h = k.shape[:2]
    n_clusters = clusters.k_mean.shape[2]
    keys = centroids(
        k[:, :, layout.video],
        clusters.k_labels,
        n_clusters,
        previous=clusters.k_mean,
        variance=config.tail == "second_order",
        backend=backend,
    )
    query_index, row_labels = query_tiles(clusters.q_labels, clusters.q_mean.shape[2], config, layout, block_m, backend)
    scores = (clusters.q_mean.float() @ keys.mean.transpose(2, 3)) * sm_scale + keys.size.float().log().unsqueeze(2)
    kept = select(scores.softmax(-1), row_labels, config.top_p, config.min_keep, backend=backend)
    if layout.text_tokens:
        kept[:, :, -cut(text_index(layout, k.device), block_m).shape[0] :] = True
    has_rows = (query_index >= 0).any(-1)
    key_index, key_count = key_lists(clusters.k_labels, keys.size, kept, has_rows, layout, backend)

    tail = None
    if config.tail != "off":
        v_mean = centroids(v[:, :, layout.video], clusters.k_labels, n_clusters, backend=backend).mean
        mean, variance, v_mean = (None if x is None else x.to(k.dtype) for x in (keys.mean, keys.variance, v_mean))
        tail = Tail(mean, variance, v_mean, keys.size, kept.flatten(0, 1))
    sets = torch.arange(b * h, dtype=torch.int32, device=k.device).view(b, h)
    return Plan(sets, query_index.flatten(0, 1), key_index, key_count, tail)


def key_lists(
    labels: Tensor, size: Tensor, kept: Tensor, has_rows: Tensor, layout: VideoLayout, backend: str
) -> tuple[Tensor, Tensor]:
    """Each tile's keys: the text, then the clusters that it keeps; key_index and key_count of the plan.

    Args:
        labels: [B, H, Nv] int32, clusters of the video's keys.
        size: [B, H, C] int32.
        kept: [B, H, T, C] bool.
        has_rows: [B, H, T] bool; a tile without rows reads nothing.
    """
    order, offsets = sort_by_label(labels, size.shape[2])
    text = text_index(layout, labels.device).expand(*labels.shape[:2], -1)
    order = torch.cat([text, order + layout.text_before], -1)
    # One segment of text, then one a cluster.
    start = F.pad(offsets[..., :-1] + layout.text_tokens, (1, 0), value=0)
    length = F.pad(kept * size.unsqueeze(2), (1, 0), value=layout.text_tokens) * has_rows.unsqueeze(-1)
    return pack_lists(
        order.flatten(0, 1),
        start.flatten(0, 1).unsqueeze(1).expand(-1, kept.shape[2], -1),
        length.flatten(0, 1),
        capacity=None if labels.device.type == "cpu" else layout.tokens,
        backend=backend,
    )


def query_tiles(
    labels: Tensor, n_clusters: int, config: SVG2Config, layout: VideoLayout, block_m: int, backend: str
) -> tuple[Tensor, Tensor]:
    """Tiles of query rows sorted by cluster, then the text's: token numbers and clusters, [B, H, T, M], -1 beyond."""
    b, h, n = labels.shape
    order, offsets = sort_by_label(labels, n_clusters)
    if config.tile_cut == "cluster":
        order = _align_to_clusters(order, offsets, labels, block_m)
    rows = cut(order, block_m)
    row_labels = labels.gather(2, order.clamp(min=0).long())
    row_labels = cut(torch.where(order < 0, -1, row_labels), block_m)
    rows = torch.where(rows < 0, -1, rows + layout.text_before)
    text = cut(text_index(layout, labels.device), block_m).expand(b, h, -1, -1)
    return torch.cat([rows, text], 2), torch.cat([row_labels, torch.full_like(text, -1)], 2)


def _align_to_clusters(order: Tensor, offsets: Tensor, labels: Tensor, block_m: int) -> Tensor:
    """Spreads sorted rows so that each cluster begins on a tile's first row, -1 between."""
    size = offsets.diff(dim=-1)
    padded = (size + block_m - 1) // block_m * block_m
    shift = padded.cumsum(-1) - padded - offsets[..., :-1]
    sorted_labels = labels.gather(2, order.long()).long()
    position = torch.arange(order.shape[2], device=order.device) + shift.gather(2, sorted_labels)
    tiles = order.shape[2] // block_m + size.shape[2]
    aligned = order.new_full((*order.shape[:2], tiles * block_m), -1)
    return aligned.scatter_(2, position, order)
