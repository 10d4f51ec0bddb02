"""SVG2's planner (arXiv 2505.18875, section 4): tokens are put into clusters by k-means, a tile reads the clusters that matter.

Beside the paper's own mode (tile_cut="cluster", tail="off") stand two changes. Tiles are cut from the sorted
queries at full height even across a cluster's border, each choosing by the mean distribution of its rows: at
128 rows a tile, cutting at the borders computes 25-45 % more for the same keys. And the keys of clusters that
are not chosen still count, through a tail of one term per cluster: to zero order as in SVG-EAR (arXiv 2603.08982) and
Sol-Attn (arXiv 2607.24027); the second order in the spread of a cluster's keys, capped, is ours.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import product

import torch
from einops import rearrange
from torch import Tensor

from ..kernels.centroids import centroids
from ..kernels.pack import ClusterAssignment, pack_lists
from ..kernels.plan import Plan, Tail
from ..kernels.select import select
from .call import Call
from .clusters import Clusters, update_clusters
from .planned import Planned, rows_of_tiles
from .state import SparseState
from .tiles import split_into_tiles, text_keys

NAME = "SVG2"
WARMS_UP = True
BLOCK_C = 1024  # the choice's masses are in whole blocks of so many clusters


def plan(q: Tensor, k: Tensor, v: Tensor, call: Call, state: SparseState, key: Hashable) -> Planned:
    """All heads at once, but key lists of as many at a time as the workspace allows."""
    layout = call.layout
    clusters, remembered = update_clusters(q, k, call, state.get(key), final=True)
    query_index, row_labels = query_tiles(clusters.queries, call)
    cluster_mask, count = choose(clusters, row_labels, call)
    # Longest lists first: what is left at a launch's end are short ones, and no multiprocessor waits long for another.
    count, longest = count.sort(dim=-1, descending=True, stable=True)
    cluster_mask, query_index = (x.gather(2, longest.unsqueeze(-1).expand_as(x)) for x in (cluster_mask, query_index))
    key_count = torch.where(count > 0, count + layout.text_keys, 0)
    rows = rows_of_tiles(query_index)
    tail = None if call.config.tail == "off" else tail_terms(v[:, :, layout.video], clusters, call.backend)
    kept_fraction = cluster_mask.sum((-2, -1)) / ((rows > 0).sum(-1) * cluster_mask.shape[-1])
    list_of_head = torch.arange(rows[..., 0].numel(), dtype=torch.int32, device=q.device).view(rows.shape[:2])

    text = text_keys(layout, q.device, state).expand(*rows.shape[:2], -1)
    permutation = torch.cat([text, clusters.keys.permutation + layout.text_before], -1)
    start, length = clusters.keys.offsets[..., :-1] + layout.text_keys, clusters.keys.cluster_sizes

    def part(b: int, heads: slice) -> Plan:
        reads, keys = cluster_mask[b, heads], key_count[b, heads]
        lists = pack_lists(
            permutation[b, heads],
            *(x[b, heads].unsqueeze(1).expand_as(reads) for x in (start, length)),
            keys,
            segment_mask=reads,
            prefix=layout.text_keys,
            capacity=None if q.device.type == "cpu" else keys.numel() * permutation.shape[2],
            backend=call.backend,
        )
        skipped = None if tail is None else Tail(*(None if x is None else x[b : b + 1, heads] for x in tail), reads)
        return Plan(list_of_head[:1, : len(keys)], query_index[b, heads], *lists, keys, skipped)

    def parts() -> Iterator[tuple[tuple[slice, slice], Plan]]:
        step = max(1, call.workspace_bytes // list_bytes(call))
        for b, head in product(range(q.shape[0]), range(0, q.shape[1], step)):
            heads = slice(head, head + step)
            yield (slice(b, b + 1), heads), part(b, heads)
        state.put(key, remembered)  # last: a call that runs out of memory on the way can be made again

    lists = (x.flatten(0, 1) for x in (rows, key_count))
    return Planned(list_of_head, *lists, parts(), kept_fraction=kept_fraction)


def warm_up(q: Tensor, k: Tensor, call: Call, state: SparseState, key: Hashable) -> None:
    """Clusters are brought forward."""
    _, remembered = update_clusters(q, k, call, state.get(key), final=False)
    state.put(key, remembered)


def list_bytes(call: Call) -> int:
    """Bytes of one head's key lists: at full length, since on a GPU the real one is not known without waiting."""
    return 4 * _tiles(call) * (call.layout.video_tokens + call.layout.text_keys)


