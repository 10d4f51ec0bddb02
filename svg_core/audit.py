"""What a call did: pairs computed, whether the result is finite, and its error against exact attention of some rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import PRECISIONS
from ..kernels.exact_rows import exact_rows
from ..kernels.gather_attention import computed_blocks
from .call import Call
from .layout import VideoLayout
from .planned import Planned
from .sampling import stratified
from .state import SparseState
from .stats import AttentionStats
from .tiles import read_mask, read_windows

ERROR_ROWS = 64


def audit(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    planned: Sequence[Planned],
    call: Call,
    state: SparseState,
    *,
    measure_error: bool,
    max_error: float,
) -> AttentionStats:
    """Counts what was planned and looks at some rows of out; with `max_error`, bad heads of it are computed in full.

    Args:
        as in `sparse_attention`; out: [B, H, N, D], its result.
    """
    layout, video = call.layout, planned[-1]
    pairs = sum(queries.pairs() for queries in planned)
    precisions = [call.precision if queries is video else PRECISIONS[0] for queries in planned]
    blocks = [computed_blocks(q, call.backend, precision) for precision in precisions]
    computed = sum(queries.pairs(*block) for queries, block in zip(planned, blocks, strict=True))
    rows = _sampled_rows(layout, q.device, state)
    sampled = out.index_select(2, rows).float()
    error = exact_finite = None
    if measure_error or max_error:
        windows = read_windows(layout, len(rows), q.device, state) if layout.masked else None
        exact = exact_rows(q, k, v, rows, sm_scale=call.sm_scale, windows=windows, backend=call.backend)[:, :, -1]
        error, exact_finite = (sampled - exact).norm(dim=(-2, -1)) / exact.norm(dim=(-2, -1)), _finite(exact)
    stats = AttentionStats(
        density=pairs / layout.tokens**2,
        computed=computed / layout.tokens**2,
        pattern=video.pattern,
        kept_fraction=video.kept_fraction,
        alike=video.alike,
        finite=_finite(sampled),
        exact_finite=exact_finite,
        error=error,
        dense=torch.zeros_like(pairs, dtype=torch.bool),
    )
    return _limit_error(max_error, q, k, v, out, stats, call, state) if max_error else stats


def _sampled_rows(layout: VideoLayout, device: torch.device, state: SparseState) -> Tensor:
    """Rows of the video to look at, [S] int64."""
    count = min(ERROR_ROWS, layout.video_tokens)
    return state.once(("rows", layout, device), lambda: stratified(count, layout.video_tokens, device) + layout.text_before)


def _finite(rows: Tensor) -> Tensor:
    """Whether all of rows [B, H, S, D] are finite numbers, [B, H]: 0 * x is NaN where x is not."""
    return (0 * rows).sum((-2, -1)) == 0


def _limit_error(
    limit: float, q: Tensor, k: Tensor, v: Tensor, out: Tensor, stats: AttentionStats, call: Call, state: SparseState
) -> AttentionStats:
    """Writes full attention to out for heads whose error is above the limit or NaN, head by head: copies stay small."""
    dense = ~(stats.error <= limit)
    keys = read_mask(call.layout, q.device, state).nonzero().flatten() if call.layout.masked else None
    for b, h in dense.nonzero().tolist():
        here = (slice(b, b + 1), slice(h, h + 1))
        read_k, read_v = (x[here] if keys is None else x[here].index_select(2, keys) for x in (k, v))
        out[here] = F.scaled_dot_product_attention(q[here], read_k, read_v, scale=call.sm_scale)
    return replace(
        stats,
        density=stats.density.masked_fill(dense, 1),
        computed=stats.computed + dense,
        finite=_finite(out.index_select(2, _sampled_rows(call.layout, q.device, state))),
        error=stats.error.masked_fill(dense, 0),
        dense=dense,
    )
