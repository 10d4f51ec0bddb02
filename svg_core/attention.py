"""Sparse attention in three steps: a planner says which keys each query tile reads, an executor runs the plan."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import wraps

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import choose_backend
from ..kernels.gather_attention import computed_blocks, gather_attention, tile_rows
from ..kernels.sample_rows import sample_rows
from . import svg, svg2
from .config import SVG2Config, SVGConfig
from .layout import VideoLayout
from .planned import Planned
from .sampling import stratified
from .state import SparseState
from .tiles import read_mask, read_windows, text_plan

PLANNERS = {SVGConfig: svg.plan, SVG2Config: svg2.plan}
ERROR_ROWS = 64
WORKSPACE_BYTES = 384 << 20


@dataclass(frozen=True)
class AttentionStats:
    """What a call did, per batch and head, on the tensors' device.

    Attributes:
        density: [B, H], computed (query, key) pairs / all pairs.
        computed: [B, H], density plus padding that was computed.
        pattern: [B, H] int32, 0 spatial and 1 temporal, or None (SVG2).
        kept: [B, H], share of the key clusters that a tile reads, mean over its tiles, or None (SVG).
        finite: [B, H] bool, False where one of `ERROR_ROWS` rows spread over the video holds NaN or infinity.
        exact_finite: [B, H] bool, the same of dense attention for these rows, or None (no error was asked for): where it
            is False, q, k or v brought what is not finite.
        error: [B, H], |out - exact| / |exact| over the same rows, or None (not asked for); 0 where `dense`.
        dense: [B, H] bool, the sparse error was above `max_error`, or no number, so all pairs were computed after all.
            There `density` is 1 and `computed` holds both.
    """

    density: Tensor
    computed: Tensor
    pattern: Tensor | None
    kept: Tensor | None
    finite: Tensor
    exact_finite: Tensor | None
    error: Tensor | None
    dense: Tensor


def _without_autocast(function: Callable) -> Callable:
    """For a function of q, k, ...: autocast would round centroids and sums that are float32 for a reason."""

    @wraps(function)
    def plain(q, *args, **kwargs):
        device = q.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            return function(q, *args, **kwargs)

    return plain


@_without_autocast
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
    max_error: float = 0.0,
    workspace_bytes: int = WORKSPACE_BYTES,
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
        max_error: heads whose measured error is above are computed in full; 0 lets all pass. Waits for the device.
        workspace_bytes: of SVG2's key lists that exist at a time; fewer heads run together where it is small.

    Returns:
        out [B, H, N, D] of q's dtype and memory order, and what was done.

    Raises:
        ValueError: shapes do not fit each other or the layout.
        RuntimeError: the backend asked for cannot run here.
    """
    _check(q, k, v, layout)
    backend = choose_backend(backend, q.device)
    sm_scale = q.shape[-1] ** -0.5 if sm_scale is None else sm_scale
    state = SparseState() if state is None else state
    options = {"sm_scale": sm_scale, "backend": backend, "workspace_bytes": workspace_bytes}

    out = torch.empty_like(q)
    planned = plans(q, k, v, config, layout, state, key, **options)
    for queries in planned:
        for where, plan in queries.parts:
            gather_attention(q[where], k[where], v[where], plan, sm_scale=sm_scale, out=out[where], backend=backend)
            del plan  # its lists make room for the next heads'
    pairs = sum(queries.pairs() for queries in planned)
    computed = sum(queries.pairs(*computed_blocks(q, backend)) for queries in planned)
    video = planned[-1]

    rows = _sampled_rows(layout, q.device, state)
    sampled = out.index_select(2, rows).float()
    error = exact_finite = None
    if measure_error or max_error:
        windows = read_windows(layout, len(rows), q.device, state) if layout.masked else None
        exact = sample_rows(q, k, v, rows, sm_scale=sm_scale, windows=windows, backend=backend)[:, :, -1]
        error, exact_finite = (sampled - exact).norm(dim=(-2, -1)) / exact.norm(dim=(-2, -1)), _finite(exact)
    stats = AttentionStats(
        density=pairs / layout.tokens**2,
        computed=computed / layout.tokens**2,
        pattern=video.set_of_head if isinstance(config, SVGConfig) else None,
        kept=video.kept,
        finite=_finite(sampled),
        exact_finite=exact_finite,
        error=error,
        dense=torch.zeros_like(pairs, dtype=torch.bool),
    )
    return out, _limit_error(max_error, out, q, k, v, stats, layout, state, sm_scale) if max_error else stats


def plans(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    config: SVGConfig | SVG2Config,
    layout: VideoLayout,
    state: SparseState,
    key: Hashable,
    *,
    sm_scale: float,
    backend: str,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> list[Planned]:
    """The text's queries, if there are any, then the video's; every row of every head stands in one of their plans.

    Args:
        as in `sparse_attention`, with the backend chosen.
    """
    options = {"block_m": tile_rows(q.shape[-1], q.device, q.dtype), "sm_scale": sm_scale}
    options |= {"backend": backend, "workspace_bytes": workspace_bytes}
    text = [text_plan(layout, q.shape[:2], options["block_m"], q.device, state)] if layout.text_tokens else []
    return [*text, PLANNERS[type(config)](q, k, v, config, layout, state, key, **options)]


@_without_autocast
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
        _, memory = svg2.update_clusters(q, k, config, layout, state.get(key), final=False, backend=backend)
        state.put(key, memory)


def _sampled_rows(layout: VideoLayout, device: torch.device, state: SparseState) -> Tensor:
    """Rows of the video to look at, [S] int64."""
    count = min(ERROR_ROWS, layout.video_tokens)
    return state.once(("rows", layout, device), lambda: stratified(count, layout.video_tokens, device) + layout.text_before)


def _finite(rows: Tensor) -> Tensor:
    """Whether all of rows [B, H, S, D] are finite numbers, [B, H]: 0 * x is NaN where x is not."""
    return (0 * rows).sum((-2, -1)) == 0


def _limit_error(
    limit: float,
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    stats: AttentionStats,
    layout: VideoLayout,
    state: SparseState,
    sm_scale: float,
) -> AttentionStats:
    """Writes full attention to out for heads whose error is above the limit or NaN, head by head: copies stay small."""
    dense = ~(stats.error <= limit)
    keys = read_mask(layout, q.device, state).nonzero().flatten() if layout.masked else None
    for b, h in dense.nonzero().tolist():
        here = (slice(b, b + 1), slice(h, h + 1))
        read_k, read_v = (x[here] if keys is None else x[here].index_select(2, keys) for x in (k, v))
        out[here] = F.scaled_dot_product_attention(q[here], read_k, read_v, scale=sm_scale)
    return replace(
        stats,
        density=stats.density.masked_fill(dense, 1),
        computed=stats.computed + dense,
        finite=_finite(out.index_select(2, _sampled_rows(layout, q.device, state))),
        error=stats.error.masked_fill(dense, 0),
        dense=dense,
    )


def _check(q: Tensor, k: Tensor, v: Tensor, layout: VideoLayout) -> None:
    if q.ndim != 4 or not q.shape == k.shape == v.shape:
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: self-attention needs one shape [B, H, N, D]"
        )
    if q.shape[2] != layout.tokens:
        raise ValueError(f"{layout} has {layout.tokens} tokens, q has {q.shape[2]}")
