"""Clusters of queries and keys: k-means that goes on from the last call's centroids (SVG2, section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..kernels.assign import assign
from ..kernels.centroids import Centroids, centroids
from ..kernels.pack import ClusterAssignment, sort_by_label
from .call import Call
from .sampling import stratified


@dataclass(frozen=True)
class Clusters:
    """Assignments and centroids of the video's queries and keys, [B, H, ...]; variances of the keys if the tail wants them."""

    queries: ClusterAssignment
    keys: ClusterAssignment
    query_centroids: Centroids
    key_centroids: Centroids


@dataclass(frozen=True)
class ClusterState:
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


def update_clusters(
    q: Tensor, k: Tensor, call: Call, last: ClusterState | None, *, final: bool
) -> tuple[Clusters, ClusterState]:
    """Clusters for this call, from the last ones where there are any, and what to remember of them.

    Args:
        q, k: [B, H, N, D].
        last: what the last call remembered; of no use for another length or device.
        final: the call that follows needs them: catch up on what is missing of `kmeans_init_iters`.
    """
    config, backend = call.config, call.backend
    q, k = (x[:, :, call.layout.video] for x in (q, k))
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
    return clusters, ClusterState(*means, *labels, q.shape[2], done + iterations, calls + 1)


def _refreshed(q: Tensor, k: Tensor, last: ClusterState, variance: bool, backend: str) -> Clusters:
    """The last call's labels, with the centroids of this call's tokens."""
    queries = sort_by_label(last.q_labels.int(), last.q_mean.shape[2])
    keys = sort_by_label(last.k_labels.int(), last.k_mean.shape[2])
    query_centroids = centroids(q, queries, previous=last.q_mean, backend=backend)
    key_centroids = centroids(k, keys, previous=last.k_mean, variance=variance, backend=backend)
    return Clusters(queries, keys, query_centroids, key_centroids)


def initial_centroids(x: Tensor, n_clusters: int) -> Tensor:
    """Tokens strided over the video as first centroids: [B, H, N, D] -> [B, H, n_clusters, D]."""
    return x.index_select(2, stratified(n_clusters, x.shape[2], x.device))


def kmeans(
    x: Tensor, start: Tensor, iterations: int, backend: str, *, variance: bool = False
) -> tuple[ClusterAssignment, Centroids]:
    """Lloyd's iterations, Euclidean, per batch and head; an emptied cluster keeps its centroid.

    Args:
        x: [B, H, N, D].
        start: [B, H, C, D].
        iterations: at least 1.
        variance: of the last iteration's clusters, too.

    Returns:
        Which cluster each token is in, and the clusters' centroids.
    """
    mean = start
    for i in range(iterations):
        assignment = sort_by_label(assign(x, mean, backend=backend), mean.shape[2])
        last = variance and i == iterations - 1
        result = centroids(x, assignment, previous=mean, variance=last, backend=backend)
        mean = result.mean
    return assignment, result
