"""SVG2's planner (arXiv 2505.18875, section 4): tokens are put into clusters by k-means, a tile reads the clusters that matter.

Beside the paper's own mode (choose_by="top_p", tile_cut="cluster", tail="off") stand three changes. Tiles are cut from the
sorted queries at full height even across a cluster's border: at 128 rows a tile, cutting at the borders computes 25-45 % more
for the same keys. The keys of clusters that are not chosen still count, through a tail of one term per cluster: to zero order
as in SVG-EAR (arXiv 2603.08982) and Sol-Attn (arXiv 2607.24027); the second order in the spread of a cluster's keys, capped,
is ours. And what is computed is what the tail is expected to get most wrong (`choice`), on clusters and tiles as attention
sees them (`clusters`, `chain`), the same for a video with a prompt and without.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from ..kernels.centroids import Centroids, centroids
from ..kernels.pack import ClusterAssignment, pack_lists
from ..kernels.plan import Plan, Tail
from .call import Call
from .chain import along
from .choice import HIGHEST, SHARES, Steered, by_error, by_mass, densities, steer
from .clusters import ALIKE_TOKENS, Clusters, joined, update_clusters
from .planned import Planned, rows_of_tiles
from .state import SparseState
from .stats import AttentionStats
from .tiles import split_into_tiles, text_keys

NAME = "SVG2"
WARMS_UP = True
BLOCK_C = 1024  # the choice's masses are in whole blocks of so many clusters


def plan(q: Tensor, k: Tensor, v: Tensor, call: Call, state: SparseState, key: Hashable) -> Planned:
    """All heads at once, but key lists of as many at a time as the workspace allows."""
    call, shared = _sharing(call, key)
    layout, config = call.layout, call.config
    clusters, remembered = update_clusters(q, k, call, state.get(shared), final=True)
    query_index = query_tiles(q, clusters, call)
    rows = rows_of_tiles(query_index)
    v_centroids = None if config.tail == "off" else v_moments(v[:, :, layout.video], clusters, call)
    if config.by_error:
        density = densities(rows, call, state, key)
        cluster_mask, count = by_error(q, query_index, rows, clusters, v_centroids, density, call)
    else:
        cluster_mask, count = by_mass(clusters, query_index, call)
    # Longest lists first: what is left at a launch's end are short ones, and no multiprocessor waits long for another.
    count, longest = count.sort(dim=-1, descending=True, stable=True)
    cluster_mask, query_index = (x.gather(2, longest.unsqueeze(-1).expand_as(x)) for x in (cluster_mask, query_index))
    rows = rows.gather(2, longest)
    key_count = torch.where(rows > 0, count + layout.text_keys, 0)
    videos, heads = rows.shape[:2]
    kept_fraction = cluster_mask.sum((-2, -1)) / ((rows > 0).sum(-1) * cluster_mask.shape[-1])
    list_of_head = torch.arange(videos * heads, dtype=torch.int32, device=q.device).view(videos, heads)

    tail = tail_terms(v_centroids, clusters, q.dtype, config.tail) if v_centroids is not None else None
    text = text_keys(layout, q.device, state).expand(videos, heads, -1)
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
            capacity=None if q.device.type == "cpu" else len(keys) * most_keys(call),
            backend=call.backend,
        )
        skipped = None if tail is None else Tail(*(None if x is None else x[b::videos, heads] for x in tail), reads)
        sets = list_of_head[:1, : len(keys)].expand(call.conditionings, -1)
        return Plan(sets, query_index[b, heads], *lists, keys, skipped)

    def parts() -> Iterator[tuple[tuple[slice, slice], Plan]]:
        step = _together(call)
        for b, head in product(range(videos), range(0, heads, step)):
            some = slice(head, head + step)
            yield (slice(b, None, videos), some), part(b, some)
        if remembered is not None:  # last: a call that runs out of memory on the way can be made again
            state.put(shared, remembered)

    def learn(stats: AttentionStats) -> None:
        state.put((key, "density"), Steered(steer(density, stats, config.target_error)))

    each = (call.conditionings, 1)
    return Planned(
        list_of_head.repeat(each),
        *(x.flatten(0, 1) for x in (rows, key_count)),
        parts(),
        kept_fraction=kept_fraction.repeat(each),
        alike=clusters.alike,
        learn=learn if config.choose_by == "target_error" else None,
    )


def warm_up(q: Tensor, k: Tensor, call: Call, state: SparseState, key: Hashable) -> None:
    """Clusters are brought forward."""
    call, shared = _sharing(call, key)
    _, remembered = update_clusters(q, k, call, state.get(shared), final=False)
    if remembered is not None:
        state.put(shared, remembered)


def _sharing(call: Call, key: Hashable) -> tuple[Call, Hashable]:
    """The call, and the key of its clusters: the paper's conditionings have their own."""
    if not call.config.by_error:
        call = replace(call, conditionings=1, shared_key=None, turn=None)
    return call, key if call.shared_key is None else call.shared_key


