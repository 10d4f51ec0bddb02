"""Cuts query rows into tiles; says where the text stands, and has its plan, which both methods share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.gather_attention import Plan
from ..kernels.sample_rows import Windows
from .layout import VideoLayout
from .planned import Planned, rows_of_tiles, whole
from .state import SparseState


def cut(order: Tensor, block_m: int) -> Tensor:
    """Rows [..., N] into full tiles [..., ceil(N / M), M], -1 where the last is not full."""
    padding = -order.shape[-1] % block_m
    return F.pad(order, (0, padding), value=-1).unflatten(-1, (-1, block_m))


def text_queries(layout: VideoLayout, device: torch.device) -> Tensor:
    """Positions of the text tokens, [text_tokens] int32."""
    positions = torch.arange(layout.tokens, dtype=torch.int32, device=device)
    return torch.cat([positions[: layout.video.start], positions[layout.video.stop :]])


def text_keys(layout: VideoLayout, device: torch.device, state: SparseState) -> Tensor:
    """Positions of the text tokens that are read, [text_keys] int32."""
    if not layout.masked:
        return text_queries(layout, device)
    # Once a run: a copy to a GPU waits for it.
    return state.once(("text_keys", layout, device), lambda: _unmasked_text(layout, device))


def _unmasked_text(layout: VideoLayout, device: torch.device) -> Tensor:
    masked = set(layout.masked)
    text = (*range(layout.video.start), *range(layout.video.stop, layout.tokens))
    return torch.tensor([i for i in text if i not in masked], dtype=torch.int32, device=device)


def read_mask(layout: VideoLayout, device: torch.device, state: SparseState) -> Tensor:
    """Which tokens are read, [N] bool."""
    read = torch.zeros(layout.tokens, dtype=torch.bool, device=device)
    read[layout.video] = True
    return read.index_fill_(0, text_keys(layout, device, state).long(), True)


def read_windows(layout: VideoLayout, rows: int, device: torch.device, state: SparseState) -> Windows:
    """All tokens that are read, for so many rows."""
    masked = (~read_mask(layout, device, state)).int().unsqueeze(0)  # rank 0 where read, and the window holds rank 0
    begin = torch.zeros((1, rows), dtype=torch.int32, device=device)
    return Windows(masked, begin[:, 0], begin, begin + 1)


def text_plan(layout: VideoLayout, heads: tuple[int, int], block_m: int, device: torch.device, state: SparseState) -> Planned:
    """Text queries read everything: their plan for [B, H] heads, apart from the video's since its lists are so long."""
    rows = cut(text_queries(layout, device), block_m)
    video = torch.arange(layout.video.start, layout.video.stop, dtype=torch.int32, device=device)
    keys = torch.cat([text_keys(layout, device, state), video])
    plan = Plan(
        set_of_head=torch.zeros(heads, dtype=torch.int32, device=device),
        query_index=rows.unsqueeze(0),
        key_index=keys.expand(1, len(rows), -1),
        key_count=torch.full((1, len(rows)), len(keys), dtype=torch.int32, device=device),
    )
    return whole(plan, rows_of_tiles(plan.query_index))
