"""Nodes that patch a model: to time its attention, to look inside, and to do what others do to it.

Others write the attention override, take it away in mid-run, run out of memory.
"""

import sys
import time
from types import SimpleNamespace

import torch
from comfy.patcher_extension import WrappersMP

from .registry import patches_model

OVERRIDE = "optimized_attention_override"


def override_of(options: dict):
    """The attention override that stands in the options, or a call of the attention itself."""
    return options.get(OVERRIDE) or (lambda func, *args, **kwargs: func(*args, **kwargs))


@patches_model("SVGDemoTimeAttention")
def time_attention(model):
    """Tells the page how long the self-attention of each sampling run took, planning included; after the other nodes."""
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "svg_demo_time", _tell_attention_time)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "svg_demo_time", _time_attention)


def _tell_attention_time(executor, *args, **kwargs):
    from server import PromptServer

    options = executor.class_obj.model_options.setdefault("transformer_options", {})
    options["svg_demo_time"] = timed = SimpleNamespace(seconds=0.0, calls=0)  # not a list: the host copies these
    try:
        return executor(*args, **kwargs)
    finally:
        del options["svg_demo_time"]
        server = PromptServer.instance
        server.send_sync("svg_demo.attention", {"seconds": timed.seconds, "calls": timed.calls}, server.client_id)


def _time_attention(executor, *args, **kwargs):
    """Inside the other nodes' wrappers, so that it times what they put in place."""
    options = next(x for x in (*args, *kwargs.values()) if isinstance(x, dict) and "svg_demo_time" in x)
    inner, total = override_of(options), options["svg_demo_time"]

    def timed(func, q, k, *args, **kwargs):
        begin = time.perf_counter()
        out = inner(func, q, k, *args, **kwargs)
        if q.shape == k.shape:  # cross-attention to the text is left out
            total.seconds += time.perf_counter() - begin
            total.calls += 1
        return out

    ours = {**options, OVERRIDE: timed}
    args = tuple(ours if x is options else x for x in args)
    return executor(*args, **{key: ours if x is options else x for key, x in kwargs.items()})


@patches_model("SVGTestOtherOverride")
def other_override(model):
    """Scales the result of every attention call that reaches it; does not chain to an override that is there."""
    options = model.model_options.setdefault("transformer_options", {})
    options[OVERRIDE] = lambda func, *args, **kwargs: func(*args, **kwargs) * 0.9


def before_each_forward(model, change):
    """A forward's options are what `change` makes of them."""

    def wrapper(apply_model, args):
        args["c"]["transformer_options"] = change(args["c"]["transformer_options"])
        return apply_model(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(wrapper)


@patches_model("SVGTestRemoveOverride")
def remove_override(model):
    """Takes the override out of a run's options, from its second forward on."""
    forwards = []

    def change(options):
        forwards.append(1)
        return {key: value for key, value in options.items() if key != OVERRIDE or len(forwards) == 1}

    before_each_forward(model, change)


@patches_model("SVGTestSparseOverride")
def sparse_override(model):
    """As core's sparse attention: puts itself in front again at every step, and takes self-attention that others pass on."""

    def change(options):
        current = override_of(options)

        def override(func, q, k, v, *rest, **kwargs):
            out = current(func, q, k, v, *rest, **kwargs)
            return out * 0.9 if q.shape == k.shape else out

        override.__module__ = "comfy_extras.nodes_sparse_attention"
        return {**options, OVERRIDE: override}

    before_each_forward(model, change)


def during_a_run(model, ending: str, name: str, replacement):
    """While it samples `replacement(original)` stands for a function of the pack, in the module whose name so ends."""

    def outer_sample(executor, *args, **kwargs):
        # The host loads the pack under a name of its own.
        (module,) = (module for name, module in sys.modules.items() if name.endswith(ending))
        original = getattr(module, name)
        setattr(module, name, replacement(original))
        try:
            return executor(*args, **kwargs)
        finally:
            setattr(module, name, original)

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "svg_test", outer_sample)


@patches_model("SVGTestWhoseAttention")
def whose_attention(model):
    """Logs the modules whose attention calls the pack took for the video's own, in the order of a forward."""
    names = {id(module): name for name, module in model.get_model_object("diffusion_model").named_modules()}

    def caller() -> str:
        frame = sys._getframe()
        while id(frame.f_locals.get("self")) not in names:
            frame = frame.f_back
        return names[id(frame.f_locals["self"])]

    def watched(attend):
        def attend_and_tell(*args):
            print("whose attention:", caller(), flush=True)
            return attend(*args)

        return attend_and_tell

    during_a_run(model, ".nodes.overrides", "attend", watched)


@patches_model("SVGTestOutOfMemory")
def out_of_memory(model):
    """The first sparse call of a run finds no memory."""

    def once(gather):
        calls = []

        def no_memory(*args, **kwargs):
            calls.append(1)
            if len(calls) == 1:
                raise torch.cuda.OutOfMemoryError("tried to allocate 9 GiB")
            return gather(*args, **kwargs)

        return no_memory

    during_a_run(model, ".svg_core.attention", "gather_attention", once)
