"""Cuts query rows into tiles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import VideoLayout


def cut(order: Tensor, block_m: int) -> Tensor:
    """Rows [..., N] into full tiles [..., ceil(N / M), M], -1 where the last is not full."""
    padding = -order.shape[-1] % block_m
    return F.pad(order, (0, padding), value=-1).unflatten(-1, (-1, block_m))


def text_index(layout: VideoLayout, device: torch.device) -> Tensor:
    """Positions of the text tokens, [text_tokens] int32."""
    positions = torch.arange(layout.tokens, dtype=torch.int32, device=device)
    return torch.cat([positions[: layout.video.start], positions[layout.video.stop :]])
