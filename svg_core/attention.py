"""Sparse attention in three steps: a planner says which keys each query tile reads, an executor runs the plan, an audit
says what that came to.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..kernels import PRECISIONS
from ..kernels.gather_attention import gather_attention, values_dtype
from ..kernels.quantise import measure_channels
from .audit import audit
from .call import WORKSPACE_BYTES, Call
from .config import Config
from .layout import VideoLayout
from .methods import METHODS
from .planned import Planned
from .state import SparseState
from .stats import AttentionStats
from .tiles import text_plan


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    config: Config,
    layout: VideoLayout,
    state: SparseState | None = None,
    key: Hashable = None,
    backend: str = "auto",
    sm_scale: float | None = None,
    measure_error: bool = False,
    max_error: float = 0.0,
    workspace_bytes: int = WORKSPACE_BYTES,
    conditionings: int = 1,
    shared_key: Hashable = None,
    turn: Hashable = None,
    precision: str = PRECISIONS[0],
) -> tuple[Tensor, AttentionStats]:
    """Self-attention of a video's tokens, computed where it matters.

    Args:
        q, k, v: [B, H, N, D], RoPE and norms applied; fp16, bf16 or fp32; any strides. N = layout.tokens.
        config: which method, and its settings.
        layout: where the video's tokens stand in the sequence.
        state: what lives across the steps of a run; None forgets everything at the end of the call.
        key: tells apart the calls of a step that share `state`: layer, conditioning, window. Equal keys share clusters.
        backend: "triton", "torch", or "auto": torch on a CPU, else the Triton kernels.
        sm_scale: softmax scale; None is D^-0.5.
        measure_error: also compute some rows exactly and compare (under 0.1 % of full attention).
        max_error: heads whose measured error is above are computed in full; 0 measures none. Waits for the device.
        workspace_bytes: of SVG2's key lists, and of quantised queries, keys and values, that exist at a time; fewer heads run
            together where it is small.
        conditionings: of each video in the batch: with V videos, elements b, b + V and so on are the same one, and are
            planned together.
        shared_key: in place of `key`, of what all conditionings of a video share, where they come in calls of their own.
        turn: tells apart the moments of a run. Of the calls with one `shared_key` in one turn the first makes the clusters,
            and the others use them; None: each makes its own.
        precision: of the video's products: "16 bit", "int8" (q k^T in INT8) or "8 bit" (and p v in FP8); one that does not
            run here is the nearest finer one. The tail, the text's queries and the measured error's rows stay in 16 bit.

    Returns:
        out [B, H, N, D] of q's dtype and memory order, and what was done.

    Raises:
        ValueError: shapes do not fit each other, the layout or the conditionings.
        RuntimeError: the backend cannot run here, or its kernel failed.
    """
    _check(q, k, v, layout, conditionings)
    sharing = {"conditionings": conditionings, "shared_key": shared_key, "turn": turn}
    options = {"sm_scale": sm_scale, "backend": backend, "workspace_bytes": workspace_bytes, "precision": precision}
    call = Call.of(q, config, layout, **options, **sharing)
    state = SparseState() if state is None else state
    out = torch.empty_like(q)
    with _without_autocast(q.device):
        planned = plans(q, k, v, call, state, key)
        for queries in planned:
            few = queries is planned[-1] and call.precision != PRECISIONS[0]  # the text's few rows would not pay for it
            channels = measure_channels(q, k, v, values_dtype(q, call.precision)) if few else None
            for where, plan in queries.parts:  # (batch slice, heads slice), lists; after the last the state is brought forward
                given = {"sm_scale": call.sm_scale, "out": out[where], "backend": call.backend}
                given |= {"precision": call.precision, "channels": channels.of(where)} if few else {}
                gather_attention(*(x[where] for x in (q, k, v)), plan, **given)
                del plan  # its lists make room for the next heads'
        learn = planned[-1].learn
        measure_error |= learn is not None
        stats = audit(q, k, v, out, planned, call, state, measure_error=measure_error, max_error=max_error)
        if learn is not None:
            learn(stats)
        return out, stats


def plans(q: Tensor, k: Tensor, v: Tensor, call: Call, state: SparseState, key: Hashable) -> list[Planned]:
    """The text's queries, if there are any, then the video's; every row of every head stands in one of their plans."""
    text = [text_plan(call, q, state)] if call.layout.text_tokens else []
    return [*text, METHODS[type(call.config)].plan(q, k, v, call, state, key)]


def warm_up(
    q: Tensor,
    k: Tensor,
    *,
    config: Config,
    layout: VideoLayout,
    state: SparseState,
    key: Hashable = None,
    backend: str = "auto",
    conditionings: int = 1,
    shared_key: Hashable = None,
    turn: Hashable = None,
) -> None:
    """Brings the state forward in a step whose attention stays dense, so that the first sparse call finds it ready.

    Args:
        as in `sparse_attention`. SVG keeps nothing from call to call, so for it nothing happens.
    """
    if METHODS[type(config)].WARMS_UP:
        with _without_autocast(q.device):
            sharing = {"conditionings": conditionings, "shared_key": shared_key, "turn": turn}
            METHODS[type(config)].warm_up(q, k, Call.of(q, config, layout, backend=backend, **sharing), state, key)


def _without_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which autocast rounds nothing: centroids and sums are float32 for a reason."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def _check(q: Tensor, k: Tensor, v: Tensor, layout: VideoLayout, conditionings: int) -> None:
    if q.ndim != 4 or not q.shape == k.shape == v.shape:
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: self-attention needs one shape [B, H, N, D]"
        )
    if q.shape[2] != layout.tokens:
        raise ValueError(f"{layout} has {layout.tokens} tokens, q has {q.shape[2]}")
    if conditionings < 1 or len(q) % conditionings:
        raise ValueError(f"conditionings={conditionings}: a batch of {len(q)} does not hold so many of each video")
