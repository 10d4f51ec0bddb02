"""gather_attention: runs a plan, i.e. attention of query tiles over their own lists of keys."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backend import run
from ..tile_configs import NoTileConfig, tile_config

HEAD_DIMS = (64, 128)
# Checks every index of a plan, which waits for the device; the tests set it.
DEBUG = os.environ.get("SPARSE_VIDEOGEN_DEBUG") == "1"


@dataclass(frozen=True)
class Tail:
    """What stands in for the keys that a tile does not read: one term a cluster of keys.

    A cluster that a tile skips adds one key of logit `sm_scale * q.k_mean + log_size` and value
    `v_mean`. With `k_variance` the logit is exact to second order in the spread of the cluster's keys:
    plus `min(0.5 * sm_scale^2 * sum_d q_d^2 k_variance_d, SECOND_ORDER_CAP)`.

    Attributes:
        k_mean, v_mean: [B, H, C, D], of q's dtype or float32.
        k_variance: [B, H, C, D] likewise, or None for the zero-order tail.
        log_size: [B, H, C] float32, natural logarithm of a cluster's tokens; -inf for an empty one, which adds nothing.
        kept: [L, T, C] bool, True where the tile reads the cluster's keys themselves.
    """

    k_mean: Tensor
    k_variance: Tensor | None
    v_mean: Tensor
    log_size: Tensor
    kept: Tensor


# The Gaussian behind the second-order term no longer holds where the term is large: on very sharp heads it
# reached 5-15 and doubled the error; capped at 4 it never hurt.
SECOND_ORDER_CAP = 4.0


@dataclass(frozen=True)
class Plan:
    """For every head and tile: the query rows of the tile and the keys they read.

    Lists come in L sets of T tiles, and each head names its set: SVG shares two sets (spatial, temporal)
    among all heads, SVG2 has one a head. Over its T tiles a set holds no query row twice; all sets hold the same.

    Attributes:
        set_of_head: [B, H] int32 in [0, L).
        query_index: [L, T, M] int32 token numbers of the rows, -1 where the tile is not full.
        key_index: [L, T, K] int32 token numbers, no key twice in a tile; undefined beyond the list's end.
        key_count: [L, T] int32, lengths of the lists.
        tail: for keys in no list, or None to leave them out. Needs L = B * H.
    """

    set_of_head: Tensor
    query_index: Tensor
    key_index: Tensor
    key_count: Tensor
    tail: Tail | None = None

    def pairs(self, block_m: int = 1, block_n: int = 1) -> Tensor:
        """(query, key) pairs computed per head, [B, H] float32; rows and keys are counted in whole blocks."""
        return count_pairs((self.query_index >= 0).sum(-1), self.key_count, self.set_of_head, block_m, block_n)

    def check(self, tokens: int) -> None:
        """Raises a ValueError if an index is out of range; waits for the device."""
        used = torch.arange(self.key_index.shape[2], device=self.key_index.device) < self.key_count.unsqueeze(-1)
        for name, index in (("query_index", self.query_index[self.query_index != -1]), ("key_index", self.key_index[used])):
            if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < tokens:
                raise ValueError(
                    f"gather_attention: {name} holds {int(index.min())} to {int(index.max())}, allowed are 0 to {tokens - 1}"
                )


def count_pairs(rows: Tensor, keys: Tensor, set_of_head: Tensor, block_m: int = 1, block_n: int = 1) -> Tensor:
    """Pairs per head [B, H] float32, where the tiles of list sets have these rows and keys [L, T], in whole blocks."""
    pairs = (_whole(rows, block_m).float() * _whole(keys, block_n)).sum(-1)
    return pairs.index_select(0, set_of_head.flatten()).view_as(set_of_head)


def _whole(count: Tensor, block: int) -> Tensor:
    return count if block == 1 else (count + (block - 1)) // block * block


def tile_rows(head_dim: int, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> int:
    """M, the query rows of a tile that plans for this device should have; the same for every backend.

    256 on a CPU, where products of that height run 15 % faster than of 128; a GPU's registers decide there.
    """
    return _config(head_dim, device, dtype).block_m


def computed_blocks(q: Tensor, backend: str) -> tuple[int, int]:
    """Rows and keys that the executor computes at a time for q [B, H, N, D]: torch pads nothing."""
    if backend != "triton":
        return 1, 1
    config = _config(q.shape[3], q.device, q.dtype)
    return config.block_m, config.block_n


def _config(head_dim: int, device: torch.device, dtype: torch.dtype):
    try:
        return tile_config("gather_attention", head_dim, device, dtype)
    except NoTileConfig:  # torch does the work, with tiles as on a CPU
        return tile_config("gather_attention", head_dim, torch.device("cpu"))


def gather_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: Plan,
    *,
    sm_scale: float,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    backend: str = "torch",
) -> Tensor:
    """out[row] = softmax over the keys of the row's tile, and its tail, of sm_scale * q[row] k^T, times v.

    Rows are gathered by index and written at their own place: nothing is permuted or copied as a whole.

    Args:
        q, k, v: [B, H, N, D], fp16, bf16 or fp32, any strides.
        plan: lists for these heads.
        sm_scale: softmax scale, > 0.
        out: [B, H, N, D] of q's dtype to write to; made like q if None.
        lse: [B, H, N] float32 to write the natural logarithm of each row's sum of exponentials to, or None.
        backend: "torch" or "triton".

    Returns:
        out.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
    """
    if q.ndim != 4 or k.shape != v.shape or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(f"gather_attention: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} must be [B, H, N, D]")
    if q.shape[3] not in HEAD_DIMS:
        raise ValueError(f"gather_attention: head_dim {q.shape[3]} must be one of {HEAD_DIMS}")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"gather_attention: q, k, v are {q.dtype}, {k.dtype}, {v.dtype}; they must be of one dtype")
    if not q.device == k.device == v.device == plan.key_index.device:
        raise ValueError(
            f"gather_attention: q, k, v, plan are on {q.device}, {k.device}, {v.device}, {plan.key_index.device}; "
            "they must be on one device"
        )
    if tuple(plan.set_of_head.shape) != tuple(q.shape[:2]):
        raise ValueError(f"gather_attention: plan is for heads {tuple(plan.set_of_head.shape)}, q has {tuple(q.shape[:2])}")
    if DEBUG:
        plan.check(k.shape[2])
    out = torch.empty_like(q) if out is None else out
    run("gather_attention", "gather_attention", backend, q, k, v, plan, sm_scale, out, lse)
    return out
