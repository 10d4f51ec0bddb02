"""What a planner tells the executor: which keys each query tile reads, and what stands in for the others."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# The Gaussian behind the second-order term no longer holds where the term is large: on very sharp heads it
# reached 5-15 and doubled the error; capped at 4 it never hurt.
SECOND_ORDER_CAP = 4.0


@dataclass(frozen=True)
class Tail:
    """What stands in for the keys that a tile does not read: one term a cluster of keys.

    A cluster that a tile skips adds one key of logit `sm_scale * q.k_mean + log_size` and value `v_mean`, as SVG-EAR
    (arXiv 2603.08982) and Sol-Attn (arXiv 2607.24027) have it. With `k_variance` the logit is exact to second order in
    the spread of the cluster's keys: plus `min(0.5 * sm_scale^2 * sum_d q_d^2 k_variance_d, SECOND_ORDER_CAP)`.

    Attributes:
        k_mean, v_mean: [B, H, C, D], of q's dtype or float32.
        k_variance: [B, H, C, D] likewise, or None for the zero-order tail.
        log_size: [B, H, C] float32, natural logarithm of a cluster's tokens; -inf for an empty one, which adds nothing.
        cluster_mask: [L, T, C] bool, True where the tile reads the cluster's keys themselves. It is of the list set: heads
            that share one skip the same clusters, each with means and sizes of its own.
    """

    k_mean: Tensor
    k_variance: Tensor | None
    v_mean: Tensor
    log_size: Tensor
    cluster_mask: Tensor


@dataclass(frozen=True)
class Plan:
    """For every head and tile: the query rows of the tile and the keys they read.

    Lists come in L sets of T tiles, and each head names its set: SVG shares two sets (spatial, temporal)
    among all heads, SVG2 has one a head. Over its T tiles a set holds no query row twice; all sets hold the same.

    Attributes:
        list_of_head: [B, H] int32 in [0, L).
        query_index: [L, T, M] int32 token numbers of the rows, -1 where the tile is not full.
        key_index: [n] int32 token numbers, all lists in any order, no key twice in a list. Tiles may share a list, and what
            lies between two lists is never read.
        key_start: [L, T] int64, where each tile's list begins in `key_index`.
        key_count: [L, T] int32, lengths of the lists.
        tail: for keys in no list, or None to leave them out.
    """

    list_of_head: Tensor
    query_index: Tensor
    key_index: Tensor
    key_start: Tensor
    key_count: Tensor
    tail: Tail | None = None

    def pairs(self, block_m: int = 1, block_n: int = 1) -> Tensor:
        """(query, key) pairs computed per head, [B, H] float32; rows and keys are counted in whole blocks."""
        return count_pairs((self.query_index >= 0).sum(-1), self.key_count, self.list_of_head, block_m, block_n)


def count_pairs(rows: Tensor, keys: Tensor, list_of_head: Tensor, block_m: int = 1, block_n: int = 1) -> Tensor:
    """Pairs per head [B, H] float32, where the tiles of list sets have these rows and keys [L, T], in whole blocks."""
    pairs = (_whole(rows, block_m).float() * _whole(keys, block_n)).sum(-1)
    return pairs.index_select(0, list_of_head.flatten()).view_as(list_of_head)


def _whole(count: Tensor, block: int) -> Tensor:
    return count if block == 1 else (count + (block - 1)) // block * block
