"""Puts sparse attention into a clone of a model: an attention override and two wrappers, all plain functions.

Whatever a run needs travels in its own transformer_options: the sampler's wrapper puts a `Run` there, the
forward's wrapper replaces it by a `Forward`, and the override reads that. So nothing is shared between runs,
threads or clones (older hosts deep-copy a clone's options: a function survives that as the same object).
"""

from __future__ import annotations

import inspect
import math
from dataclasses import replace

import comfy.model_management
import comfy.patcher_extension
from comfy.patcher_extension import WrappersMP
from server import PromptServer

from ..svg_core import SVG2Config, SVGConfig, VideoLayout, sparse_attention, warm_up
from .families import FAMILIES, family_of
from .forward import Call, Forward
from .log import PREFIX, log
from .run import Run, summary
from .settings import Settings

KEY = "sparse_videogen"
OVERRIDE = "optimized_attention_override"


def patch_model(model, settings: Settings):
    """A clone of the ComfyUI model whose video self-attention runs by `settings`.

    A model of no known family comes back as a plain clone, and the log says so.
    """
    model = model.clone()
    family = family_of(model.get_model_object("diffusion_model"))
    if family is None:
        name = type(model.get_model_object("diffusion_model")).__name__
        known = ", ".join(family.name for family in FAMILIES)
        log.info("%s %s: %s is no video model that this node knows (%s); nothing changes", PREFIX, settings.method, name, known)
        return model
    if isinstance(settings.config, SVGConfig):
        settings = replace(settings, config=replace(settings.config, first_frame=family.first_frame))

    options = model.model_options.setdefault("transformer_options", {})
    previous = options.get(OVERRIDE)
    if _is_ours(previous):
        log.info("%s %s: takes the place of an earlier Sparse VideoGen node on this model", PREFIX, settings.method)
        previous = previous.previous
    override = options[OVERRIDE] = make_override(previous)

    def outer_sample(executor, *args, **kwargs):
        return _sample(executor, settings, *args, **kwargs)

    def diffusion_model(executor, *args, **kwargs):
        return _forward(executor, override, family, *args, **kwargs)

    for kind, wrapper in ((WrappersMP.OUTER_SAMPLE, outer_sample), (WrappersMP.DIFFUSION_MODEL, diffusion_model)):
        model.remove_wrappers_with_key(kind, KEY)
        model.add_wrapper_with_key(kind, KEY, wrapper)
    return model


def make_override(previous):
    """An attention override that runs the video's self-attention sparse and hands all else to `previous` or the host."""

    def override(func, *args, **kwargs):
        def dense():
            return previous(func, *args, **kwargs) if previous is not None else func(*args, **kwargs)

        forward = (kwargs.get("transformer_options") or {}).get(KEY)
        if not isinstance(forward, Forward) or forward.inside:
            return dense()
        forward.inside = True
        try:
            call = Call.read(*args, **kwargs)
            return attend(forward, call, dense) if forward.is_video_attention(call) else dense()
        finally:
            forward.inside = False

    override.previous = previous
    override.owner = KEY
    return override


def attend(forward: Forward, call: Call, dense):
    """The result of one call of the video's self-attention: sparse, or `dense()` with its reason counted."""
    run, settings = forward.run, forward.run.settings
    layer, key = forward.place(call)
    layout = forward.layout(call)
    reason = forward.dense_reason(call, layer, layout)
    try:
        if reason is None:
            note_clamped_clusters(run, layout)
            out, stats = sparse_attention(
                call.q,
                call.k,
                call.v,
                config=settings.config,
                layout=layout,
                state=run.state,
                key=key,
                backend=settings.backend,
                sm_scale=call.sm_scale,
                measure_error=settings.verbose,
            )
            run.count_sparse(stats, layer)
            return call.result(out)
        if reason.startswith("start_percent:") and run.goes_sparse:
            warm_up(call.q, call.k, config=settings.config, layout=layout, state=run.state, key=key, backend=settings.backend)
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception as error:  # a render is never lost to the accelerator: dense from here on, and said
        reason = run.fail(error)
    run.count_dense(reason)
    return dense()


def note_clamped_clusters(run: Run, layout: VideoLayout) -> None:
    """Says once a run that fewer clusters than asked for are made, where the video has no more tokens."""
    config, tokens = run.settings.config, layout.video_tokens
    if isinstance(config, SVG2Config) and max(config.q_clusters, config.k_clusters) > tokens:
        run.say_once(
            f"q_clusters={config.q_clusters}, k_clusters={config.k_clusters}: more clusters than the {tokens} tokens "
            f"of this video; {tokens} at most are made"
        )


def _sample(executor, settings: Settings, *args, **kwargs):
    """OUTER_SAMPLE: one run, from start to end."""
    guider = executor.class_obj
    sampling = guider.model_patcher.get_model_object("model_sampling")
    start = math.inf if settings.start_percent <= 0 else float(sampling.percent_to_sigma(settings.start_percent))
    end = -math.inf if settings.end_percent >= 1 else float(sampling.percent_to_sigma(settings.end_percent))
    run = Run(settings, start, end)
    options = guider.model_options.setdefault("transformer_options", {})
    options[KEY] = run
    try:
        return executor(*args, **kwargs)
    finally:
        options.pop(KEY, None)
        run.close()
        _publish(run.report())


def _forward(executor, override, family, *args, **kwargs):
    """DIFFUSION_MODEL: reads the forward's grid and step, and sees that the override is still in place."""
    # By name: the positions differ from family to family and version to version.
    arguments = inspect.signature(executor.original).bind(*args, **kwargs).arguments
    arguments |= arguments.pop("kwargs", {})
    options = arguments.get("transformer_options", {})
    run = options.get(KEY)
    if not isinstance(run, Run):
        return executor(*args, **kwargs)
    current = options.get(OVERRIDE)
    if current is not override:
        run.say_once("another node replaced the attention override; put back in front of it")
        override = make_override(current)
    run.begin_forward(options)
    ours = {**options, OVERRIDE: override, KEY: Forward(run, family, executor.class_obj, arguments)}
    args = tuple(ours if arg is options else arg for arg in args)
    kwargs = {name: ours if value is options else value for name, value in kwargs.items()}
    return executor(*args, **kwargs)


def _publish(report: dict) -> None:
    """One line to the log, and the same to the page that queued the prompt."""
    log.info("%s %s", PREFIX, summary(report))
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_sync("sparse_videogen.run", report, server.client_id)


def _is_ours(override) -> bool:
    return getattr(override, "owner", None) == KEY
