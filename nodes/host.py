"""What the ComfyUI at hand can do. Features are looked for, never version numbers; all of it is here."""

from __future__ import annotations

import inspect
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import comfy.ldm.modules.attention as hosts_attention
import comfy.model_management
import comfyui_version
import folder_paths
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY
from comfy_execution.utils import get_executing_context
from torch import nn

from ..kernels import is_out_of_memory as says_out_of_memory

# Attention calls pass through transformer_options["optimized_attention_override"].
HAS_ATTENTION_OVERRIDE = hasattr(hosts_attention, "wrap_attn")
FIRST_WITH_OVERRIDE = "0.3.60"

# Models hand q, k and v over in containers: who takes a tensor out owns it. None where the host has no such.
Container = getattr(hosts_attention, "AttentionTensorContainer", None)
# A layer may have an attention of its own, from its checkpoint.
HAS_PREFERRED_ATTENTION = hasattr(hosts_attention, "ComfyAttention")
_prefetch = import_module("comfy.model_prefetch") if find_spec("comfy.model_prefetch") else None

# Nodes are found by other words than their names.
HAS_SEARCH_ALIASES = "search_aliases" in inspect.signature(io.Schema).parameters


def attention(*args, **kwargs):
    """The host's own attention, which takes tensors and containers."""
    return hosts_attention.optimized_attention(*args, **kwargs)


def peek(args: tuple) -> tuple:
    """The arguments of an attention call with the tensors that are in containers."""
    return tuple(arg.peek() if _contains(arg) else arg for arg in args)


def drop(args: tuple) -> None:
    """Empties the containers among the arguments: the tensors in them are not needed any more."""
    for arg in args:
        if _contains(arg):
            arg.take()


def call_override(override, func, args: tuple, kwargs: dict):
    """Another's override, as the host calls it: with containers if it takes them."""
    if any(map(_contains, args)):
        if hasattr(override, "container_function"):
            return override.container_function(*args, **kwargs)
        args = tuple(arg.take() if _contains(arg) else arg for arg in args)
        func = inspect.unwrap(hosts_attention.optimized_attention)  # which, as from the host, leads to no override again
    return override(func, *args, **kwargs)


def _contains(arg) -> bool:
    return Container is not None and isinstance(arg, Container)


def preferred_attention():
    """The attention that the checkpoint wants for the layer which called, to call in the host's place; None if it wants none.

    The host drops the argument that names it before it calls an override, so the layer is looked up among the callers.
    """
    frame = sys._getframe(1) if HAS_PREFERRED_ATTENTION else None
    while frame is not None:
        # Reading the variables of a frame keeps them alive with it: so only those of methods.
        layer = frame.f_locals.get("self") if "self" in frame.f_code.co_varnames else None
        if isinstance(layer, nn.Module):
            preferred = getattr(layer, "comfy_attention", None)
            return preferred.function if preferred is not None else None
        frame = frame.f_back
    return None


def pause_malloc_graph() -> AbstractContextManager:
    """Around work that makes tensors which outlive a block of the model, where the host plans a block's allocations ahead."""
    pause = getattr(_prefetch, "pause_malloc_graph", nullcontext)
    return pause()


def is_compiled(options: dict) -> bool:
    """Whether torch.compile was set up for the model of a forward with these transformer_options."""
    return bool(options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}).get(COMPILE_KEY))


def other_devices(patcher) -> list:
    """The patchers that hold a model on further devices, where the host shares conditionings out among several."""
    if not hasattr(patcher, "get_additional_models_with_key"):
        return []
    return patcher.get_additional_models_with_key("multigpu")


@cache
def has_raylight() -> bool:
    """Whether raylight is installed, as a pack or as a package; it may be imported after us."""
    packs = (Path(folder).glob("*/src/raylight/__init__.py") for folder in folder_paths.get_folder_paths("custom_nodes"))
    enabled = (not path.parents[2].name.endswith(".disabled") for found in packs for path in found)
    return find_spec("raylight") is not None or any(enabled)


def executing_node() -> str | None:
    """The node of the prompt that runs in this thread, None outside of one."""
    context = get_executing_context()
    return None if context is None else context.node_id


def tell_page(kind: str, message: dict) -> None:
    """To the page that queued the prompt, if it was a page: others may show another workflow with the same node ids."""
    server = sys.modules.get("server")  # in a process without one there is no page
    server = server and getattr(server.PromptServer, "instance", None)
    if server is not None and server.client_id is not None:
        server.send_sync(f"sparse_videogen.{kind}", message, server.client_id)


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error says that the device's memory is short; hosts that know how are asked first."""
    asked = getattr(comfy.model_management, "is_oom", None)
    return bool(asked and asked(error)) or says_out_of_memory(error)


def version() -> str:
    """The host's own version, for messages alone."""
    return comfyui_version.__version__
