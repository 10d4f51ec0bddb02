"""gather_attention in plain torch; skips the work for real, and is what the Triton kernel must equal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..plan import SECOND_ORDER_CAP, Plan, Tail
from ..quantise import Quantised
from ..tile_configs import SIXTEEN

# To which a row's largest weight is scaled before it is rounded.
LARGEST_WEIGHT = {torch.float8_e4m3fn: 448.0, torch.float16: 1.0}


def gather_attention(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, sm_scale: float, out: Tensor, lse: Tensor | None,
    quantised: Quantised | None = None, precision: str = SIXTEEN,
) -> None:  # fmt: skip
    """See the contract; float32, tile by tile: gather, two matrix products.

    Quantised queries, keys, values and weights are rounded as in the kernel, and multiplied in float32: whole numbers
    exactly. Sums in float16 are not imitated, and the weights are rounded at the size that they have beside the whole list's
    largest, where the kernel knows that of the tiles before.
    """
    rows_of_tile = (plan.query_index >= 0).sum(-1).tolist()
    start_of_tile, keys_of_tile = plan.key_start.tolist(), plan.key_count.tolist()
    for b, sets in enumerate(plan.list_of_head.tolist()):
        for h, s in enumerate(sets):
            queries = q[b, h]
            few = None if quantised is None else _HeadQuantised(quantised, b, h)
            keys, values = (k[b, h], v[b, h]) if few is None else (few.k8, few.v8)
            tail = None if plan.tail is None else _HeadTail(plan.tail, b, h, s)
            for t, (n_rows, start, n_keys) in enumerate(zip(rows_of_tile[s], start_of_tile[s], keys_of_tile[s], strict=True)):
                if n_rows == 0:
                    continue
                row_index = plan.query_index[s, t]
                if n_rows < row_index.shape[0]:
                    row_index = row_index[row_index >= 0]
                key_index = plan.key_index[start : start + n_keys]
                tile = queries.index_select(0, row_index).float() * sm_scale
                read_keys, read_values = (x.index_select(0, key_index).float() for x in (keys, values))
                scores = tile @ read_keys.T if few is None else few.scores(row_index, read_keys, key_index)
                if tail is not None:
                    scores = torch.cat([scores, tail.logits(tile, t)], dim=1)
                probs = scores.softmax(1)
                own = probs[:, :n_keys]
                result = own @ read_values if few is None else few.weighted(own, read_values)
                if tail is not None:
                    result.addmm_(probs[:, n_keys:], tail.value)
                if lse is not None:
                    lse[b, h].index_copy_(0, row_index.long(), scores.logsumexp(1))
                out[b, h].index_copy_(0, row_index.long(), result.to(out.dtype))


class _HeadQuantised:
    """The quantised queries, keys and values of one head."""

    def __init__(self, quantised: Quantised, b: int, h: int):
        self.q8, self.k8, self.v8 = (x[b, h] for x in (quantised.q8, quantised.k8, quantised.v8))
        self.q_terms, self.k_terms = quantised.q_terms[b, h], quantised.k_terms[b, h]
        *_, self.v_scale, self.v_mean = (x[b, h] for x in quantised.channels.unbind())

    def scores(self, row_index: Tensor, keys: Tensor, key_index: Tensor) -> Tensor:
        """Of rows with quantised keys [n, D] -> logits [rows, n]."""
        (q_scale, q_bias), (k_scale, k_bias) = (
            terms.index_select(0, index).unbind(-1) for terms, index in ((self.q_terms, row_index), (self.k_terms, key_index))
        )
        logits = (self.q8.index_select(0, row_index).float() @ keys.T) * q_scale.unsqueeze(1) * k_scale
        return (logits + q_bias.unsqueeze(1) + k_bias) * math.log(2)

    def weighted(self, probs: Tensor, values: Tensor) -> Tensor:
        """probs [rows, n] with quantised values [n, D] -> [rows, D]."""
        weights, largest = probs, LARGEST_WEIGHT.get(self.v8.dtype)
        if largest and len(values):
            unit = probs.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / largest
            weights = (probs / unit).clamp(max=largest).to(self.v8.dtype).float() * unit
        return (weights @ values) * self.v_scale + probs.sum(1, keepdim=True) * self.v_mean


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
