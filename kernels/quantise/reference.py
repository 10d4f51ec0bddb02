"""quantise in plain torch."""

from __future__ import annotations

from torch import Tensor

from . import LARGEST, LEAST, LEVELS


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows x [..., D] float32 in steps of their own: whole numbers up to `LEVELS` as float32, and the steps [...]."""
    scale = x.abs().amax(-1).clamp(min=LEAST) / LEVELS
    scale = scale + 0 * x.sum(-1)  # what is no finite number stays none
    steps = (x / scale.unsqueeze(-1) + 0.5).floor()
    return steps.nan_to_num(0).clamp_(-LEVELS, LEVELS), scale


def quantise(k: Tensor, k_mean: Tensor, q_part: Tensor, inverse: Tensor, k8: Tensor, k_terms: Tensor) -> None:
    """k8 and k_terms of the contract, head by head.

    q_part [B, H, D] is log2(e) * sm_scale * q_mean, inverse [B, H, D] is 1 / balance.
    """
    for b in range(k.shape[0]):
        for h in range(k.shape[1]):
            centred = k[b, h].float() - k_mean[b, h]
            steps, k_terms[b, h, :, 0] = rounded_rows(centred * inverse[b, h])
            k8[b, h], k_terms[b, h, :, 1] = steps.to(k8.dtype), centred @ q_part[b, h]


def quantise_values(v: Tensor, v_mean: Tensor, inverse: Tensor, v8: Tensor) -> None:
    """v8 of the contract, where inverse [B, H, D] is 1 / v_scale; head by head."""
    largest = LARGEST[v8.dtype]
    for b in range(v.shape[0]):
        for h in range(v.shape[1]):
            v8[b, h] = ((v[b, h].float() - v_mean[b, h]) * inverse[b, h]).clamp(-largest, largest).to(v8.dtype)
