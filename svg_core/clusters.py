"""Clusters of queries and keys: k-means that goes on from the last call's centroids (SVG2, section 4.3).

Where clusters are chosen by expected error, distance is what attention sees: queries differ by the logits that they give
the keys, keys by the logits that the queries give them. Conditionings of one video share the clusters of the first.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.assign import assign
from ..kernels.centroids import Centroids, centroids
from ..kernels.pack import ClusterAssignment, sort_by_label
from .call import Call
from .chain import chain, put_in_order
from .sampling import stratified

METRIC_TOKENS = 2048  # from which a metric is estimated
ALIKE_TOKENS = 64  # by which the keys of two conditionings are compared


@dataclass(frozen=True)
class Clusters:
    """Assignments of the video's queries and keys, for V videos, and centroids.

    Attributes:
        queries, keys: of the tokens, [V, H, ...].
        q_mean: [V, H, C, D] float32, in the order of a chain where there is a metric.
        key_centroids: [B, H, C, D] of each batch element's own keys; variances if the call wants them.
        metric: [V, H, D, D] of the queries, or None for Euclid's.
        alike: [B, H], as in `AttentionStats`, or None.
    """

    queries: ClusterAssignment
    keys: ClusterAssignment
    q_mean: Tensor
    key_centroids: Centroids
    metric: Tensor | None
    alike: Tensor | None


@dataclass(frozen=True)
class ClusterState:
    """What the state keeps of a call for the next: means in the model's dtype, labels only if the next call keeps them.

    All in float32 and int32 would be 2 GB for Wan 14B at 720p; so it is 0.5.

    Attributes:
        q_mean, k_mean: [V, H, C, D].
        q_labels, k_labels: [V, H, Nv] int16, or None.
        k_sample: [V, H, ALIKE_TOKENS, D], keys for the other conditioning's to be compared with, or None.
        tokens: Nv.
        iterations, calls: made so far.
        in_chain: the queries' means are in the order of a chain.
        turn: of the last call.
    """

    q_mean: Tensor
    k_mean: Tensor
    q_labels: Tensor | None
    k_labels: Tensor | None
    k_sample: Tensor | None
    tokens: int
    iterations: int
    calls: int
    in_chain: bool
    turn: Hashable


def update_clusters(
    q: Tensor, k: Tensor, call: Call, last: ClusterState | None, *, final: bool
) -> tuple[Clusters, ClusterState | None]:
    """Clusters for this call, from the last ones where there are any, and what to remember of them; None: the same.

    The first call of a turn makes them; another of the same turn puts its own tokens into those of the first.

    Args:
        q, k: [B, H, N, D].
        last: what the last call remembered; of no use for another shape or device.
        final: the call that follows needs them: catch up on what is missing of `kmeans_init_iters`.
    """
    config, backend = call.config, call.backend
    q, k = (x[:, :, call.layout.video] for x in (q, k))
    (q, *_), (k, *others) = (x.chunk(call.conditionings) for x in (q, k))
    if last is not None and (last.tokens, last.q_mean.shape[:2], last.q_mean.device) != (q.shape[2], q.shape[:2], q.device):
        last = None
    follows = last is not None and call.turn is not None and last.turn == call.turn
    done, calls, in_chain = (last.iterations, last.calls, last.in_chain) if last is not None else (0, 0, False)
    missing = config.kmeans_init_iters - done if final else 0
    iterations = max(missing, config.kmeans_step_iters)
    variance = final and (config.tail != "off" if config.by_error else config.tail == "second_order")
    q_metric, k_metric = metrics(q, k) if config.by_error else (None, None)
    if follows or (last is not None and last.q_labels is not None and missing <= 0):
        iterations = 0
        queries = _kept(q, last.q_mean, last.q_labels, q_metric, backend)
        keys = _kept(k, last.k_mean, last.k_labels, k_metric, backend)
        q_mean = centroids(q, queries, previous=last.q_mean, backend=backend).mean
        key_centroids = centroids(k, keys, previous=last.k_mean, variance=variance, backend=backend)
    else:
        q_start = last.q_mean if last is not None else initial_centroids(q, min(config.q_clusters, q.shape[2]))
        k_start = last.k_mean if last is not None else initial_centroids(k, min(config.k_clusters, k.shape[2]))
        queries, (q_mean, *_) = kmeans(q, q_start, iterations, backend, metric=q_metric)
        keys, key_centroids = kmeans(k, k_start, iterations, backend, metric=k_metric, variance=variance)
    if config.by_error and final and not in_chain:
        in_chain, (queries, q_mean) = True, put_in_order(queries, q_mean, chain(q_mean, q_metric))

    sample = alike = None
    if others or call.turn is not None:
        rows = stratified(min(ALIKE_TOKENS, k.shape[2]), k.shape[2], k.device)
        sample, *more = (x.index_select(2, rows) for x in (k, *others))
        if follows:
            alike = torch.cat([likeness(last.k_sample, x) for x in (sample, *more)])
        elif others:
            alike = torch.cat([likeness(sample, x) for x in (sample, *more)])
    remembered = None
    if not follows:
        keep = (calls + 1) % config.recluster_every != 0
        labels = (x.labels.short() if keep else None for x in (queries, keys))
        means = (x.to(q.dtype) for x in (q_mean, key_centroids.mean))
        progress = (q.shape[2], done + iterations, calls + 1, in_chain, call.turn)
        remembered = ClusterState(*means, *labels, sample if call.turn is not None else None, *progress)
    if final and others:
        own = (centroids(x, keys, previous=key_centroids.mean, variance=variance, backend=backend) for x in others)
        key_centroids = joined([key_centroids, *own])
    return Clusters(queries, keys, q_mean, key_centroids, q_metric, alike), remembered


def joined(parts: Iterable[Centroids]) -> Centroids:
    """Of batch elements one after the other, [B, H, ...]."""
    return Centroids(*(None if x[0] is None else torch.cat(x) for x in zip(*parts, strict=True)))


def _kept(x: Tensor, mean: Tensor, labels: Tensor | None, metric: Tensor | None, backend: str) -> ClusterAssignment:
    """Tokens by the last call's labels, or by its means where it left none."""
    labels = assign(x, mean, metric=metric, backend=backend) if labels is None else labels.int()
    return sort_by_label(labels, mean.shape[2])


