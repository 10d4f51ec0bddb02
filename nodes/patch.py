"""Puts sparse attention into a clone of a model: an attention override and four wrappers, all plain functions.

Whatever a run needs travels in its own transformer_options: the sampler's wrapper puts a `Run` there, the
forward's wrapper replaces it by a `Forward`, and the override reads that. So nothing is shared between runs,
threads or clones (older hosts deep-copy a clone's options: a function survives that as the same object).
"""

from __future__ import annotations

import inspect
import math
from dataclasses import replace

import torch
from comfy.patcher_extension import WrappersMP
from server import PromptServer

from ..svg_core import SVGConfig
from . import host
from .attend import attend
from .families import FAMILIES, OTHER, attention_shape, family_of
from .forward import Forward, VideoCall
from .log import PREFIX, log, say
from .memory import budgets, run_bytes, tell_host
from .run import Run, summary
from .settings import Settings

KEY = "sparse_videogen"
OVERRIDE = "optimized_attention_override"


def patch_model(model, settings: Settings):
    """A clone of the ComfyUI model whose video self-attention runs by `settings`.

    A model that is no video model, or a host without the override, gives a plain clone, and the log says why.
    """
    model = model.clone()
    diffusion_model = model.get_model_object("diffusion_model")
    family, name = family_of(diffusion_model), type(diffusion_model).__name__
    if not host.HAS_ATTENTION_OVERRIDE:
        needed = f"needs ComfyUI {host.FIRST_WITH_OVERRIDE} or newer, this is {host.version()}"
        say(settings.method, f"{needed}; nothing changes. Update ComfyUI")
        return model
    if family is None:
        known = ", ".join(family.name for family in FAMILIES)
        say(settings.method, f"{name} is no video model that this node knows ({known}); nothing changes")
        return model
    if family is OTHER:
        say(settings.method, f"{name} is of no known family; sparse where its tokens are the video's patches and nothing else")
    if isinstance(settings.config, SVGConfig):
        settings = replace(settings, config=replace(settings.config, first_frame=family.first_frame))

    options = model.model_options.setdefault("transformer_options", {})
    previous = options.get(OVERRIDE)
    if _is_ours(previous):
        say(settings.method, "takes the place of an earlier Sparse VideoGen node on this model")
        previous = previous.previous
    options[OVERRIDE] = make_override(previous)

    def outer_sample(executor, *args, **kwargs):
        return _sample(executor, settings, *args, **kwargs)

    def prepare_sampling(executor, patcher, noise_shape, conds, *args, **kwargs):
        try:
            extra = run_bytes(settings, family, patcher, noise_shape, conds)
        except Exception as error:  # a model that is not built as its family is: the run itself may go well
            extra = 0
            log.warning("%s %s: memory not estimated", PREFIX, settings.method, exc_info=error)
        return tell_host(executor, extra, patcher, noise_shape, conds, *args, **kwargs)

    def diffusion_model(executor, *args, **kwargs):
        return _forward(executor, family, *args, **kwargs)

    wrappers = {
        WrappersMP.OUTER_SAMPLE: outer_sample,
        WrappersMP.PREPARE_SAMPLING: prepare_sampling,
        WrappersMP.APPLY_MODEL: _apply_model,
        WrappersMP.DIFFUSION_MODEL: diffusion_model,
    }
    for kind, wrapper in wrappers.items():
        model.remove_wrappers_with_key(kind, KEY)
        model.add_wrapper_with_key(kind, KEY, wrapper)
    model.set_attachments(KEY, LastReport())
    return model


class LastReport:
    """The report of a patched model's last run, for all of its clones; None before the first."""

    report: dict | None = None


def last_report(model) -> dict | None:
    """What the last sampling run of a patched model did; None without one, or if the model is not patched.

    As `Run.report` has it.
    """
    attached = model.attachments.get(KEY)
    return None if attached is None else attached.report


def make_override(previous):
    """An attention override that runs the video's self-attention sparse and hands all else to `previous` or the host."""

    @torch.compiler.disable  # a compiled model is cut here, instead of being compiled through the planners
    def override(func, *args, **kwargs):
        def dense():
            return previous(func, *args, **kwargs) if previous is not None else func(*args, **kwargs)

        forward = (kwargs.get("transformer_options") or {}).get(KEY)
        if not isinstance(forward, Forward) or forward.inside:
            return dense()
        forward.inside = True
        try:
            call = _video_call(forward, *args, **kwargs)
            return dense() if call is None else attend(forward.run, call, dense)
        finally:
            forward.inside = False

    override.previous = previous
    override.owner = KEY
    return override


def _video_call(forward: Forward, *args, **kwargs) -> VideoCall | None:
    """As `forward.video_call`; None after an error, say at an argument that no host was seen to pass."""
    try:
        return forward.video_call(*args, **kwargs)
    except Exception as error:
        forward.run.count_dense(forward.run.fail(error))
        return None