def _together(call: Call) -> int:
    """Heads of one video that run at a time: their key lists, and what is quantised of all its conditionings."""
    shared = call.conditionings if call.config.by_error else 1
    return max(1, call.workspace_bytes // (list_bytes(call) + shared * call.quantised_bytes))


def list_bytes(call: Call) -> int:
    """Bytes of one head's key lists: the most they may have, since on a GPU what they have is not known without waiting."""
    return 4 * most_keys(call)


def most_keys(call: Call) -> int:
    """Keys in all lists of one head, at most: what the budget pays for in full tiles, and one tile that is not full."""
    layout, config, tiles = call.layout, call.config, _tiles(call)
    every = tiles * layout.video_tokens
    if config.by_error and config.tail != "off" and config.tile_cut == "full":
        density = HIGHEST if config.choose_by == "target_error" else config.density
        every = min(every, math.ceil((density + 1 / SHARES) * layout.tokens**2 / call.block_m) + layout.video_tokens)
    return every + tiles * layout.text_keys


def call_bytes(call: Call, batch: int, heads: int, head_dim: int) -> int:
    """Bytes that one call allocates at its peak, its output and the state apart: key lists, labels, centroids.

    For 16-bit q, k, v. Within 10 % of what is counted at the shapes of real models; see tests/benchmarks/test_counts.py.
    """
    config, (q_clusters, k_clusters) = call.config, _clusters(call)
    tiles, lists = _tiles(call), list_bytes(call)
    shared = call.conditionings if config.by_error else 1
    together = min(heads, _together(call))
    lists += shared * call.quantised_bytes
    every, planned = batch * heads, batch // shared * heads  # heads with terms of their own, and with a choice
    moments = 2 if config.tail == "second_order" else 1
    chosen = planned * tiles * (k_clusters + 4 * call.block_m)  # clusters that a tile keeps, and its rows
    labels = 16 * planned * call.layout.video_tokens
    means = 2 * planned * head_dim * (q_clusters + k_clusters)  # what the state takes over
    # First the choice, with centroids in float32 and the rows' labels; then the lists, with the tail's terms in 16 bit.
    if config.by_error:
        k_moments = 1 if config.tail == "off" else 4  # means and variances of k and v
        # Scores, of which a sum holds three at a time, and what they are made from in 16 bit; or before, v's moments twice.
        scores = 4 * planned * tiles * k_clusters * min(3, shared) + planned * head_dim * k_clusters * k_moments
        choice = max(scores, 2 * every * head_dim * k_clusters * k_moments)
    else:
        k_moments = moments + (config.tail != "off")
        probs, mass = (4 * every * n for n in (q_clusters * k_clusters, tiles * -(-k_clusters // BLOCK_C) * BLOCK_C))
        choice = max(2 * probs, probs + mass)
    in_float32 = 4 * head_dim * (planned * q_clusters + every * k_clusters * k_moments)
    choice += 4 * planned * tiles * call.block_m + in_float32
    terms = 0 if config.tail == "off" else 2 * every * head_dim * k_clusters * (1 + moments)
    return max(together * lists + terms, choice) + chosen + labels + means


def state_bytes(call: Call, batch: int, heads: int, head_dim: int) -> int:
    """Bytes that one layer keeps from call to call for a batch, for 16-bit q and k: its videos' clusters, once each."""
    videos = batch // (call.conditionings if call.config.by_error else 1)
    labels = 4 * call.layout.video_tokens if call.config.recluster_every > 1 else 0
    return videos * heads * (2 * (sum(_clusters(call)) + ALIKE_TOKENS) * head_dim + labels)


def can_split(call: Call, batch: int, heads: int) -> bool:
    """Whether half the workspace holds fewer heads' lists and quantised tensors, and still those of one."""
    return _together(call) > 1


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


def v_moments(v: Tensor, clusters: Clusters, call: Call) -> Centroids:
    """Centroids of the values [B, H, Nv, D] by clusters of keys, with variances where clusters are chosen by error."""
    parts = (
        centroids(x, clusters.keys, variance=call.config.by_error, backend=call.backend) for x in v.chunk(call.conditionings)
    )
    return joined(parts)


def tail_terms(v_centroids: Centroids, clusters: Clusters, dtype: torch.dtype, tail: str) -> tuple[Tensor | None, ...]:
    """k_mean, k_variance, v_mean and log_size of `Tail`, the first three in q's dtype."""
    mean, cluster_sizes, variance = clusters.key_centroids
    if tail == "second_order" and dtype == torch.float16:  # which ends at 65504, so at keys that spread by 256
        variance = variance.clamp(max=torch.finfo(dtype).max)
    variance = variance.to(dtype) if tail == "second_order" else None
    return mean.to(dtype), variance, v_centroids.mean.to(dtype), cluster_sizes.float().log()


def query_tiles(q: Tensor, clusters: Clusters, call: Call) -> Tensor:
    """Tiles of the video's query rows, sorted by cluster: token numbers, [V, H, T, M] int32, -1 beyond."""
    queries, at_borders = clusters.queries, call.config.tile_cut == "cluster"
    if clusters.metric is not None:
        lead = q[: len(clusters.q_mean), :, call.layout.video]
        permutation = along(lead, queries, clusters.q_mean, clusters.metric, call.backend)
        queries = queries._replace(permutation=permutation)
    rows = split_into_tiles(_align_to_clusters(queries, call.block_m) if at_borders else queries.permutation, call.block_m)
    return torch.where(rows < 0, -1, rows + call.layout.text_before)


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
