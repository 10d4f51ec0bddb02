"""What a planner hands over: how much each head will compute, and the plans, a part of the heads at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.plan import Plan, count_pairs
from .stats import AttentionStats


@dataclass(frozen=True)
class Planned:
    """A call's video queries, or its text's, as L list sets of T tiles; see `Plan`.

    Attributes:
        list_of_head: [B, H] int32 in [0, L).
        rows: [L, T] int32, query rows of each tile.
        key_count: [L, T] int32, keys that it reads.
        parts: (where, plan) until every head had its plan, each for q[where]; to be gone through once. Lists are made as
            they are asked for, and make room for the next ones where nobody holds them; after the last one the state has
            what this call leaves to the next.
        pattern: as in `AttentionStats`, where heads have one.
        kept_fraction: as in `AttentionStats`, where keys are in clusters.
        alike: as in `AttentionStats`, where conditionings share their clusters.
        learn: to be told what the call did, if the next one depends on it.
    """

    list_of_head: Tensor
    rows: Tensor
    key_count: Tensor
    parts: Iterator[tuple[tuple[slice, slice], Plan]]
    pattern: Tensor | None = None
    kept_fraction: Tensor | None = None
    alike: Tensor | None = None
    learn: Callable[[AttentionStats], None] | None = None

    def pairs(self, block_m: int = 1, block_n: int = 1) -> Tensor:
        """(query, key) pairs computed per head, [B, H] float32; rows and keys are counted in whole blocks."""
        return count_pairs(self.rows, self.key_count, self.list_of_head, block_m, block_n)


def rows_of_tiles(query_index: Tensor) -> Tensor:
    """Rows of the tiles [..., T, M] of a plan, [..., T] int32."""
    return (query_index >= 0).sum(-1, dtype=torch.int32)


def whole(plan: Plan, rows: Tensor, pattern: Tensor | None = None) -> Planned:
    """All heads by one plan, whose tiles have so many `rows` [L, T]."""
    return Planned(plan.list_of_head, rows, plan.key_count, iter([((slice(None), slice(None)), plan)]), pattern)