def _sample(executor, settings: Settings, *args, **kwargs):
    """OUTER_SAMPLE: one run, from start to end."""
    guider = executor.class_obj
    sampling = guider.model_patcher.get_model_object("model_sampling")
    start = math.inf if settings.start_percent <= 0 else float(sampling.percent_to_sigma(settings.start_percent))
    end = -math.inf if settings.end_percent >= 1 else float(sampling.percent_to_sigma(settings.end_percent))
    run = Run(settings, start, end, *budgets(guider.model_patcher.load_device), tell=_tell)
    options = guider.model_options.setdefault("transformer_options", {})
    options[KEY] = run
    try:
        return executor(*args, **kwargs)
    finally:
        options.pop(KEY, None)
        report = run.close()
        log.info("%s %s", PREFIX, summary(report))
        last = guider.model_patcher.attachments.get(KEY)
        if last is not None:  # None where another node made the model anew, from its parts
            last.report = report


def _apply_model(executor, *args, **kwargs):
    """APPLY_MODEL: sees whether the forward came past this node at all."""
    run = _options(executor, args, kwargs).get(KEY)
    out = executor(*args, **kwargs)
    if isinstance(run, Run) and not run.forwards:
        _unseen(run, _options(executor, args, kwargs))
    return out


def _unseen(run: Run, options: dict) -> None:
    """Counts a forward whose attention did not come by, or not all of it; a compiled model is compiled anew, for the next.

    Hosts compile models without guards on transformer_options: what was compiled without this node would be used
    with it. What was compiled with it serves both.
    """
    if host.is_compiled(options) and not run.compiles_anew:
        run.compiles_anew = True
        torch._dynamo.reset()
        run.count_dense("unseen: torch.compile had compiled this model without the node; it is compiled anew")
        return
    run.count_dense(
        "unseen: this model's self-attention does not come past the node; this ComfyUI does not hand its options down to "
        "it (update ComfyUI), or another node replaced it"
    )


def _arguments(executor, args: tuple, kwargs: dict) -> dict:
    """A call's arguments by name: their positions differ from family to family and version to version."""
    arguments = inspect.signature(executor.original).bind(*args, **kwargs).arguments
    return arguments | arguments.pop("kwargs", {})


def _options(executor, args: tuple, kwargs: dict) -> dict:
    return _arguments(executor, args, kwargs).get("transformer_options") or {}


def _forward(executor, family, *args, **kwargs):
    """DIFFUSION_MODEL: reads the forward's grid and step, and sees that the override is still in place."""
    forward, args, kwargs = _enter(executor, family, args, kwargs)
    out = executor(*args, **kwargs)
    _leave(forward)
    return out


@torch.compiler.disable
def _enter(executor, family, args: tuple, kwargs: dict) -> tuple[Forward | None, tuple, dict]:
    """The forward's description, if it is one of our run's, and its arguments with that among their options."""
    arguments = _arguments(executor, args, kwargs)
    options = arguments.get("transformer_options") or {}
    run = options.get(KEY)
    if not isinstance(run, Run):
        return None, args, kwargs
    override = options.get(OVERRIDE)
    if not _is_ours(override):
        run.say_once("another node replaced or removed the attention override; put back in front of what is there")
        override = make_override(override)
    try:
        forward = Forward(run, family, executor.class_obj, arguments)
    except Exception as error:  # a render is never lost to an argument that no host was seen to pass
        run.fail(error)
        return None, args, kwargs
    if forward.grid is None:
        shape = tuple(getattr(arguments.get("x"), "shape", ()))
        run.say_once(f"stays dense, layout: this model's input x {shape} is no video [B, C, T, H, W]")
    ours = {**options, OVERRIDE: override, KEY: forward}
    args = tuple(ours if arg is options else arg for arg in args)
    kwargs = {name: ours if value is options else value for name, value in kwargs.items()}
    return forward, args, kwargs


@torch.compiler.disable
def _leave(forward: Forward | None) -> None:
    """Counts a forward whose attention was not seen, or of a compiled model, in part."""
    if forward is None or forward.grid is None:
        return
    options = forward.arguments["transformer_options"]
    whole = host.is_compiled(options) and not options.get("patches_replace")  # which may leave layers out
    shape = attention_shape(forward.family, forward.diffusion_model) if whole else None
    if forward.calls < (1 if shape is None else shape.layers):
        _unseen(forward.run, options)


def _tell(kind: str, message: dict) -> None:
    """To the page that queued the prompt, if it was a page: others may show another workflow with the same node ids."""
    server = getattr(PromptServer, "instance", None)
    if server is not None and server.client_id is not None:
        server.send_sync(f"sparse_videogen.{kind}", message, server.client_id)


def _is_ours(override) -> bool:
    return getattr(override, "owner", None) == KEY
