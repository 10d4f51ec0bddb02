"""quantise: keys as INT8 and values as FP8 or scaled float16, for products that run at a multiple of the 16-bit rate.

After SageAttention (arXiv 2410.02367) and SageAttention2 (arXiv 2411.10958). The mean over the tokens is taken off the keys,
which the softmax does not see, and off the queries, whose part in the logits is a number a key. Each key has a scale of its
own, so that lists of keys need no blocks. Two steps are added. A channel that is large in the keys and small in the queries
would leave the others few levels, so both sides are balanced, as SmoothQuant (arXiv 2211.10438) does with weights. And the
mean is taken off the values too, and put back behind the sum.
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
    """Keys and values in few bits: k = scale * balance * k8 + k_mean, v = v_scale * v8 + v_mean.

    Attributes:
        k8: [B, H, N, D] int8, contiguous.
        k_terms: [B, H, N, 2] float32, contiguous: a key's scale, > 0; and what its logits have from the queries' mean,
            log2(e) * sm_scale * q_mean . (k - k_mean), in base 2. NaN where a key is no finite number.
        v8: [B, H, N, D]; float8_e4m3fn or float16, or v itself where products in its own dtype are as fast.
        channels: what else belongs to these heads.
    """

    k8: Tensor
    k_terms: Tensor
    v8: Tensor
    channels: Channels


def measure_channels(q: Tensor, k: Tensor, v: Tensor, values: torch.dtype | None) -> Channels:
    """Means and sizes, for all heads at once.

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
    k: Tensor, v: Tensor, channels: Channels, *, sm_scale: float, values: torch.dtype | None = None, backend: str = "torch"
) -> Quantised:
    """Keys in INT8 with a scale each, values in `values` with a scale a channel.

    Args:
        k, v: [B, H, N, D], fp16, bf16 or fp32, any strides.
        channels: as `measure_channels` has them for these heads and `values`.
        sm_scale: softmax scale.
        values: torch.float8_e4m3fn, torch.float16, or None to leave v as it is.
        backend: "torch" or "triton".
    """
    k8 = torch.empty(k.shape, dtype=torch.int8, device=k.device)
    k_terms = torch.empty((*k.shape[:3], 2), dtype=torch.float32, device=k.device)
    run("quantise", "quantise", backend, k, channels, sm_scale * LOG2_E, k8, k_terms)
    v8 = v
    if values is not None:
        v8 = torch.empty(v.shape, dtype=values, device=v.device)
        run("quantise", "quantise_values", backend, v, channels, v8)
    return Quantised(k8, k_terms, v8, channels)


def quantised_bytes(tokens: int, head_dim: int, values: torch.dtype | None) -> int:
    """Bytes of one head's quantised keys and values."""
    return tokens * (head_dim * (1 + (0 if values is None else values.itemsize)) + 8)


def _relative(size: Tensor) -> Tensor:
    """Sizes of channels [B, H, D] by the head's largest; at least 2^-10, so that one that is zero divides nothing by zero."""
    return (size / size.amax(-1, keepdim=True).clamp(min=LEAST)).clamp(min=2**-10)
