"""Sparse attention in three steps: a planner says which keys each query tile reads, an executor runs the plan."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels import choose_backend
from ..kernels.gather_attention import computed_blocks, gather_attention, tile_rows
from ..kernels.sample_rows import sample_rows
from . import svg, svg2
from .config import SVG2Config, SVGConfig
from .layout import VideoLayout
from .sampling import stratified
from .state import SparseState

PLANNERS = {SVGConfig: svg.plan, SVG2Config: svg2.plan}
ERROR_ROWS = 64


@dataclass(frozen=True)
class AttentionStats:
    """What a call did, per batch and head, on the tensors' device.

    Attributes:
        density: [B, H], computed (query, key) pairs / all pairs.
        computed: [B, H], density plus padding that was computed.
        pattern: [B, H] int32, 0 spatial and 1 temporal, or None (SVG2).
        error: [B, H], |out - exact| / |exact| over `ERROR_ROWS` rows spread over the video, or None (not asked for).
    """

    density: Tensor
    computed: Tensor
    pattern: Tensor | None
    error: Tensor | None


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    config: SVGConfig | SVG2Config,
    layout: VideoLayout,
    state: SparseState | None = None,
    key: Hashable = None,
    backend: str = "auto",
    sm_scale: float | None = None,
    measure_error: bool = False,
) -> tuple[Tensor, AttentionStats]:
    """Self-attention of a video's tokens, computed where it matters.

    Args:
        q, k, v: [B, H, N, D], RoPE and norms applied; fp16, bf16 or fp32; any strides. N = layout.tokens.
        config: which method, and its settings.
        layout: where the video's tokens stand in the sequence.
        state: what lives across the steps of a run; None forgets everything at the end of the call.
        key: tells apart the calls of a step that share `state`: layer, conditioning, window.
        backend: "auto", "triton" or "torch".
        sm_scale: softmax scale; None is D^-0.5.
        measure_error: also compute some rows exactly and compare (under 0.1 % of full attention).

    Returns:
        out [B, H, N, D] of q's dtype and memory order, and what was done.

    Raises:
        ValueError: shapes do not fit each other or the layout.
        RuntimeError: the backend asked for cannot run here.
    """
    _check(q, k, v, layout)
    backend = choose_backend(backend, q.device)
    block_m = tile_rows(q.shape[-1], q.device, q.dtype)
    sm_scale = q.shape[-1] ** -0.5 if sm_scale is None else sm_scale
    state = SparseState() if state is None else state
    planner = PLANNERS[type(config)]

    out = torch.empty_like(q)
    density, computed, pattern = [], [], []
    for heads, plan in planner(q, k, v, config, layout, state, key, sm_scale=sm_scale, block_m=block_m, backend=backend):
        gather_attention(q[:, heads], k[:, heads], v[:, heads], plan, sm_scale=sm_scale, out=out[:, heads], backend=backend)
        density.append(plan.work(layout.tokens))
        computed.append(plan.work(layout.tokens, *computed_blocks(q, backend)))
        pattern.append(plan.set_of_head)

    return out, AttentionStats(
        density=torch.cat(density, 1),
        computed=torch.cat(computed, 1),
        pattern=torch.cat(pattern, 1) if isinstance(config, SVGConfig) else None,
        error=_relative_error(out, q, k, v, layout, sm_scale, backend) if measure_error else None,
    )


def warm_up(
    q: Tensor,
    k: Tensor,
    *,
    config: SVGConfig | SVG2Config,
    layout: VideoLayout,
    state: SparseState,
    key: Hashable = None,
    backend: str = "auto",
) -> None:
    """Brings the state forward in a step whose attention stays dense, so that the first sparse call finds it ready.

    Args:
        as in `sparse_attention`. SVG keeps nothing from call to call, so for it nothing happens.
    """
    if isinstance(config, SVG2Config):
        backend = choose_backend(backend, q.device)
        svg2.update_clusters(q, k, config, layout, state, key, final=False, backend=backend)


def _relative_error(out: Tensor, q: Tensor, k: Tensor, v: Tensor, layout: VideoLayout, sm_scale: float, backend: str) -> Tensor:
    rows = stratified(min(ERROR_ROWS, layout.video_tokens), layout.video_tokens, q.device) + layout.text_before
    exact = sample_rows(q, k, v, rows, sm_scale=sm_scale, backend=backend)[:, :, 0]
    return (out.index_select(2, rows).float() - exact).norm(dim=(-2, -1)) / exact.norm(dim=(-2, -1))


def _check(q: Tensor, k: Tensor, v: Tensor, layout: VideoLayout) -> None:
    if q.ndim != 4 or not q.shape == k.shape == v.shape:
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: self-attention needs one shape [B, H, N, D]"
        )
    if q.shape[2] != layout.tokens:
        raise ValueError(f"{layout} has {layout.tokens} tokens, q has {q.shape[2]}")
