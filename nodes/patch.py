"""Puts sparse attention into a clone of a model: an attention override and five wrappers, all plain functions.

Whatever a run needs travels in its own transformer_options: the sampler's wrapper puts a `Run` there, the
forward's wrapper adds a `Forward`, and the override reads both. So nothing is shared between runs,
threads or clones (older hosts deep-copy a clone's options: a function survives that as the same object).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from comfy.patcher_extension import WrappersMP

from . import host
from .compiled import code
from .families import FAMILIES, OTHER, family_of
from .forward import Forward
from .lines import log_line
from .log import PREFIX, log, say
from .memory import WithRunBytes, budgets, run_bytes, tell_host
from .overrides import FORWARD, KEY, OVERRIDE, RUN, is_ours, is_sparse, make_override, override_name
from .reasons import Reason
from .run import Run
from .settings import Settings

KINDS = (
    *(WrappersMP.OUTER_SAMPLE, WrappersMP.PREPARE_SAMPLING, WrappersMP.CALC_COND_BATCH),
    *(WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL),
)
KEPT_REPORTS = 16


def patch_model(model, settings: Settings):
    """A clone of the ComfyUI model whose video self-attention runs by `settings`.

    A model that is no video model, or a host without the override, gives a plain clone, and the log says why.
    """
    model = model.clone()
    install(model, settings)
    return model


def log_end(report: dict) -> None:
    """A run's line and its warnings."""
    log.info("%s %s", PREFIX, log_line(report))
    for line in report["warnings"]:
        log.warning("%s %s: %s", PREFIX, report["method"], line)


def install(model, settings: Settings, gpus: int | None = None, log_end: Callable[[dict], None] = log_end) -> None:
    """`patch_model` on the model itself.

    Args:
        gpus: share the heads of each call, in a Ray worker. Then the host's choice of conditionings to batch stays its own:
            by the memory that a run holds on one GPU, one could choose otherwise than the rest, which would wait for it.
        log_end: is called with the report of each run.
    """
    diffusion_model = model.get_model_object("diffusion_model")
    family, name = family_of(diffusion_model), type(diffusion_model).__name__
    if not host.HAS_ATTENTION_OVERRIDE:
        needed = f"needs ComfyUI {host.FIRST_WITH_OVERRIDE} or newer, and this is {host.version()}"
        say(settings.method, f"{needed}; the model passes through unchanged. Update ComfyUI")
        return
    if family is None:
        known = ", ".join(family.name for family in FAMILIES)
        say(settings.method, f"{name} is no video model that this node knows ({known}); it passes through unchanged")
        return
    if family is OTHER:
        say(
            settings.method,
            f"{name} is of no known family; it runs sparse where its tokens are the patches of a video and nothing else",
        )
    if hasattr(settings.config, "first_frame"):
        settings = replace(settings, config=replace(settings.config, first_frame=family.first_frame))

    options = model.model_options.setdefault("transformer_options", {})
    previous = options.get(OVERRIDE)
    if is_ours(previous):
        say(settings.method, "takes the place of an earlier Sparse VideoGen node on this model")
        previous = previous.previous
    options[OVERRIDE] = make_override(previous, settings.dense_attention)

    def outer_sample(executor, *args, **kwargs):
        return _sample(executor, settings, log_end, *args, **kwargs)

    def prepare_sampling(executor, patcher, noise_shape, conds, *args, **kwargs):
        run = _run_of(kwargs.get("model_options", *args[:1]))
        try:
            extra = run_bytes(settings, family, patcher, (run and run.latent_size) or noise_shape, conds, gpus or 1)
        except Exception as error:  # a model that is not built as its family is: the run itself may go well
            extra = None
            log.warning("%s %s: the memory that this run needs could not be estimated", PREFIX, settings.method, exc_info=error)
        if extra is None:
            return executor(patcher, noise_shape, conds, *args, **kwargs)
        if run is not None and gpus is None:
            run.extra_bytes = extra
        return tell_host(executor, extra, patcher, noise_shape, conds, *args, **kwargs)

    def apply_model(executor, *args, **kwargs):
        return _apply_model(executor, family, *args, **kwargs)

    def diffusion_model(executor, *args, **kwargs):
        return _forward(executor, family, *args, **kwargs)

    for kind, wrapper in zip(
        KINDS, (outer_sample, prepare_sampling, _calc_cond_batch, apply_model, diffusion_model), strict=True
    ):
        model.remove_wrappers_with_key(kind, KEY)
        model.add_wrapper_with_key(kind, KEY, wrapper)
    model.set_attachments(KEY, {})  # reports, for all clones


def remove(model) -> None:
    """Undoes `install`, whatever has come onto the model since."""
    options = model.model_options.get("transformer_options", {})
    override = options.get(OVERRIDE)
    if is_ours(override):
        options[OVERRIDE] = override.previous
        if override.previous is None:
            del options[OVERRIDE]
    for kind in KINDS:
        model.remove_wrappers_with_key(kind, KEY)
    model.remove_attachments(KEY)


def reports_of(model) -> dict[str | None, dict]:
    """What the last run of each sampler with this model did, by the sampler's node; empty if the model is not patched.

    Each as `Run.report` has it; None is a sampler that no node of a prompt ran.
    """
    return model.attachments.get(KEY, {})


