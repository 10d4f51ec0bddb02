"""One call of the video's self-attention: sparse where it can be, and never lost to an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import comfy.model_management
import torch
from torch import Tensor

from ..svg_core import SVG2Config, sparse_attention, warm_up
from ..svg_core.memory import can_split
from . import host
from .forward import VideoCall
from .run import Run


def attend(run: Run, call: VideoCall, dense: Callable[[], Tensor]) -> Tensor:
    """The result of a call: sparse, or `dense()` with its reason counted."""
    if call.reason is None:
        out = _guarded(run, call, _sparse)
        if out is not None:
            return out
    elif call.reason.startswith("start_percent:") and run.goes_sparse and isinstance(run.settings.config, SVG2Config):
        _guarded(run, call, _warm_up)
    run.count_dense(call.reason or run.failure, call.layer)
    with run.record.timed("dense", call.q.device):
        return dense()


def _guarded(run: Run, call: VideoCall, work: Callable[[Run, VideoCall], Tensor | None]) -> Tensor | None:
    """The result of `work`, with fewer heads at a time if memory runs out; None after an error."""
    while run.failure is None:
        try:
            return work(run, call)
        except comfy.model_management.InterruptProcessingException:
            raise
        except Exception as error:  # a render is never lost to the accelerator: dense from here on, and said
            if not host.is_out_of_memory(error):
                run.fail(error)
            elif not can_split(run.settings.config, call.layouts[0], call.q, run.on(call.q.device).workspace_bytes):
                run.fail(error, "out_of_memory")
        if run.failure is None:  # beyond the handler, which holds on to the failed call's tensors
            run.halve_workspace(call.q.device)
            comfy.model_management.soft_empty_cache()
    return None


def _sparse(run: Run, call: VideoCall) -> Tensor:
    """The sparse result of a call, counted."""
    _note_clamped_clusters(run, call)
    options = {"sm_scale": call.sm_scale, "measure_error": True, "max_error": run.settings.max_error}
    options["workspace_bytes"] = run.on(call.q.device).workspace_bytes
    elements = _elements(run, call)
    with run.record.timed("sparse", call.q.device):
        outs, stats = zip(*(sparse_attention(q, k, v, **options, **where) for q, k, v, where in elements), strict=True)
    run.count_sparse(stats, call.layer)
    return call.result(outs[0] if len(outs) == 1 else torch.cat(outs))


def _warm_up(run: Run, call: VideoCall) -> None:
    """Brings the state forward in a call that stays dense."""
    with run.record.timed("warm_up", call.q.device):
        for q, k, _, where in _elements(run, call):
            warm_up(q, k, **where)


def _elements(run: Run, call: VideoCall) -> Iterator[tuple]:
    """The call as a whole, or by elements of the batch where their layouts differ: q, k, v, and what goes with them."""
    size = len(call.q) // len(call.layouts)
    settings, state = run.settings, run.on(call.q.device).state
    common = {"config": settings.config, "backend": settings.backend, "state": state}
    for i, layout in enumerate(call.layouts):
        q, k, v = (x[i * size : (i + 1) * size] for x in (call.q, call.k, call.v))
        yield q, k, v, {**common, "layout": layout, "key": (call.key, i)}


def _note_clamped_clusters(run: Run, call: VideoCall) -> None:
    """Says once a run that fewer clusters than asked for are made, where the video has no more tokens."""
    config, tokens = run.settings.config, call.layouts[0].video_tokens
    if isinstance(config, SVG2Config) and max(config.q_clusters, config.k_clusters) > tokens:
        run.say_once(
            f"q_clusters={config.q_clusters}, k_clusters={config.k_clusters}: more clusters than the {tokens} tokens "
            f"of this video; {tokens} at most are made"
        )
