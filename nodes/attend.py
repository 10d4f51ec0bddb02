"""One call of the video's self-attention: sparse where it can be, and never lost to an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import comfy.model_management
import torch
from torch import Tensor

from ..svg_core import Call, sparse_attention, warm_up
from . import host
from .forward import VideoCall
from .reasons import Reason, StayDense
from .run import Run


def attend(run: Run, call: VideoCall, schedule_reason: Reason | None) -> Tensor:
    """The sparse result of a call, [B, H, N, D].

    Raises:
        StayDense: by the schedule, or after an error.
    """
    with host.pause_malloc_graph():
        if schedule_reason is None:
            out = _guarded(run, call, _sparse)
            if out is not None:
                return out
        elif schedule_reason.label == "start_percent" and run.goes_sparse and run.settings.planner.WARMS_UP:
            _guarded(run, call, _warm_up)
    raise StayDense(*(schedule_reason or run.failure))


def _guarded(run: Run, call: VideoCall, work: Callable[[Run, VideoCall], Tensor | None]) -> Tensor | None:
    """The result of `work`, with fewer heads at a time if memory runs out, in more bits where the kernel for few failed; None
    after an error.
    """
    while run.failure is None:
        tried, short = run.precision_for(call.q)[0], False
        try:
            return work(run, call)
        except comfy.model_management.InterruptProcessingException:
            raise
        except Exception as error:  # a render is never lost to the accelerator: dense from here on, and said
            short = host.is_out_of_memory(error)
            if short and not run.settings.planner.can_split(_core_call(run, call), *_size(call)):
                run.fail(error, "out_of_memory")
            elif not short and run.precision_for(call.q)[0] == tried:
                run.fail(error)
            elif not short:  # at most two such turns: each has more bits than the one before
                run.warn(f"a kernel failed; more bits than {tried!r} are taken from now on", error)
        if short and run.failure is None:  # beyond the handler, which holds on to the failed call's tensors
            run.halve_workspace(call.q.device)
            comfy.model_management.soft_empty_cache()
    return None


def _sparse(run: Run, call: VideoCall) -> Tensor:
    """The sparse result of a call, counted."""
    remark = run.settings.planner.note(_core_call(run, call))
    if remark is not None:
        run.say_once(remark)
    run.note_precision(call.q)
    options = {"sm_scale": call.sm_scale, "measure_error": True, "max_error": run.settings.max_error}
    options["precision"] = run.settings.precision
    options["workspace_bytes"] = run.on(call.q.device).workspace_bytes
    elements = _elements(run, call)
    with run.record.timed("sparse", call.q.device):
        outs, stats = zip(*(sparse_attention(q, k, v, **options, **where) for q, k, v, where in elements), strict=True)
    run.count_sparse(stats, call.layer)
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _warm_up(run: Run, call: VideoCall) -> None:
    """Brings the state forward in a call that stays dense."""
    with run.record.timed("warm_up", call.q.device):
        for q, k, _, where in _elements(run, call):
            warm_up(q, k, **where)


def _elements(run: Run, call: VideoCall) -> Iterator[tuple]:
    """The call as a whole, or by elements of the batch where their layouts differ: q, k, v, and what goes with them."""
    size, _ = _size(call)
    common = {"config": run.config, "backend": run.settings.backend, "state": run.on(call.q.device).state, **call.sharing}
    for i, layout in enumerate(call.layouts):
        q, k, v = (x[i * size : (i + 1) * size] for x in (call.q, call.k, call.v))
        own = {"layout": layout, "key": (call.key, i)}
        if call.sharing:
            own["shared_key"] = (call.sharing["shared_key"], i % call.videos)
        yield q, k, v, common | own


def _size(call: VideoCall) -> tuple[int, int]:
    """Elements of the batch that go together, and heads."""
    return len(call.q) // len(call.layouts), call.q.shape[1]


def _core_call(run: Run, call: VideoCall) -> Call:
    """The call as the core describes it, with its first layout. No backend is asked, so that it never raises."""
    q, more = call.q, {"workspace_bytes": run.on(call.q.device).workspace_bytes, "precision": run.settings.precision}
    return Call.planned(run.config, call.layouts[0], q.shape[3], q.device, q.dtype, **more, **call.sharing)
