"""quantise: queries and keys as INT8, values as FP8 or scaled float16, for products that run at a multiple of the 16-bit rate.

After SageAttention (arXiv 2410.02367) and SageAttention2 (arXiv 2411.10958). The mean over the tokens is taken off the keys,
which the softmax does not see, and off the queries, whose part in the logits is a number a key. Each key and each query has
a scale of its own, so that lists of keys need no blocks. Two steps are added. A channel that is large in the keys and small
in the queries would leave the others few levels, so both sides are balanced, as SmoothQuant (arXiv 2211.10438) does with
weights. And the mean is taken off the values too, and put back behind the sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backend import run

LOG2_E = math.log2(math.e)
LEVELS = 127  # of INT8, to each side
# The largest quantised value: of e4m3 the largest there is; of float16 what leaves sums of a tile of keys in its range.
LARGEST = {torch.float8_e4m3fn: 448.0, torch.float16: 256.0}
LEAST = 1e-30  # a scale is at least this, so that zeros stay zeros


@dataclass(frozen=True)
class Channels:
    """What queries, keys and values are scaled by: means and sizes of channels over the tokens.

    Attributes:
        rows: [B, H, 5, D] float32, one after the other: `balance` > 0, by which a channel of the queries is multiplied and one
            of the keys divided; `q_mean`, `k_mean`; `v_scale` > 0, `v_mean`, which are 1 and 0 where values stay as they are.
    """

    rows: Tensor

    def of(self, where: tuple[slice, ...]) -> Channels:
        """Those of some heads."""
        return Channels(self.rows[where].contiguous())

    def unbind(self) -> tuple[Tensor, ...]:
        """The five in their order, each [B, H, D]."""
        return self.rows.unbind(2)


@dataclass(frozen=True)
class Quantised:
    """Queries, keys and values in few bits.

    q = q_scale / balance * q8 + q_mean, k = k_scale * balance * k8 + k_mean, v = v_scale * v8 + v_mean. A logit in base 2, that
    is log2(e) * sm_scale * q . k, is q8 . k8 by the first terms of both, plus the second ones. All terms of a head are NaN
    where any of its queries or keys is no finite number.

    Attributes:
        q8, k8: [B, H, N, D] int8, contiguous.
        q_terms: [B, H, N, 2] float32, contiguous: log2(e) * sm_scale * q_scale; and log2(e) * sm_scale * q . k_mean.
        k_terms: [B, H, N, 2] float32, contiguous: k_scale; and log2(e) * sm_scale * q_mean . (k - k_mean).
        v8: [B, H, N, D]; float8_e4m3fn or float16, or v itself where products in its own dtype are as fast.
        channels: what else belongs to these heads.
    """

    q8: Tensor
    q_terms: Tensor
    k8: Tensor
    k_terms: Tensor
    v8: Tensor
    channels: Channels


def measure_channels(q: Tensor, k: Tensor, v: Tensor, values: torch.dtype | None) -> Channels:
    """Means and sizes, for all heads at once, over all tokens: those that no list reads, as masked ones, count too.

    Args:
        as in `quantise`.

    Raises:
        ValueError: shapes do not fit together, or `values` is another dtype.
    """
    if q.ndim != 4 or k.shape != v.shape or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(f"quantise: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} must be [B, H, N, D]")
    if values is not None and values not in LARGEST:
        raise ValueError(f"quantise: values {values} must be one of {', '.join(map(str, LARGEST))} or None")
    (q_size, q_mean), (k_size, k_mean) = ([y.float() for y in torch.std_mean(x, 2, correction=0)] for x in (q, k))
    balance = (_relative(k_size) / _relative(q_size)).sqrt()
    v_scale, v_mean = torch.ones_like(k_mean), torch.zeros_like(k_mean)
    if values is not None:
        v_mean, (low, high) = v.mean(2, dtype=torch.float32), v.aminmax(dim=2)
        v_scale = (torch.maximum(high.float() - v_mean, v_mean - low.float()) / LARGEST[values]).clamp(min=LEAST)
    return Channels(torch.stack([balance, q_mean, k_mean, v_scale, v_mean], 2))


def quantise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    channels: Channels,
    *,
    sm_scale: float,
    values: torch.dtype | None = None,
    backend: str = "torch",
) -> Quantised:
    """Queries and keys in INT8 with a scale each, values in `values` with a scale a channel.

    Args:
        q, k, v: [B, H, N, D], fp16, bf16 or fp32, any strides.
        channels: as `measure_channels` has them for these heads and `values`.
        sm_scale: softmax scale.
        values: torch.float8_e4m3fn, torch.float16, or None to leave v as it is.
        backend: "torch" or "triton".
    """
    made = []
    for x, is_q in ((q, True), (k, False)):
        made.append(torch.empty(x.shape, dtype=torch.int8, device=x.device))
        made.append(torch.empty((*x.shape[:3], 2), dtype=torch.float32, device=x.device))
        run("quantise", "quantise", backend, x, channels, sm_scale * LOG2_E, is_q, *made[-2:])
    v8 = v
    if values is not None:
        v8 = torch.empty(v.shape, dtype=values, device=v.device)
        run("quantise", "quantise_values", backend, v, channels, v8)
    return Quantised(*made, v8, channels)


def quantised_bytes(tokens: int, head_dim: int, values: torch.dtype | None) -> int:
    """Bytes of one head's quantised queries, keys and values."""
    return tokens * (head_dim * (2 + (0 if values is None else values.itemsize)) + 2 * 8)


def _relative(size: Tensor) -> Tensor:
    """Sizes of channels [B, H, D] by the head's largest; at least 2^-10, so that one that is zero divides nothing by zero."""
    return (size / size.amax(-1, keepdim=True).clamp(min=LEAST)).clamp(min=2**-10)
