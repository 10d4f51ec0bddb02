"""Splits query rows into tiles; says where the text stands, and has its plan, which both methods share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..kernels.exact_rows import Windows
from ..kernels.plan import Plan
from .call import Call
from .layout import VideoLayout
from .planned import Planned, rows_of_tiles, whole
from .state import SparseState


def split_into_tiles(rows: Tensor, block_m: int) -> Tensor:
    """Rows [..., N] into full tiles [..., ceil(N / M), M], -1 where the last is not full."""
    return rearrange(F.pad(rows, (0, -rows.shape[-1] % block_m), value=-1), "... (t m) -> ... t m", m=block_m)


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


def text_plan(call: Call, q: Tensor, state: SparseState) -> Planned:
    """Text queries of q [B, H, N, D] read everything: a plan apart from the video's, since their lists are so long."""
    layout, device = call.layout, q.device
    rows = split_into_tiles(text_queries(layout, device), call.block_m)
    video = torch.arange(layout.video.start, layout.video.stop, dtype=torch.int32, device=device)
    keys = torch.cat([text_keys(layout, device, state), video])
    plan = Plan(
        list_of_head=torch.zeros(q.shape[:2], dtype=torch.int32, device=device),
        query_index=rows.unsqueeze(0),
        key_index=keys,
        key_start=torch.zeros((1, len(rows)), dtype=torch.int64, device=device),
        key_count=torch.full((1, len(rows)), len(keys), dtype=torch.int32, device=device),
    )
    return whole(plan, rows_of_tiles(plan.query_index))