def initial_centroids(x: Tensor, n_clusters: int) -> Tensor:
    """Tokens strided over the video as first centroids: [B, H, N, D] -> [B, H, n_clusters, D]."""
    return x.index_select(2, stratified(n_clusters, x.shape[2], x.device))


def kmeans(
    x: Tensor, start: Tensor, iterations: int, backend: str, *, metric: Tensor | None = None, variance: bool = False
) -> tuple[ClusterAssignment, Centroids]:
    """Lloyd's iterations per batch and head; an emptied cluster keeps its centroid.

    Args:
        x: [B, H, N, D].
        start: [B, H, C, D].
        iterations: at least 1.
        metric: as in `assign`; None is Euclid's.
        variance: of the last iteration's clusters, too.

    Returns:
        Which cluster each token is in, and the clusters' centroids.
    """
    mean = start
    for i in range(iterations):
        assignment = sort_by_label(assign(x, mean, metric=metric, backend=backend), mean.shape[2])
        last = variance and i == iterations - 1
        result = centroids(x, assignment, previous=mean, variance=last, backend=backend)
        mean = result.mean
    return assignment, result


def metrics(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """How attention measures distance, (x - c)^T M (x - c), for queries and for keys: [B, H, D, D] float32.

    Two queries differ by the logits that they give: M is the covariance of the keys, since softmax takes no notice of what
    is common to all. Two keys differ by the logits that they get: M is the queries' mean of q q^T, half of it made round, so
    that no direction counts for nothing. Both are scaled so that no eigenvalue is above 1.

    Args:
        q, k: [B, H, N, D].
    """
    rows = stratified(min(METRIC_TOKENS, q.shape[2]), q.shape[2], q.device)
    q, k = (x.index_select(2, rows).float() for x in (q, k))
    k = k - k.mean(2, keepdim=True)
    of_queries, of_keys = (x.mT @ x for x in (k, q))
    of_keys.diagonal(dim1=2, dim2=3).add_(of_keys.diagonal(dim1=2, dim2=3).mean(-1, keepdim=True))
    return _scaled(of_queries), _scaled(of_keys)


def _scaled(x: Tensor) -> Tensor:
    """By the largest sum of a row [B, H, D, D], which no eigenvalue is above; a matrix of zeros stays what it is."""
    most = x.abs().sum(-1).amax(-1)[..., None, None]
    return x / torch.where(most > 0, most, 1)


def likeness(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between tokens [B, H, S, D] and others, their means taken off, [B, H] in [-1, 1]."""
    a, b = (x.float() - x.float().mean(2, keepdim=True) for x in (a, b))
    return torch.nn.functional.cosine_similarity(a.flatten(2), b.flatten(2), dim=-1)
