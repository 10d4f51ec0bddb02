"""Nodes that do to a model what others do: write the attention override, take it away in mid-run, run out of memory.

And images of any shape, as other packs give them.
"""

import json
import sys

import torch
from comfy.patcher_extension import WrappersMP

OVERRIDE = "optimized_attention_override"


class _Patch:
    CATEGORY = "SVGTest"
    FUNCTION = "run"
    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}


class OtherOverride(_Patch):
    """Scales the result of every attention call that reaches it; does not chain to an override that is there."""

    def run(self, model):
        model = model.clone()

        def override(func, *args, **kwargs):
            return func(*args, **kwargs) * 0.9

        model.model_options.setdefault("transformer_options", {})[OVERRIDE] = override
        return (model,)


class RemoveOverride(_Patch):
    """Takes the override out of a run's options, from its second forward on."""

    def run(self, model):
        model = model.clone()
        forwards = []

        def wrapper(apply_model, args):
            forwards.append(1)
            if len(forwards) > 1:
                options = args["c"]["transformer_options"]
                args["c"]["transformer_options"] = {key: value for key, value in options.items() if key != OVERRIDE}
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(wrapper)
        return (model,)


class SparseOverride(_Patch):
    """As core's sparse attention: puts itself in front again at every step, and takes self-attention that others pass on."""

    def run(self, model):
        model = model.clone()

        def wrapper(apply_model, args):
            options = args["c"]["transformer_options"]
            current = options.get(OVERRIDE)

            def override(func, q, k, v, *rest, **kwargs):
                out = current(func, q, k, v, *rest, **kwargs) if current else func(q, k, v, *rest, **kwargs)
                return out * 0.9 if q.shape == k.shape else out

            override.__module__ = "comfy_extras.nodes_sparse_attention"
            args["c"]["transformer_options"] = {**options, OVERRIDE: override}
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(wrapper)
        return (model,)


class WhoseAttention(_Patch):
    """Logs the modules whose attention calls the pack took for the video's own, in the order of a forward."""

    def run(self, model):
        model = model.clone()
        names = {id(module): name for name, module in model.get_model_object("diffusion_model").named_modules()}

        def caller() -> str:
            frame = sys._getframe()
            while id(frame.f_locals.get("self")) not in names:
                frame = frame.f_back
            return names[id(frame.f_locals["self"])]

        def outer_sample(executor, *args, **kwargs):
            (patch,) = (module for name, module in sys.modules.items() if name.endswith(".nodes.patch"))
            attend, taken = patch.attend, {}

            def watched(*args):
                taken[caller()] = taken.get(caller(), 0) + 1
                return attend(*args)

            patch.attend = watched
            try:
                return executor(*args, **kwargs)
            finally:
                patch.attend = attend
                print("whose attention:", json.dumps(taken), flush=True)

        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "svg_test", outer_sample)
        return (model,)


class OutOfMemory(_Patch):
    """The first sparse call of a run finds no memory; the pack's own function is back at the run's end."""

    def run(self, model):
        model = model.clone()

        def outer_sample(executor, *args, **kwargs):
            # The host loads the pack under a name of its own.
            (attention,) = (module for name, module in sys.modules.items() if name.endswith(".svg_core.attention"))
            gather = attention.gather_attention

            def no_memory(*args, **kwargs):
                attention.gather_attention = gather
                raise torch.cuda.OutOfMemoryError("tried to allocate 9 GiB")

            attention.gather_attention = no_memory
            try:
                return executor(*args, **kwargs)
            finally:
                attention.gather_attention = gather

        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "svg_test", outer_sample)
        return (model,)


class Images:
    """Black images of a shape such as "3, 48, 64, 1"."""

    CATEGORY = "SVGTest"
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"shape": ("STRING", {})}}

    def run(self, shape):
        return (torch.zeros([int(size) for size in shape.split(",")]),)


NODE_CLASS_MAPPINGS = {
    "SVGTestOtherOverride": OtherOverride,
    "SVGTestRemoveOverride": RemoveOverride,
    "SVGTestSparseOverride": SparseOverride,
    "SVGTestWhoseAttention": WhoseAttention,
    "SVGTestOutOfMemory": OutOfMemory,
    "SVGTestImages": Images,
}