def _sample(executor, settings: Settings, log_end: Callable[[dict], None], *args, **kwargs):
    """OUTER_SAMPLE: one run, from start to end."""
    guider = executor.class_obj
    sampling = guider.model_patcher.get_model_object("model_sampling")
    start = math.inf if settings.start_percent <= 0 else float(sampling.percent_to_sigma(settings.start_percent))
    end = -math.inf if settings.end_percent >= 1 else float(sampling.percent_to_sigma(settings.end_percent))
    run = Run(settings, start, end, budgets, host.tell_page, partial(_progress, sampling))
    if kwargs.get("latent_shapes"):  # of a video and its audio, which are one row of numbers to the sampler
        run.latent_size = tuple(kwargs["latent_shapes"][0])
    options = guider.model_options.setdefault("transformer_options", {})
    options[RUN] = run
    try:
        return executor(*args, **kwargs)
    finally:
        options.pop(RUN, None)
        report = run.close()
        log_end(report)
        # Lost where another node made the model anew, from its parts.
        keep(report, reports_of(guider.model_patcher), host.executing_node())


def _progress(sampling, sigma: float) -> float:
    """The share of the schedule that has passed at a sigma, by halving: the inverse of the host's percent_to_sigma."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if float(sampling.percent_to_sigma(middle)) > sigma else (low, middle)
    return high


def keep(report: dict, reports: dict[str | None, dict], sampler: str | None) -> None:
    """Puts a sampler's report last among those of the model, and drops the first where there are many, as from a loop."""
    reports.pop(sampler, None)
    reports[sampler] = report
    if len(reports) > KEPT_REPORTS:
        del reports[next(iter(reports))]


def _run_of(model_options: dict | None) -> Run | None:
    return ((model_options or {}).get("transformer_options") or {}).get(RUN)


def _calc_cond_batch(executor, model, conds, x_in, timestep, model_options):
    """CALC_COND_BATCH: the host batches the conditionings that it has memory for, with ours counted."""
    run = _run_of(model_options)
    if run is not None:
        run.begin_turn([] if "multigpu_clones" in model_options else conds)  # what has a GPU each shares nothing
    if run is not None and run.extra_bytes is not None:
        # Batches that change in mid-run would begin with a state of their own: what is held has left the free memory,
        # and the host asks for 1.5 of the estimate.
        held = int(run.on(x_in.device).state.device_bytes / 1.5)
        model = WithRunBytes(model, lambda batch: run.extra_bytes(batch, held))
    return executor(model, conds, x_in, timestep, model_options)


def _apply_model(executor, family, *args, **kwargs):
    """APPLY_MODEL: counts a pass whose attention does not come past this node."""
    options = arguments_of(executor, args, kwargs).get("transformer_options") or {}
    run = options.get(RUN)
    if run is None or FORWARD in options:  # or a pass within a pass
        return executor(*args, **kwargs)
    run.training |= torch.is_grad_enabled()
    run.sightings.forget()
    try:
        with code.in_use():
            if not family.wrapped:
                args, kwargs = _enter(executor, family, args, kwargs)
            out = executor(*args, **kwargs)
            reason = None if run.failure else run.sightings.look(executor.class_obj, options, host.is_compiled(options))
    finally:
        run.sightings.forget()  # else the pass's tensors would live as long as the run
    if reason is not None:
        run.count_dense(reason)
    return out


def arguments_of(executor, args: tuple, kwargs: dict) -> dict:
    """A call's arguments by name: their positions differ from family to family and version to version."""
    arguments = inspect.signature(executor.original).bind(*args, **kwargs).arguments
    return arguments | arguments.pop("kwargs", {})


def _forward(executor, family, *args, **kwargs):
    """DIFFUSION_MODEL: reads the forward's grid and step, and sees that the override is still in place."""
    with host.pause_malloc_graph():
        args, kwargs = _enter(executor, family, args, kwargs)
    return executor(*args, **kwargs)


@torch.compiler.disable
def _enter(executor, family, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The forward's arguments, with its description among the options if it is one of our run's."""
    arguments = arguments_of(executor, args, kwargs)
    options = arguments.get("transformer_options") or {}
    run = options.get(RUN)
    if run is None or FORWARD in options:
        return args, kwargs
    override = options.get(OVERRIDE)
    if not is_ours(override):
        run.say_once("another node replaced or removed the attention override; it was put back in front of what is there now")
        override = make_override(override, run.settings.dense_attention)
    _note_previous(run, override.previous)
    try:
        model = executor.class_obj
        forward = Forward(run, family, getattr(model, "diffusion_model", model), arguments)
        run.sightings.put(forward)
        if forward.grid is None:
            x = _what(arguments.get("x"))
            run.count_dense(Reason("layout", f"the input x of this model is {x}, not a video [B, C, T, H, W]"))
    except Exception as error:  # a render is never lost to an argument that no host was seen to pass
        run.count_dense(run.fail(error))
        forward = None
    ours = {**options, OVERRIDE: override, FORWARD: forward}
    args = tuple(ours if arg is options else arg for arg in args)
    kwargs = {name: ours if value is options else value for name, value in kwargs.items()}
    return args, kwargs


def _note_previous(run: Run, previous) -> None:
    """Says who gets the calls that stay dense, if it is not the host, and keeps in mind if that is sparse itself."""
    if previous is None or run.settings.dense_attention == "host":
        return
    name = override_name(previous)
    run.say_once(f"calls that stay dense go to the attention override of {name}")
    if is_sparse(name):
        run.inexact = name


def _what(x) -> str:
    """An argument in words: the shape of a tensor, or what else it is."""
    if isinstance(x, torch.Tensor):
        return f"a tensor {tuple(x.shape)}"
    return "missing" if x is None else f"a {type(x).__name__}"
