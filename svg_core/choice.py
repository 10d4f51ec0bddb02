"""Which key clusters each query tile reads, and how many: by expected error, or by mass as SVG2 has it (section 4.2).

By expected error a tile reads the clusters that would hurt most to leave to the tail, for each key computed, until its head
has spent its budget: a density that is asked for, or one that follows the head's own measured error. That error and not mass
decides is SVG-EAR's idea (arXiv 2603.08982); the error here is what the second-order tail gets wrong (kernels/score).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from einops import rearrange
from torch import Tensor

from ..kernels.budget import spend
from ..kernels.centroids import Centroids
from ..kernels.score import score
from ..kernels.select import select
from .call import Call
from .clusters import Clusters
from .state import SparseState
from .stats import AttentionStats

SHARES = 1 << 20  # parts of all pairs in which a density is counted
LOWEST, HIGHEST = 0.05, 0.60  # densities that a target error may lead to


def by_error(
    q: Tensor, query_index: Tensor, rows: Tensor, clusters: Clusters, v_centroids: Centroids | None, density: Tensor, call: Call
) -> tuple[Tensor, Tensor]:
    """Which key clusters each tile reads: those whose keys save the most error, to a density a head [V, H]; as `spend`."""
    layout, config = call.layout, call.config
    mean, sizes, variance = clusters.key_centroids
    spread = None if v_centroids is None else v_centroids.variance.sum(-1)
    terms = [mean, variance, sizes.float().log(), spread]
    scored = query_index[..., :: config.score_every]
    each = (
        score(part_of_q, scored, *own, sm_scale=call.sm_scale, backend=call.backend)
        for part_of_q, *own in zip(*(_by_conditioning(x, call) for x in [q, *terms]), strict=True)
    )
    scores = reduce(Tensor.add_, each)
    text_pairs = layout.text_tokens * (layout.video_tokens + layout.text_keys) + layout.video_tokens * layout.text_keys
    share = (density * SHARES).round().long()  # in whole numbers: float32 could not count the pairs
    budget = (share * layout.tokens**2 // SHARES - text_pairs).clamp(min=0)
    return spend(scores, rows, clusters.keys.cluster_sizes, budget, at_least_one=config.tail == "off", backend=call.backend)


def _by_conditioning(x: Tensor | None, call: Call) -> Sequence[Tensor | None]:
    return [None] * call.conditionings if x is None else x.chunk(call.conditionings)


def by_mass(clusters: Clusters, query_index: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """Which key clusters each tile reads, by the mass that their centroids promise, and their keys; as `select`."""
    tokens = (query_index.flatten(2) - call.layout.text_before).clamp_(min=0)
    row_labels = clusters.queries.labels.gather(2, tokens.long()).view_as(query_index).masked_fill_(query_index < 0, -1)
    mean, cluster_sizes, _ = clusters.key_centroids
    log_size = rearrange(cluster_sizes.float().log(), "b h c -> (b h) 1 c")
    queries, keys = rearrange(clusters.q_mean, "b h c d -> (b h) c d"), rearrange(mean, "b h c d -> (b h) d c")
    probs = torch.baddbmm(log_size, queries, keys, alpha=call.sm_scale).softmax(-1).unflatten(0, mean.shape[:2])
    return select(probs, row_labels, cluster_sizes, call.config.top_p, call.config.min_keep, backend=call.backend)


def densities(rows: Tensor, call: Call, state: SparseState, key: Hashable) -> Tensor:
    """What each head is to compute, [V, H] float32: the same for all, or what their errors have led to."""
    density = call.config.density
    if call.config.choose_by == "target_error":
        steered = state.get((key, "density"))
        if steered is not None:
            return steered.density
        density = min(max(density, LOWEST), HIGHEST)
    return torch.full(rows.shape[:2], density, device=rows.device)


@dataclass(frozen=True)
class Steered:
    """What the state keeps of a head's error for the next call: the density that should meet the target, [V, H] float32."""

    density: Tensor


def steer(density: Tensor, stats: AttentionStats, target: float) -> Tensor:
    """The density [V, H] that brings a head's error towards the target, from what it was at this one.

    Error falls faster than density rises, and how much faster differs by head: the square root of what is wanted lets none of
    them swing.
    """
    error = stats.error.unflatten(0, (-1, len(density))).mean(0)
    wanted = density * (error / target).sqrt()
    unknown = stats.dense.unflatten(0, (-1, len(density))).any(0) | ~wanted.isfinite()  # max_error leaves no sparse error
    return torch.where(unknown, HIGHEST, wanted).clamp(LOWEST, HIGHEST)
