"""quantise in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from . import LARGEST, LEAST, LEVELS, Channels


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows x [..., D] float32 in steps of their own: whole numbers up to `LEVELS` as float32, and the steps [...]."""
    scale = x.abs().amax(-1).clamp(min=LEAST) / LEVELS
    scale = scale + 0 * x.sum(-1)  # what is no finite number stays none
    steps = (x / scale.unsqueeze(-1) + 0.5).floor()
    return steps.nan_to_num(0).clamp_(-LEVELS, LEVELS), scale


def quantise(x: Tensor, channels: Channels, qk_scale: float, is_q: bool, x8: Tensor, terms: Tensor) -> None:
    """Of the contract q8 and q_terms, or k8 and k_terms, head by head; qk_scale is log2(e) * sm_scale."""
    balance, q_mean, k_mean, _, _ = channels.unbind()
    for b in range(x.shape[0]):
        for h in range(x.shape[1]):
            rows = x[b, h].float()
            if is_q:
                steps, scale = rounded_rows((rows - q_mean[b, h]) * balance[b, h])
                terms[b, h] = torch.stack([scale, rows @ k_mean[b, h]], -1) * qk_scale
            else:
                centred = rows - k_mean[b, h]
                steps, scale = rounded_rows(centred / balance[b, h])
                terms[b, h] = torch.stack([scale, centred @ q_mean[b, h] * qk_scale], -1)
            x8[b, h] = steps.to(x8.dtype)


def quantise_values(v: Tensor, channels: Channels, v8: Tensor) -> None:
    """v8 of the contract, head by head."""
    largest, (*_, v_scale, v_mean) = LARGEST[v8.dtype], channels.unbind()
    for b in range(v.shape[0]):
        for h in range(v.shape[1]):
            scaled = (v[b, h].float() - v_mean[b, h]) / v_scale[b, h]
            v8[b, h] = scaled.clamp(-largest, largest).to(v8.dtype)
