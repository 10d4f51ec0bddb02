"""quantise in plain torch."""

from __future__ import annotations

from torch import Tensor

from . import LARGEST, LEAST, LEVELS, Channels


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows x [..., D] float32 in steps of their own: whole numbers up to `LEVELS` as float32, and the steps [...]."""
    scale = x.abs().amax(-1).clamp(min=LEAST) / LEVELS
    scale = scale + 0 * x.sum(-1)  # what is no finite number stays none
    steps = (x / scale.unsqueeze(-1) + 0.5).floor()
    return steps.nan_to_num(0).clamp_(-LEVELS, LEVELS), scale


def quantise(k: Tensor, channels: Channels, qk_scale: float, k8: Tensor, k_terms: Tensor) -> None:
    """k8 and k_terms of the contract, head by head; qk_scale is log2(e) * sm_scale."""
    balance, q_mean, k_mean, _, _ = channels.unbind()
    for b in range(k.shape[0]):
        for h in range(k.shape[1]):
            centred = k[b, h].float() - k_mean[b, h]
            steps, k_terms[b, h, :, 0] = rounded_rows(centred / balance[b, h])
            k8[b, h], k_terms[b, h, :, 1] = steps.to(k8.dtype), centred @ q_mean[b, h] * qk_scale


def quantise_values(v: Tensor, channels: Channels, v8: Tensor) -> None:
    """v8 of the contract, head by head."""
    largest, (*_, v_scale, v_mean) = LARGEST[v8.dtype], channels.unbind()
    for b in range(v.shape[0]):
        for h in range(v.shape[1]):
            scaled = (v[b, h].float() - v_mean[b, h]) / v_scale[b, h]
            v8[b, h] = scaled.clamp(-largest, largest).to(v8.dtype)
