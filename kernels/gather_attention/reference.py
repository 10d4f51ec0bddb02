"""gather_attention in plain torch; skips the work for real, and is what the Triton kernel must equal."""

from __future__ import annotations

import torch
from torch import Tensor

from ..plan import SECOND_ORDER_CAP, Plan, Tail


def gather_attention(q: Tensor, k: Tensor, v: Tensor, plan: Plan, sm_scale: float, out: Tensor, lse: Tensor | None) -> None:
    """See the contract; float32, tile by tile: gather, two matrix products."""
    rows_of_tile = (plan.query_index >= 0).sum(-1).tolist()
    start_of_tile, keys_of_tile = plan.key_start.tolist(), plan.key_count.tolist()
    for b, sets in enumerate(plan.list_of_head.tolist()):
        for h, s in enumerate(sets):
            queries, keys, values = q[b, h], k[b, h], v[b, h]
            tail = None if plan.tail is None else _HeadTail(plan.tail, b, h, s)
            for t, (n_rows, start, n_keys) in enumerate(zip(rows_of_tile[s], start_of_tile[s], keys_of_tile[s], strict=True)):
                if n_rows == 0:
                    continue
                row_index = plan.query_index[s, t]
                if n_rows < row_index.shape[0]:
                    row_index = row_index[row_index >= 0]
                key_index = plan.key_index[start : start + n_keys]
                tile = queries.index_select(0, row_index).float() * sm_scale
                scores = tile @ keys.index_select(0, key_index).float().T
                if tail is not None:
                    scores = torch.cat([scores, tail.logits(tile, t)], dim=1)
                probs = scores.softmax(1)
                result = probs[:, :n_keys] @ values.index_select(0, key_index).float()
                if tail is not None:
                    result.addmm_(probs[:, n_keys:], tail.value)
                if lse is not None:
                    lse[b, h].index_copy_(0, row_index.long(), scores.logsumexp(1))
                out[b, h].index_copy_(0, row_index.long(), result.to(out.dtype))


class _HeadTail:
    """The tail of one head: logits and values of all clusters, those that a tile reads itself at -inf."""

    def __init__(self, tail: Tail, b: int, h: int, s: int):
        self.mean_t, self.value = tail.k_mean[b, h].float().T, tail.v_mean[b, h].float()
        self.half_variance_t = None if tail.k_variance is None else 0.5 * tail.k_variance[b, h].float().T
        self.bias = tail.log_size[b, h].masked_fill(tail.cluster_mask[s], float("-inf"))

    def logits(self, scaled_rows: Tensor, t: int) -> Tensor:
        """scaled_rows [rows, D] = sm_scale * q -> [rows, C]."""
        logits = torch.addmm(self.bias[t], scaled_rows, self.mean_t)
        if self.half_variance_t is not None:
            logits += (scaled_rows.square() @ self.half_variance_t).clamp_(max=SECOND_ORDER_CAP)
        return logits