def call_bytes(call: Call, batch: int, heads: int, head_dim: int) -> int:
    """Bytes that one call allocates at its peak, its output and the state apart: key lists, labels, centroids.

    For 16-bit q, k, v. Within 10 % of what is counted at the shapes of real models; see tests/benchmarks/test_counts.py.
    """
    config, (q_clusters, k_clusters) = call.config, _clusters(call)
    tiles, lists = _tiles(call), list_bytes(call)
    together = min(heads, max(1, call.workspace_bytes // lists))
    every, moments = batch * heads, 2 if config.tail == "second_order" else 1
    chosen = every * tiles * (k_clusters + 4 * call.block_m)  # clusters that a tile keeps, and its rows
    labels = 16 * every * call.layout.video_tokens
    means = 2 * every * head_dim * (q_clusters + k_clusters)  # what the state takes over
    # First the choice, with centroids in float32 and the rows' labels; then the lists, with the tail's terms in 16 bit.
    probs, mass = (4 * every * n for n in (q_clusters * k_clusters, tiles * -(-k_clusters // BLOCK_C) * BLOCK_C))
    in_float32 = 4 * every * head_dim * (q_clusters + k_clusters * moments)
    choice = max(2 * probs, probs + mass) + 4 * every * tiles * call.block_m + in_float32
    terms = 0 if config.tail == "off" else 2 * every * head_dim * k_clusters * (1 + moments)
    return max(together * lists + terms, choice) + chosen + labels + means


def state_bytes(call: Call, batch: int, heads: int, head_dim: int) -> int:
    """Bytes that one layer keeps from call to call for one conditioning, for 16-bit q and k."""
    labels = 4 * call.layout.video_tokens if call.config.recluster_every > 1 else 0
    return batch * heads * (2 * sum(_clusters(call)) * head_dim + labels)


def can_split(call: Call) -> bool:
    """Whether half the workspace holds fewer key lists, and still those of one head."""
    return call.workspace_bytes >= 2 * list_bytes(call)


def note(call: Call) -> str | None:
    """That fewer clusters than asked for are made, where the video has no more tokens."""
    config, tokens = call.config, call.layout.video_tokens
    if max(config.q_clusters, config.k_clusters) <= tokens:
        return None
    asked = f"q_clusters={config.q_clusters}, k_clusters={config.k_clusters}"
    return f"{asked}: this video has only {tokens} tokens, so there are at most {tokens} clusters"


def _clusters(call: Call) -> tuple[int, int]:
    """Of queries and of keys."""
    return tuple(min(n, call.layout.video_tokens) for n in (call.config.q_clusters, call.config.k_clusters))


def _tiles(call: Call) -> int:
    """At most so many."""
    tiles = -(-call.layout.video_tokens // call.block_m)
    return tiles + _clusters(call)[0] if call.config.tile_cut == "cluster" else tiles


def choose(clusters: Clusters, row_labels: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """Which key clusters each tile reads, by the mass that their centroids promise, and their keys; as `select`."""
    mean, cluster_sizes, _ = clusters.key_centroids
    log_size = rearrange(cluster_sizes.float().log(), "b h c -> (b h) 1 c")
    queries, keys = rearrange(clusters.query_centroids.mean, "b h c d -> (b h) c d"), rearrange(mean, "b h c d -> (b h) d c")
    probs = torch.baddbmm(log_size, queries, keys, alpha=call.sm_scale).softmax(-1).unflatten(0, mean.shape[:2])
    return select(probs, row_labels, cluster_sizes, call.config.top_p, call.config.min_keep, backend=call.backend)


def tail_terms(v: Tensor, clusters: Clusters, backend: str) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """k_mean, k_variance, v_mean and log_size of `Tail`, in the dtype of v [B, H, Nv, D]."""
    mean, cluster_sizes, variance = clusters.key_centroids
    v_mean = centroids(v, clusters.keys, backend=backend).mean
    return mean.to(v.dtype), None if variance is None else variance.to(v.dtype), v_mean.to(v.dtype), cluster_sizes.float().log()


def query_tiles(queries: ClusterAssignment, call: Call) -> tuple[Tensor, Tensor]:
    """Tiles of the video's query rows, sorted by cluster: token numbers and clusters, [B, H, T, M], -1 beyond."""
    at_borders = call.config.tile_cut == "cluster"
    order = _align_to_clusters(queries, call.block_m) if at_borders else queries.permutation
    rows = split_into_tiles(order, call.block_m)
    row_labels = queries.labels.gather(2, order.clamp(min=0).long())
    row_labels = split_into_tiles(torch.where(order < 0, -1, row_labels), call.block_m)
    return torch.where(rows < 0, -1, rows + call.layout.text_before), row_labels


def _align_to_clusters(queries: ClusterAssignment, block_m: int) -> Tensor:
    """Spreads sorted rows so that each cluster begins on a tile's first row, -1 between."""
    labels, permutation, offsets = queries
    size = queries.cluster_sizes
    padded = (size + block_m - 1) // block_m * block_m
    shift = padded.cumsum(-1) - padded - offsets[..., :-1]
    sorted_labels = labels.gather(2, permutation.long()).long()
    position = torch.arange(permutation.shape[2], device=permutation.device) + shift.gather(2, sorted_labels)
    tiles = permutation.shape[2] // block_m + size.shape[2]
    aligned = permutation.new_full((*permutation.shape[:2], tiles * block_m), -1)
    return aligned.scatter_(2, position, permutation)
